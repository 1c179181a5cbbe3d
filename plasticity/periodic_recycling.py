"""Recyclers that look every so often and renew all units whose score is low."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from networks.units import UnitGroup
from plasticity.method import Target
from plasticity.recycling import Recycler, RecyclerConfig, Selection, check_shared_settings
from plasticity.settings import check_number
from plasticity.utilities import absolute_sum, num_samples


class PeriodicConfig(RecyclerConfig, Protocol):
    """Settings that these recyclers share."""

    @property
    def dormancy_threshold(self) -> float: ...

    @property
    def period(self) -> int: ...


def check_periodic_settings(config: PeriodicConfig) -> str | list[str]:
    """Check the settings that these recyclers share.

    Returns:
        The networks to act on, with `critics` spelt out.

    Raises:
        ValueError: A value is out of range.
    """
    where = f"method.{config.kind}"
    check_number(f"{where}.dormancy_threshold", config.dormancy_threshold, 0.0)
    check_number(f"{where}.period", config.period, 0)
    return check_shared_settings(config)


class ActivityWindow:
    """Mean magnitude of the units of one group over the last minibatches.

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
        """Append a minibatch by unit, (B, units), (B, units, values) or (B, channels, h, w)."""
        self.add_sums(absolute_sum(activation), num_samples(activation), len(activation))

    def add_sums(self, summed: Tensor, count: int = 1, samples: int = 1) -> None:
        """Append a minibatch of which the sums are known.

        Args:
            summed: Sum of magnitudes, (units,).
            count: Values summed per unit.
            samples: What it counts towards `min_samples`.
        """
        self._minibatches.append((summed, count, samples))
        held = sum(batch for _, _, batch in self._minibatches)
        while held - self._minibatches[0][2] >= self.min_samples:
            held -= self._minibatches.popleft()[2]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been added since the last check."""
        return not self._minibatches

    def mean(self) -> Tensor:
        """Mean magnitude of every unit, (units,)."""
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
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The sums are of another number of units.
        """
        if any(summed.shape != self.born.shape for summed in state["sums"]):
            raise ValueError(f"the saved sums are not of {len(self.born)} units")
        self.born.copy_(state["born"])
        self.replaced_total = int(state["replaced_total"])
        self.last_dormant = int(state["last_dormant"])
        self._minibatches = deque(
            (summed.to(self.born.device, copy=True), int(count), int(batch))
            for summed, (count, batch) in zip(state["sums"], state["counts"], strict=True)
        )


class PeriodicRecycler(Recycler):
    """Renews all units of at most a threshold score at every multiple of a period.

    Subclasses fill the windows and implement `scores`.

    Args:
        config: Settings of the method.
        target: The network.
        min_samples: Of the windows.

    Attributes:
        groups: Magnitudes by unit-group name.

    Raises:
        ValueError: No check would fall into a run of the planned length.
    """

    def __init__(self, config: PeriodicConfig, target: Target, min_samples: int) -> None:
        super().__init__(config, target, enabled=config.period > 0)
        self.threshold, self.period = config.dormancy_threshold, config.period
        self.groups: dict[str, ActivityWindow] = {}
        if not self.active:
            return
        planned = target.planned_gradient_steps
        if planned is not None and planned < config.period:
            raise ValueError(
                f"{self.kind} could never fire on {target.name!r}: the run plans {planned:,} "
                f"gradient steps and the first check is at step {config.period:,}; train longer, "
                f"set method.{self.kind}.period to at most {planned:,}, or switch the method off "
                "with period=0"
            )
        self.groups = {
            group.name: ActivityWindow(group, min_samples) for group in target.unit_groups
        }

    def scores(self, window: ActivityWindow) -> Tensor | None:
        """Score of every unit of a group at a check, (units,); None leaves the group alone."""
        raise NotImplementedError

    @property
    def steps_to_check(self) -> int:
        """Gradient steps from the last counted one to the next check; 0 at the check itself."""
        return -self.calls % self.period

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Renew the dormant units of all groups; all groups select before any is edited."""
        selections = []
        for window in self.groups.values():
            scores = self.scores(window)
            if scores is None:
                window.last_dormant = 0
                continue
            units = (scores <= self.threshold).nonzero().flatten()
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
        planned = self.target.planned_gradient_steps
        checks = "" if planned is None else f", {planned // self.period:,} checks"
        return (
            f"{self.kind} on {self.target.name}: renews units with score <= "
            f"{self.threshold:g} every {self.period:,} gradient steps{checks} "
            f"{self.edits_described}"
        )

    def restart_units(self, name: str, units: Tensor) -> None:
        """Restart the ages of some units, and drop all minibatches, which show the old ones."""
        self.groups[name].born[units] = self.calls
        self.groups[name].forget()

    def group_states(self) -> dict[str, dict[str, Any]]:
        """Return the magnitudes of every group, cloned."""
        return {name: window.state_dict() for name, window in self.groups.items()}

    def load_group_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the magnitudes of every group."""
        for name, window in self.groups.items():
            window.load_state_dict(states[name])
