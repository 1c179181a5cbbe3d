"""Visits every goal of every task exactly once, and says where a policy succeeds.

Which row runs which goals is fixed beforehand. An evaluator that counts the first episodes to end
instead counts short ones more often, and those are the successes: at a true rate of 0.5 it reports
0.57 for 10 rows and 50 episodes, 0.79 for 4 rows and 3.

Source: Yu et al., "Meta-World" (2019), success of an episode; McLean et al., "Meta-World+"
    (arXiv 2505.11289), 50 goals per task.
Deviation: upstream's evaluator draws goals with replacement, so that about 32 of 50 are seen, runs
    on the training environments, and counts the first episodes that end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Observations (N, obs) and contexts (N, C) -> actions (N, act); no randomness, no memory."""


class GoalWorlds(Protocol):
    """Rows of several tasks that are started from a goal and stand still after their episode.

    `envs.meta_world.make_evaluation` builds them.
    """

    num_envs: int

    @property
    def context(self) -> np.ndarray: ...

    def rows_of(self, task_index: int) -> np.ndarray: ...

    def start_episodes(self, rows: Iterable[int], goal_index: Iterable[int]) -> np.ndarray: ...

    def stop_episodes(self, rows: Iterable[int]) -> None: ...

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]: ...


@dataclass(frozen=True)
class Outcomes:
    """What happened in every episode; all arrays have shape (tasks, goals).

    Attributes:
        goals: Goal indices, the columns of the arrays.
        success: Whether any step succeeded, bool.
        final_success: Whether the last step did, bool; all False where episodes were cut.
        first_success_step: 1 is the first step, 0 says never; int64.
        episode_return: Undiscounted sum of raw rewards; of a cut episode up to its success.
        episode_length: Steps, int64.
        unstable: Whether the simulation blew up, bool; the episode ended there.
        cut_at_success: Whether episodes ended at their first success. Then final success and
            return mean nothing.
    """

    goals: tuple[int, ...]
    success: np.ndarray
    final_success: np.ndarray
    first_success_step: np.ndarray
    episode_return: np.ndarray
    episode_length: np.ndarray
    unstable: np.ndarray
    cut_at_success: bool

    @classmethod
    def empty(cls, num_tasks: int, goals: Sequence[int], cut_at_success: bool) -> Outcomes:
        """Arrays to be filled."""
        shape = (num_tasks, len(goals))
        return cls(
            goals=tuple(goals),
            success=np.zeros(shape, dtype=bool),
            final_success=np.zeros(shape, dtype=bool),
            first_success_step=np.zeros(shape, dtype=np.int64),
            episode_return=np.zeros(shape),
            episode_length=np.zeros(shape, dtype=np.int64),
            unstable=np.zeros(shape, dtype=bool),
            cut_at_success=cut_at_success,
        )

    @property
    def rates(self) -> np.ndarray:
        """Share of goals with success, by task, (tasks,) float64."""
        return self.success.mean(axis=1)


def deterministic_policy(model: Any) -> Policy:
    """The mode of a policy as a function: tanh of the mean, or the mean (environments clip it).

    Args:
        model: An agent of this suite, or a model with stable-baselines3's `predict`, which sees
            observation and context as one vector.

    Raises:
        TypeError: It can do neither.
    """
    if hasattr(model, "act"):
        return lambda observation, context: model.act(observation, context, explore=False)
    if hasattr(model, "predict"):
        return lambda observation, context: model.predict(
            np.concatenate([observation, context], axis=1), deterministic=True
        )[0]
    raise TypeError(f"a {type(model).__name__} has neither act() nor predict(); it cannot be run")


def checked_goals(goals: Iterable[int], num_goals: int) -> tuple[int, ...]:
    """Goal indices that exist, each once.

    Raises:
        ValueError: None, one twice, or one that does not exist.
    """
    chosen = tuple(int(goal) for goal in goals)
    if not chosen:
        raise ValueError("no goals are named; an evaluation needs at least one")
    outside = [goal for goal in chosen if not 0 <= goal < num_goals]
    if outside:
        raise ValueError(
            f"goal {outside[0]} does not exist; the tasks have the goals 0 to {num_goals - 1}"
        )
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"a goal is named twice in {list(chosen)}; each counts once")
    return chosen


