"""The batch of Meta-World tasks as a Gymnasium vector environment.

Source: McLean et al., "Meta-World+" (arXiv 2505.11289) for tasks, rewards and horizon.
Deviation: one random stream per copy of a task (upstream seeds all alike, so that all tasks choose
    the same goal number), true observation bounds, and success that is kept for the episode.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.base import EnvInfo, SimulatorError
from envs.meta_world_block import Block
from envs.meta_world_envpool import EnvPoolRows
from envs.meta_world_goals import Goals
from envs.meta_world_group import RowGroup, Rows, join, split
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import ACTION_DIM, OBSERVATION_DIM, STEP_SECONDS
from envs.meta_world_workers import WorkerPool
from envs.schedules import at_least
from envs.snapshots import Snapshot, require, require_equal


class MetaWorldVec(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N = tasks x copies rows in task-major order, each one task with goals of its own choice.

    With ``autoreset`` an ended episode's successor starts in the same step. Without it an ended row
    stands still (``active`` False, reward 0) until ``start_episodes``, so that an evaluation keeps
    one batch shape. Results do not depend on the number of workers.

    Args:
        settings: What the batch consists of.
        goals: The goals of all its tasks.
        num_workers: Worker processes; 0 steps in this one. Of EnvPool: threads.

    Raises:
        ValueError: If the goals are of other tasks, or one of them cannot be used.
    """

    def __init__(self, settings: Settings, goals: Goals, num_workers: int = 0) -> None:
        at_least("num_workers", num_workers, 0)
        if goals.tasks != settings.tasks:
            raise ValueError(f"the goals are of {goals.tasks}, the tasks are {settings.tasks}.")
        self.settings, self.goals = settings, goals
        self.metadata = {
            "autoreset_mode": (
                AutoresetMode.SAME_STEP if settings.autoreset else AutoresetMode.DISABLED
            )
        }
        self._regime, self._context = settings.regime, settings.context
        self.num_envs = len(self._regime)
        self._rows = _build_rows(settings, goals, num_workers)
        self._block = self._rows.block
        self._env_steps = self._unstable_episodes = 0
        self._started = np.zeros(self.num_envs, dtype=bool)
        self._make_spaces()

    def _make_spaces(self) -> None:
        low, high = (bound.astype(np.float32) for bound in self._rows.bounds())
        # Rounded to float32 an observation on a bound may lie just outside of it.
        low, high = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
        self.single_observation_space = Box(low, high, (OBSERVATION_DIM,), np.float32)
        self.single_action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.info = EnvInfo(
            name=f"meta-world-{self.settings.name}",
            num_envs=self.num_envs,
            observation_dim=OBSERVATION_DIM,
            action_dim=ACTION_DIM,
            action_low=np.full(ACTION_DIM, -1.0, dtype=np.float32),
            action_high=np.ones(ACTION_DIM, dtype=np.float32),
            context_dim=self._context.shape[1],
            max_episode_steps=self.settings.horizon,
            regime_label="task",
            step_seconds=STEP_SECONDS,
            num_tasks=len(self.settings.active_tasks),
            task_names=self.settings.tasks if len(self.settings.active_tasks) > 1 else (),
            tells_success=True,
        )

    # What holds for the next transition -----------------------------------------------------

    @property
    def env_steps(self) -> int:
        """Transitions of all rows so far; rows that stand still are not counted."""
        return self._env_steps

    @property
    def regime(self) -> np.ndarray:
        """Index of each row's task, shape (N,), int64, a copy."""
        return self._regime.copy()

    @property
    def regime_value(self) -> np.ndarray:
        """The same as numbers, shape (N,), float64."""
        return self._regime.astype(np.float64)

    @property
    def context(self) -> np.ndarray:
        """One-hot task per row, shape (N, T), or (N, 0) where it is hidden; float32, a copy."""
        return self._context.copy()

    @property
    def last_observation(self) -> np.ndarray:
        """Observation that the next action answers, shape (N, 39), a copy; use after restore."""
        return self._block.observation.copy()

    @property
    def unstable_episodes(self) -> int:
        """Episodes that ended because a simulation blew up."""
        return self._unstable_episodes

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers, empty where this process steps."""
        return getattr(self._rows, "pids", ())

    @property
    def resume(self) -> str:
        """exact, or inexact where ``restore`` begins new episodes (EnvPool)."""
        return self._rows.resume

    @property
    def manifest(self) -> dict[str, Any]:
        """What makes results comparable, for the run's records: plain values."""
        return self.settings.manifest(self.goals)

    # Episodes -------------------------------------------------------------------------------

    def reset(
        self,
        mask: np.ndarray | None = None,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes; running ones end without a transition.

        Args:
            mask: Rows to reset, shape (N,), bool; None resets all. Gymnasium's spelling
                ``options={"reset_mask": mask}`` means the same.
            seed: None continues the rows' own streams; an integer begins them again as a run with
                this ``run_seed`` would.
            options: Nothing but ``reset_mask`` and ``goal_index`` (N,), the goals to start from.

        Returns:
            Observations of all rows, shape (N, 39), float32, and an info with ``context``,
            ``next_context``, ``regime``, ``regime_value``, ``goal_index`` and ``events``.

        Raises:
            ValueError: If an option is unknown, or mask or goals do not fit.
        """
        self._refuse_closed("reset")
        options = dict(options or {})
        mask = options.pop("reset_mask", mask)
        goals = options.pop("goal_index", None)
        if options:
            raise ValueError(
                f"options {sorted(options)} are not known; use reset_mask and goal_index."
            )
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"mask has shape {mask.shape} and dtype {mask.dtype}; expected "
                f"({self.num_envs},) and bool."
            )
        if seed is not None:
            self._rows.reseed(seed)
        rows = np.flatnonzero(mask)
        if goals is None:
            self._start(dict.fromkeys(rows.tolist()))
        else:
            self.start_episodes(rows, np.broadcast_to(goals, self.num_envs)[rows])
        return self._block.observation.copy(), {
            "context": self.context,
            "next_context": self.context,
            "regime": self.regime,
            "regime_value": self.regime_value,
            "goal_index": self._block.goal_index.copy(),
            "events": [],
        }

    def start_episodes(self, rows: Iterable[int], goal_index: Iterable[int]) -> np.ndarray:
        """Start chosen rows from chosen goals; no stream is touched.

        Args:
            rows: Row indices; ``rows_of`` knows those of a task.
            goal_index: One goal per row.

        Returns:
            Observations of all rows, shape (N, 39), float32.

        Raises:
            ValueError: If a row or a goal does not exist.
        """
        self._refuse_closed("start_episodes")
        goals = dict(zip(map(int, rows), map(int, goal_index), strict=True))
        for row, goal in goals.items():
            if not 0 <= row < self.num_envs or not 0 <= goal < self.settings.num_goals:
                raise ValueError(
                    f"row {row} with goal {goal} does not exist; there are {self.num_envs} rows "
                    f"and {self.settings.num_goals} goals."
                )
        self._start(goals)
        return self._block.observation.copy()

    def _start(self, goals: Mapping[int, int | None]) -> None:
        self._rows.start(goals)
        self._started[list(goals)] = True

    def stop_episodes(self, rows: Iterable[int]) -> None:
        """Let rows stand still until they are started again, for example after a success."""
        self._refuse_closed("stop_episodes")
        self._rows.stop([int(row) for row in rows])

    def rows_of(self, task_index: int) -> np.ndarray:
        """Indices of the rows of one task."""
        return np.flatnonzero(self._regime == task_index)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every row by one step.

        Args:
            actions: Shape (N, 4); used in float32 and clipped to [-1, 1] once, before stepping.

        Returns:
            observation (N, 39) float32: where an episode ended, already the next episode's first.
            reward (N,) float32, raw. terminated (N,), always False. truncated (N,).
            info, dense arrays that describe the transition just taken: ``next_observation`` (N, 39)
            its true successor, ``context`` and ``next_context``, ``regime`` and ``regime_value``,
            ``switch_truncated`` (all False), ``unstable``, ``success`` of this step, ``active``,
            ``goal_index`` of the episode it belongs to, ``episode_start_regime``, and, valid where
            the episode ended, ``episode_return``, ``episode_length``, ``episode_success`` (any
            step) and ``final_success`` (last step); ``events``, an empty list.
            All arrays are fresh; the caller may keep them.

        Raises:
            SimulatorError: If an action is not finite, or (``on_simulator_reset=fail``) a
                simulation blew up.
            WorkerError: If a worker raised, died or hangs.
            ValueError: If the actions have the wrong shape.
        """
        block = self._block
        block.action[:] = self._checked_actions(actions)
        self._rows.step()
        self._env_steps += int(block.active.sum())
        if block.unstable.any():
            self._unstable_episodes += int(block.unstable.sum())
            if self.settings.on_simulator_reset == "fail":
                index = int(np.flatnonzero(block.unstable)[0])
                raise SimulatorError(index, *self._rows.failure(index))
        truncated = block.truncated.copy()
        info = self._transition_info(truncated)
        terminated = np.zeros(self.num_envs, dtype=bool)
        return block.observation.copy(), block.reward.copy(), terminated, truncated, info

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        self._refuse_closed("step")
        if not self._started.all():
            raise ResetNeeded("call reset() once, or restore(), before the first step().")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, ACTION_DIM):
            raise ValueError(
                f"actions have shape {actions.shape}, expected {(self.num_envs, ACTION_DIM)}."
            )
        finite = np.isfinite(actions).all(axis=1)
        if not finite.all():
            index = int(np.flatnonzero(~finite)[0])
            dump = {
                "action": np.array(actions[index]),
                "observation": self._block.observation[index].copy(),
                "env_steps": np.array([self._env_steps]),
            }
            reason = f"action is not finite: {actions[index].tolist()}"
            raise SimulatorError(index, reason, dump)
        return np.clip(actions, -1.0, 1.0)

    def _transition_info(self, ended: np.ndarray) -> dict[str, Any]:
        block = self._block
        successor = block.next_observation.copy()
        info = {
            "next_observation": successor,
            "context": self.context,
            "next_context": self.context,
            "regime": self.regime,
            "regime_value": self.regime_value,
            "switch_truncated": np.zeros(self.num_envs, dtype=bool),
            "unstable": block.unstable.copy(),
            "active": block.active.copy(),
            "success": block.success.copy(),
            "goal_index": block.goal_index.copy(),
            "episode_success": block.episode_success.copy(),
            "final_success": block.success & ended,
            "episode_return": block.episode_return.copy(),
            "episode_length": block.episode_length.copy(),
            "episode_start_regime": self.regime,
            "events": [],
        }
        if self.settings.autoreset and ended.any():  # Gymnasium's own keys for final rows
            final = np.full(self.num_envs, None, dtype=object)
            for index in np.flatnonzero(ended).tolist():
                final[index] = successor[index].copy()
            info["final_obs"], info["_final_obs"] = final, ended.copy()
        return info

    def physics(self, row: int) -> tuple[Any, Any]:
        """MuJoCo's model and data of one row, for rendering and for tests.

        Raises:
            ValueError: If the rows live in worker processes.
        """
        if not isinstance(self._rows, RowGroup):
            raise ValueError(
                "rows in worker processes or in EnvPool cannot be seen; build with num_workers=0 "
                "and backend=stock."
            )
        task = self._rows.rows[row].env
        return task.model, task.data

    # State ----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on, as plain arrays, integers and text.

        Raises:
            ResetNeeded: Before every row was started once.
        """
        self._refuse_closed("snapshot")
        if not self._started.all():
            raise ResetNeeded("there is nothing to save before the first reset().")
        return {
            **self.settings.identity(self.goals),
            "env_steps": self._env_steps,
            "unstable_episodes": self._unstable_episodes,
            **join(self._rows.snapshots()),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where ``snapshot`` was taken; no ``reset`` afterwards.

        Where ``resume`` is inexact, all rows begin new episodes: the next action answers
        ``last_observation``.

        Raises:
            ValueError: If the snapshot is of other settings, incomplete or damaged.
        """
        self._refuse_closed("restore")
        for key, expected in self.settings.identity(self.goals).items():
            require_equal(snapshot, key, expected)
        env_steps = int(require(snapshot, "env_steps"))
        unstable = int(require(snapshot, "unstable_episodes"))
        self._rows.load(split(snapshot, range(self.num_envs)))
        if self.resume != "exact":
            warnings.warn(
                f"backend={self.settings.backend} cannot save its simulations: the run goes on "
                "with new episodes, and is not equal to one without interruption.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._env_steps, self._unstable_episodes = env_steps, unstable
        self._started[:] = True

    def _refuse_closed(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(
                f"{name} was called on closed environments; make new ones."
            )

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers or release the tasks."""
        self._rows.close()


def _build_rows(settings: Settings, goals: Goals, num_workers: int) -> Rows:
    specs = settings.row_specs(goals)
    if settings.backend == "envpool":
        return EnvPoolRows(specs, num_workers)
    if num_workers:
        return WorkerPool(specs, num_workers)
    block = Block.over(bytearray(Block.num_bytes(len(specs))), len(specs))
    return RowGroup(dict(enumerate(specs)), block)
