"""Laws of initial weights, against closed forms, torch's own initialisers and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from networks.initializers import Initializer


def draw(kind: str, rows: int, columns: int, seed: int = 0, gain: float | None = None):
    like = torch.empty(rows, columns, dtype=torch.float64)
    return Initializer(kind, gain).weight_rows(like, rows, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("fan_in", "bound"), [(27, 1 / 3), (105, 0.169031), (111, 0.164399)])
def test_lecun_bound(fan_in, bound):
    assert Initializer("lecun_uniform").bound(fan_in) == pytest.approx(bound, abs=1e-6)
    weight = draw("lecun_uniform", 256, fan_in)
    assert weight.abs().max() <= bound + 1e-6
    assert weight.abs().mean() == pytest.approx(bound / 2, rel=0.02)


def test_lecun_mean_of_the_reference_hidden_layer():
    assert draw("lecun_uniform", 256, 256).abs().mean() == pytest.approx(0.0541266, rel=0.01)


@pytest.mark.parametrize("kind", ["lecun_uniform", "kaiming_uniform", "xavier_uniform", "pytorch"])
def test_redrawn_rows_follow_the_law_of_the_layer(kind):
    law = Initializer(kind)
    like = torch.empty(64, 48)
    whole = law.weight_rows(like, 64, torch.Generator().manual_seed(1))
    rows = torch.cat(
        [law.weight_rows(like, 2, torch.Generator().manual_seed(s)) for s in range(2, 60)]
    )
    assert stats.ks_2samp(whole.flatten().numpy(), rows.flatten().numpy()).pvalue > 1e-3


def test_torch_agrees_on_the_bounds():
    weight = torch.empty(300, 200)
    torch.nn.init.xavier_uniform_(weight)
    bound = Initializer("xavier_uniform").bound(200, 300)
    assert weight.abs().max() <= bound
    assert weight.abs().max() == pytest.approx(bound, rel=1e-3)
    torch.nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    assert weight.abs().max() == pytest.approx(Initializer("kaiming_uniform").bound(200), rel=1e-3)


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (16, 16)])
def test_orthogonal_matrix_is_scaled_and_orthonormal(shape):
    weight = draw("orthogonal", *shape, gain=1.5) / 1.5
    small = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    np.testing.assert_allclose(small.numpy(), np.eye(min(shape)), atol=1e-12)


def test_masked_fan_in_widens_the_law():
    like = torch.empty(10, 100)
    rows = Initializer("lecun_uniform").weight_rows(
        like, 10, torch.Generator().manual_seed(0), fan_in=25
    )
    assert rows.abs().max() > math.sqrt(3 / 100)
    assert rows.abs().max() <= math.sqrt(3 / 25)


def test_unknown_law_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        Initializer("lecun")
