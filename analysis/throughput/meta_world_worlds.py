"""The rivals of the Meta-World benchmark, each behind the same three calls.

All step the ten tasks of MT10 once per vector step, one copy of each, with resets where episodes
end, so that equal numbers of vector steps are equal work.
"""

# pyright: reportAttributeAccessIssue=false
# because gymnasium's vector environments are typed by their smallest interface.

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np

from envs.meta_world import Config, make

NUM_TASKS, ACTION_DIM = 10, 4
NUM_GOALS = 10
"""Fewer than the 50 of a run, so that the caches are filled soon; a step costs the same."""
SYNC = "stock, sync vector"


@dataclass
class World:
    """One way to step MT10.

    Attributes:
        name: What the table calls it.
        num_processes: Processes that simulate.
        step: Takes actions (10, 4) and returns what the environments return.
        pids: Processes other than this one that simulate.
        close: Releases everything.
        is_ours: Whether it is this suite's layer over the stock tasks; all such give equal results.
    """

    name: str
    num_processes: int
    step: Callable[[np.ndarray], Any]
    pids: tuple[int, ...]
    close: Callable[[], None]
    is_ours: bool

    def cpu_seconds(self) -> float:
        """CPU time that this process and the world's own processes have used so far."""
        return time.process_time() + sum(time.clock_gettime(_cpu_clock(pid)) for pid in self.pids)


def _cpu_clock(pid: int) -> int:
    """Linux's clock of the CPU time of another process (``clock_getcpuclockid``)."""
    return (~pid << 3) | 2


def build_worlds(num_cores: int, seed: int = 0) -> list[World]:
    """All rivals, reset and ready; the first one is the yardstick.

    Args:
        num_cores: Cores that this process may use.
        seed: Of the goals and their choice.
    """
    base = Config(world_seed=seed, num_goals=NUM_GOALS, num_workers=0, reset_cache=False)
    # First, because its processes are forks of this one with everything that there is by then.
    forked = _upstream(f"stock, async vector, {NUM_TASKS} processes", "async", seed)
    worlds = [
        _upstream(SYNC, "sync", seed),
        forked,
        _ours("ours, stock classes", replace(base, fast_path=False)),
        _ours("ours, fast path", base),
        _ours("ours, fast path and reset cache", replace(base, reset_cache=True)),
    ]
    for count in sorted({1, 2, num_cores}):
        name = f"ours, fast path and reset cache, {count} worker{'s' * (count > 1)}"
        worlds.append(_ours(name, replace(base, reset_cache=True, num_workers=count)))
    if find_spec("envpool") is not None:
        worlds.append(_envpool("EnvPool, 1 thread (another benchmark)", base, 1))
        if num_cores > 1:
            worlds.append(
                _envpool(f"EnvPool, {num_cores} cores (another benchmark)", base, num_cores)
            )
    return worlds


def _upstream(name: str, strategy: str, seed: int) -> World:
    import metaworld  # registers the environments

    assert metaworld
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a float32 box with float64 bounds
        envs: Any = gymnasium.make_vec("Meta-World/MT10", vector_strategy=strategy, seed=seed)
        envs.reset(seed=seed)
    processes = getattr(envs.unwrapped, "processes", [])
    pids = tuple(process.pid for process in processes)
    return World(name, max(1, len(pids)), envs.step, pids, envs.close, is_ours=False)


def _ours(name: str, config: Config) -> World:
    envs, _ = make(config, total_steps=10**9)
    if config.reset_cache:  # as that of a run is after some episodes
        for goal in range(NUM_GOALS):
            envs.start_episodes(range(NUM_TASKS), [goal] * NUM_TASKS)
    envs.reset(seed=config.world_seed)
    pids = envs.worker_pids
    return World(name, max(1, len(pids)), envs.step, pids, envs.close, is_ours=True)


def _envpool(name: str, config: Config, num_threads: int) -> World:
    envs, _ = make(replace(config, backend="envpool", num_workers=num_threads), total_steps=10**9)
    envs.reset(seed=config.world_seed)
    return World(name, 1, envs.step, (), envs.close, is_ours=False)
