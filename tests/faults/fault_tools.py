"""Runs that are killed at an exact step, and what two runs must have in common."""

from __future__ import annotations

import functools
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import train
from analysis.checkpoint import CheckpointStore
from configs.compose import compose_run

REPOSITORY = Path(train.__file__).parent
QUIET = ("log.figures=false", "log.tensorboard=false", "progress=false", "num_threads=1")
OFTEN = "log.checkpoint_minutes=0"
FILES = ("progress.csv", "events.jsonl", "episodes.csv")
ANT = (
    "env=slippery_ant",
    "agent=ppo",
    "network=small",
    "total_steps=2048",
    "env.num_envs=4",
    "env.switch_interval=768",
    "env.max_episode_steps=90",
    "agent.rollout_length=64",
    "agent.minibatch_size=64",
    "agent.num_epochs=2",
    "log.log_every_iterations=1",
    "log.ranks_every_iterations=2",
    "log.all_ranks_every_iterations=4",
)


@functools.cache
def composed(*words: str):
    return compose_run([*words, *QUIET])


def run(root: Path, words) -> int:
    """What `python train.py <words> runs_root=<root>` does; composing is done once."""
    found = composed(*words)
    return train.run(replace(found, config=replace(found.config, runs_root=str(root))))


def run_dir(root: Path) -> Path:
    (found,) = [path.parent for path in Path(root).glob("*/*/*/seed_*/config.yaml")]
    return found


def store(root: Path) -> CheckpointStore:
    return CheckpointStore(run_dir(root) / "checkpoints")


def newest(root: Path):
    loaded = store(root).load_latest()
    assert loaded is not None
    return loaded


def ending(root: Path):
    """Steps, hash of the whole state and the bytes of all metric rows."""
    checkpoint = newest(root)
    rows = {name: (run_dir(root) / name).read_bytes() for name in FILES}
    return checkpoint.env_steps, checkpoint.manifest["state_hash"], rows


def in_a_child(action: Callable[[], int]) -> int:
    """Exit code of `action` in a forked process; negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = action()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def kill_at(root: Path, words, *env_steps: int) -> None:
    """Run in another process, which gets a SIGKILL in the vector step that completes a step."""

    def doomed() -> int:
        step = train.Progress.step

        def killing(self, done):
            step(self, done)
            if done in env_steps:
                os.kill(os.getpid(), signal.SIGKILL)

        train.Progress.step = killing  # type: ignore[method-assign]
        return run(root, words)

    assert in_a_child(doomed) == -signal.SIGKILL
