"""The reports in the repository are what the program makes of the copies beside them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import evaluate

RESULTS = Path(evaluate.__file__).parent / "results"
REPORTS = {
    "stationary_ant": [],
    "stationary_ant/parity": [],
    "stationary_ant/terminal_timeouts": [],
    "compare_slippery_ant": [],
    "transplant": [],
    "unbundling": ["--baseline", "ns_adam"],
    "sac_against_sb3": ["--baseline", "sb3_sac-adam"],
    "inferred_context": [],
    "bfloat16": ["--partial", "--baseline", "ppo-mlp-standard"],
    "mt10_cpu": ["--baseline", "mlp-adam"],
}
SEQUENCES = ("mt10_sequence", "mt10_sequence_ppo")


def rows(file: Path) -> list[dict[str, str]]:
    """Rows of a table without what the newest benchmark says about costs."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            {key: cell for key, cell in row.items() if not key.startswith("overhead_paired")}
            for row in csv.DictReader(lines)
        ]


def number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_rebuilt_from_its_copies(name, tmp_path, monkeypatch):
    monkeypatch.chdir(RESULTS.parent)  # names of runs are relative to it
    words = ["compare", f"results/{name}/runs", *REPORTS[name], "--out", str(tmp_path)]
    assert evaluate.main(words) == 0
    assert_equal_tables(tmp_path / "results.csv", RESULTS / name / "results.csv")


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_report_of_sequences_is_rebuilt_from_its_copies(name, tmp_path, monkeypatch):
    monkeypatch.chdir(RESULTS.parent)
    words = ["sequence", f"results/{name}/runs", "--out", str(tmp_path)]
    assert evaluate.main(words) == 0
    for table in ("results.csv", "tasks.csv"):
        assert_equal_tables(tmp_path / table, RESULTS / name / table)


def assert_equal_tables(found_in, expected_in):
    made, kept = rows(found_in), rows(expected_in)
    assert [row.keys() for row in made] == [row.keys() for row in kept]
    for found, expected in zip(made, kept, strict=True):
        for key, cell in expected.items():
            if isinstance(value := number(cell), str):
                assert found[key] == value
            else:  # another processor may differ in the last bits
                assert float(found[key]) == pytest.approx(value, rel=1e-9, nan_ok=True), key
