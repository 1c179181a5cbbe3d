"""What a recorder finds in its folder: files to go on with, or leftovers to remove."""

from __future__ import annotations

import csv
import sys
from pathlib import Path


def continued_columns(path: Path, columns: list[str], start_steps: int) -> list[str]:
    """Columns of a file that goes on: one begun by an earlier version keeps those it has."""
    if not start_steps or not path.exists():
        return columns
    with path.open(newline="", encoding="utf-8") as stream:
        found = next(csv.reader(stream), columns)
    left_out = len(columns) - len(found)
    if left_out <= 0 or not set(found) <= set(columns):
        return columns
    print(
        f"{path} was begun by an earlier version; {left_out} diagnostics that came later are left "
        "out of it",
        file=sys.stderr,
    )
    return found


def remove_uncommitted(folder: Path) -> None:
    """Remove logs of a process that died before its first checkpoint."""
    for name in ("progress.csv", "episodes.csv", "events.jsonl", "timing.csv"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
