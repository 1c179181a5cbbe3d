"""What a command asks of a run, and cannot get: said before the run is touched."""

from __future__ import annotations

from pathlib import Path

from analysis.adoption import begin_from
from analysis.checkpoint import CheckpointStore
from analysis.checkpoint_files import parse_step_name
from analysis.run_files import read_config
from configs.build import rehearse
from configs.run import RunConfig
from configs.schema import ConfigurationError


def refuse_moved_donor(config: RunConfig, path: Path) -> None:
    """Refuse to start from a checkpoint of the run that is about to be moved aside.

    Args:
        config: What was asked for.
        path: Directory of the run.

    Raises:
        ConfigurationError: With `fresh=true` the checkpoint would be gone before it is read.
    """
    if config.fresh and config.init_from is not None:
        donor = Path(config.init_from).resolve()
        if path.resolve() in donor.parents:
            raise ConfigurationError(
                f"init_from={config.init_from} lies in the run that fresh=true moves aside; give "
                "the new run a directory of its own, run_dir=<dir>, and leave fresh out"
            )


def refuse_start(config: RunConfig, path: Path) -> None:
    """Build a run that is not there yet once: only there some choices turn out not to fit.

    A refusal leaves no directory and moves none aside.

    Args:
        config: What was asked for.
        path: Directory of the run.

    Raises:
        ConfigurationError: The run could not start, or a part of it would never act.
        CheckpointError: The donor of `init_from` cannot be read.
    """
    refuse_moved_donor(config, path)
    if config.fresh or not (path / "config.yaml").exists():
        rehearse(config, begin_from)


def refuse_shorter(config: RunConfig, path: Path) -> None:
    """Refuse a budget that the run has exceeded already.

    Its results would be labelled with fewer steps than they took.

    Args:
        config: What was asked for.
        path: Directory of the run.

    Raises:
        ConfigurationError: `total_steps` is lowered below the newest checkpoint.
    """
    if config.total_steps >= int(read_config(path)["total_steps"]):
        return
    names = (parse_step_name(one.name) for one in CheckpointStore(path / "checkpoints").paths())
    reached = max((name[0] for name in names if name is not None), default=0)
    if reached > config.total_steps:
        raise ConfigurationError(
            f"total_steps={config.total_steps:,}, but the run in {path} is at step {reached:,} "
            f"already; give at least {reached:,}, or train the shorter run in a directory of its "
            "own, run_dir=<dir>"
        )
