"""Properties of the statistics, and slow loops written from their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.continual import late_means, plasticity_index, retention_index, slopes
from analysis.statistics import (
    holm,
    iqm,
    paired_improvement_interval,
    performance_profile,
    probability_of_improvement,
    sign_flip_p_value,
)

NUMBERS = st.floats(-1_000, 1_000).map(lambda value: round(value, 3))
ROWS = st.lists(NUMBERS, min_size=1, max_size=8)
QUICK = settings(max_examples=40, deadline=None)


@QUICK
@given(ROWS)
def test_sign_flips_by_loop(differences):
    observed = abs(math.fsum(differences))
    hits = sum(
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-9
        for signs in itertools.product((-1, 1), repeat=len(differences))
    )
    found = sign_flip_p_value(differences)
    assert found == pytest.approx(hits / 2 ** len(differences), abs=1e-12)
    assert sign_flip_p_value([-d for d in differences]) == found


@QUICK
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_by_loop(p_values):
    expected, so_far = {}, 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        expected[place] = so_far
    found = holm(p_values)
    np.testing.assert_allclose(found, [expected[i] for i in range(len(p_values))], atol=1e-12)
    assert (found >= np.array(p_values) - 1e-15).all()


@QUICK
@given(ROWS, ROWS)
def test_improvement_by_loop_and_its_mirror(x, y):
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y]
    found = probability_of_improvement(x, y)
    assert found == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert found + probability_of_improvement(y, x) == pytest.approx(1.0, abs=1e-12)
    paired = paired_improvement_interval(x).estimate
    assert paired + paired_improvement_interval([-v for v in x]).estimate == pytest.approx(1.0)


@QUICK
@given(ROWS, NUMBERS, st.floats(0.1, 10))
def test_interquartile_mean_moves_with_the_data(values, shift, scale):
    moved = iqm([scale * value + shift for value in values])
    assert moved == pytest.approx(scale * iqm(values) + shift, abs=1e-9)
    assert min(values) - 1e-9 <= iqm(values) <= max(values) + 1e-9
    assert iqm(values[::-1]) == pytest.approx(iqm(values), abs=1e-9)


@QUICK
@given(st.lists(ROWS.filter(lambda r: len(r) >= 2), min_size=1, max_size=1), st.data())
def test_slopes_and_late_means_by_loop(rows, data):
    row = [math.nan if data.draw(st.booleans()) else value for value in rows[0]]
    known = [(k, value) for k, value in enumerate(row) if not math.isnan(value)]
    expected = math.nan
    if len(known) >= 2:
        mean_k = sum(k for k, _ in known) / len(known)
        mean = sum(v for _, v in known) / len(known)
        expected = sum((k - mean_k) * (v - mean) for k, v in known)
        expected /= sum((k - mean_k) ** 2 for k, _ in known)
    np.testing.assert_allclose(slopes(row), expected, rtol=1e-9, atol=1e-9)
    late = [v for v in row[-math.ceil(len(row) / 3) :] if not math.isnan(v)]
    mean = sum(late) / len(late) if late else math.nan
    np.testing.assert_allclose(late_means(row), mean, rtol=1e-12, atol=1e-12)


@QUICK
@given(ROWS, NUMBERS)
def test_retention_by_loop(areas, random):
    best, expected = -math.inf, []
    for area in areas:
        best = max(best, area - random)
        expected.append((area - random) / best if best > 0 else math.nan)
    found = retention_index(areas, random)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.nanmax(np.append(found, 0.0)) <= 1.0


@QUICK
@given(st.lists(st.tuples(NUMBERS, st.floats(1, 9), NUMBERS), min_size=1, max_size=8))
def test_plasticity_index_does_not_depend_on_units(rows):
    areas, ranges, random = np.array(rows).T
    found = plasticity_index(areas, random + ranges, random).values
    other = plasticity_index(3 * areas + 5, 3 * (random + ranges) + 5, 3 * random + 5).values
    np.testing.assert_allclose(found, other, rtol=1e-6, atol=1e-6)
    fresh = plasticity_index(random + ranges, random + ranges, random)
    np.testing.assert_allclose(fresh.values, 1.0)
    assert fresh.num_undefined == 0


@QUICK
@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_profile_falls_from_one_to_zero(scores):
    thresholds = np.linspace(min(scores) - 1, max(scores), 9)
    band = performance_profile(scores, thresholds, num_resamples=20)
    expected = [sum(s > t for s in scores) / len(scores) for t in thresholds]
    np.testing.assert_allclose(band.mean, expected, atol=1e-12)
    assert (np.diff(band.mean) <= 1e-12).all()
    assert (band.mean[0], band.mean[-1]) == (1.0, 0.0)
