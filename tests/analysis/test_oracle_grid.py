"""Interpolated fresh networks against closed forms and a slow loop over the definition."""

import math

import numpy as np
import pytest
from scipy.interpolate import interp1d

from analysis.continual import (
    OracleGrid,
    interpolated_gate,
    interpolated_index,
    interpolated_interval,
    late_means,
    plasticity_index,
    slopes,
    validity_gate,
)

FRICTIONS = 0.02 * 100.0 ** np.arange(0.05, 1.0, 0.1)


def grid_of(area, seeds=5, noise=0.0, values=FRICTIONS, untrained=-50.0, seed=0):
    """Fresh networks whose return is a known function of the friction, plus noise."""
    rng = np.random.default_rng(seed)
    areas = area(values)[:, None] + noise * rng.normal(size=(len(values), seeds))
    return OracleGrid(values, areas, 1.2 * areas, np.full(areas.shape, untrained))


def line(friction):
    return 400.0 + 60.0 * np.log(friction)


def test_interpolation_is_scipys_beyond_the_ends_too():
    grid = grid_of(lambda f: 300.0 * np.sin(np.log(f)))
    wanted = np.exp(np.random.default_rng(0).uniform(np.log(0.02), np.log(2.0), (7, 5)))
    theirs = interp1d(np.log(FRICTIONS), grid.areas[:, 0], fill_value="extrapolate")  # type: ignore
    np.testing.assert_allclose(grid.weights(wanted) @ grid.areas[:, 0], theirs(np.log(wanted)))
    # The whole published range is within half a spacing of the quantiles, and nothing beyond.
    assert grid.weights([0.02, 2.0]).shape == (2, 10)
    for outside in (0.0199, 2.01):
        with pytest.raises(ValueError, match="outside the grid"):
            grid.weights([0.5, outside])
    for missing in (math.nan, 0.0, -1.0):
        with pytest.raises(ValueError, match="missing or not above 0"):
            grid.weights([missing])


def test_leave_one_out_by_hand():
    grid = OracleGrid(
        np.array([0.1, 1.0, 10.0, 100.0]),
        np.array([[0.0, 0.0], [10.0, 30.0], [20.0, 20.0], [50.0, 70.0]]),
        np.ones((4, 2)),
        np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [10.0, 10.0]]),
    )
    # Means 0, 20, 20, 60: the inner ones are predicted as 10 and 40.
    np.testing.assert_allclose(grid.leave_one_out(), [math.nan, -10.0, 20.0, math.nan])
    assert grid.largest_range == 50.0
    assert grid.error == pytest.approx(20.0 / 50.0)
    assert not grid.is_accepted
    assert grid_of(line).error == pytest.approx(0.0, abs=1e-12)
    assert grid_of(line).is_accepted
    hopeless = grid_of(line, untrained=1e6)
    assert hopeless.error == math.inf
    assert not hopeless.is_accepted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": np.array([1.0, 2.0])}, "need scores of shape"),
        ({"values": np.array([1.0, 3.0, 2.0])}, "ascend"),
        ({"values": np.array([0.0, 1.0, 2.0])}, "above 0"),
        ({"phases": np.full((3, 2), math.nan)}, "phases holds 6 missing"),
        ({"untrained": np.ones((3, 1))}, "need scores of shape"),
    ],
)
def test_wrong_grids_are_refused(change, said):
    fields = {"values": np.array([1.0, 2.0, 3.0])}
    fields |= {name: np.ones((3, 2)) for name in ("areas", "phases", "untrained")}
    OracleGrid(**fields)
    with pytest.raises(ValueError, match=said):
        OracleGrid(**{**fields, **change})
    with pytest.raises(ValueError, match="at least 3"):
        OracleGrid(np.array([1.0, 2.0]), *(np.ones((2, 2)),) * 3)


def worlds(runs=10, regimes=8, seed=1):
    rng = np.random.default_rng(seed)
    return np.exp(rng.uniform(np.log(0.02), np.log(2.0), (runs, regimes)))


def test_the_index_of_a_known_loss():
    """A return that keeps 1 - 0.05 k of the gain has exactly that index in every world."""
    values, kept = worlds(), 1.0 - 0.05 * np.arange(8)
    areas = -50.0 + kept * (line(values) + 50.0)
    found = interpolated_index(areas, values, grid_of(line))
    np.testing.assert_allclose(found.values, np.tile(kept, (10, 1)), atol=1e-12)
    assert found.num_undefined == 0
    slope = interpolated_interval(areas, values, grid_of(line))
    assert (slope.estimate, slope.low, slope.high) == pytest.approx((-0.05,) * 3)
    late = interpolated_interval(areas, values, grid_of(line), "late_mean")
    assert late.estimate == pytest.approx(kept[-3:].mean())


