"""What switches cost and what returning worlds are worth, against values made by hand."""

import csv
import io

import numpy as np
import pytest
from synthetic_studies import FRICTIONS, add_group, add_run

from analysis.compare.collecting import collect
from analysis.compare.flat_results import results_csv
from analysis.compare.scores import score
from analysis.compare.switches import switches
from analysis.compare.tables import continual_table, network_table


def scored(folder, **options):
    study = collect([folder], **options)
    scores = score(study)
    return study, scores, {arm.facts.name: arm for arm in scores.arms}


def cyclic(monkeypatch):
    """A-B-A-B: runs written by hand take their frictions from a table."""
    monkeypatch.setattr("synthetic_studies.FRICTIONS", (*FRICTIONS[:2] * 5,))


def falls(level, seed, regime, share):
    """Every visit earns 10 less than the regime before; seeds differ by 100."""
    return 100.0 * seed + level - 10.0 * regime + 50.0 * share


def test_returning_worlds_show_relearning(tmp_path, monkeypatch):
    cyclic(monkeypatch)
    add_group(tmp_path, {"standard": 300.0, "redo": 400.0}, score=falls, episodes_per_regime=250)
    study, scores, arms = scored(tmp_path)
    # Regimes 2 and 3 repeat 0 and 1, two regimes later.
    for arm in arms.values():
        found = arm.relearning
        assert (found.estimate, found.low, found.high) == pytest.approx((-20.0,) * 3)
    # Twenty episodes of 250: shares .004 to .08; regimes 2 and 3; seeds 0 to 2.
    expected = 100.0 + 300.0 - 25.0 + 50.0 * np.arange(1, 21).mean() / 250
    assert arms["standard"].zero_shot_revisit.estimate == pytest.approx(expected)
    table = continual_table(study, scores)
    assert table.rows[0][table.header.index("relearning")].startswith("-20")
    assert "Relearning: area of a later visit less that of the first" in table.caption
    row = next(csv.DictReader(io.StringIO(results_csv(study, scores).decode())))
    assert float(row["relearning"]) == pytest.approx(-20.0)


def test_two_visits_without_another_world_between_are_one(tmp_path, monkeypatch):
    first, second = FRICTIONS[:2]
    monkeypatch.setattr("synthetic_studies.FRICTIONS", (first, second, first, first, *FRICTIONS))
    add_group(tmp_path, {"standard": 300.0}, score=falls, episodes_per_regime=250)
    study, scores, arms = scored(tmp_path)
    found = switches(study, "standard", scores.areas["standard"])
    # Regime 3 only goes on with the world of regime 2, which is two later than its first visit.
    np.testing.assert_allclose(found.relearning, -20.0)
    np.testing.assert_allclose(
        found.zero_shot, study.matrix("standard", "regime/first_episodes")[:, 2]
    )
    assert arms["standard"].relearning.estimate == pytest.approx(-20.0)


def test_without_returning_worlds_there_is_no_relearning(tmp_path):
    add_group(tmp_path, {"standard": 300.0}, score=falls, episodes_per_regime=250)
    study, scores, arms = scored(tmp_path)
    assert arms["standard"].relearning is None
    assert arms["standard"].zero_shot_revisit is None
    assert "relearning" not in continual_table(study, scores).header


def test_a_drop_is_what_the_switch_costs(tmp_path):
    """The return falls by 80 at every switch and comes back at once after a tenth."""

    def dips(level, seed, regime, share):
        return level - (80.0 if regime and share <= 0.1 else 0.0)

    add_group(tmp_path, {"standard": 300.0}, score=dips, episodes_per_regime=250)
    study, scores, arms = scored(tmp_path)
    # Trailing means of ten episodes reach the bottom: they are 25 long.
    assert arms["standard"].drop.estimate == pytest.approx(80.0)
    assert "drop" in continual_table(study, scores).header


def test_a_failed_run_has_no_switches_after_its_failure(tmp_path, monkeypatch):
    cyclic(monkeypatch)
    add_group(tmp_path, {"standard": 300.0}, score=falls, episodes_per_regime=250)
    add_group(tmp_path, {"redo": 300.0}, range(2), score=falls, episodes_per_regime=250)
    failed = {"until": 2_000, "status": "failed"}
    add_run(tmp_path, "redo", 2, level=300.0, score=falls, episodes_per_regime=250, **failed)
    study, scores, arms = scored(tmp_path)
    # What it did not live to earn is neither remembered nor forgotten.
    assert arms["redo"].relearning.n == 2
    assert arms["redo"].relearning.estimate == pytest.approx(-20.0)
    assert arms["redo"].zero_shot_revisit.n == 2
    table = continual_table(study, scores)
    row = next(row for row in table.rows if row[0] == "redo")
    for name in ("relearning", "zero-shot at return"):
        assert row[table.header.index(name)].endswith("(n = 2)")


def test_the_trainability_gap_stands_beside_the_other_ends(tmp_path):
    folder = add_group(tmp_path, {"standard": 300.0, "redo": 300.0})
    for place, path in enumerate(sorted(folder.glob("**/progress.csv"))):
        header, *rows = path.read_text().splitlines()
        gaps = ["", *[str(0.1 * place)] * (len(rows) - 1)]
        lines = [f"{row},{gap}" for row, gap in zip(rows, gaps, strict=True)]
        path.write_text("\n".join([f"{header},probe/policy/all/trainability_gap", *lines]) + "\n")
    study, scores, arms = scored(folder)
    assert arms["redo"].ends["trainability_gap"].mean.estimate == pytest.approx(0.1)
    assert arms["standard"].ends["trainability_gap"].mean.estimate == pytest.approx(0.4)
    table = network_table(study, scores)
    assert table.rows[0][table.header.index("trainability gap")].startswith("0.4")
    assert "new random targets" in table.caption
