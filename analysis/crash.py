"""What is kept of a run whose numbers went wrong: a failure is a result, and final."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.base import Agent
from analysis.checkpoint import CheckpointStore
from analysis.run_directory import RunDirectory
from analysis.storage import StorageError

LEFT_OUT = frozenset({"replay"})
"""Parts of an agent that explain nothing and may take gigabytes."""


def end_failed_run(
    directory: RunDirectory,
    agent: Agent,
    env_steps: int,
    reason: str,
    dump: Mapping[str, Any],
    costs: Mapping[str, float],
) -> None:
    """Save what explains a failure in `crash`, beside the intact checkpoints; write done.json.

    Where there is no room for the first, the run has failed all the same.

    Args:
        directory: Of the run.
        agent: Its weights, optimizers and random streams are saved, its replay is not.
        env_steps: Environment steps done.
        reason: One sentence.
        dump: What else explains it: arrays, numbers and text.
        costs: What the run needed, see `ending.run_costs`.

    Raises:
        StorageError: done.json cannot be written.
    """
    summary: dict[str, Any] = {"env_steps": env_steps, "reason": reason}
    try:
        path = _save(directory.path / "crash", agent, env_steps, dump)
    except StorageError as error:
        look = f"what explains it was not saved: {error}"
    else:
        summary["crash"], look = path.name, f"see {path}"
    directory.finish("failed", {**summary, **costs})
    print(f"numerical failure at step {env_steps:,}: {reason}; {look}", file=sys.stderr)


def _save(folder: Path, agent: Agent, env_steps: int, dump: Mapping[str, Any]) -> Path:
    kept = {key: part for key, part in agent.state_dict().items() if key not in LEFT_OUT}
    return CheckpointStore(folder, keep=1).save(env_steps, {"agent": kept, "dump": dict(dump)})
