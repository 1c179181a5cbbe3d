"""When the world changes: transitions are counted here and both switch rules applied.

The batched environment and the wrapper for a single environment share this code, so that they
switch at the same transitions.
"""

from __future__ import annotations

import numpy as np

from envs.schedules import Schedule, ScheduleConfig, make_schedule, schedule_hash
from envs.snapshots import Snapshot, load_arrays, require, require_equal

Event = dict[str, int | float | str | None]


class WorldClock:
    """Counts transitions and says which world and friction each environment is in.

    Rules (I = switch interval, T = total steps; nothing ever changes at or after T):

    * ``exact``: after the vector step that makes env_steps >= k I every environment is cut and
      changes. The world index is floor(env_steps / I), so an overshoot does not accumulate.
    * ``episode_end``: an environment changes at its own first episode end with
      env_steps - last_change > I. The schedule drifts by up to one episode per change.
    * drifting schedules: the friction follows env_steps; nobody is cut.

    Source: Dohare et al., Nature 632:768-774 (2024), public code: the ``episode_end`` rule.
    Deviation: that code counts from a 0-based step index, so its first change needs one
    transition more; here every change needs the same number.

    Args:
        config: What changes and when.
        num_envs: Transitions per vector step.
        total_steps: T, or None for an environment without an end.

    Raises:
        ValueError: If a world would be shorter than one vector step, or if a finite list of
            worlds cannot last for ``total_steps``.
    """

    def __init__(self, config: ScheduleConfig, num_envs: int, total_steps: int | None) -> None:
        if config.switch_interval < num_envs:
            raise ValueError(
                f"switch_interval={config.switch_interval} is shorter than one vector step of "
                f"{num_envs} environments; use at least num_envs."
            )
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1.")
        self.schedule: Schedule = make_schedule(config)
        self.schedule_hash = schedule_hash(self.schedule, config.switch_rule)
        self.total_steps = total_steps
        self._interval = config.switch_interval
        self._fixed = config.schedule == "fixed"
        self._per_env = config.switch_rule == "episode_end" and not self._fixed
        self._num_envs = num_envs
        self._refuse_short_lists(config)
        self.env_steps = 0
        self.regime = np.zeros(num_envs, dtype=np.int64)
        self.last_change = np.zeros(num_envs, dtype=np.int64)
        self.friction = np.full(num_envs, self.schedule.value_at(0))

    @property
    def per_env(self) -> bool:
        """Whether several frictions can hold at once, one per environment."""
        return self._per_env

    def _refuse_short_lists(self, config: ScheduleConfig) -> None:
        available = self.schedule.num_worlds
        if available is None or self.total_steps is None:
            return
        needed = (self.total_steps - 1) // self._interval + 1
        if needed > available:
            raise ValueError(
                f"total_steps={self.total_steps} with switch_interval={self._interval} needs "
                f"{needed} worlds, but schedule={config.schedule} has only {available}; give more "
                "friction_values, train for fewer steps, or choose on_exhausted=cycle."
            )

    def tick(self) -> bool:
        """Count one vector step.

        Returns:
            True if every environment must be cut now because a new world begins (``exact``).
        """
        self.env_steps += self._num_envs
        if self._per_env or self._fixed or self.schedule.drifting or self._over():
            return False
        return self.schedule.regime_at(self.env_steps) > int(self.regime[0])

    def switch(self, ended: np.ndarray) -> list[Event]:
        """Move to the worlds that hold for the next transition; call once after ``tick``.

        Args:
            ended: Environments whose episode has ended, shape (num_envs,), bool.

        Returns:
            One event per change: ``switch`` where a new world begins (``env_index`` None = all
            environments), ``drift`` where a drifting friction is written.
        """
        if self._fixed or self._over():
            return []
        if self._per_env:
            return self._switch_ended(ended)
        if self.schedule.drifting:
            return self._drift()
        regime = self.schedule.regime_at(self.env_steps)
        if regime == int(self.regime[0]):
            return []
        self.regime[:] = regime
        self.friction[:] = self.schedule.value(regime)
        self.last_change[:] = self.env_steps
        return [self._event("switch", None)]

    def _switch_ended(self, ended: np.ndarray) -> list[Event]:
        due = ended & (self.env_steps - self.last_change > self._interval)
        events = []
        for index in np.flatnonzero(due).tolist():
            self.regime[index] += 1
            self.friction[index] = self.schedule.value(int(self.regime[index]))
            self.last_change[index] = self.env_steps
            events.append(self._event("switch", index))
        return events

    def _drift(self) -> list[Event]:
        self.regime[:] = self.schedule.regime_at(self.env_steps)
        friction = self.schedule.value_at(self.env_steps)
        if friction == self.friction[0]:
            return []
        self.friction[:] = friction
        self.last_change[:] = self.env_steps
        return [self._event("drift", None)]

    def _event(self, name: str, index: int | None) -> Event:
        first = 0 if index is None else index
        return {
            "event": name,
            "env_steps": self.env_steps,
            "env_index": index,
            "regime": int(self.regime[first]),
            "friction": float(self.friction[first]),
        }

    def _over(self) -> bool:
        return self.total_steps is not None and self.env_steps >= self.total_steps

    def snapshot(self) -> Snapshot:
        """State as plain arrays and integers (``total_steps`` 0 means no end)."""
        return {
            "schedule_hash": self.schedule_hash,
            "env_steps": self.env_steps,
            "total_steps": self.total_steps or 0,
            **self._arrays(),
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "regime": self.regime.copy(),
            "last_change": self.last_change.copy(),
            "friction": self.friction.copy(),
        }

    def restore(self, state: Snapshot) -> None:
        """Take over a snapshot's state.

        Raises:
            ValueError: If it belongs to another schedule, or if its world indices or frictions
                are not the ones that its ``env_steps`` lead to.
        """
        require_equal(state, "schedule_hash", self.schedule_hash)
        env_steps = int(require(state, "env_steps"))
        arrays = load_arrays(state, like=self._arrays())
        if not self._fixed:
            self._check_derived(env_steps, int(require(state, "total_steps")), arrays)
        self.env_steps = env_steps
        self.regime[:], self.friction[:] = arrays["regime"], arrays["friction"]
        self.last_change[:] = arrays["last_change"]

    def _check_derived(
        self, env_steps: int, total_steps: int, arrays: dict[str, np.ndarray]
    ) -> None:
        """Derive indices and frictions again and compare them with the saved ones."""
        regime, friction, last_change = (
            arrays[key] for key in ("regime", "friction", "last_change")
        )
        if self._per_env:
            possible = (last_change >= regime * (self._interval + 1)) & (last_change <= env_steps)
            expected = np.where(possible, regime, -1)
            values = np.array([self.schedule.value(int(index)) for index in regime])
        else:
            counted = env_steps
            if total_steps and env_steps >= total_steps:  # nothing changed in the last vector step
                counted = (-(-total_steps // self._num_envs) - 1) * self._num_envs
            expected = np.full_like(regime, self.schedule.regime_at(counted))
            values = np.full_like(friction, self.schedule.value_at(counted))
        if not np.array_equal(expected, regime) or not np.array_equal(values, friction):
            raise ValueError(
                f"the snapshot says regimes {regime.tolist()} with frictions {friction.tolist()} "
                f"at env_steps={env_steps}, but the schedule gives {expected.tolist()} and "
                f"{values.tolist()}; the snapshot is damaged or from another schedule."
            )
