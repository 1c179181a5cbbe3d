"""What is said and noted when a run begins or goes on."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from agents.base import Agent
from analysis.recorder import Recorder
from analysis.run_directory import RunDirectory
from analysis.sequences.command import incomplete_sequence
from configs.build import resolve_threads
from configs.run import RunConfig


def begin_run(
    directory: RunDirectory, config: RunConfig, agent: Agent, envs: Any, probe: Any, world: str
) -> None:
    """Say where a run begins and what is particular about it; describe its environment.

    Args:
        directory: Of the run.
        config: Of the run.
        agent: Restored, where the run goes on.
        envs: Restored, where the run goes on.
        probe: Fixed sample set, or None.
        world: Name of the environment, for people.

    Raises:
        StorageError: The description cannot be written.
    """
    start = envs.env_steps
    print(
        f"{'continuing' if start else 'training'} {config.agent.kind} on {world} "
        f"from step {start:,} to {config.total_steps:,} in {directory.path}",
        flush=True,
    )
    for line in (*agent.announcements(), *incomplete_sequence(config)):
        print(f"  {line}", flush=True)
    facts = {
        "num_threads": resolve_threads(config),
        "probe_sha256": getattr(probe, "sha256", None),
        "schedule_hash": getattr(envs, "schedule_hash", None),
        "world": getattr(envs, "manifest", None),
    }
    for change in directory.write_environment(facts):
        print(f"not as at the start, results may differ in bits: {change}", file=sys.stderr)


def note_changes(directory: RunDirectory, recorder: Recorder) -> None:
    """Note every accepted change of a setting that events.jsonl does not tell of.

    Those of now, and those of a process that was killed before its first checkpoint: going back to
    the one before has cut its events.

    Args:
        directory: Of the run.
        recorder: Restored, where the run goes on.

    Raises:
        StorageError: The file cannot be read or written.
    """
    accepted = [str(change) for change in directory.all_changes()]
    if not accepted:
        return
    told: Counter[str] = Counter()
    with (directory.path / "events.jsonl").open(encoding="ascii") as lines:
        for line in lines:
            event = json.loads(line) if '"setting_changed"' in line else {}
            told[event.get("setting", "")] += 1
    for setting in accepted:
        if told[setting] > 0:
            told[setting] -= 1
        else:
            recorder.note({"event": "setting_changed", "setting": setting})
