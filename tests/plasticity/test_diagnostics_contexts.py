"""Sharing of units between contexts, against pair loops, closed forms and scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import spatial, stats

from plasticity.diagnostics import contexts


def k_sets(num_samples, units, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ranking = torch.rand(num_samples, units, generator=generator)
    return torch.zeros(num_samples, units).scatter_(1, ranking.topk(k, 1).indices, 1.0)


def test_activity_map_counts_non_zero_values_of_either_sign():
    """Acceptance 29."""
    features = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [0.0, -1.0], [0.5, 0.0]])
    ids = torch.tensor([0, 0, 1, 1, 1])
    result = contexts.activity_map(features, ids, 3)
    expected = [[1.0, 0.0], [1 / 3, 2 / 3]]
    np.testing.assert_allclose(result[:2].numpy(), expected)
    assert result[2].isnan().all()


def test_a_specialist_is_dormant_elsewhere_and_alive_as_a_unit():
    """Acceptance 30."""
    ids = torch.arange(3).repeat_interleave(200)
    features = torch.zeros(600, 3)
    features[ids == 2, 0] = -1.0  # wins in context 2 only, with negative values
    features[:, 1] = 1.0
    features[0, 2] = 1.0  # 1 of 200: dormant everywhere
    dormancy = contexts.context_dormancy(features, ids, 4)
    assert dormancy.per_context.tolist() == [
        [True, False, True],
        [True, False, True],
        [False, False, True],
        [False, False, False],  # nothing is known about a context without samples
    ]
    assert dormancy.everywhere.tolist() == [False, False, True]


def test_overlap_of_identical_sets_is_four_times_chance():
    """Acceptance 29."""
    features = k_sets(1, 1000, 250).expand(10, 1000)
    result = contexts.representation_overlap(features, torch.arange(10) % 2, 2)
    assert result.chance_ratio.flatten().tolist() == pytest.approx([4.0] * 4)
    assert result.overlap.flatten().tolist() == pytest.approx([0.25] * 4)


def test_overlap_of_random_sets_is_chance():
    """Acceptance 34."""
    result = contexts.representation_overlap(k_sets(120, 1000, 250), torch.arange(120) % 3, 3)
    assert result.overlap.mean().item() == pytest.approx(0.0625, abs=0.002)
    assert result.chance_ratio.mean().item() == pytest.approx(1.0, abs=0.03)


def test_overlap_and_cosine_equal_loops_over_pairs():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, 15)) * (rng.random((24, 15)) < 0.4)
    ids = rng.integers(0, 3, 24)
    overlap, distance = np.zeros((2, 3, 3))
    for a, b in itertools.product(range(3), repeat=2):
        rows, columns = np.flatnonzero(ids == a), np.flatnonzero(ids == b)
        pairs = [(features[i], features[j]) for i in rows for j in columns if i != j]
        overlap[a, b] = np.mean([((x != 0) & (y != 0)).mean() for x, y in pairs])
        distance[a, b] = np.mean([spatial.distance.cosine(x, y) for x, y in pairs])
    tensor, labels = torch.from_numpy(features), torch.from_numpy(ids)
    np.testing.assert_allclose(
        contexts.representation_overlap(tensor, labels, 3).overlap, overlap, atol=1e-12
    )
    np.testing.assert_allclose(
        contexts.context_cosine_distance(tensor, labels, 3), distance, atol=1e-12
    )


def test_one_sample_has_no_pair():
    result = contexts.representation_overlap(torch.ones(3, 4), torch.tensor([0, 1, 1]), 2)
    assert math.isnan(result.overlap[0, 0])
    assert result.overlap[0, 1] == 1.0


def test_negative_winner_fraction():
    features = torch.tensor([[1.0, -1.0, 0.0], [2.0, 0.0, 3.0]])
    assert contexts.negative_winner_fraction(features) == 0.25
    assert math.isnan(contexts.negative_winner_fraction(torch.zeros(2, 3)))


@pytest.mark.parametrize(("units", "k", "bits"), [(2800, 700, 2271.58), (256, 64, 207.69)])
def test_unit_duty_entropy_of_equal_units(units, k, bits):
    assert contexts.max_unit_duty_entropy(units, k) == pytest.approx(bits, abs=0.005)
    duty = torch.full((units,), k / units)
    assert contexts.unit_duty_entropy(duty) == pytest.approx(bits, abs=0.005)


def test_unit_duty_entropy_against_scipy():
    duty = np.random.default_rng(0).random(20)
    expected = sum(stats.entropy([p, 1 - p], base=2) for p in duty)
    assert contexts.unit_duty_entropy(torch.from_numpy(duty)) == pytest.approx(expected)
    assert contexts.unit_duty_entropy(torch.tensor([0.0, 1.0])) == 0.0
    with pytest.raises(ValueError, match="shares"):
        contexts.unit_duty_entropy(torch.tensor([0.5, 1.2]))


def test_segment_entropy_of_uniform_wins_and_of_one_winner():
    """Acceptance 29."""
    uniform = torch.eye(8).mul(-3.0).unsqueeze(1).repeat(5, 1, 1)  # segment j wins sample j
    use = contexts.segment_use(uniform)
    assert use.entropy.item() == pytest.approx(2.0794, abs=5e-5)
    assert use.never_winning == 0.0
    single = torch.zeros(40, 1, 8)
    single[..., 3] = -0.1
    use = contexts.segment_use(single)
    assert use.entropy.item() == 0.0
    assert use.never_winning == 7 / 8
    assert use.wins[0].argmax() == 3


def test_the_largest_value_decides_where_signs_count():
    activations = torch.tensor([[[2.0, -3.0]], [[0.5, -0.1]]])
    assert contexts.segment_use(activations).wins.tolist() == [[0.5, 0.5]]
    use = contexts.segment_use(activations, signed=False)
    assert use.wins.tolist() == [[1.0, 0.0]]
    assert use.never_winning == 0.5
    ids = torch.tensor([0, 1])
    wins = contexts.segment_wins_by_context(activations, ids, 2, signed=False)
    assert wins[:, 0].tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_segment_wins_and_overlap_by_context():
    activations = torch.tensor([[[2.0, -1.0]], [[0.5, -3.0]], [[1.0, 4.0]], [[1.0, 4.0]]])
    ids = torch.tensor([0, 0, 1, 1])
    wins = contexts.segment_wins_by_context(activations, ids, 2)
    assert wins[:, 0].tolist() == [[0.5, 0.5], [0.0, 1.0]]
    means = contexts.context_means(activations, ids, 2)
    assert means[:, 0].tolist() == [[1.25, -2.0], [1.0, 4.0]]
    expected = 1.0 - spatial.distance.cosine([1.25, -2.0], [1.0, 4.0])
    assert contexts.segment_overlap(means).tolist() == pytest.approx([expected])
    three = torch.randn(3, 5, 4, dtype=torch.float64)
    pairs = list(itertools.combinations(range(3), 2))
    loop = [
        np.mean([1 - spatial.distance.cosine(three[a, u], three[b, u]) for a, b in pairs])
        for u in range(5)
    ]
    np.testing.assert_allclose(contexts.segment_overlap(three), loop, atol=1e-12)
    with pytest.raises(ValueError, match="two contexts"):
        contexts.segment_overlap(three[:1])


def test_gate_saturation():
    gates = torch.tensor([[0.01, 0.5], [0.96, 0.94]])
    assert contexts.gate_saturation(gates) == 0.5
    assert contexts.gate_saturation(2 * gates, gate_scale=2.0) == 0.5


@pytest.mark.parametrize(
    "ids", [torch.tensor([0, 1]), torch.tensor([0, 1, 2]), torch.tensor([0, -1, 1])]
)
def test_ids_that_do_not_fit_are_refused(ids):
    with pytest.raises(ValueError, match="context_ids"):
        contexts.activity_map(torch.ones(3, 2), ids, 2)
    with pytest.raises(ValueError, match="context_ids"):
        contexts.context_dormancy(torch.ones(3, 2), ids, 2)
