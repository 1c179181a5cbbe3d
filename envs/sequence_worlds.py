"""The environments of a sequence: one task at a time in training, all of them in evaluations."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.base import EnvInfo
from envs.meta_world_goals import Goals
from envs.meta_world_group import union_of_bounds
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import build_task, observation_bounds, set_goal
from envs.meta_world_vector import MetaWorldVec
from envs.schedules import at_least
from envs.sequence_plan import Plan, arranged
from envs.snapshots import Snapshot, require, require_equal

STAGE_PREFIX = "stage_"


class SequenceVec(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """K copies of one task, which another one replaces after every `steps_per_task` steps.

    Running episodes are truncated at the border: `next_observation` and `next_context` of the last
    transition still belong to the old task, `observation` and `context` to the new one. The last
    stage has no border; a run that ends earlier, at a border, crosses it, so that one made longer
    goes on with the first step of the next stage, as if it had not ended. Every info is that of
    `MetaWorldVec`, except that `regime` is the number of the stage and `regime_value` that of the
    task.

    Attributes:
        announces_after_update: Learning from a stage ends before its successor is announced.

    Args:
        plan: The stages.
        settings: Environments of the first stage, whose list of tasks is `plan.listed`.
        goals: Goals of that list.
        steps_per_task: Steps of all copies together in one stage; a multiple of their number.
        tells_task: Announce one-hot contexts.
        announces_switches: Report a border as the event `switch`; otherwise as `hidden_switch`,
            which no agent hears of.
        num_workers: Worker processes; 0 steps in this one.

    Raises:
        ValueError: If the numbers do not fit, or a goal cannot be used.
    """

    announces_after_update = True

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        goals: Goals,
        steps_per_task: int,
        tells_task: bool = True,
        announces_switches: bool = True,
        num_workers: int = 0,
    ) -> None:
        at_least("steps_per_task", steps_per_task, 1)
        if steps_per_task % settings.copies:
            raise ValueError(f"steps_per_task={steps_per_task} must be a multiple of the copies.")
        self.plan, self.settings, self.goals = plan, settings, goals
        self._steps_per_task, self._tells_task = steps_per_task, tells_task
        self._event = "switch" if announces_switches else "hidden_switch"
        self._num_workers = num_workers
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = settings.copies
        self._env_steps = self._unstable_before = self.stage = 0
        self._reseeded: int | None = None  # the seed of `reset`, for stages still to come
        self._envs = self._build(0)
        self._make_spaces()

    def _build(self, stage: int) -> MetaWorldVec:
        seed = self.settings.run_seed if self._reseeded is None else self._reseeded
        active = (self.plan.stages[stage].place,)
        settings = replace(self.settings, active=active, run_seed=seed)
        return MetaWorldVec(settings, self.goals, self._num_workers)

    def _make_spaces(self) -> None:
        inner = self._envs
        low, high = _bounds_of(self.goals)
        self.single_observation_space = Box(low, high, low.shape, np.float32)
        self.single_action_space = inner.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = inner.action_space
        self.info: EnvInfo = replace(
            inner.info,
            context_dim=len(self.plan.contexts) if self._tells_task else 0,
            num_tasks=1,
            task_names=(),
        )

    # What holds for the next transition -----------------------------------------------------

    @property
    def env_steps(self) -> int:
        """Transitions of all copies in all stages so far."""
        return self._env_steps

    @property
    def regime(self) -> np.ndarray:
        """Number of the stage, shape (K,), int64."""
        return np.full(self.num_envs, self.stage, dtype=np.int64)

    @property
    def regime_value(self) -> np.ndarray:
        """Number of the task in the list, shape (K,), float64."""
        return np.full(self.num_envs, self.plan.stages[self.stage].task_index, dtype=np.float64)

    @property
    def context(self) -> np.ndarray:
        """One-hot task or stage, shape (K, T), or (K, 0) where it is hidden; float32."""
        context = np.zeros((self.num_envs, self.info.context_dim), dtype=np.float32)
        if self._tells_task:
            context[:, self.plan.stages[self.stage].column] = 1.0
        return context

    @property
    def last_observation(self) -> np.ndarray:
        """Observation that the next action answers, shape (K, 39); use after restore."""
        return self._envs.last_observation

    @property
    def unstable_episodes(self) -> int:
        """Episodes that ended because a simulation blew up."""
        return self._unstable_before + self._envs.unstable_episodes

    @property
    def resume(self) -> str:
        """exact: `restore` continues every bit."""
        return self._envs.resume

    @property
    def manifest(self) -> dict[str, Any]:
        """What makes results comparable, for the run's records: plain values."""
        return {
            **self._envs.manifest,
            "tasks": list(self.plan.evaluated),
            "goal_sha256": self._evaluated_goals_hash(),
            "stages": [stage.name for stage in self.plan.stages],
            "steps_per_task": self._steps_per_task,
            "copies": self.num_envs,
            "context": "task" if self._tells_task else "hidden",
        }

    # Episodes -------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes of the present stage; see `MetaWorldVec.reset`.

        Later stages begin as in a run with the last seed that was given.
        """
        self._refuse_closed("reset")
        observation, info = self._envs.reset(seed=seed, options=options)
        if seed is not None:
            self._reseeded = seed
        return observation, {**info, **self._labels(), "next_context": self.context}

    def _labels(self) -> dict[str, np.ndarray]:
        return {
            "context": self.context,
            "regime": self.regime,
            "regime_value": self.regime_value,
        }

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every copy by one step; see `MetaWorldVec.step`."""
        self._refuse_closed("step")
        observation, reward, terminated, truncated, info = self._envs.step(actions)
        self._env_steps += self.num_envs
        labels = self._labels()
        info |= {**labels, "next_context": labels["context"].copy()}
        info["episode_start_regime"] = labels["regime"].copy()
        if self._env_steps % self._steps_per_task == 0 and self.stage + 1 < len(self.plan.stages):
            observation = self._cross_border(truncated, info)
        return observation, reward, terminated, truncated, info

    def _cross_border(self, truncated: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Cut what runs, in place, and begin the next stage; returns its first observations."""
        info["switch_truncated"] = ~truncated
        truncated[:] = True
        info["final_success"] = info["success"].copy()
        final = np.full(self.num_envs, None, dtype=object)  # Gymnasium's own keys for final rows
        for index, successor in enumerate(info["next_observation"]):
            final[index] = successor.copy()
        info["final_obs"], info["_final_obs"] = final, truncated.copy()
        self._enter(self.stage + 1)
        observation, _ = self._envs.reset()
        info["context"] = self.context
        info["events"] = [
            {
                "event": self._event,
                "env_steps": self._env_steps,
                "env_index": None,
                "regime": self.stage,
                "task": self.plan.stages[self.stage].name,
            }
        ]
        return observation

    def _enter(self, stage: int) -> None:
        self._unstable_before = self.unstable_episodes
        self._envs.close()  # a task takes up to 70 MB
        self.stage, self._envs = stage, self._build(stage)

    # State ----------------------------------------------------------------------------------

    def _identity(self) -> dict[str, int | str]:
        names = [stage.name for stage in self.plan.stages]
        return {
            **self._envs.settings.identity(self.goals),
            "environment": self.info.name,
            "tasks": ",".join(self.plan.evaluated),
            "rows": str(self.num_envs),
            "goal_sha256": self._evaluated_goals_hash(),
            "stages": ",".join(names),
            "steps_per_task": self._steps_per_task,
            "context_dim": self.info.context_dim,
        }

    def _evaluated_goals_hash(self) -> str:
        """Hash of the goals as evaluations list them, whose identity it is too."""
        return arranged(self.goals, self.plan.contexts).sha256

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on, as plain arrays, integers and text."""
        self._refuse_closed("snapshot")
        inner = {f"{STAGE_PREFIX}{key}": value for key, value in self._envs.snapshot().items()}
        # Snapshots without a seed of their own keep the form, and so the hash, that they had.
        reseeded: Snapshot = {} if self._reseeded is None else {"reseeded": self._reseeded}
        return {
            **self._identity(),
            **reseeded,
            "env_steps": self._env_steps,
            "stage": self.stage,
            "unstable_before": self._unstable_before,
            **inner,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where `snapshot` was taken, in whichever stage; no `reset` afterwards.

        Raises:
            ValueError: If the snapshot is of another sequence, incomplete or damaged.
        """
        self._refuse_closed("restore")
        for key, expected in self._identity().items():
            require_equal(snapshot, key, expected)
        stage, env_steps = int(require(snapshot, "stage")), int(require(snapshot, "env_steps"))
        last = len(self.plan.stages) - 1
        if stage != min(env_steps // self._steps_per_task, last):
            raise ValueError(
                f"the snapshot says stage {stage} at env_steps={env_steps}, but stages have "
                f"{self._steps_per_task} steps; it is damaged."
            )
        inner = {
            key.removeprefix(STAGE_PREFIX): value
            for key, value in snapshot.items()
            if key.startswith(STAGE_PREFIX)
        }
        self._reseeded = int(snapshot["reseeded"]) if "reseeded" in snapshot else None
        if stage != self.stage:
            self._enter(stage)
        self._envs.restore(inner)
        self._env_steps = env_steps
        self._unstable_before = int(require(snapshot, "unstable_before"))

    def _refuse_closed(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(
                f"{name} was called on closed environments; make new ones."
            )

    def close_extras(self, **kwargs: Any) -> None:
        """Release the present stage."""
        self._envs.close()


class SequenceWorlds(MetaWorldVec):
    """Rows of the evaluated tasks of a sequence, whose agents see one task at a time."""

    def _make_spaces(self) -> None:
        super()._make_spaces()
        self.info = replace(self.info, num_tasks=1, task_names=())

    def rows_of(self, task_index: int) -> np.ndarray:
        """Indices of the rows of one of the evaluated tasks."""
        return super().rows_of(self.settings.active_tasks[task_index])


def _bounds_of(goals: Goals) -> tuple[np.ndarray, np.ndarray]:
    """Smallest box, in float32, that holds the observations of all tasks, (39,) each."""
    pairs = zip(goals.tasks, goals.vectors, strict=True)
    first = {name: tuple(vectors[0].tolist()) for name, vectors in pairs}
    low, high = union_of_bounds([_task_bounds(name, goal) for name, goal in first.items()])
    low, high = low.astype(np.float32), high.astype(np.float32)
    # Rounded to float32 an observation on a bound may lie just outside of it.
    return np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))


@functools.lru_cache(maxsize=64)
def _task_bounds(name: str, goal: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of one task, which no goal changes, kept: building a task takes 0.3 s."""
    task = build_task(name)
    set_goal(task, name, np.array(goal))
    bounds = observation_bounds(task)
    task.close()
    return bounds