def test_worlds_in_which_learning_hardly_pays_have_no_index():
    values = np.full((4, 6), 1.0)
    values[:, 2] = 0.02
    grid = grid_of(lambda f: np.maximum(0.0, 100.0 + 25.0 * np.log(f)) - 50.0)
    found = interpolated_index(np.ones((4, 6)), values, grid)
    assert found.num_undefined == 4
    assert np.isnan(found.values[:, 2]).all()
    areas = -50.0 + np.linspace(1.0, 0.5, 6) * 100.0 * np.ones((4, 1))
    areas[:, 2] = 1e9  # never looked at
    expected = np.polyfit([0, 1, 3, 4, 5], np.linspace(1.0, 0.5, 6)[[0, 1, 3, 4, 5]], 1)[0]
    assert interpolated_interval(areas, values, grid).estimate == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="too few regimes have an index"):
        interpolated_interval(np.ones((2, 3)), np.full((2, 3), 0.02), grid)


@pytest.mark.parametrize("summary", ["slope", "late_mean"])
def test_every_draw_resamples_runs_and_oracle_seeds(summary):
    rng = np.random.default_rng(3)
    values = worlds(6, 5).clip(FRICTIONS[0], FRICTIONS[-1])  # numpy does not extrapolate
    areas = line(values) * (1.0 - 0.1 * np.arange(5)) + rng.normal(0, 20, (6, 5))
    grid = grid_of(line, seeds=4, noise=30.0, untrained=0.0)
    reduce = slopes if summary == "slope" else late_means
    draws = []
    generator = np.random.default_rng(7)
    runs, seeds = generator.integers(0, 6, (200, 6)), generator.integers(0, 4, (200, 4))
    for chosen, drawn in zip(runs, seeds, strict=True):
        means = grid.areas[:, drawn].mean(axis=1)
        oracle = np.interp(np.log(values), np.log(FRICTIONS), means)
        index = plasticity_index(areas, oracle, 0.0, min_range_share=0.0).values
        draws.append(reduce(index)[chosen].mean())
    found = interpolated_interval(
        areas, values, grid, summary, num_resamples=200, seed=7, min_range_share=0.0
    )
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]))
    certain = OracleGrid(
        grid.values,
        grid.areas.mean(axis=1, keepdims=True),
        grid.phases.mean(axis=1, keepdims=True),
        grid.untrained[:, :1],
    )
    narrow = interpolated_interval(areas, values, certain, summary, min_range_share=0.0)
    wide = interpolated_interval(areas, values, grid, summary, min_range_share=0.0)
    assert narrow.estimate == pytest.approx(wide.estimate)
    assert narrow.high - narrow.low < wide.high - wide.low


def test_thresholds_are_nine_tenths_of_the_way():
    grid = grid_of(line)
    expected = -50.0 + 0.9 * (1.2 * line(0.3) + 50.0)
    assert grid.thresholds([[0.3]]) == pytest.approx(expected)
    assert np.isnan(grid_of(line, untrained=1e6).thresholds([0.3])).all()


def test_the_gate_is_that_of_paired_oracles_where_the_grid_is_exact():
    values = worlds()
    noise = np.random.default_rng(0).normal(0, 10, values.shape)
    for loss in (0.0, 0.05):
        areas = -50.0 + (1.0 - loss * np.arange(8)) * (line(values) + 50.0) + noise
        mine = interpolated_gate(areas, values, grid_of(line), switching_verified=True)
        theirs = validity_gate(areas, line(values), -50.0, switching_verified=True, paired=True)
        assert mine.accepted is theirs.accepted is (loss > 0.0)
        for name in ("slope", "late_gap"):
            one, other = getattr(mine, name), getattr(theirs, name)
            assert one.estimate == pytest.approx(other.estimate)
            assert (one.low, one.high) == pytest.approx((other.low, other.high))
        assert mine.learnable_share == theirs.learnable_share == 1.0
    (inert,) = interpolated_gate(areas, values, grid_of(line), switching_verified=False).reasons
    assert "nobody verified" in inert
