"""Small copies of runs on sequences, made from those in the repository."""

import csv
import json
from pathlib import Path

import pytest
import yaml

import evaluate
from analysis.run_files import NotARun
from analysis.sequences import UnlikeSequences, study
from analysis.sequences.copies import copies_of
from analysis.sequences.report import notes

RUNS = Path(evaluate.__file__).parent / "results" / "mt10_sequence" / "runs"
PLAIN = next((RUNS / "mt10_sequence_short").glob("*/*-adam-*/seed_0"))


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_runs_with_more_in_them_give_the_same_copies_and_the_same_report(tmp_path, monkeypatch):
    """Other columns, rows without evaluations and other files are left behind."""
    kept = files_of(RUNS)
    for name, data in kept.items():
        place = tmp_path / "runs" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        if name.endswith("progress.csv"):
            widen(place)
            (place.parent / "episodes.csv").write_text("env_steps\n20\n")
    monkeypatch.chdir(tmp_path)
    words = ["sequence", "runs", "--out", "whole", "--export-data", "small"]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    assert files_of(tmp_path / "small") == kept
    assert evaluate.main(["sequence", "small", "--out", "again"]) == evaluate.EXIT_DONE
    whole, again = files_of(tmp_path / "whole"), files_of(tmp_path / "again")
    assert sorted(whole) == sorted(again)
    different = {name for name in whole if whole[name] != again[name]}
    assert different <= {"report.md", "report.html"}  # which name their folder and their command
    assert (tmp_path / "small" / "sequence_references").is_dir()


def widen(progress):
    with progress.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    wide = []
    for row in rows:
        wide.append({**row, "policy_loss": "0.5"})
        empty = dict.fromkeys(row, "") | {"env_steps": str(int(row["env_steps"]) + 1)}
        wide.append({**empty, "policy_loss": "0.25"})
    with progress.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["policy_loss", *rows[0]])
        writer.writeheader()
        writer.writerows(wide)


def test_a_copy_never_replaces_its_run():
    found = study([*RUNS.glob("*/*/*/seed_*")])
    with pytest.raises(ValueError, match="would overwrite"):
        copies_of(found, RUNS)


def test_two_runs_in_one_place_are_refused(tmp_path):
    found = study([*RUNS.glob("*/*/*/seed_*")])
    arm = next(iter(found.arms))
    seed, path = next(iter(arm.runs.items()))
    twin = tmp_path / Path(*path.parts[-4:])
    twin.mkdir(parents=True)
    for file in path.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    arm.runs[seed + 1] = twin
    with pytest.raises(ValueError, match="would share the place"):
        copies_of(found, tmp_path / "small")


def plain_copy(place, rows=None, **changes):
    """A run of the repository in another place, with other settings and only some rows."""
    place.mkdir(parents=True)
    for file in PLAIN.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    config = yaml.safe_load((place / "config.yaml").read_text()) | changes
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    lines = (place / "progress.csv").read_text().splitlines(keepends=True)
    (place / "progress.csv").write_text("".join(lines[: None if rows is None else rows + 1]))
    return place


def test_runs_in_one_folder_are_arms_by_their_settings(tmp_path):
    tuned, again, other = (
        plain_copy(tmp_path / "all" / name, **changes)
        for name, changes in (
            ("tuned", {"total_steps": 400_000}),
            ("again", {"seed": 7, "num_threads": 2, "progress": True}),
            ("other", {"boundary": "none"}),
        )
    )
    found = study([tuned, again, other, tuned.parent / ".." / "all" / "tuned"], tmp_path)
    arms = {arm.name: [path.name for path in arm.runs.values()] for arm in found.arms}
    assert arms == {"all/other": ["other"], "all/tuned": ["tuned", "again"]}
    twin = plain_copy(tmp_path / "all" / "twin")
    with pytest.raises(UnlikeSequences, match="the same settings and seed") as refusal:
        study([tuned, other, twin], tmp_path)
    assert str(tuned) in str(refusal.value)
    assert str(twin) in str(refusal.value)


def test_a_failed_run_counts_as_no_success_from_then_on(tmp_path):
    whole = study([PLAIN]).arms[0].matrices[0]
    place = plain_copy(tmp_path / "arm" / "seed_1", 15, seed=1)
    with pytest.raises(NotARun, match="Finish the run first"):
        study([place], tmp_path)
    (place / "done.json").write_text(json.dumps({"status": "failed", "summary": {}}))
    found = study([place, plain_copy(tmp_path / "arm" / "seed_0")], tmp_path)
    arm = found.arms[0]
    made = arm.matrices[1].success
    kept = len(made) - arm.matrices[1].num_missing
    assert 0 < kept < len(made)
    assert (made[:kept] == whole.success[:kept]).all()
    assert not made[kept:].any()
    assert arm.performance.estimate == whole.scores().performance / 2
    (said,) = (note for note in notes(found) if "failed" in note)
    assert f"arm/seed_1 ({len(made) - kept} of {len(made)})" in said
    copies = copies_of(found, tmp_path / "small")
    for name, data in copies.items():
        (tmp_path / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / name).write_bytes(data)
    again = study((tmp_path / "small").glob("*/*/*/seed_*"), tmp_path)
    assert (again.arms[0].matrices[1].success == made).all()
    early = plain_copy(tmp_path / "early" / "seed_0")
    (early / "progress.csv").write_text("env_steps,policy_loss\n20,0.5\n")
    (early / "done.json").write_text(json.dumps({"status": "failed", "summary": {}}))
    assert not study([early], tmp_path).arms[0].matrices[0].success.any()
