"""Result tables that cannot hide what a method was allowed to do."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import TextIO

MANDATORY_COLUMNS = ("uses_task_boundary", "resets_optimizer", "overhead")


def check_result_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Refuse a table in which any method lacks a mandatory column or leaves it empty.

    Raises:
        ValueError: No rows, or something mandatory is missing.
    """
    if not rows:
        raise ValueError("the result table has no rows")
    for position, row in enumerate(rows):
        missing = [name for name in MANDATORY_COLUMNS if row.get(name) in (None, "")]
        if missing:
            raise ValueError(
                f"row {position} of the result table lacks {', '.join(missing)}; every method "
                "states whether it uses task boundaries, resets the optimizer, and its overhead"
            )


def write_result_table(stream: TextIO, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV with the columns of the first row.

    Args:
        stream: Text file opened with newline="".
        rows: Column name to value; equal columns in every row.

    Raises:
        ValueError: A mandatory column is missing, or a row has other columns than the first.
    """
    check_result_table(rows)
    writer = csv.DictWriter(stream, list(rows[0]))
    for position, row in enumerate(rows):
        if set(row) != set(rows[0]):
            raise ValueError(f"row {position} has columns {sorted(row)}, not {sorted(rows[0])}")
    writer.writeheader()
    writer.writerows(rows)
