"""What methods share that act once in a while: after a period, or at an announced task change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.method import Method, Target
from plasticity.settings import acts_on, check_choice, check_networks, check_number

CLOCKS = ("gradient_step", "env_step")


class InterventionConfig(Protocol):
    """Settings that every intervention shares."""

    @property
    def kind(self) -> str: ...

    @property
    def period(self) -> int: ...

    @property
    def clock(self) -> str: ...

    @property
    def at_task_change(self) -> bool: ...

    @property
    def networks(self) -> str | list[str]: ...


def check_intervention(config: InterventionConfig) -> str | list[str]:
    """Check the settings that every intervention shares.

    Returns:
        The networks to act on, checked.

    Raises:
        ValueError: A value does not exist or is out of range.
    """
    check_number(f"method.{config.kind}.period", config.period, 0)
    check_choice(f"method.{config.kind}.clock", config.clock, CLOCKS)
    return check_networks(config.kind, config.networks)


class Intervention(Method):
    """Acts every `period` gradient steps, at announced task changes, or both.

    On-policy agents may be in the middle of a rollout then; the actions of the old policy are
    unlikely under a new one, so that the clipped objective hardly follows them.

    Args:
        config: Settings.
        target: The network.
        enabled: False when further settings switch the method off.

    Attributes:
        period: Gradient steps between two interventions, 0 for none.
        calls: Gradient steps so far.
        count: Interventions so far.

    Raises:
        ValueError: The first intervention would fall behind the end of the run, or the clock of
            environment steps cannot be converted.
    """

    def __init__(self, config: InterventionConfig, target: Target, enabled: bool = True) -> None:
        self.kind, self.target = config.kind, target
        enabled = enabled and acts_on(config.networks, target.name)
        self.period = _gradient_steps(config, target) if enabled else 0
        self.active = enabled and (self.period > 0 or config.at_task_change)
        self.uses_task_boundary = self.active and config.at_task_change
        self.calls = self.count = 0
        self._events: list[dict[str, Any]] = []
        self._touched: list[Touched] = []
        planned = target.planned_gradient_steps
        if self.active and not self.uses_task_boundary and planned and planned < self.period:
            raise ValueError(
                f"{self.kind} could never act on {target.name!r}: the run plans {planned:,} "
                f"gradient steps and it acts first after {self.period:,}; train longer, lower "
                f"method.{self.kind}.period, or switch it off with period=0"
            )

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched] | None:
        """Act now; returns the rewritten entries, or None when there was nothing to do."""
        raise NotImplementedError

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Count the step and act when the period is over."""
        self.calls += 1
        if self.period and self.calls % self.period == 0:
            self._act(optimizer, "period")

    def on_task_change(self, task: int, optimizer: torch.optim.Optimizer) -> None:
        """Act at an announced task change."""
        self._act(optimizer, "task_change")

    def _act(self, optimizer: torch.optim.Optimizer, reason: str) -> None:
        with torch.no_grad():
            touched = self.intervene(optimizer)
        if touched is None:
            return
        self._touched = touched
        self.count += 1
        if self.period == 1 and reason == "period":
            return  # a method of every step is no event
        self._events.append(
            {
                "event": "intervention",
                "method": self.kind,
                "network": self.target.name,
                "reason": reason,
                "gradient_step": self.calls,
            }
        )

    def pop_touched(self) -> list[Touched]:
        """Return and forget the entries that the last intervention rewrote."""
        touched, self._touched = self._touched, []
        return touched

    def pop_events(self) -> list[dict[str, Any]]:
        """Return and forget one event per intervention since the last call."""
        events, self._events = self._events, []
        return events

    def log_values(self) -> dict[str, float]:
        """Interventions so far."""
        return {"count": float(self.count)}

    def announcement(self) -> str:
        """Say when the method acts."""
        if not self.active:
            return f"{self.kind} is off on {self.target.name}"
        times = [f"every {self.period:,} gradient steps"] if self.period else []
        times += ["at announced task changes"] if self.uses_task_boundary else []
        planned = self.target.planned_gradient_steps
        total = f" of {planned:,}" if planned and self.period else ""
        return f"{self.kind} on {self.target.name}: acts {' and '.join(times)}{total}"

    def state_dict(self) -> dict[str, Any]:
        """Counters and the random stream, cloned; {} when switched off."""
        if not self.active:
            return {}
        return {
            "calls": self.calls,
            "count": self.count,
            "generator": self.target.generator.get_state().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.active:
            self.calls, self.count = int(state["calls"]), int(state["count"])
            self.target.generator.set_state(state["generator"].cpu())


def _gradient_steps(config: InterventionConfig, target: Target) -> int:
    """The period in gradient steps of the network.

    Raises:
        ValueError: The clock of environment steps cannot be converted, or the period is shorter
            than a gradient step.
    """
    if config.clock == "gradient_step" or config.period == 0:
        return config.period
    ratio = target.gradient_steps_per_env_step
    if ratio is None:
        raise ValueError(
            f"method.{config.kind}.clock is env_step, but nobody says how many gradient steps "
            f"{target.name!r} makes per environment step; set clock=gradient_step"
        )
    if config.period * ratio < 1.0:
        raise ValueError(
            f"method.{config.kind}.period={config.period} environment steps is less than a "
            f"gradient step of {target.name!r}, which makes {ratio:g} per environment step; give "
            f"at least {math.ceil(1.0 / ratio)}, or set clock=gradient_step"
        )
    return round(config.period * ratio)
