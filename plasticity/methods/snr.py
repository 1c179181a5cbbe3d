"""Self-normalised resets: renew a unit that is silent for longer than it ever used to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import UnitGroup
from plasticity.diagnostics.activity import RECTIFIED, WINNERS
from plasticity.method import Target
from plasticity.recycling import Recycler, Selection, check_shared_settings
from plasticity.settings import check_number
from plasticity.silences import SilenceRecord
from plasticity.utilities import sample_dims


@dataclass(frozen=True)
class Config:
    """Settings of self-normalised resets. The clock is the network's own gradient steps.

    Attributes:
        kind: Name of this file.
        tail_probability: A unit is renewed once it has been silent for as long as the
            1 - tail_probability percentile of its own past silences, in [0, 1); published .01 to
            .05. 0 switches the method off without a trace.
        gradient_threshold: Units that are never silent (all but ReLU and k-winners) count as
            silent while their mean incoming |gradient| is at most this share of the layer's, >= 0.
        min_silence: No unit is renewed after a shorter silence, >= 1.
        max_silence: Every unit is renewed after this silence, and it is the only limit of units
            with fewer than `min_records` silences on record.
        min_records: Silences on record before a unit's own percentile counts, >= 1.
        refresh_period: Gradient steps between computations of the percentiles, >= 1.
        optimizer_state: `keep`, `zero_moments` or `per_unit_step`.
        networks: `all`, or the networks to act on.
        target_edit: `copy` gives target networks the same edit, `drift` leaves them to averaging.

    Raises:
        ValueError: A value is out of range.

    Source: Farias and Jozefiak 2024, "Self-normalized resets for plasticity in continual
    learning".
    Deviation: silences are counted in gradient steps, where a unit is silent if it is on the
    whole minibatch, and percentiles are refreshed by a clock; the public code counts samples,
    with one batch as the least, and refreshes at the ends of tasks. Records are kept in 256
    classes of nearly equal ratio, so percentiles are rounded up, by at most 2 % between the
    default limits.
    """

    kind: str = "snr"
    tail_probability: float = 0.02
    gradient_threshold: float = 0.01
    min_silence: int = 100
    max_silence: int = 10_000
    min_records: int = 50
    refresh_period: int = 1000
    optimizer_state: str = "zero_moments"
    networks: str | list[str] = "all"
    target_edit: str = "copy"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.tail_probability", self.tail_probability, 0.0, 1.0, open_high=True)
        check_number(f"{where}.gradient_threshold", self.gradient_threshold, 0.0)
        for name in ("min_silence", "min_records", "refresh_period"):
            check_number(f"{where}.{name}", getattr(self, name), 1)
        if self.max_silence < self.min_silence:
            raise ValueError(
                f"{where}.max_silence is {self.max_silence}; it must be at least min_silence, "
                f"which is {self.min_silence}"
            )
        object.__setattr__(self, "networks", check_shared_settings(self))

    @property
    def first_possible_step(self) -> int:
        """Gradient step before which no unit can be renewed."""
        learnt = max(self.refresh_period, self.min_records + self.min_silence)
        return min(self.max_silence, learnt)


class SelfNormalizedResets(Recycler):
    """Self-normalised resets on one network.

    Attributes:
        groups: Silences by unit-group name.

    Raises:
        ValueError: The method could never act in a run of the planned length.
    """

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, enabled=config.tail_probability > 0.0)
        self.config = config
        self.groups: dict[str, SilenceRecord] = {}
        self._by_gradient: frozenset[str] = frozenset()
        self._magnitudes: dict[str, Tensor | None] = {}
        if not self.active:
            return
        planned, first = target.planned_gradient_steps, config.first_possible_step
        if planned is not None and planned < first:
            raise ValueError(
                f"snr could never fire on {target.name!r}: the run plans {planned:,} gradient "
                f"steps and no unit can be renewed before step {first:,}; train longer, lower "
                f"method.{self.kind}.refresh_period and min_silence, or switch the method off "
                "with tail_probability=0"
            )
        for group in target.unit_groups:
            device = group.readers[0].layer.weight.device
            self.groups[group.name] = SilenceRecord(
                group.num_units, config.min_silence, config.max_silence, device
            )
        self._by_gradient = frozenset(
            group.name
            for group in target.unit_groups
            if group.activation not in RECTIFIED | WINNERS
        )
        if len(self._by_gradient) == len(self.groups):
            self.needs = frozenset()

    @torch.no_grad()
    def after_backward(self) -> None:
        """Read the gradients of units that are never silent."""
        if not self._by_gradient:
            return
        self._magnitudes = {
            group.name: group.layer.incoming_gradient()
            for group in self.target.unit_groups
            if group.name in self._by_gradient
        }

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Count silences and renew the units whose silence is too long."""
        if not self.active:
            return
        self.begin_call(optimizer)
        config, selections = self.config, []
        for group in self.target.unit_groups:
            record = self.groups[group.name]
            if group.name in self._by_gradient:
                self._count_by_gradient(group, record)
            else:
                record.count(self._silent(group, activations))
            if self.calls % config.refresh_period == 0:
                record.refresh(config.tail_probability, config.min_records)
            units = record.due()
            if units is not None:
                ages, silences = self.calls - record.born[units], record.silence[units].double()
                selections.append(Selection(group, units, silences, ages))
        self._magnitudes = {}
        if selections:
            self.recycle(selections, optimizer)
        for selection in selections:
            self.groups[selection.group.name].clear(selection.units, self.calls)

    def _silent(self, group: UnitGroup, activations: Mapping[str, Tensor]) -> Tensor:
        activation = self.activation_of(group, activations)
        if group.activation in WINNERS:  # winners may be negative
            activation = activation.abs()
        return activation.amax(sample_dims(activation)) <= 0.0

    def _count_by_gradient(self, group: UnitGroup, record: SilenceRecord) -> None:
        if group.name not in self._magnitudes:
            raise ValueError(
                f"{self.kind} judges units of unit group {group.name!r} by their gradients; call "
                "after_backward between the backward pass and the optimizer step"
            )
        magnitude = self._magnitudes[group.name]
        if magnitude is not None:
            record.count_by_gradient(magnitude, self.config.gradient_threshold)

    def log_values(self) -> dict[str, float]:
        """Units renewed so far, silences and limits, named `<group>/<value>`."""
        return {
            f"{name}/{key}": value
            for name, record in self.groups.items()
            for key, value in record.log_values().items()
        }

    def announcement(self) -> str:
        """Say what makes a unit due."""
        if not self.active:
            return f"{self.kind} is off on {self.target.name}"
        config = self.config
        return (
            f"{self.kind} on {self.target.name}: renews units silent for longer than in "
            f"{1.0 - config.tail_probability:.0%} of their own silences, {config.min_silence:,} to "
            f"{config.max_silence:,} gradient steps {self.edits_described}"
        )

    def restart_units(self, name: str, units: Tensor) -> None:
        """Start the silences and records of some units anew."""
        self.groups[name].restart(units, self.calls)

    def group_states(self) -> dict[str, dict[str, Any]]:
        """Return the silences of every group, cloned."""
        return {name: record.state_dict() for name, record in self.groups.items()}

    def load_group_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the silences of every group."""
        for name, record in self.groups.items():
            record.load_state_dict(states[name])


def build(config: Config, target: Target) -> SelfNormalizedResets:
    """Attach self-normalised resets to one network."""
    return SelfNormalizedResets(config, target)
