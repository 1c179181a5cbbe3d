"""When the world changes: transitions are counted here and both switch rules applied.

The batched environment and the wrapper for a single environment share this code, so that they
switch at the same transitions.
"""

from __future__ import annotations

import numpy as np

from envs.schedules import Schedule, ScheduleConfig, make_schedules, schedule_hash
from envs.snapshots import Snapshot, load_arrays, require, require_equal

Event = dict[str, int | float | str | None]


class WorldClock:
    """Counts transitions and says which world and which values each environment is in.

    Rules (I = switch interval, T = total steps; nothing ever changes at or after T):

    * ``exact``: after the vector step that makes env_steps >= k I every environment is cut and
      changes. The world index is floor(env_steps / I), so an overshoot does not accumulate.
    * ``episode_end``: an environment changes at its own first episode end with
      env_steps - last_change > I. The schedule drifts by up to one episode per change.
    * drifting schedules: the values follow env_steps; nobody is cut.

    Where worlds last for random lengths, k I becomes the start of world k and I its length. Several
    quantities change at the same times.

    Source: Dohare et al., Nature 632:768-774 (2024), public code: the ``episode_end`` rule.
    Deviation: that code counts from a 0-based step index, so its first change needs one
    transition more; here every change needs the same number.
    Deviation: a run that ended where a world would begin, and is made longer afterwards, enters it
    one vector step late (``episode_end``: at the next episode end): at its old T nothing changed,
    and the agent has seen its last transition as one that was not cut. Later changes of the other
    rules keep their times.

    Args:
        config: What changes and when.
        num_envs: Transitions per vector step.
        total_steps: T, or None for an environment without an end.
        num_actuators: Of the robot, for quantities that number its actuators.

    Attributes:
        values: Quantity -> value that holds for the next transition, shape (num_envs,).
        friction: The values of the first quantity.

    Raises:
        ValueError: If a world would be shorter than one vector step, or if a finite list of
            worlds cannot last for ``total_steps``.
    """

    def __init__(
        self,
        config: ScheduleConfig,
        num_envs: int,
        total_steps: int | None,
        num_actuators: int | None = None,
    ) -> None:
        if config.switch_interval < num_envs:
            raise ValueError(
                f"switch_interval={config.switch_interval} is shorter than one vector step of "
                f"{num_envs} environments; use at least num_envs."
            )
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1.")
        if config.intervals == "geometric" and config.update_every < num_envs:
            raise ValueError(
                f"update_every={config.update_every} is shorter than one vector step of {num_envs} "
                "environments, and worlds of intervals=geometric can be as short; raise it."
            )
        self.schedules: dict[str, Schedule] = make_schedules(config, num_actuators)
        self.schedule = self.schedules[config.modifiers[0]]
        self.schedule_hash = schedule_hash(self.schedules, config.switch_rule)
        self.total_steps = total_steps
        self._fixed = config.schedule == "fixed"
        self._per_env = config.switch_rule == "episode_end" and not self._fixed
        self._num_envs = num_envs
        self._refuse_short_lists(config)
        self.env_steps = 0
        self._ended_at = 0  # T of a restored run that had ended and has not gone on yet
        self.regime = np.zeros(num_envs, dtype=np.int64)
        self.last_change = np.zeros(num_envs, dtype=np.int64)
        self.values = {
            name: np.full(num_envs, float(schedule.value_at(0)))
            for name, schedule in self.schedules.items()
        }
        self.friction = self.values[config.modifiers[0]]

    @property
    def per_env(self) -> bool:
        """Whether several worlds can hold at once, one per environment."""
        return self._per_env

    def _refuse_short_lists(self, config: ScheduleConfig) -> None:
        lengths = [schedule.num_worlds for schedule in self.schedules.values()]
        available = min((length for length in lengths if length is not None), default=None)
        if available is None or self.total_steps is None:
            return
        needed = self.schedule.regime_at(self.total_steps - 1) + 1
        if needed > available:
            listed = "friction_values" if "friction" in self.schedules else "values"
            raise ValueError(
                f"total_steps={self.total_steps} with switch_interval={config.switch_interval} "
                f"needs {needed} worlds, but schedule={config.schedule} has only {available}; give "
                f"more {listed}, train for fewer steps, or choose on_exhausted=cycle."
            )

    def tick(self) -> bool:
        """Count one vector step.

        Returns:
            True if every environment must be cut now because a new world begins (``exact``).
        """
        self.env_steps += self._num_envs
        self._ended_at = 0
        if self._per_env or self._fixed or self.schedule.drifting or self._over():
            return False
        return self.schedule.regime_at(self.env_steps) > int(self.regime[0])

    def switch(self, ended: np.ndarray) -> list[Event]:
        """Move to the worlds that hold for the next transition; call once after ``tick``.

        Args:
            ended: Environments whose episode has ended, shape (num_envs,), bool.

        Returns:
            One event per change: ``switch`` where a new world begins (``env_index`` None = all
            environments), ``drift`` where drifting values are written or a new world begins.
        """
        if self._fixed or self._over():
            return []
        self._ended_at = 0
        if self._per_env:
            return self._switch_ended(ended)
        if self.schedule.drifting:
            return self._drift()
        regime = self.schedule.regime_at(self.env_steps)
        if regime == int(self.regime[0]):
            return []
        self.regime[:] = regime
        for name, schedule in self.schedules.items():
            self.values[name][:] = schedule.value(regime)
        self.last_change[:] = self.env_steps
        return [self._event("switch", None)]

    def _switch_ended(self, ended: np.ndarray) -> list[Event]:
        events = []
        for index in np.flatnonzero(ended).tolist():
            regime = int(self.regime[index])
            interval = self.schedule.start(regime + 1) - self.schedule.start(regime)
            if self.env_steps - self.last_change[index] <= interval:
                continue
            self.regime[index] = regime + 1
            for name, schedule in self.schedules.items():
                self.values[name][index] = schedule.value(regime + 1)
            self.last_change[index] = self.env_steps
            events.append(self._event("switch", index))
        return events

    def _drift(self) -> list[Event]:
        regime = self.schedule.regime_at(self.env_steps)
        moved = regime != int(self.regime[0])  # values may rest at the border of two worlds
        self.regime[:] = regime
        for name, schedule in self.schedules.items():
            value = schedule.value_at(self.env_steps)
            moved |= value != self.values[name][0]
            self.values[name][:] = value
        if not moved:
            return []
        self.last_change[:] = self.env_steps
        return [self._event("drift", None)]

    def _event(self, name: str, index: int | None) -> Event:
        first = 0 if index is None else index
        named = {name: float(values[first]) for name, values in self.values.items()}
        # Logs of friction alone have always named their value so; others can be read without
        # knowing the quantity.
        value = {} if list(named) == ["friction"] else {"value": float(self.friction[first])}
        return {
            "event": name,
            "env_steps": self.env_steps,
            "env_index": index,
            "regime": int(self.regime[first]),
            **value,
            **named,
        }

    def _over(self) -> bool:
        return self.total_steps is not None and self.env_steps >= self.total_steps

    def snapshot(self) -> Snapshot:
        """State as plain arrays and integers (``total_steps`` 0 means no end)."""
        return {
            "schedule_hash": self.schedule_hash,
            "env_steps": self.env_steps,
            "total_steps": self._ended_at or self.total_steps or 0,
            **self._arrays(),
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "regime": self.regime.copy(),
            "last_change": self.last_change.copy(),
            **{name: values.copy() for name, values in self.values.items()},
        }

    def restore(self, state: Snapshot) -> None:
        """Take over a snapshot's state.

        Raises:
            ValueError: If it belongs to another schedule, or if its world indices or values
                are not the ones that its ``env_steps`` lead to.
        """
        require_equal(state, "schedule_hash", self.schedule_hash)
        env_steps = int(require(state, "env_steps"))
        arrays = load_arrays(state, like=self._arrays())
        if not self._fixed:
            total_steps = int(require(state, "total_steps"))
            self._check_derived(env_steps, total_steps, arrays)
            self._ended_at = total_steps if env_steps >= total_steps else 0
        self.env_steps = env_steps
        self.regime[:], self.last_change[:] = arrays["regime"], arrays["last_change"]
        for name, values in self.values.items():
            values[:] = arrays[name]

    def _check_derived(
        self, env_steps: int, total_steps: int, arrays: dict[str, np.ndarray]
    ) -> None:
        """Derive indices and values again and compare them with the saved ones."""
        regime, last_change = arrays["regime"], arrays["last_change"]
        counted = env_steps
        if total_steps and env_steps >= total_steps:  # nothing changed in the last vector step
            counted = (-(-total_steps // self._num_envs) - 1) * self._num_envs
        if self._per_env:
            earliest = np.array([self.schedule.start(int(k)) + int(k) for k in regime.clip(0)])
            possible = (regime >= 0) & (last_change >= earliest) & (last_change <= env_steps)
            expected = np.where(possible, regime, -1)
        else:
            expected = np.full_like(regime, self.schedule.regime_at(counted))
        for name, schedule in self.schedules.items():
            if self._per_env:
                values = np.array([schedule.value(int(k)) for k in regime.clip(0)])
            else:
                values = np.full_like(arrays[name], schedule.value_at(counted))
            if not np.array_equal(expected, regime) or not np.array_equal(values, arrays[name]):
                raise ValueError(
                    f"the snapshot says regimes {regime.tolist()} with {name} "
                    f"{arrays[name].tolist()} at env_steps={env_steps}, but the schedule gives "
                    f"{expected.tolist()} and {values.tolist()}; the snapshot is damaged or from "
                    "another schedule."
                )
