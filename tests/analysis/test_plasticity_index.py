"""Plasticity index, retention, gate and transfer against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from analysis.continual import (
    forward_transfer,
    forward_transfer_interval,
    index_interval,
    late_means,
    plasticity_index,
    retention_index,
    sequence_scores,
    slopes,
    validity_gate,
)

NAN = math.nan
INDEX = np.array([1, 0.9, 0.95, 0.8, 0.7, 0.65, 0.6, 0.6, 0.5, 0.45])


def test_index_and_slope_of_the_worked_example() -> None:
    found = plasticity_index([300, 200, 100], [300, 250, 200], [-100, -50, 0])
    assert found.values == pytest.approx([1, 0.83333, 0.5], abs=1e-5)
    assert found.num_undefined == 0
    assert slopes(found.values) == pytest.approx(-0.25)
    assert slopes(INDEX) == pytest.approx(-0.0615152, abs=1e-7)
    assert late_means(INDEX) == pytest.approx(0.5375)


def test_regimes_in_which_learning_hardly_pays_have_no_index() -> None:
    fresh, random = np.array([100.0, 104.99, 95.0]), np.array([0.0, 100.0, 90.0])
    found = plasticity_index([50.0, 102.0, 92.5], fresh, random)
    assert found.values[[0, 2]].tolist() == [0.5, 0.5]  # a range of exactly 5 % counts
    assert math.isnan(found.values[1])
    assert found.num_undefined == 1
    hopeless = plasticity_index([1.0, 2.0], [0.0, -1.0], [0.0, 0.0])
    assert hopeless.num_undefined == 2
    missing = plasticity_index([[1.0, NAN]], [2.0, 2.0], 0.0)
    assert missing.num_undefined == 1


def test_slopes_skip_undefined_entries() -> None:
    values = np.array([[1.0, NAN, 0.0, -0.5], [NAN, NAN, 2.0, NAN], [3.0, 3.0, 3.0, 3.0]])
    found = slopes(values)
    assert found[0] == pytest.approx(np.polyfit([0, 2, 3], [1.0, 0.0, -0.5], 1)[0])
    assert math.isnan(found[1])
    assert found[2] == 0.0
    late = late_means(values)
    assert late.tolist() == [-0.25, 2.0, 3.0]
    assert math.isnan(late_means([1.0, NAN, NAN]))


@pytest.mark.parametrize("summary", ["slope", "late_mean"])
def test_interval_resamples_runs_and_oracle_seeds(summary: str) -> None:
    rng = np.random.default_rng(0)
    areas = 100 - 5 * np.arange(6) + rng.normal(0, 10, (8, 6))
    oracle = 100 + rng.normal(0, 10, (5, 6))
    random = rng.normal(0, 5, 6)
    random[2], oracle[:, 2] = 50.0, 50.5  # an undefined regime
    reduce = slopes if summary == "slope" else late_means
    draws = []
    generator = np.random.default_rng(7)
    runs, seeds = generator.integers(0, 8, (300, 8)), generator.integers(0, 5, (300, 5))
    for chosen, drawn in zip(runs, seeds, strict=True):
        index = plasticity_index(areas[chosen], oracle[drawn].mean(axis=0), random).values
        draws.append(reduce(index).mean())
    found = index_interval(areas, oracle, random, summary, num_resamples=300, seed=7)
    exact = plasticity_index(areas, oracle.mean(axis=0), random)
    assert exact.num_undefined == 8
    assert found.estimate == pytest.approx(reduce(exact.values).mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]))
    # A certain oracle leaves less uncertainty.
    certain = index_interval(areas, oracle.mean(axis=0)[None], random, summary, seed=7)
    assert certain.high - certain.low < found.high - found.low


def test_paired_oracle_cancels_the_difficulty_of_the_world() -> None:
    rng = np.random.default_rng(0)
    worlds = rng.uniform(50, 500, (12, 5))
    lost = 1 - 0.1 * np.arange(5)
    found = index_interval(worlds * lost, worlds, 0.0, paired=True, min_range_share=0.0)
    assert (found.estimate, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))
    unpaired = index_interval(worlds * lost, worlds, 0.0)
    assert unpaired.high - unpaired.low > 0.05
    with pytest.raises(ValueError, match="pair rows"):
        index_interval(worlds, worlds[:5], 0.0, paired=True)


def test_index_interval_refuses_what_it_cannot_use() -> None:
    areas = np.ones((4, 3))
    with pytest.raises(ValueError, match="oracle has 2 regimes"):
        index_interval(areas, np.ones((5, 2)), 0.0)
    with pytest.raises(ValueError, match="hardly beats random"):
        index_interval(areas, np.ones((5, 3)), 1.0)
    one_regime = np.array([[2.0, 1.0, 1.0]] * 3 + [[2.0, 2.0, 2.0]])
    with pytest.raises(ValueError, match=r"3 of 4 runs: too few regimes .*hardly beats random"):
        index_interval(areas, one_regime, 1.0, paired=True)
    with pytest.raises(ValueError, match="areas holds 1 missing"):
        index_interval(np.array([[1.0, NAN]]), np.ones((5, 2)), 0.0)
    with pytest.raises(ValueError, match="choose slope or late_mean"):
        index_interval(areas, 2 * areas, 0.0, "area")  # type: ignore[arg-type]


def test_retention_is_relative_to_the_best_so_far() -> None:
    found = retention_index([5.0, 10.0, 30.0, 20.0, 40.0], 10.0)
    assert found[2:].tolist() == [1.0, 0.5, 1.0]
    assert np.isnan(found[:2]).all()
    assert retention_index([[1.0, 3.0], [4.0, 2.0]], 0.0).tolist() == [[1, 1], [1, 0.5]]


def gate(slope: float = 0.0, level: float = 1.0, seeds: int = 10, **kwargs):
    noise = np.random.default_rng(3).normal(0, 0.1, (seeds, 10))
    areas = level + slope * np.arange(10) + noise
    defaults = {"random": 0.0, "switching_verified": True, "num_resamples": 1000}
    return validity_gate(areas, np.ones((5, 10)), **{**defaults, **kwargs})


def test_the_gate_accepts_lost_plasticity_and_says_why_it_refuses() -> None:
    assert gate(slope=-0.05).accepted
    assert gate(slope=-0.05).reasons == ()
    low = gate(level=0.7)  # no slope, but worse than fresh late
    assert low.accepted
    assert low.late_gap.estimate == pytest.approx(0.3, abs=0.05)
    assert not gate().accepted
    assert gate().reasons[0].startswith("no plasticity loss here")
    (few,) = gate(slope=-0.05, seeds=9).reasons
    assert few == "9 baseline seeds; 10 are needed"
    (inert,) = gate(slope=-0.05, switching_verified=False).reasons
    assert "switches change the physics" in inert
    random = np.where(np.arange(10) < 3, 2.0, 0.0)  # nothing to learn in three regimes
    (poor,) = gate(slope=-0.05, random=random).reasons
    assert "only 70% of the regimes" in poor
    assert gate(slope=-0.05, random=np.where(np.arange(10) < 2, 2.0, 0.0)).accepted
    hopeless = gate(random=2.0)
    assert hopeless.learnable_share == 0.0
    assert math.isnan(hopeless.slope.estimate)
    assert not hopeless.accepted


def test_the_gate_pairs_fresh_networks_by_world() -> None:
    rng = np.random.default_rng(0)
    worlds = rng.uniform(200, 500, (10, 6))
    areas = worlds * (1 - 0.02 * np.arange(6))
    arguments = {"random": 0.0, "switching_verified": True, "num_resamples": 500}
    assert validity_gate(areas, worlds, paired=True, **arguments).accepted
    assert not validity_gate(areas, rng.permutation(worlds), **arguments).accepted


def test_the_gate_separates_stationary_from_declining_agents() -> None:
    rng = np.random.default_rng(0)
    accepted = {0.0: 0, -0.05: 0}
    for slope in accepted:
        for _ in range(500):
            areas = 1 + slope * np.arange(10) + rng.normal(0, 0.1, (10, 10))
            verdict = validity_gate(
                areas, np.ones((5, 10)), 0.0, switching_verified=True, num_resamples=1000
            )
            accepted[slope] += verdict.accepted
    assert accepted[0.0] <= 50
    assert accepted[-0.05] >= 450


def test_forward_transfer_by_hand() -> None:
    found = forward_transfer([0.4, 0.6], [0.5, 0.2])
    assert found.values == pytest.approx([-0.2, 0.5])
    assert found.mean == pytest.approx(0.15)
    perfect = forward_transfer([0.4, 0.6], [1.0, 0.2])
    assert math.isnan(perfect.values[0])
    assert (perfect.mean, perfect.num_undefined) == (pytest.approx(0.5), 1)
    # Seeds are averaged before the ratio, not after.
    seeds = forward_transfer([[0.2], [0.6]], [[0.0], [0.8]])
    assert seeds.mean == pytest.approx(0.0)
    with pytest.raises(ValueError, match="2 tasks against 1"):
        forward_transfer([0.4, 0.6], [0.5])


def test_interval_of_forward_transfer() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = rng.uniform(0.3, 0.7, (10, 4)), rng.uniform(0.2, 0.6, (6, 4))
    found = forward_transfer_interval(mine, theirs)
    assert found.confidence == 0.90
    assert found.n == 6
    assert found.low < found.estimate < found.high
    draws = [
        forward_transfer(mine[rng.integers(0, 10, 10)], theirs[rng.integers(0, 6, 6)]).mean
        for _ in range(2000)
    ]
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [5, 95]), abs=0.01)
    with pytest.raises(ValueError, match="perfect on every task"):
        forward_transfer_interval(mine[:, :1], np.ones((3, 1)))


def test_interval_of_forward_transfer_where_single_references_are_perfect() -> None:
    mine = np.array([[0.7, 0.97], [0.72, 0.98], [0.71, 0.96]])
    theirs = np.array([[0.8, 1.0], [0.82, 1.0], [0.79, 0.98]])
    found = forward_transfer_interval(mine, theirs)
    # All 27 x 27 draws by hand: the second task is undefined in those of its perfect seeds only.
    rows = list(itertools.product(range(3), repeat=3))
    draws = [forward_transfer(mine[list(a)], theirs[list(b)]).mean for a in rows for b in rows]
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [5, 95]), abs=0.05)
    # Where no task is left in a draw, the draw is.
    alone = forward_transfer_interval(mine[:, 1:], theirs[:, 1:])
    pairs = [(mine[list(a), 1:], theirs[list(b), 1:]) for a in rows for b in rows]
    draws = [forward_transfer(*pair).mean for pair in pairs]
    assert (alone.low, alone.high) == pytest.approx(np.nanpercentile(draws, [5, 95]), abs=0.05)


def test_sequence_of_two_tasks_by_hand() -> None:
    success = np.transpose(
        [[0.2, 0.4, 0.6, 0.8, 0.6, 0.4, 0.4, 0.2], [0, 0, 0, 0.1, 0.3, 0.7, 0.9, 0.9]]
    )
    found = sequence_scores(success, 4, window=2)
    assert found.performance == pytest.approx(0.6)
    assert found.forgetting == pytest.approx([0.4, 0.0])
    assert found.mean_forgetting == pytest.approx(0.2)
    assert found.backward_transfer == pytest.approx(-0.4)
    transfer = forward_transfer(found.areas, [0.5, 0.45])
    assert transfer.values == pytest.approx([0, 0.4545455], abs=1e-7)
    assert transfer.mean == pytest.approx(0.2272727, abs=1e-7)


def test_sequence_evaluated_at_stage_ends() -> None:
    found = sequence_scores([[0.8, 0.1, 0], [0.5, 0.9, 0.1], [0.2, 0.6, 0.7]], 1)
    assert found.performance == pytest.approx(0.5)
    assert found.mean_forgetting == pytest.approx(0.3)
    assert found.backward_transfer == pytest.approx(-0.45)
    frozen = sequence_scores(np.full((12, 3), 0.3), 4)
    assert frozen.forgetting.tolist() == [0, 0, 0]
    assert math.isnan(sequence_scores([[0.5], [0.7]], 2).backward_transfer)
    with pytest.raises(ValueError, match="need 6 rows"):
        sequence_scores(np.zeros((5, 3)), 2)
    with pytest.raises(ValueError, match="choose 1 to 2"):
        sequence_scores(np.zeros((6, 3)), 2, window=3)


def test_a_missing_area_of_a_fresh_network_takes_only_its_own_index() -> None:
    fresh = np.array([[300.0, math.nan, 200.0], [300.0, 250.0, 200.0]])
    found = plasticity_index([[300.0, 200, 100]] * 2, fresh, 0.0)
    np.testing.assert_allclose(found.values, [[1, math.nan, 0.5], [1, 0.8, 0.5]])
    assert found.num_undefined == 1


def test_few_seeds_that_show_nothing_are_no_evidence_of_nothing() -> None:
    reasons = gate(seeds=9).reasons
    assert any(reason.startswith("no plasticity loss shown yet") for reason in reasons)
    assert not any("no plasticity loss here" in reason for reason in reasons)
