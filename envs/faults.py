"""Stops a batch of simulations whose numbers cannot be trusted any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.base import SimulatorError
from envs.modifiers.base import Modifiers
from envs.simulation import Simulations


@dataclass(frozen=True)
class Situation:
    """What a crash report should hold besides the physics.

    Attributes:
        actions: What the environments were told to do, shape (N, act).
        observation: What the agent saw before, shape (N, obs).
        env_steps: Transitions before this step.
    """

    actions: np.ndarray
    observation: np.ndarray
    env_steps: int


class Guard:
    """Checks actions before the physics, and physics and contacts after it.

    Args:
        simulations: The physics.
        modifiers: What changes, and must have reached the physics.
        fail_on_reset: Raise when a simulation blows up; otherwise count it and go on.
    """

    def __init__(
        self, simulations: Simulations, modifiers: Modifiers, *, fail_on_reset: bool
    ) -> None:
        self._simulations, self._modifiers = simulations, modifiers
        self._fail_on_reset = fail_on_reset
        self.num_simulator_resets = 0

    def before_step(self, situation: Situation) -> None:
        """Refuse non-finite actions, which MuJoCo would silently replace by no control.

        Raises:
            SimulatorError: Naming the first such environment.
        """
        finite = np.isfinite(situation.actions)
        if not finite.all():
            index = int(np.flatnonzero(~finite.all(axis=1))[0])
            action = situation.actions[index].tolist()
            raise self._error(index, f"action is not finite: {action}", situation)

    def after_step(self, situation: Situation, reward: np.ndarray) -> np.ndarray:
        """Look for blow-ups, rewards that are not finite and contacts with a wrong friction.

        Args:
            situation: What led to this step.
            reward: Rewards of the step, shape (N,).

        Returns:
            Environments whose step is not valid, shape (N,), bool, a fresh array.

        Raises:
            SimulatorError: For a wrong contact, or for a blow-up unless these are only counted.
        """
        unstable = self._simulations.unstable()
        finite = np.isfinite(reward)
        if unstable is not None or not finite.all():
            unstable = ~finite if unstable is None else unstable | ~finite
            if self._fail_on_reset:
                index = int(np.flatnonzero(unstable)[0])
                raise self._error(index, self._simulations.reason(index), situation)
        violation = self._modifiers.violation()
        if violation is not None:
            raise self._error(*violation, situation)
        if unstable is None:
            return np.zeros(len(situation.actions), dtype=bool)
        self.num_simulator_resets += int(unstable.sum())
        return unstable

    def _error(self, index: int, reason: str, situation: Situation) -> SimulatorError:
        dump = self._simulations.dump(index)
        dump["action"] = situation.actions[index].copy()
        dump["observation"] = situation.observation[index].copy()
        dump["env_steps"] = np.array([situation.env_steps])
        return SimulatorError(index, reason, dump)
