"""Tuning from the early part of a lifetime, and tables that hide nothing."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest

from analysis.result_table import write_result_table
from analysis.tuning import TuningRow, early_rows, select_configurations

TOTAL = 1000


def run(configuration: str, world: int, early: float, late: float) -> list[TuningRow]:
    """One episode of 100 steps in the first 10 % of the lifetime, nine afterwards."""
    scores = [early] + [late] * 9
    return [
        TuningRow(configuration, world, 0, 100 * (i + 1), score, 100)
        for i, score in enumerate(scores)
    ]


def tuned(early_by_configuration: dict[str, float], late: float = 0.0) -> list[TuningRow]:
    return [
        row
        for name, early in early_by_configuration.items()
        for world in (10_000, 10_001, 10_002)
        for row in run(name, world, early, late)
    ]


def test_selection_sees_only_the_first_tenth() -> None:
    rows = tuned({"default": 1.0, "fast": 3.0, "slow": 2.0})
    poisoned = [
        replace(row, episode_return=math.nan if row.configuration == "fast" else 1e9)
        if row.env_step > 100
        else row
        for row in rows
    ]
    for given in (rows, poisoned):
        chosen = select_configurations({"l2": given}, {"l2": "default"}, TOTAL)["l2"]
        assert chosen.configuration == "fast"
        assert chosen.scores == {"default": 1.0, "fast": 3.0, "slow": 2.0}
        assert chosen.sensitivity == (1.0, 2.0, 3.0)
        assert chosen.num_configurations == 3
    assert {row.env_step for row in early_rows(rows, TOTAL)} == {100}
    assert {row.env_step for row in early_rows(rows, TOTAL, k=0.3)} == {100, 200, 300}


def test_ties_go_to_the_default() -> None:
    rows = tuned({"a": 3.0, "default": 3.0, "z": 3.0})
    assert select_configurations({"m": rows}, {"m": "default"}, TOTAL)["m"].configuration == (
        "default"
    )


def test_the_score_weighs_steps_and_averages_seeds() -> None:
    rows = [
        TuningRow("default", 10_000, 0, 10, 0.0, 10),
        TuningRow("default", 10_000, 0, 100, 10.0, 90),
        TuningRow("default", 10_001, 0, 100, 1.0, 100),
    ]
    chosen = select_configurations({"m": rows}, {"m": "default"}, TOTAL)["m"]
    assert chosen.scores["default"] == pytest.approx((9.0 + 1.0) / 2)


def test_evaluation_worlds_are_refused() -> None:
    rows = tuned({"default": 1.0}) + run("default", 9_999, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"\[9999\] are evaluation worlds"):
        select_configurations({"m": rows}, {"m": "default"}, TOTAL)
    late = [row for row in run("default", 7, 1.0, 1.0) if row.env_step > 100]
    with pytest.raises(ValueError, match="evaluation worlds"):
        early_rows(late, TOTAL)


def test_every_method_gets_the_same_number_of_configurations() -> None:
    rows = {"none": tuned({"default": 1.0}), "l2": tuned({"default": 1.0, "b": 2.0})}
    with pytest.raises(ValueError, match=r"'none': 1, 'l2': 2"):
        select_configurations(rows, {"none": "default", "l2": "default"}, TOTAL)
    lopsided = tuned({"default": 1.0, "b": 2.0})[:-10]
    with pytest.raises(ValueError, match="different seeds"):
        select_configurations({"m": lopsided}, {"m": "default"}, TOTAL)
    with pytest.raises(ValueError, match="was not tried"):
        select_configurations({"m": tuned({"b": 1.0})}, {"m": "default"}, TOTAL)
    with pytest.raises(ValueError, match="different numbers"):
        select_configurations({"m": []}, {"m": "default"}, TOTAL)
    with pytest.raises(ValueError, match="share of the lifetime"):
        early_rows([], TOTAL, k=10)


ROW = {"method": "l2", "uses_task_boundary": "no", "resets_optimizer": "no", "overhead": 1.02}


@pytest.mark.parametrize("column", ["uses_task_boundary", "resets_optimizer", "overhead"])
def test_a_table_without_a_mandatory_column_cannot_be_written(column: str) -> None:
    stream = io.StringIO()
    for row in ({k: v for k, v in ROW.items() if k != column}, {**ROW, column: ""}):
        with pytest.raises(ValueError, match=f"row 1 of the result table lacks {column}"):
            write_result_table(stream, [ROW, row])
    assert stream.getvalue() == ""


def test_a_complete_table_is_written() -> None:
    stream = io.StringIO()
    write_result_table(stream, [ROW, {**ROW, "method": "redo", "overhead": 0}])
    assert stream.getvalue().splitlines() == [
        "method,uses_task_boundary,resets_optimizer,overhead",
        "l2,no,no,1.02",
        "redo,no,no,0",
    ]
    with pytest.raises(ValueError, match="has columns"):
        write_result_table(io.StringIO(), [ROW, {**ROW, "note": "x"}])
    with pytest.raises(ValueError, match="no rows"):
        write_result_table(io.StringIO(), [])
