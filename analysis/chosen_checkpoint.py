"""Which checkpoint of a run somebody means, and where what is measured with it goes."""

from __future__ import annotations

from pathlib import Path

from analysis.checkpoint import CheckpointStore

FOLDER = "evaluations"
"""Below a run directory: results of checkpoints that are not the newest."""


def results_folder(run_dir: Path, checkpoint: Path | None) -> Path:
    """Where the results of a checkpoint go if nobody says it.

    The files in the run directory itself are those of the newest checkpoint, which comparisons
    read as the end of the run: no other one may replace them.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.

    Returns:
        The run directory, or `evaluations/<checkpoint>` in it where the checkpoint is not the
        newest one of the run.
    """
    if checkpoint is None:
        return run_dir
    newest = next(iter(CheckpointStore(run_dir / "checkpoints").paths()), None)
    if newest is not None and newest.resolve() == checkpoint.resolve():
        return run_dir
    return run_dir / FOLDER / checkpoint.resolve().name
