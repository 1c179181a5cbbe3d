"""Paired comparisons against numbers by hand and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from analysis.statistics import (
    Comparison,
    MissingPairError,
    adjust,
    compare,
    holm,
    improvement_interval,
    interval,
    paired_differences,
    paired_improvement_interval,
    probability_of_improvement,
    sign_flip_p_value,
)


def test_sign_flips_of_ten_positive_differences() -> None:
    assert sign_flip_p_value(np.arange(1.0, 11.0)) == 0.001953125


def test_sign_flips_by_hand_with_ties() -> None:
    assert sign_flip_p_value([3, -1, 4, 2, -2, 5]) == 0.21875
    # In binary 0.1 + 0.2 - 0.3 is not 0: all sums equal to the observed one must still count.
    assert sign_flip_p_value([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_p_value([0.0, 0.0]) == 1.0
    assert sign_flip_p_value([-2.0]) == 1.0


@pytest.mark.parametrize("n", [8, 12])
def test_sign_flips_equal_scipy_permutation_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, size=n)
    expected = scipy.stats.permutation_test(
        (differences, np.zeros(n)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_many_pairs_use_random_signs_and_never_reach_zero() -> None:
    assert sign_flip_p_value(np.ones(30)) == 1 / 100_001
    differences = np.random.default_rng(0).normal(0.4, 1, size=25)
    expected = scipy.stats.ttest_1samp(differences, 0).pvalue  # close for normal differences
    assert sign_flip_p_value(differences) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p_value(differences, seed=1) != sign_flip_p_value(differences, seed=2)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.04]) == pytest.approx([0.04])
    with pytest.raises(ValueError, match="not all in"):
        holm([0.1, 1.2])
    with pytest.raises(ValueError, match="missing"):
        holm([0.1, math.nan])


def test_probability_of_improvement_by_hand() -> None:
    x, y = np.array([3.0, 5.0, 7.0]), np.array([2.0, 5.0, 6.0])
    assert probability_of_improvement(x, y) == pytest.approx(0.611111, abs=1e-6)
    assert paired_improvement_interval(x - y).estimate == pytest.approx(0.833333, abs=1e-6)
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == 1.0
    statistic = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(statistic / 9)


def test_intervals_of_improvement() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, 12), rng.normal(0, 1, 9)
    found = improvement_interval(x, y, num_resamples=500, seed=3)
    assert found.estimate == probability_of_improvement(x, y)
    assert 0 <= found.low < found.estimate < found.high <= 1
    assert found.n == 9
    # A slow loop with draws of its own agrees up to Monte-Carlo error.
    draws = [probability_of_improvement(rng.choice(x, 12), rng.choice(y, 9)) for _ in range(2000)]
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.04)
    won = paired_improvement_interval(np.arange(1.0, 6.0))
    assert (won.estimate, won.high, won.n) == (1.0, 1.0, 5)
    assert won.low == pytest.approx(0.565, abs=1e-3)  # not certain after five
    assert paired_improvement_interval([1.0, 2.0]).low < 0.5
    tie = paired_improvement_interval([1.0, 0.0, -1.0])
    assert tie.estimate == 0.5
    assert tie.high - 0.5 == pytest.approx(0.5 - tie.low)


def test_pairs_are_matched_by_seed_and_never_dropped() -> None:
    method = {(1, 0): 5.0, (0, 0): 3.0}
    baseline = {(0, 0): 1.0, (1, 0): 2.0}
    assert paired_differences(method, baseline).tolist() == [3.0, 2.0]
    with pytest.raises(MissingPairError, match=r"1 seeds lack a partner \(\(2, 0\)\)"):
        paired_differences({**method, (2, 0): 1.0}, baseline)
    with pytest.raises(MissingPairError):
        compare(method, {**baseline, (2, 0): 1.0})
    with pytest.raises(ValueError, match="baseline holds 1 missing"):
        paired_differences(method, {**baseline, (0, 0): math.nan})
    regimes = paired_differences({0: [1.0, 2.0]}, {0: [0.5, 4.0]})
    assert regimes.tolist() == [[0.5, -2.0]]
    with pytest.raises(ValueError, match="one number first"):
        sign_flip_p_value(regimes)


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        worlds = rng.normal(size=20)
        x, y = worlds + 0.5 * rng.normal(size=20), worlds + 0.5 * rng.normal(size=20)
        paired = interval(x - y, "mean", 500)
        alone = np.array([rng.choice(x, 20).mean() - rng.choice(y, 20).mean() for _ in range(500)])
        low, high = np.percentile(alone, [2.5, 97.5])
        ratios.append((paired.high - paired.low) / (high - low))
    assert np.mean(ratios) == pytest.approx(0.45, abs=0.05)


def test_a_comparison_says_what_it_can_support() -> None:
    def scores(n: int, gain: float) -> dict[int, float]:
        return {seed: seed + gain for seed in range(n)}

    found = compare(scores(10, 2.0), scores(10, 0.0))
    assert found.difference.estimate == found.difference.low == 2.0
    assert found.improvement.estimate == 1.0
    assert found.p_value == 0.001953125
    assert (found.n, found.claim) == (10, "claim")
    exploratory = compare(scores(5, 2.0), scores(5, 0.0))
    assert (exploratory.p_value, exploratory.claim) == (0.0625, "exploratory")
    few: Comparison = compare(scores(4, 2.0), scores(4, 0.0))
    assert (few.p_value, few.claim) == (0.125, "too few seeds")
    assert adjust([found, exploratory, few]).tolist() == [0.005859375, 0.125, 0.125]
