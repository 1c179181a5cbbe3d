"""ReDo: every so often, renew all units that are dormant relative to their layer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import UnitGroup
from plasticity.method import Target
from plasticity.recycling import Recycler, Selection, check_choice, check_shared_settings
from plasticity.utilities import absolute_sum, dormancy_scores, num_samples


@dataclass(frozen=True)
class Config:
    """Settings of ReDo. The clock is the network's own gradient steps.

    Attributes:
        kind: Name of this file.
        dormancy_threshold: Units with a score of at most this are renewed, >= 0. The score is
            mean |h| over the layer mean of it; 0 asks for exact silence.
        period: Gradient steps between checks, >= 1; 0 switches the method off without a trace.
        score_batch: `window` scores the training samples of the last gradient steps, at least
            `window_samples` of them (all since the last check where the period is shorter);
            `minibatch` the last minibatch alone.
        window_samples: Samples of the window, >= 1.
        optimizer_state: `keep`, `zero_moments` or `per_unit_step`.
        networks: `all`, or the networks to act on.
        target_edit: `copy` gives target networks the same edit, `drift` leaves them to averaging.

    Raises:
        ValueError: A value is out of range.

    Source: Sokar et al. 2023, Algorithm 1.
    Deviation: the window is made of the training forward passes just before the check, whose
    weights lie up to window_samples / batch steps back, instead of an extra forward pass.
    """

    kind: str = "redo"
    dormancy_threshold: float = 0.1
    period: int = 1000
    score_batch: str = "window"
    window_samples: int = 1000
    optimizer_state: str = "zero_moments"
    networks: str | list[str] = "all"
    target_edit: str = "copy"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        if not self.dormancy_threshold >= 0.0:
            raise ValueError(
                f"{where}.dormancy_threshold is {self.dormancy_threshold}; it must be >= 0"
            )
        if self.period < 0:
            raise ValueError(f"{where}.period is {self.period}; it must be >= 1, or 0 for never")
        if self.window_samples < 1:
            raise ValueError(f"{where}.window_samples is {self.window_samples}; it must be >= 1")
        check_choice(f"{where}.score_batch", self.score_batch, ("window", "minibatch"))
        object.__setattr__(self, "networks", check_shared_settings(self))


class ActivityWindow:
    """Mean |h| of the units of one group over the last minibatches.

    Args:
        group: The unit group.
        min_samples: Old minibatches are dropped while the others hold this many samples.
    """

    def __init__(self, group: UnitGroup, min_samples: int) -> None:
        weight = group.readers[0].layer.weight
        self.group = group
        self.min_samples = min_samples
        self.born = torch.zeros(group.num_units, dtype=torch.int64, device=weight.device)
        self.replaced_total = 0
        self.last_dormant = 0
        # One entry per minibatch: sum of |h| (units,), values summed per unit, batch size.
        self._minibatches: deque[tuple[Tensor, int, int]] = deque()

    def add(self, activation: Tensor) -> None:
        """Append a minibatch, (B, units) or (B, channels, height, width)."""
        entry = (absolute_sum(activation), num_samples(activation), len(activation))
        self._minibatches.append(entry)
        samples = sum(batch for _, _, batch in self._minibatches)
        while samples - self._minibatches[0][2] >= self.min_samples:
            samples -= self._minibatches.popleft()[2]

    def mean(self) -> Tensor:
        """Mean |h| of every unit, (units,)."""
        total = torch.stack([summed for summed, _, _ in self._minibatches]).sum(0)
        return total / sum(count for _, count, _ in self._minibatches)

    def clear(self, units: Tensor, call: int) -> None:
        """Restart the ages of renewed units."""
        self.born[units] = call
        self.replaced_total += len(units)

    def forget(self) -> None:
        """Drop all minibatches: they show the units that have been renewed."""
        self._minibatches.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return all state, cloned."""
        return {
            "born": self.born.clone(),
            "replaced_total": self.replaced_total,
            "last_dormant": self.last_dormant,
            "sums": [summed.clone() for summed, _, _ in self._minibatches],
            "counts": [[count, batch] for _, count, batch in self._minibatches],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.born.copy_(state["born"])
        self.replaced_total = int(state["replaced_total"])
        self.last_dormant = int(state["last_dormant"])
        self._minibatches = deque(
            (summed.to(self.born.device, copy=True), int(count), int(batch))
            for summed, (count, batch) in zip(state["sums"], state["counts"], strict=True)
        )


class ReDo(Recycler):
    """ReDo on one network.

    Attributes:
        groups: Activity by unit-group name.

    Raises:
        ValueError: No check would fall into a run of the planned length.
    """

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, enabled=config.period > 0)
        self.config = config
        self.groups: dict[str, ActivityWindow] = {}
        if not self.active:
            return
        planned = target.planned_gradient_steps
        if planned is not None and planned < config.period:
            raise ValueError(
                f"redo could never fire on {target.name!r}: the run plans {planned:,} gradient "
                f"steps and the first check is at step {config.period:,}; train longer, set "
                f"method.{self.kind}.period to at most {planned:,}, or switch the method off with "
                "period=0"
            )
        samples = config.window_samples if config.score_batch == "window" else 1
        self.groups = {group.name: ActivityWindow(group, samples) for group in target.unit_groups}

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Collect activity shortly before a check, and renew dormant units at the check."""
        if not self.active:
            return
        self.begin_call(optimizer)
        calls_to_check = -self.calls % self.config.period
        for window in self.groups.values():
            activation = self.activation_of(window.group, activations)
            if calls_to_check * len(activation) < window.min_samples:
                window.add(activation)
        if calls_to_check == 0:
            self._check(optimizer)

    def log_values(self) -> dict[str, float]:
        """Units renewed so far, and by the last check, named `<group>/<value>`."""
        values: dict[str, float] = {}
        for name, window in self.groups.items():
            values[f"{name}/replaced_total"] = window.replaced_total
            values[f"{name}/last_dormant"] = window.last_dormant
        return values

    def announcement(self) -> str:
        """Say when checks happen."""
        if not self.active:
            return f"{self.kind} is off on {self.target.name}"
        config, planned = self.config, self.target.planned_gradient_steps
        checks = "" if planned is None else f", {planned // config.period:,} checks"
        return (
            f"{self.kind} on {self.target.name}: renews units with score <= "
            f"{config.dormancy_threshold:g} every {config.period:,} gradient steps{checks} "
            f"(optimizer_state={config.optimizer_state})"
        )

    def group_states(self) -> dict[str, dict[str, Any]]:
        """Return the activity of every group, cloned."""
        return {name: window.state_dict() for name, window in self.groups.items()}

    def load_group_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the activity of every group."""
        for name, window in self.groups.items():
            window.load_state_dict(states[name])

    def _check(self, optimizer: torch.optim.Optimizer) -> None:
        selections = []
        for window in self.groups.values():
            scores = dormancy_scores(window.mean())
            units = (scores <= self.config.dormancy_threshold).nonzero().flatten()
            window.last_dormant = len(units)
            if len(units):
                ages = self.calls - window.born[units]
                selections.append(Selection(window.group, units, scores[units], ages))
        if selections:
            self.recycle(selections, optimizer)
        for selection in selections:
            self.groups[selection.group.name].clear(selection.units, self.calls)
        for window in self.groups.values():
            window.forget()


def build(config: Config, target: Target) -> ReDo:
    """Attach ReDo to one network."""
    return ReDo(config, target)
