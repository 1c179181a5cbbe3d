"""Return and networks at every fifth of a run, against the functions that made the runs."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from synthetic_studies import add_group, add_run

from analysis.compare.collecting import collect
from analysis.compare.course import course, course_csv, course_table
from analysis.compare.flat_results import results_csv
from analysis.compare.report import render
from analysis.compare.scores import score
from analysis.compare.tables import network_table

FIFTHS = [800, 1_600, 2_400, 3_200, 4_000]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three seeds of each arm, and a fourth of one arm that fails after 2,300 of 4,000 steps."""
    root = tmp_path_factory.mktemp("course")
    folder = add_group(root, {"standard": 100.0, "redo": 120.0}, episodes_per_regime=250)
    add_run(root, "standard", 3, episodes_per_regime=250)
    add_run(root, "redo", 3, until=2_300, status="failed", episodes_per_regime=250)
    return named(collect([folder]))


def named(found):
    return replace(found, about={**found.about, "out": "named"})


def rows_of(study, quantity, arm):
    rows = csv.DictReader(io.StringIO(course_csv(course(study)).decode()))
    return [row for row in rows if (row["quantity"], row["arm"]) == (quantity, arm)]


def test_every_fifth_is_the_mean_over_runs(study):
    rows = rows_of(study, "dormant_fraction", "standard")
    assert [int(row["env_steps"]) for row in rows] == FIFTHS
    for row, step in zip(rows, FIFTHS, strict=True):
        values = 0.3 * step / 4_000 + 0.01 * np.arange(4)
        assert float(row["mean"]) == pytest.approx(values.mean())
        assert values.min() <= float(row["low"]) < values.mean() < float(row["high"])
    hidden = rows_of(study, "hidden_weight_magnitude", "standard")
    expected = [0.04 + 0.02 * step / 4_000 + 1.5e-4 for step in FIFTHS]
    np.testing.assert_allclose([float(row["mean"]) for row in hidden], expected)


def test_return_is_that_of_the_stretch_before_the_step(study):
    """Episodes end every 4 steps, bins are 40 wide and the stretch 200."""
    rows = rows_of(study, "return", "standard")
    last = np.arange(151, 201) / 250  # episodes that end in (600, 800] of the first regime
    offsets = 10.0 * np.sin(7.0 * np.arange(4))
    assert float(rows[0]["mean"]) == pytest.approx(100.0 * last.mean() + offsets.mean(), rel=1e-6)


def test_a_failed_run_counts_until_it_failed(study):
    rows = rows_of(study, "stable_rank", "redo")
    assert [int(row["runs"]) for row in rows] == [4, 4, 3, 3, 3]
    three = 20.0 - 9.0 * 0.6 - 0.1
    scale = float(rows_of(study, "stable_rank", "standard")[0]["mean"]) / (20.0 - 1.8 - 0.15)
    assert float(rows[2]["mean"]) == pytest.approx(scale * three)


def test_the_table_says_what_the_file_says(study):
    table = course_table(study, course(study))
    assert table.header == ("quantity", "arm", *(f"{step:,} steps" for step in FIFTHS))
    row = next(row for row in table.rows if row[:2] == ("dormant units (%)", "standard"))
    assert row[-1].startswith("31.5 [")
    files = render(study, "named")
    assert files["course.csv"] == course_csv(course(study))
    assert b"## Course of training" in files["report.md"]


def test_runs_with_too_few_measurements_have_no_course(tmp_path):
    folder = add_group(tmp_path, {"standard": 1.0}, points=10, episodes_per_regime=10)
    coarse = named(collect([folder]))
    assert course(coarse) == []
    files = render(coarse, "named")
    assert "course.csv" not in files
    assert b"Course of training" not in files["report.md"]


def test_the_end_of_the_networks_has_intervals(study):
    scores = score(study)
    rows = {
        row["arm"]: row for row in csv.DictReader(io.StringIO(results_csv(study, scores).decode()))
    }
    # The last 12.5 % of twenty rows are three: shares .9, .95 and 1.
    values = 0.3 * np.mean([0.9, 0.95, 1.0]) + 0.01 * np.arange(4)
    row = rows["standard"]
    assert float(row["dormant_fraction"]) == pytest.approx(values.mean())
    assert values.min() <= float(row["dormant_fraction_low"]) < values.mean()
    assert values.mean() < float(row["dormant_fraction_high"]) <= values.max()
    table = network_table(study, scores)
    place = table.header.index("of the last hidden layer")
    hidden = float(row["hidden_weight_magnitude"])
    assert hidden == pytest.approx(0.04 + 0.02 * 0.95 + 1.5e-4)
    assert table.rows[0][place].startswith("0.0592 [")
