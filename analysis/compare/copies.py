"""Small copies of runs: everything a report needs of them, and no more, in a few CSV files.

A copy is a run directory like any other: `config.yaml`, `environment.json` and `done.json` as they
were, `progress.csv` with the columns that reports read, `events.jsonl` with the first change to
every world, and in place of `episodes.csv` what reports make of the episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.canonical_json import canonical_json, parse_json
from analysis.compare.before import METRIC_CLOCK, metric_columns, rows_before
from analysis.compare.condensed import (
    RECORD_COLUMNS,
    RECORDS_FILE,
    RETURN_COLUMNS,
    RETURNS_FILE,
    Condensed,
    record_rows,
    return_rows,
)
from analysis.compare.evaluations import has_evaluation
from analysis.compare.members import COMMANDS_FILE, Member, columns_of
from analysis.compare.study import csv_bytes
from analysis.multitask.records import FILE as EVALUATION_FILE
from analysis.run_columns import Columns
from analysis.run_copies import PLACE_PARTS, copy_places, files_as_they_are
from analysis.run_files import WORLD_EVENTS, read_cells


def copy_files(member: Member, condensed: Condensed, place: str) -> dict[str, bytes]:
    """Files of the copy of one run, by their path below the folder of all copies.

    Args:
        member: The run.
        condensed: Its episodes.
        place: Of its copy.

    Raises:
        NotARun: Files of the run are damaged.
    """
    files = files_as_they_are(member.path, place)
    files[f"{place}/progress.csv"] = _progress(member, condensed.end)
    files[f"{place}/events.jsonl"] = _events(member)
    files[f"{place}/{RETURNS_FILE}"] = csv_bytes(RETURN_COLUMNS, return_rows(condensed))
    files[f"{place}/{RECORDS_FILE}"] = csv_bytes(RECORD_COLUMNS, record_rows(condensed))
    if not math.isnan(member.speed):
        rows = [(member.env_steps, member.speed)]
        files[f"{place}/timing.csv"] = csv_bytes(("env_steps", "steps_per_second"), rows)
    if has_evaluation(member):
        evaluation = (member.path / EVALUATION_FILE).read_bytes()
        files[f"{place}/{EVALUATION_FILE}"] = canonical_json(parse_json(evaluation))
    group = member.path.resolve().parents[PLACE_PARTS - 2]
    if (group / COMMANDS_FILE).is_file():
        files[f"{group.name}/{COMMANDS_FILE}"] = (group / COMMANDS_FILE).read_bytes()
    return files


def _progress(member: Member, end: int) -> bytes:
    """Whole curves, and of other diagnostics the values just before switches."""
    header, rows = read_cells(member.path / "progress.csv")
    if not header:
        return b""
    columns = Columns.of(member.path, header)
    positions = {name: place for place, name in enumerate(header)}
    whole = [METRIC_CLOCK, "iteration", "regime", *columns_of(columns).values()]
    metrics = [name for name in metric_columns(header, columns) if name not in whole]
    wanted = {*whole, "regime_value", *metrics}
    names = [name for name in header if name in wanted]
    rows = [row for row in rows if float(row[positions[METRIC_CLOCK]]) <= end]
    kept = rows_before(header, rows, member.starts, metrics)
    copied, seen = [], None
    for place, row in enumerate(rows):
        now = row[positions["regime"]] if "regime" in positions else ""
        shown = {name for name, known in kept.items() if place in known}
        if now != seen:
            shown.add("regime_value")
        seen = now
        copied.append([row[positions[n]] if n in whole or n in shown else "" for n in names])
    return csv_bytes(names, copied)


def _events(member: Member) -> bytes:
    """The first line about every world."""
    file = member.path / "events.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    events = [line for line in lines if b'"regime"' in line and line.endswith(b"\n")]
    kept: dict[object, bytes] = {}
    for line in events:
        event = parse_json(line)
        if event.get("event") in WORLD_EVENTS:
            kept.setdefault(event["regime"], line)
    return b"".join(kept.values())


def all_copies(
    members: Sequence[Member], condensed: Mapping[int, Condensed], folder: Path
) -> dict[str, bytes]:
    """Files of the copies of all runs of a comparison.

    Args:
        members: The runs.
        condensed: Place of a run -> its condensed episodes.
        folder: Where they will be written.

    Raises:
        ValueError: Two runs would share a place, or a copy would replace its run.
    """
    places = copy_places([member.path for member in members], folder)
    files: dict[str, bytes] = {}
    for number, member in enumerate(members):
        files |= copy_files(member, condensed[number], places[member.path])
    return files
