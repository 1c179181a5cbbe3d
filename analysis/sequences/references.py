"""Single-task runs from scratch, trained once and found again by what they have in common.

`python train.py references experiment=mt10_sequence_cpu seed=0,1` trains every task of a sequence
by itself for one stage, with the networks, contexts, goals and evaluations of the sequence and
without methods. They are ordinary runs in `runs/sequence_references`, so the same command continues
them and leaves finished ones alone, and every sequence with the same settings uses the same ones.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.canonical_json import canonical_json, parse_json
from analysis.run_files import NotARun, read_config
from analysis.runs import find_runs
from configs.compose import compose_run
from configs.exit_codes import EXIT_CONFIGURATION
from configs.run import RunConfig, load_run
from configs.schema import ConfigurationError, to_plain
from configs.sweep import sweep

GROUP = "sequence_references"
# Settings of the environment that a single task has nothing to do with, or that are the seed.
_ENV_IGNORED = ("order_seed", "world_seed", "only_task", "reset_cache", "num_workers")
_AGENT_IGNORED = ("device", "capture", "keep_last_n")  # and all that acts at switches
_LOG_KEPT = ("quick_evaluation_steps", "quick_evaluation_goals", "evaluation_rows_per_task")


def reference_key(config: RunConfig, task: str) -> str:
    """What a reference of one task must have in common with a sequence, as a hash.

    Methods, boundaries, what the agent does at switches, seeds and the order of tasks do not
    matter; agent, network, optimizer, list of tasks, goals, length of a stage and the grid of
    evaluations do.

    Args:
        config: Of the sequence, or of a reference.
        task: Its name.
    """
    env = {k: v for k, v in to_plain(config.env).items() if k not in _ENV_IGNORED}
    agent = {
        name: value
        for name, value in to_plain(config.agent).items()
        if name not in _AGENT_IGNORED and not name.endswith("_on_switch")
    }
    has_reservoir = getattr(config.agent, "buffer_on_switch", "") == "reservoir"
    # One that never fills within a stage is a plain replay.
    if has_reservoir and env["steps_per_task"] > agent["replay_size"]:
        agent["buffer_on_switch"] = "reservoir"
    log = to_plain(config.log)
    same: dict[str, Any] = {
        "task": task,
        "env": env,
        "agent": agent,
        "network": to_plain(config.network),
        "optimizer": to_plain(config.optimizer),
        "context": to_plain(config.context),
        "log": {key: log.get(key) for key in _LOG_KEPT},
    }
    value_network = getattr(config, "value_network", None)
    if value_network is not None:
        same["value_network"] = to_plain(value_network)
    return hashlib.sha256(canonical_json(same)).hexdigest()


def find_references(config: RunConfig, root: Path) -> Mapping[str, Mapping[int, Path]]:
    """References of a sequence that have ended, finished or failed.

    Args:
        config: Of the sequence.
        root: Folder of all runs, whose subfolder `sequence_references` is searched.

    Returns:
        Task -> seed -> run directory; a task without references is missing.
    """
    try:
        candidates = find_runs(root / GROUP)
    except NotARun:
        return {}
    wanted = {reference_key(config, task): task for task in config.env.plan.distinct}
    found: dict[str, dict[int, Path]] = {}
    for path in candidates:
        reference = load_run(read_config(path))
        only = getattr(reference.env, "only_task", None)
        if only is None or not _has_ended(path):
            continue
        task = wanted.get(reference_key(reference, only))
        if task is not None:
            found.setdefault(task, {})[reference.seed] = path
    return found


def _has_ended(path: Path) -> bool:
    """A failed one counts, with no success after its failure, as failed sequences do."""
    try:
        done = parse_json((path / "done.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(done, dict) and done.get("status") in ("finished", "failed")


def reference_words(words: Sequence[str]) -> list[str]:
    """The command line of the sweep that trains all references of a sequence.

    Args:
        words: Command line of the sequence, methods included or not; `seed=0,1` for several.

    Raises:
        ConfigurationError: They are no sequence.
    """
    ours = ("method", "group=", "total_steps=", "env.only_task=", "+method", "env.order_seed=")
    ours += ("log.final_evaluation=", "log.stage_evaluation=")
    kept = [word for word in words if not word.startswith(ours)]
    plain = [_first(word) for word in kept]
    config = compose_run([word for word in plain if not word.startswith("hydra")]).config
    if not hasattr(config.env, "steps_per_task"):
        raise ConfigurationError(
            f"env.kind={config.env.kind} has no tasks one after another; references are those of "
            "sequences, such as experiment=mt10_sequence_cpu"
        )
    if getattr(config.env, "only_task", None) is not None:
        raise ConfigurationError("leave out env.only_task: all tasks of the sequence are trained")
    return [
        "-m",
        *kept,
        f"env.only_task={','.join(config.env.plan.distinct)}",
        f"total_steps={config.env.steps_per_task}",
        f"group={GROUP}",
        "method=[]",
        "log.final_evaluation=false",
        "log.stage_evaluation=false",
    ]


def _first(word: str) -> str:
    """`seed=0` of `seed=0,1`: what the members have in common is checked once."""
    return word.split(",")[0] if word.startswith("seed=") else word


def train_references(words: Sequence[str]) -> int:
    """Train the references of a sequence that are not trained yet; returns the exit code."""
    try:
        swept = reference_words(words)
    except ConfigurationError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return sweep(swept)
