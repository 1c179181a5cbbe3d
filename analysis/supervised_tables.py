"""Intervals over runs, and tables as CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.statistics import interval


def mean_bounds(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over runs.

    Args:
        values: (runs,) one number per run.

    Returns:
        The bounds; NaN, NaN with fewer than two runs, or where a run lacks its number.
    """
    if not len(values) or not np.isfinite(values).all():
        return float("nan"), float("nan")
    found = interval(values, "mean")
    return found.low, found.high


def mean_text(values: np.ndarray) -> str:
    """Mean and interval of one number per run, for a table."""
    low, high = mean_bounds(values)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def write_table(path: Path, lines: Sequence[Mapping[str, str]]) -> str:
    """Write lines of a table as CSV; returns them as Markdown. Columns as they first appear."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    rows = [[line.get(column, "-") for column in columns] for line in lines]
    write_rows(path, columns, rows)
    marked = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in marked)


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file, its folder too where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that `write_rows` has written.

    Raises:
        ValueError: There is no such file, or it lacks one of the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); name a folder of results with its files"
        ) from error
    if not rows or any(rows[0].get(column) is None for column in columns):
        raise ValueError(f"{path} has no rows with the columns {', '.join(columns)}")
    return rows


def read_number(path: Path, cell: str | None) -> float:
    """The number in a cell of a file; None stands for a row that is too short.

    Raises:
        ValueError: It is none.
    """
    try:
        return float(cell or "")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {cell!r} is no number") from error