def run_goals(
    policy: Policy,
    worlds: GoalWorlds,
    num_tasks: int,
    goals: Sequence[int],
    *,
    cut_at_success: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Outcomes | None:
    """Run one episode per task and goal.

    The policy always sees all rows, those that stand still too: another batch size changes the
    last bits of its actions, and trajectories diverge from there. Results therefore depend on the
    number of rows per task, and on nothing else of how the work is spread.

    Args:
        policy: Chooses actions.
        worlds: The environments, all of whose rows are used.
        num_tasks: Number of tasks; every one has the same number of rows.
        goals: Goal indices, see `checked_goals`.
        cut_at_success: End episodes at their first success, which is faster.
        is_stopped: Asked before every step; True abandons the evaluation.

    Returns:
        The outcomes, None if abandoned.

    Raises:
        ValueError: The rows are not equally many per task.
        SimulatorError: An action is not finite.
    """
    rows = _Rows(worlds, num_tasks, goals)
    outcomes = Outcomes.empty(num_tasks, goals, cut_at_success)
    observation = rows.start_all()
    while rows.running.any():
        if is_stopped():
            return None
        observation, _, _, truncated, info = worlds.step(policy(observation, worlds.context))
        fresh = rows.take_in(info["success"])
        cut = fresh & ~truncated if cut_at_success else np.zeros_like(fresh)
        over = np.flatnonzero(rows.running & (truncated | cut)).tolist()
        if not over:
            continue
        for row in over:
            _store(outcomes, rows, row, info)
        worlds.stop_episodes(np.flatnonzero(cut).tolist())
        observation = rows.start_next(over, observation)
    return outcomes


class _Rows:
    """Which goals every row has still to run, and the episode that it is in.

    The goals of a task are dealt to its rows in turn.
    """

    def __init__(self, worlds: GoalWorlds, num_tasks: int, goals: Sequence[int]) -> None:
        self._worlds, self._goals = worlds, tuple(goals)
        count = worlds.num_envs
        self.task, self._waiting = np.full(count, -1), [[] for _ in range(count)]
        self._deal(num_tasks)
        self.column, self.elapsed, self.first_success = np.zeros((3, count), dtype=np.int64)
        self.running = np.zeros(count, dtype=bool)

    def _deal(self, num_tasks: int) -> None:
        per_task = self._worlds.num_envs // num_tasks
        for index in range(num_tasks):
            rows = self._worlds.rows_of(index).tolist()
            if not rows or len(rows) != per_task:
                raise ValueError(
                    f"task {index} has {len(rows)} of {self._worlds.num_envs} rows; {num_tasks} "
                    "tasks need equally many each"
                )
            for copy, row in enumerate(rows):
                self.task[row] = index
                self._waiting[row] = list(range(len(self._goals)))[copy::per_task]

    def start_all(self) -> np.ndarray:
        """Begin the first episodes.

        Rows without a goal are started too and stopped at once: environments step only when every
        row has an observation.
        """
        rows = range(self._worlds.num_envs)
        idle = [row for row in rows if not self._waiting[row]]
        observation = self._worlds.start_episodes(idle, [self._goals[0]] * len(idle))
        self._worlds.stop_episodes(idle)
        return self.start_next([row for row in rows if self._waiting[row]], observation)

    def start_next(self, rows: Sequence[int], observation: np.ndarray) -> np.ndarray:
        """Begin the next episode of some rows; those without one stand still from now on."""
        begun = [row for row in rows if self._waiting[row]]
        self.running[rows] = False
        self.elapsed[rows] = self.first_success[rows] = 0
        for row in begun:
            self.column[row] = self._waiting[row].pop(0)
            self.running[row] = True
        if not begun:
            return observation
        return self._worlds.start_episodes(begun, [self._goals[c] for c in self.column[begun]])

    def take_in(self, success: np.ndarray) -> np.ndarray:
        """Count a step; which rows succeeded for the first time in their episode, (N,) bool."""
        self.elapsed += self.running
        fresh = self.running & success & (self.first_success == 0)
        self.first_success[fresh] = self.elapsed[fresh]
        return fresh


def _store(outcomes: Outcomes, rows: _Rows, row: int, info: dict[str, Any]) -> None:
    place = (rows.task[row], rows.column[row])
    first = rows.first_success[row]
    outcomes.success[place] = first > 0
    outcomes.first_success_step[place] = first
    outcomes.final_success[place] = info["final_success"][row] and not outcomes.cut_at_success
    outcomes.episode_return[place] = info["episode_return"][row]
    outcomes.episode_length[place] = rows.elapsed[row]
    outcomes.unstable[place] = info["unstable"][row]
