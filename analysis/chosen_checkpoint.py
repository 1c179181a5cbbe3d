"""Which checkpoint of a run somebody means, and where what is measured with it goes."""

from __future__ import annotations

from pathlib import Path

from analysis.checkpoint import CheckpointError, CheckpointStore
from analysis.checkpoint_files import parse_step_name

FOLDER = "evaluations"
"""Below a run directory: results of checkpoints that are not the newest."""

MAX_SHOWN = 20


def run_and_checkpoint(named: Path, checkpoint: Path | None) -> tuple[Path, Path | None]:
    """The run directory, and the checkpoint to take; the newest intact one if None.

    Args:
        named: Run directory, or one of its checkpoints.
        checkpoint: Named beside it, see `find_checkpoint`; None where nothing is.

    Raises:
        CheckpointError: Two checkpoints are named, or the one that is does not exist.
    """
    if not (named / "manifest.json").is_file() or (named / "config.yaml").exists():
        return named, None if checkpoint is None else find_checkpoint(named, checkpoint)
    if checkpoint is not None:
        raise CheckpointError(f"{named} is a checkpoint already; leave out --checkpoint")
    return named.resolve().parents[1], named


def find_checkpoint(run_dir: Path, named: Path) -> Path:
    """The checkpoint that a command line names: one of the run, or any other directory.

    Args:
        run_dir: Run directory.
        named: Name of a checkpoint of the run, such as `step-000000005120`, or the path of one.

    Raises:
        CheckpointError: There is neither; the message lists what the run has.
    """
    own = run_dir / "checkpoints" / named
    if own.is_dir():  # an absolute path stays what it is
        return own
    if named.exists():
        return named
    raise CheckpointError(f"there is no checkpoint {named}; {_what_there_is(run_dir)}")


def checkpoint_at(run_dir: Path, step: int) -> Path:
    """The newest checkpoint of a run that was saved at this environment step.

    Raises:
        CheckpointError: There is none; the message lists what the run has.
    """
    for path in CheckpointStore(run_dir / "checkpoints").paths():
        name = parse_step_name(path.name)
        if name is not None and name[0] == step:
            return path
    raise CheckpointError(f"there is no checkpoint at step {step:,}; {_what_there_is(run_dir)}")


def _what_there_is(run_dir: Path) -> str:
    names = [path.name for path in CheckpointStore(run_dir / "checkpoints").paths()]
    if not names:
        return f"{run_dir} has no checkpoint yet; train it first"
    return f"{run_dir} has {', '.join(names[:MAX_SHOWN])}{', ...' if names[MAX_SHOWN:] else ''}"


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
