"""Ranks against matrices with a known spectrum and against NumPy's SVD."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from plasticity import diagnostics as d


def with_singular_values(values: list[float], num_samples: int, num_units: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(num_samples, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(num_units, len(values))))
    return torch.from_numpy(left * values @ right.T)


def analytic(mean: float, num_samples: int = 1000, num_units: int = 250) -> torch.Tensor:
    """Exact singular values 500 mean, 250, 125, 62.5."""
    u = 2 * np.pi * np.arange(num_samples)[:, None] / num_samples
    v = 2 * np.pi * np.arange(num_units)[None] / num_units
    waves = np.cos(u) * np.cos(v) + 0.5 * np.sin(u) * np.sin(v)
    return torch.from_numpy(mean + waves + 0.25 * np.cos(2 * u) * np.cos(2 * v))


def slow_ranks(features: torch.Tensor) -> tuple[float, float, float, float]:
    sigma = np.linalg.svd(features.double().numpy(), compute_uv=False)

    def smallest(values: np.ndarray) -> int:
        for k in range(1, len(values) + 1):
            if values[:k].sum() >= (0.99 - 1e-9) * values.sum():
                return k
        raise AssertionError

    p = sigma[sigma > 1e-9 * sigma[0]] / sigma.sum()
    entropy = -sum(x * math.log(x) for x in p)
    return (
        smallest(sigma),
        smallest(sigma**2),
        math.exp(entropy),
        (sigma**2).sum() / sigma[0] ** 2,
    )


@pytest.mark.parametrize("shape", [(1000, 4), (40, 9), (4, 4), (6, 30)])
def test_ranks_of_a_known_spectrum(shape: tuple[int, int]) -> None:
    found = d.ranks(with_singular_values([10, 1, 0.05, 0.01], *shape)).raw
    assert found.stable_rank == 2
    assert found.stable_rank_sq == 1
    assert found.effective_rank == pytest.approx(1.40374, abs=1e-5)
    assert found.numerical_rank == pytest.approx(1.01003, abs=1e-5)


def test_rank_one_identity_and_zero() -> None:
    outer = torch.outer(torch.arange(1.0, 9.0), torch.arange(2.0, 7.0))
    assert d.ranks(outer).raw[:4] == pytest.approx((1, 1, 1, 1), abs=1e-6)
    assert d.ranks(torch.eye(100)).raw == pytest.approx((99, 99, 100, 100, 100))
    for shape in ((1000, 8), (3, 8)):
        assert d.ranks(torch.zeros(shape)) == ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mean", "stable_rank", "effective_rank", "numerical_rank"),
    [(10.0, 4, 1.4287, 1.0033), (100.0, 1, 1.0598, 1.0000)],
)
def test_features_with_a_large_mean(
    mean: float, stable_rank: int, effective_rank: float, numerical_rank: float
) -> None:
    features = analytic(mean)
    sigma = d.spectrum(features)
    assert sigma[:4].tolist() == pytest.approx([500 * mean, 250, 125, 62.5], rel=1e-9)
    assert sigma[4:].sum() < 0.2
    found = d.ranks(features)
    assert found.raw.stable_rank == stable_rank
    assert found.raw.effective_rank == pytest.approx(effective_rank, abs=1e-3)
    assert found.raw.numerical_rank == pytest.approx(numerical_rank, abs=5e-5)
    # The mean direction hides three others, whatever its size.
    assert found.centred.stable_rank == 3
    assert found.centred.numerical_rank == pytest.approx(1 + 0.25 + 0.0625, abs=1e-6)


def test_a_float32_gram_would_give_another_answer() -> None:
    features = analytic(100.0).float()
    gram = (features.T @ features).double()
    narrow = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()
    assert d.ranks_of_spectrum(narrow, 1000).stable_rank > 1
    assert d.ranks_of_spectrum(narrow, 1000).effective_rank > 1.1
    assert d.ranks(features).raw.stable_rank == 1
    assert d.ranks(features).raw.effective_rank == pytest.approx(1.0598, abs=1e-3)


@pytest.mark.parametrize("shape", [(1000, 64), (64, 1000), (50, 50), (1, 5), (5, 1)])
def test_centring_by_the_gram_equals_centring_the_features(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    features = torch.randn(shape, dtype=torch.float64) + torch.randn(shape[1]).double()
    expected = np.linalg.svd((features - features.mean(0)).numpy(), compute_uv=False)
    found = d.spectrum(features, centred=True).numpy()
    assert found == pytest.approx(expected, rel=1e-10, abs=2e-6)
    assert d.spectrum(features).numpy() == pytest.approx(
        np.linalg.svd(features.numpy(), compute_uv=False), rel=1e-10
    )


def test_wide_features_have_the_ranks_of_the_svd() -> None:
    torch.manual_seed(2)
    features = (torch.randn(60, 5) @ torch.randn(5, 200) + 0.1 * torch.randn(60, 200)).relu()
    found = d.ranks(features)
    assert found.raw[:4] == pytest.approx(slow_ranks(features))
    assert found.centred[:4] == pytest.approx(slow_ranks(features.double() - features.mean(0)))


def test_constant_features_have_no_centred_rank() -> None:
    features = torch.rand(1, 64).expand(1000, 64) * 7.3
    assert d.ranks(features).centred == (0, 0, 0, 0, 0)
    assert d.ranks(features.T.contiguous()[:40]).raw.stable_rank == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_rectified_features(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1000, 256, generator=generator).relu()
    found = d.ranks(features)
    assert abs(found.raw.stable_rank - 251) <= 1
    assert abs(found.raw.stable_rank_sq - 243) <= 1
    assert found.raw.effective_rank == pytest.approx(231.9, abs=1)
    assert found.raw.numerical_rank == pytest.approx(3.10, abs=0.1)
    assert abs(found.centred.stable_rank - 252) <= 1
    assert abs(found.centred.stable_rank_sq - 247) <= 1
    assert found.centred.effective_rank == pytest.approx(246.9, abs=1)
    assert found.centred.numerical_rank == pytest.approx(114.2, abs=4)
    assert found.raw[:4] == pytest.approx(slow_ranks(features), rel=1e-9)
    assert found.raw.as_percent(256).stable_rank == 100 * found.raw.stable_rank / 256


@pytest.mark.parametrize(
    "values",
    [
        [50, 49, 1],
        [0.6, 0.3, 0.09, 0.01],
        [3762, 3762, 3267, 2970, 2079, 1881, 693, 297, 189],  # these two fall short by rounding
        [3762, 3663, 2475, 1089, 891, 891, 792, 396, 141],
    ],
)
def test_exactly_99_percent_is_enough(values: list[float]) -> None:
    found = d.ranks_of_spectrum(torch.tensor(values, dtype=torch.float64), 10)
    assert found.stable_rank == len(values) - 1


def test_feature_rank_counts_scaled_singular_values() -> None:
    features = with_singular_values([1.0, 0.2, 0.11, 0.09], 100, 8)  # / sqrt(100): .1 ... .009
    assert d.ranks(features).raw.feature_rank == 3


def test_scale_changes_no_rank_but_feature_rank() -> None:
    torch.manual_seed(3)
    features = torch.randn(30, 10)
    for scale in (1e-15, 1e15):
        assert d.ranks(features.double() * scale).raw[:4] == pytest.approx(
            d.ranks(features).raw[:4]
        )


def test_ranks_refuse_a_diverged_layer() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        d.ranks(torch.full((4, 4), math.inf))


def test_cloned_units() -> None:
    columns = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 3.0]])
    assert d.cloned_fraction(columns) == pytest.approx(1 / 3)
    with_dead = torch.cat([columns, torch.zeros(3, 5)], 1)
    assert d.cloned_fraction(with_dead) == pytest.approx(1 / 3)
    assert d.cloned_fraction(torch.tensor([[1.0, -3.0]])) == 1.0  # opposite signs count
    assert math.isnan(d.cloned_fraction(with_dead[:, 2:]))
    nearly = torch.tensor([[1.0, 1.0], [0.0, 0.4]])  # cosine .928
    assert d.cloned_fraction(nearly) == 0.0
    assert d.cloned_fraction(nearly, threshold=0.92) == 1.0


def test_a_spectrum_is_cheaper_than_the_svd_it_replaces() -> None:
    features = torch.randn(1000, 256).relu()
    wide = features.double().numpy()
    seconds = {"gram": [], "svd": []}
    for _ in range(10):  # interleaved, so that a busy machine slows both
        start = time.perf_counter()
        d.spectrum(features)
        middle = time.perf_counter()
        np.linalg.svd(wide, compute_uv=False)
        seconds["gram"].append(middle - start)
        seconds["svd"].append(time.perf_counter() - middle)
    assert min(seconds["gram"]) < min(seconds["svd"])
