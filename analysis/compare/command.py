"""`python evaluate.py compare`: collects, renders and writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from analysis.compare.collecting import NO_EXTRAS, Extras, gather, measured
from analysis.compare.copies import all_copies
from analysis.compare.oracle_building import build_tables
from analysis.compare.oracle_table import OracleTable, write_table
from analysis.compare.report import render
from analysis.compare.study import Study, load_study
from analysis.storage import StorageError, temporary_name


def compare_runs(
    paths: Iterable[Path | str],
    out: Path,
    baseline: str | None = None,
    partial: bool = False,
    command: str = "",
    export: Path | None = None,
    extras: Extras = NO_EXTRAS,
) -> Study:
    """Compare runs and write the report.

    Args:
        paths: Run directories or folders of them.
        out: Folder of the report, created if missing; its name is the title.
        baseline: Arm to compare with; `standard` by default.
        partial: Accept unfinished runs and unequal seeds.
        command: Command line, printed in the report.
        export: Folder for small copies of the runs that give the same report.
        extras: What other measurements add: tables of fresh networks, overheads.

    Returns:
        The data as stored.

    Raises:
        NotARun: A folder holds no run, or files are damaged.
        CannotCompare: The runs are unlike, unfinished or incomplete, or there is no such arm.
        ValueError: A copy would replace its run.
        StorageError: A file cannot be written.
    """
    gathered = gather(paths, baseline, partial)
    if export is not None:
        write_files(export, all_copies(gathered.members, gathered.condensed, export))
    study = measured(gathered, command, extras)
    about = {**study.about, "name": out.resolve().name, "out": str(out)}
    return _write(replace(study, about=about), out)


def build_oracles(
    paths: Iterable[Path | str], out: Path, command: str = ""
) -> list[tuple[Path, OracleTable]]:
    """Make tables of fresh networks from runs in single worlds, one for every arm.

    Args:
        paths: Run directories or folders of them.
        out: Folder of the tables.
        command: Command line, kept with them.

    Returns:
        Files and what they hold.

    Raises:
        NotARun: A folder holds no run, or files are damaged.
        CannotCompare: Runs that are no part of a grid, or a grid with holes.
        StorageError: A file cannot be written.
    """
    return [(write_table(table, out), table) for table in build_tables(paths, command)]


def report_again(data: Path, out: Path | None = None) -> Study:
    """Make tables and figures again from the data folder of a report, byte for byte.

    Args:
        data: Folder `data` of the report.
        out: Folder to write to; the parent of `data` by default.

    Raises:
        NotARun: The folder holds no data of a comparison, or they are damaged.
        StorageError: A file cannot be written.
    """
    return _write(load_study(data), data.resolve().parent if out is None else out)


def _write(study: Study, out: Path) -> Study:
    write_files(out, render(study, str(study.about["name"])))
    return study


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace each file at once: a reader never sees half of one.

    Raises:
        StorageError: The disk refused.
    """
    for name, data in files.items():
        path = folder / name
        temporary = path.parent / temporary_name(path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
