"""EnvPool's native Meta-World behind the same batch: fast, but another benchmark.

EnvPool has its own compiled tasks on its own MuJoCo, draws a fresh goal at every reset instead of
one of 50, knows reward v2 only, and cannot save its state. Runs on it carry its name in their
manifest, are measured on the stock tasks, and never share a table with runs on the stock tasks.

Source: Weng et al., "EnvPool" (2022).
Deviation: EnvPool resets in the step after the end and reports the first observation then; here
    the reset follows at once, so that a batch with EnvPool steps like any other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from envs.meta_world_block import Block
from envs.meta_world_group import Failure
from envs.meta_world_rows import RowSpec
from envs.meta_world_tasks import OBSERVATION_DIM
from envs.snapshots import Snapshot, require

ENVPOOL_VERSION = "1.2.5"
NO_GOAL = -1
"""What ``goal_index`` says where goals have no numbers."""


class EnvPoolRows:
    """Rows in EnvPool's pools, one pool per task; the same interface as ``RowGroup``.

    Args:
        specs: What to build, one per row; rows of one task stand together.
        num_workers: Threads; 0 and 1 step one pool after the other, more step all pools at once.

    Raises:
        ValueError: If EnvPool is not installed, or another version than this was tested with.
    """

    resume = "inexact"

    def __init__(self, specs: Sequence[RowSpec], num_workers: int) -> None:
        self._make = _envpool().make
        self._specs, self._num_workers = list(specs), num_workers
        num_rows = len(specs)
        self.block = Block.over(bytearray(Block.num_bytes(num_rows)), num_rows)
        self.block.goal_index[:] = NO_GOAL
        self._owned: list[np.ndarray] = []
        for index, spec in enumerate(specs):
            if index and spec.stream[1] == specs[index - 1].stream[1]:
                self._owned[-1] = np.append(self._owned[-1], index)
            else:
                self._owned.append(np.array([index]))
        self._lengths = np.zeros(num_rows, dtype=np.int64)
        self._returns = np.zeros(num_rows)
        self._succeeded = np.zeros(num_rows, dtype=bool)
        self._num_episodes = 0
        self._failures: dict[int, Failure] = {}
        self._build(specs[0].run_seed)

    def _build(self, run_seed: int) -> None:
        """New pools, all rows right after a reset; every row has a seed of its own stream.

        The number of episodes so far is part of the seeds: a continued run meets new goals.
        """
        self._run_seed = run_seed
        self._pools = []
        for rows in self._owned:
            specs = [self._specs[row] for row in rows]
            keys = [(*spec.stream, self._num_episodes) for spec in specs]
            sequences = [np.random.SeedSequence(run_seed, spawn_key=key) for key in keys]
            pool = self._make(
                envpool_id(specs[0].task),
                env_type="gymnasium",
                num_envs=len(rows),
                num_threads=max(1, min(len(rows), self._num_workers)),
                env_seed=[int(each.generate_state(1)[0] >> 1) for each in sequences],
                max_episode_steps=specs[0].horizon,
                partially_observable=False,
            )
            self._pools.append(pool)
            self.block.observation[rows] = pool.reset()[0]
        self._forget(np.arange(len(self._specs)))

    def _forget(self, rows: np.ndarray) -> None:
        """Episodes begin in these rows."""
        self._lengths[rows], self._returns[rows], self._succeeded[rows] = 0, 0.0, False
        self._num_episodes += len(rows)

    def step(self) -> None:
        """Step every row; ended rows are reset at once."""
        block, ended = self.block, np.zeros(len(self._specs), dtype=bool)
        block.active[:] = True
        for owned, result in zip(self._owned, self._results(), strict=True):
            observation, reward, terminated, truncated, info = result
            rows = owned[0] + np.asarray(info["env_id"])
            block.next_observation[rows], block.reward[rows] = observation, reward
            block.success[rows] = np.asarray(info["success"]) > 0
            ended[rows] = terminated | truncated
        block.unstable[:] = self._repair()
        self._lengths += 1
        self._returns += block.reward
        self._succeeded |= block.success
        block.truncated[:] = ended | block.unstable
        block.episode_return[:], block.episode_length[:] = self._returns, self._lengths
        block.episode_success[:] = self._succeeded
        block.observation[:] = block.next_observation
        self._reset(np.flatnonzero(block.truncated))

    def _results(self) -> Iterable[tuple[Any, ...]]:
        """Results of all pools, in their order."""
        actions = [self.block.action[rows] for rows in self._owned]
        if self._num_workers < 2:
            return [pool.step(action) for pool, action in zip(self._pools, actions, strict=True)]
        for pool, action in zip(self._pools, actions, strict=True):
            pool.send(action)
        return [pool.recv() for pool in self._pools]

    def _repair(self) -> np.ndarray:
        """Replace rows that are not finite as ``Row.step`` does; returns which, (N,) bool."""
        block = self.block
        bad = ~(np.isfinite(block.next_observation).all(axis=1) & np.isfinite(block.reward))
        for row in np.flatnonzero(bad).tolist():
            dump = {
                "action": block.action[row].copy(),
                "observation": block.observation[row].copy(),
                "next_observation": block.next_observation[row].copy(),
                "reward": block.reward[row : row + 1].copy(),
            }
            self._failures[row] = "EnvPool's observation or reward is not finite", dump
            block.next_observation[row], block.reward[row] = block.observation[row], 0.0
            block.success[row] = False
        return bad

    def _reset(self, rows: np.ndarray) -> None:
        for owned, pool in zip(self._owned, self._pools, strict=True):
            chosen = owned[np.isin(owned, rows)]
            if not chosen.size:
                continue
            observation, info = pool.reset((chosen - owned[0]).astype(np.int32))
            self.block.observation[owned[0] + np.asarray(info["env_id"])] = observation
        self._forget(rows)

    def start(self, goals: Mapping[int, int | None]) -> None:
        """Begin episodes.

        Raises:
            ValueError: If a goal is asked for.
        """
        if any(goal is not None for goal in goals.values()):
            raise ValueError(
                "EnvPool draws a fresh goal at every reset, none can be chosen; use backend=stock."
            )
        self._reset(np.array(sorted(goals), dtype=np.int64))

    def stop(self, indices: Iterable[int]) -> None:
        raise ValueError("rows of EnvPool never stand still; use backend=stock.")

    def reseed(self, run_seed: int) -> None:
        self._num_episodes = 0
        self._build(run_seed)

    def snapshots(self) -> dict[int, Snapshot]:
        """No state of the simulations, which EnvPool cannot save: only how to go on elsewhere."""
        common: Snapshot = {"run_seed": self._run_seed, "num_episodes": self._num_episodes}
        return {index: dict(common) for index in range(len(self._specs))}

    def load(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Begin new episodes with new goals in all rows."""
        snapshot = snapshots[0]
        self._num_episodes = int(require(snapshot, "num_episodes"))
        self._build(int(require(snapshot, "run_seed")))

    def failure(self, index: int) -> Failure:
        return self._failures[index]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(OBSERVATION_DIM, -np.inf), np.full(OBSERVATION_DIM, np.inf)

    def close(self) -> None:
        self._pools = []


def envpool_id(task: str) -> str:
    """EnvPool's name of a task: ``reach-v3`` is ``MetaWorld/Reach-v3``."""
    name, _, number = task.rpartition("-")
    return f"MetaWorld/{''.join(part.capitalize() for part in name.split('-'))}-{number}"


def _envpool() -> Any:
    """The package.

    Raises:
        ValueError: If it is missing or another version.
    """
    command = f"pip install envpool=={ENVPOOL_VERSION}"
    try:
        found = version("envpool")
    except PackageNotFoundError as error:
        raise ValueError(
            f"backend=envpool needs the optional package envpool; run: {command}"
        ) from error
    if found != ENVPOOL_VERSION:
        raise ValueError(
            f"envpool {found} is installed, but backend=envpool was tested with {ENVPOOL_VERSION} "
            f"only; run: {command}"
        )
    import envpool  # pyright: ignore[reportMissingImports]

    return envpool
