"""When an off-policy agent makes gradient steps, and which of them form an iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class UpdateClock:
    """Counts environment steps and the gradient steps owed for them.

    Steps of the warm-up, and steps while there is too little to learn from, are owed nothing.
    Fractions add up: with 0.125 gradient steps per environment step and 4 environments every
    second vector step has one. Numbers are products, not running sums, so nothing drifts.

    An iteration is the gradient steps of `steps_per_iteration` environment steps: the unit of
    all log periods, as a rollout with its epochs is for PPO.

    Args:
        warmup_steps: Environment steps of random actions, and before anything is owed.
        updates_per_env_step: Gradient steps per environment step, > 0.
        steps_per_iteration: Environment steps of an iteration.
        learning_starts: Environment steps before anything is owed, where that is sooner than the
            end of the warm-up; None waits for the end.

    Attributes:
        env_steps: Environment steps observed.
        gradient_steps: Gradient steps made.
        iteration: Iterations completed.
        num_in_iteration: Gradient steps of the iteration under way; 0 between two of them.
    """

    def __init__(
        self,
        warmup_steps: int,
        updates_per_env_step: float,
        steps_per_iteration: int,
        learning_starts: int | None = None,
    ) -> None:
        self._warmup_steps, self._ratio = warmup_steps, updates_per_env_step
        self._learning_starts = warmup_steps if learning_starts is None else learning_starts
        self._warmup_begins = 0
        self._per_iteration = max(1.0, steps_per_iteration * updates_per_env_step)
        self._learning_steps = 0
        self.env_steps = self.gradient_steps = self.iteration = self.num_in_iteration = 0

    @property
    def is_warming_up(self) -> bool:
        """Whether the next action belongs to the warm-up."""
        return self.env_steps - self._warmup_begins < self._warmup_steps

    def restart_warmup(self) -> None:
        """Begin the warm-up again; what is owed already stays owed."""
        self._warmup_begins = self.env_steps

    @property
    def num_due(self) -> int:
        """Gradient steps owed."""
        return math.floor(self._learning_steps * self._ratio + 1e-9) - self.gradient_steps

    def observe(self, num_envs: int, can_learn: bool) -> None:
        """Count one vector step, and owe gradient steps for it if there is enough to learn from."""
        if can_learn and self.env_steps - self._warmup_begins >= self._learning_starts:
            self._learning_steps += num_envs
        self.env_steps += num_envs

    def step(self, count: int = 1) -> None:
        """Count gradient steps."""
        self.gradient_steps += count
        self.num_in_iteration += count

    def complete_iteration(self) -> bool:
        """End the iteration if all its gradient steps are made; returns whether it ended."""
        if self.gradient_steps < (self.iteration + 1) * self._per_iteration - 1e-9:
            return False
        self.iteration += 1
        self.num_in_iteration = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """All counters."""
        return {
            "env_steps": self.env_steps,
            "learning_steps": self._learning_steps,
            "gradient_steps": self.gradient_steps,
            "iteration": self.iteration,
            "num_in_iteration": self.num_in_iteration,
            "warmup_begins": self._warmup_begins,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.env_steps = int(state["env_steps"])
        self._learning_steps = int(state["learning_steps"])
        self.gradient_steps = int(state["gradient_steps"])
        self.iteration = int(state["iteration"])
        self.num_in_iteration = int(state["num_in_iteration"])
        # Checkpoints of earlier versions know of one warm-up only.
        self._warmup_begins = int(state.get("warmup_begins", 0))
