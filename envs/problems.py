"""Supervised problems as environments: a stream of examples, some of which carry answers.

An observation is an input, an action is a prediction (a number, or one score per class). The
right answer to what was just predicted comes back in ``info["target"]``; a learner that only sees
rewards gets minus the squared error, or 1 for the right class. The N environments of the batch are
N consecutive examples of one stream, in order, so one that learns online takes the rows of a step
one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.base import EnvInfo
from envs.snapshots import Snapshot, load_arrays, require, require_equal

NO_TASK = -1
Event = dict[str, int | float | str | None]


@dataclass(frozen=True)
class Block:
    """N consecutive examples.

    Attributes:
        inputs: (N, inputs) float32.
        answers: (N, outputs) float32: numbers to predict, or 1 for the right class and 0 for the
            others. NaN stands in columns of classes that do not exist yet, and in all columns of
            a row that only fills up the block.
        context: (N, C) float32, what is told beside the inputs.
        task: Number of the task, from 0.
        split: train (answers are told, to be learnt from), validation (told, not to be learnt
            from) or test (never told).
        on_task: In examinations, the task whose examples these are.
        ends_phase: The last block of its phase: one pass over some examples.
    """

    inputs: np.ndarray
    answers: np.ndarray
    context: np.ndarray
    task: int
    split: str = "train"
    on_task: int = NO_TASK
    ends_phase: bool = False

    def arrays(self) -> dict[str, np.ndarray]:
        """What a snapshot keeps of it."""
        return {"inputs": self.inputs, "answers": self.answers, "shown": self.context}


class Problem(Protocol):
    """A stream of examples that can be saved.

    Attributes:
        name: For people.
        num_inputs: Length of an input.
        num_outputs: Length of an answer.
        context_dim: Length of what is told beside the inputs, 0 for nothing.
        context_discrete: Whether that is one of `context_dim` one-hot vectors (or zeros).
        is_classification: Answers are classes rather than numbers.
        num_rows: Rows of the whole stream, None where it never ends.
    """

    @property
    def name(self) -> str: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def context_dim(self) -> int: ...
    @property
    def context_discrete(self) -> bool: ...
    @property
    def is_classification(self) -> bool: ...
    @property
    def num_rows(self) -> int | None: ...

    def next_block(self) -> Block:
        """The next examples; after the last one of a finite stream, the first again."""
        ...

    def snapshot(self) -> Snapshot:
        """Position and generators, as plain arrays, integers and text."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        ...


class ProblemEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A problem behind the contract of all our environments.

    There are no episodes: nothing an agent does has consequences, and nothing ever ends. A new
    task is a switch of the regime.

    Args:
        problem: The stream.
        num_rows: Examples per step, the N of the batch.
        total_steps: Rows the run will take.

    Raises:
        ValueError: The stream has fewer rows than that.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(self, problem: Problem, num_rows: int, total_steps: int) -> None:
        if problem.num_rows is not None and total_steps > problem.num_rows:
            raise ValueError(
                f"total_steps={total_steps}, but {problem.name} has {problem.num_rows} rows with "
                f"these settings, examinations included; set total_steps={problem.num_rows}"
            )
        self.problem = problem
        self.num_envs = num_rows
        self.env_steps = 0
        outputs = (problem.num_outputs,)
        self.single_observation_space = Box(-np.inf, np.inf, (problem.num_inputs,), np.float32)
        self.single_action_space = Box(-np.inf, np.inf, outputs, np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_rows)
        self.action_space = batch_space(self.single_action_space, num_rows)
        self.info = EnvInfo(
            name=problem.name,
            num_envs=num_rows,
            observation_dim=problem.num_inputs,
            action_dim=problem.num_outputs,
            action_low=np.full(outputs, -np.inf, dtype=np.float32),
            action_high=np.full(outputs, np.inf, dtype=np.float32),
            context_dim=problem.context_dim,
            max_episode_steps=0,
            regime_label="task",
            step_seconds=0.0,
            context_discrete=problem.context_discrete,
            answers="classes" if problem.is_classification else "numbers",
        )
        self._block: Block | None = None
        self._task = NO_TASK  # of the last answers
        self._right = self._asked = 0
        self._zeros = np.zeros(num_rows)
        self._never = np.zeros(num_rows, dtype=bool)

    @property
    def block(self) -> Block:
        """The examples that are to be answered next.

        Raises:
            ResetNeeded: Before the first `reset` or `restore`.
            ClosedEnvironmentError: After `close`.
        """
        if self.closed:
            raise ClosedEnvironmentError("these environments are closed; make new ones.")
        if self._block is None:
            raise ResetNeeded("call reset() once, or restore(), before the first step().")
        return self._block

    @property
    def answered_task(self) -> int:
        """Number of the task of the last answers, -1 before the first."""
        return self._task

    @property
    def regime(self) -> np.ndarray:
        """Number of the task that the next examples belong to, (N,)."""
        return np.full(self.num_envs, self.block.task, dtype=np.int64)

    @property
    def regime_value(self) -> np.ndarray:
        """The same, by the name that all environments share."""
        return self.regime.astype(np.float64)

    @property
    def context(self) -> np.ndarray:
        """What is told beside the next examples, (N, C) float32."""
        return self.block.context

    @property
    def last_observation(self) -> np.ndarray:
        """Inputs of the next examples, (N, inputs) float32."""
        return self.block.inputs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Show the next examples; the stream goes on where it is.

        Args:
            seed: Not used: a stream has the seed of its configuration.
            options: Not used; must be empty.
        """
        if options:
            raise ValueError(f"options {sorted(options)} are not known; leave options empty.")
        if self._block is None:
            self._block = self.problem.next_block()
        shown = {"context": self.context, "next_context": self.context}
        place = {"regime": self.regime, "regime_value": self.regime_value}
        return self.block.inputs, {**shown, **place, "events": []}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take predictions for the examples shown, and show the next ones.

        Args:
            actions: (N, outputs).

        Returns:
            As all our environments; in `info` also ``target`` (N, outputs), the answers, all NaN
            where they are not told, and ``split`` of the examples just answered.

        Raises:
            ValueError: The predictions have the wrong shape.
        """
        answered = self.block
        actions = np.asarray(actions)
        if actions.shape != answered.answers.shape:
            raise ValueError(f"actions have shape {actions.shape}, expected {self._shape()}.")
        reward, events = self._score(answered, actions)
        events = self._switched(answered.task) + events
        self.env_steps += self.num_envs
        regime, regime_value = self.regime, self.regime_value
        self._block = following = self.problem.next_block()
        is_told = answered.split != "test"
        info = {
            "target": answered.answers if is_told else np.full_like(answered.answers, np.nan),
            "split": answered.split,
            "next_observation": following.inputs,
            "context": following.context,
            "next_context": following.context,
            "regime": regime,
            "regime_value": regime_value,
            "switch_truncated": self._never,
            "unstable": self._never,
            "episode_return": self._zeros,
            "episode_length": self._zeros,
            "episode_start_regime": regime,
            "events": events,
        }
        return following.inputs, reward, self._never.copy(), self._never.copy(), info

    def _shape(self) -> tuple[int, int]:
        return self.num_envs, self.problem.num_outputs

    def _switched(self, task: int) -> list[Event]:
        """The event of a new task, told with its first answers.

        Earlier would be no use to a learner, and a run that ends between two tasks must look the
        same whether it is made longer afterwards or not.
        """
        before, self._task = self._task, task
        if before in (task, NO_TASK):
            return []
        switch: Event = {"event": "switch", "env_steps": self.env_steps, "env_index": None}
        return [{**switch, "regime": task}]

    def _score(self, block: Block, actions: np.ndarray) -> tuple[np.ndarray, list[Event]]:
        """Rewards (N,), 0 for rows that only fill up, and the result of a finished examination."""
        if not self.problem.is_classification:
            errors = np.square(actions - block.answers).sum(1)
            return -np.nan_to_num(errors.astype(np.float64)), []
        exists = ~np.isnan(block.answers)
        is_row = exists.any(1)
        chosen = np.where(exists, actions, -np.inf).argmax(1)
        right = is_row & (block.answers[np.arange(len(chosen)), chosen] == 1.0)
        if block.split == "train":
            return right.astype(np.float64), []
        self._right += int(right.sum())
        self._asked += int(is_row.sum())
        events: list[Event] = []
        if block.ends_phase:
            events = [self._result(block)]
            self._right = self._asked = 0
        return right.astype(np.float64), events

    def _result(self, block: Block) -> Event:
        return {
            "event": "examination",
            "env_steps": self.env_steps + self.num_envs,
            "regime": block.task,
            "on_task": block.on_task,
            "split": block.split,
            "accuracy": self._right / max(self._asked, 1),
            "num_examples": self._asked,
        }

    # State -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on, as plain arrays, integers and text."""
        block = self.block
        own: Snapshot = {
            "environment": self.info.name,
            "num_envs": self.num_envs,
            "env_steps": self.env_steps,
            "answered_task": self._task,
            "right": self._right,
            "asked": self._asked,
            "task": block.task,
            "split": block.split,
            "on_task": block.on_task,
            "ends_phase": int(block.ends_phase),
            **{name: array.copy() for name, array in block.arrays().items()},
        }
        return own | {f"problem_{key}": value for key, value in self.problem.snapshot().items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where `snapshot` was taken; no `reset` afterwards.

        Raises:
            ValueError: It is of another problem, or incomplete.
        """
        require_equal(snapshot, "environment", self.info.name)
        require_equal(snapshot, "num_envs", self.num_envs)
        shapes = (self.problem.num_inputs, self.problem.num_outputs, self.problem.context_dim)
        names = ("inputs", "answers", "shown")
        like = {
            name: np.zeros((self.num_envs, width), dtype=np.float32)
            for name, width in zip(names, shapes, strict=True)
        }
        arrays = load_arrays(snapshot, like)
        self.problem.restore(
            {
                key.removeprefix("problem_"): value
                for key, value in snapshot.items()
                if key.startswith("problem_")
            }
        )
        numbers = {k: int(require(snapshot, k)) for k in ("task", "on_task", "ends_phase")}
        self._block = Block(
            *(arrays[name] for name in names),
            task=numbers["task"],
            split=str(require(snapshot, "split")),
            on_task=numbers["on_task"],
            ends_phase=bool(numbers["ends_phase"]),
        )
        self.env_steps = int(require(snapshot, "env_steps"))
        self._task = int(require(snapshot, "answered_task"))
        self._right, self._asked = (int(require(snapshot, k)) for k in ("right", "asked"))
