"""Small copies of runs on sequences, made from those in the repository."""

import csv
from pathlib import Path

import pytest

import evaluate
from analysis.sequences import study
from analysis.sequences.copies import copies_of

RUNS = Path(evaluate.__file__).parent / "results" / "mt10_sequence" / "runs"


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
