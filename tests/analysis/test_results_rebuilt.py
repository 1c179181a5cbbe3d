"""The reports in the repository are what the program makes of the copies beside them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import evaluate

RESULTS = Path(evaluate.__file__).parent / "results"
REPORTS = {
    "stationary_ant": [],
    "sac_against_sb3": ["--baseline", "sb3_sac-adam"],
    "inferred_context": [],
}


def table(file: Path) -> list[list[object]]:
    """Cells, numbers as numbers: another processor may differ in the last bits."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [[number(cell) for cell in row] for row in csv.reader(lines)]


def as_number(cell: str) -> object:
    try:
        return float(cell)
    except ValueError:
        return cell


def number(cell: str) -> object:
    try:
        return pytest.approx(float(cell), rel=1e-9, abs=1e-12, nan_ok=True)
    except ValueError:
        return cell


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_rebuilt_from_its_copies(name, tmp_path, monkeypatch):
    monkeypatch.chdir(RESULTS.parent)  # names of runs are relative to it
    words = ["compare", f"results/{name}/runs", *REPORTS[name], "--out", str(tmp_path)]
    assert evaluate.main(words) == 0
    made, kept = tmp_path / "results.csv", RESULTS / name / "results.csv"
    with made.open(newline="", encoding="utf-8") as lines:
        found = [[as_number(cell) for cell in row] for row in csv.reader(lines)]
    assert found == table(kept)
