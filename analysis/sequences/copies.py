"""Small copies of runs on sequences: what `evaluate.py sequence` reads of them, and no more.

A copy is a run directory like any other, at `<group>/<env>/<arm>/seed_<n>` below the folder of all
copies, the single-task references in `sequence_references` beside them: `config.yaml`,
`environment.json` and `done.json` as they were, and of `progress.csv` the evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from analysis.compare.study import csv_bytes
from analysis.multitask.training import QUICK, STAGE
from analysis.run_copies import copy_places, files_as_they_are
from analysis.run_files import read_cells
from analysis.sequences.study import SequenceStudy


def copies_of(study: SequenceStudy, folder: Path) -> dict[str, bytes]:
    """Files of the copies of all runs of a study and of their references.

    Args:
        study: The runs.
        folder: Where they will be written.

    Returns:
        Path below the folder -> contents.

    Raises:
        NotARun: Files of a run are damaged.
        ValueError: Two runs would share a place, or a copy would replace its run.
    """
    files: dict[str, bytes] = {}
    for path, place in copy_places(_runs_of(study), folder).items():
        files |= files_as_they_are(path, place)
        files[f"{place}/progress.csv"] = _evaluations(path)
    return files


def _runs_of(study: SequenceStudy) -> Iterator[Path]:
    for arm in study.arms:
        yield from arm.runs.values()
    for by_seed in study.references.values():
        yield from (path for seed, path in by_seed.items() if seed in study.reference_seeds)


def _evaluations(path: Path) -> bytes:
    """The rows of progress.csv that hold success of tasks, with nothing else in them."""
    header, rows = read_cells(path / "progress.csv")
    is_success = [
        name.startswith((f"{QUICK}/", f"{STAGE}/")) and name.endswith("/success") for name in header
    ]
    kept = [place for place, wanted in enumerate(is_success) if wanted]
    names = ["env_steps", *(header[place] for place in kept)]
    steps = header.index("env_steps") if header else 0
    cells = [
        [row[steps], *(row[place] for place in kept)]
        for row in rows
        if any(row[place] for place in kept)
    ]
    return csv_bytes(names, cells)
