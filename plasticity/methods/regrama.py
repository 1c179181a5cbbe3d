"""ReGraMa: every so often, renew all units that hardly learn relative to their layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.diagnostics.unit_gradients import VANISHED
from plasticity.method import Target
from plasticity.periodic_recycling import (
    ActivityWindow,
    PeriodicRecycler,
    check_periodic_settings,
)
from plasticity.settings import check_number


@dataclass(frozen=True)
class Config:
    """Settings of ReGraMa. The clock is the network's own gradient steps.

    Attributes:
        kind: Name of this file.
        dormancy_threshold: Units with a score of at most this are renewed, >= 0. The score is
            mean |dL/dw| of the unit's incoming weights over the layer mean of it.
        period: Gradient steps between checks, >= 1; 0 switches the method off without a trace.
        window: Absolute gradients are averaged over this many gradient steps up to the check,
            >= 1 (all since the last check where the period is shorter); 1 is the published code.
        optimizer_state: `keep`, `zero_moments` or `per_unit_step`.
        networks: `all`, or the networks to act on.
        target_edit: `copy` gives target networks the same edit, `drift` leaves them to averaging.

    Raises:
        ValueError: A value is out of range.

    Source: Liu et al. 2025, gradient magnitude neural activity (GraMa) and its resets.
    Deviation: scores average ten minibatches instead of one. A layer whose mean gradient is below
    1e-12 is left alone: there the ratios are noise, and a converged batch would renew it whole.
    """

    kind: str = "regrama"
    dormancy_threshold: float = 0.01
    period: int = 1000
    window: int = 10
    optimizer_state: str = "zero_moments"
    networks: str | list[str] = "all"
    target_edit: str = "copy"

    def __post_init__(self) -> None:
        networks = check_periodic_settings(self)
        check_number(f"method.{self.kind}.window", self.window, 1)
        object.__setattr__(self, "networks", networks)


class ReGraMa(PeriodicRecycler):
    """ReGraMa on one network.

    Gradients are complete when it reads them: penalties of other methods count, clipping, which
    scales whole networks, would not matter.
    """

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, config.window)
        self.needs = frozenset()  # the gradients of weights are there after every backward pass
        self.config = config

    @torch.no_grad()
    def after_backward(self) -> None:
        """Collect gradient magnitudes shortly before a check."""
        # `after_step` counts this gradient step.
        if not self.active or -(self.calls + 1) % self.period >= self.config.window:
            return
        for window in self.groups.values():
            magnitude = window.group.layer.incoming_gradient()
            if magnitude is not None:
                window.add_sums(magnitude)

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Renew the units that hardly learn, at a check."""
        if not self.active:
            return
        self.begin_call(optimizer)
        if self.steps_to_check == 0:
            self.check(optimizer)

    def scores(self, window: ActivityWindow) -> Tensor | None:
        """Mean gradient magnitude relative to the layer; None for a layer without gradient."""
        if window.is_empty:
            return None
        magnitude = window.mean()
        mean = magnitude.mean()
        return None if float(mean) < VANISHED else magnitude / mean


def build(config: Config, target: Target) -> ReGraMa:
    """Attach ReGraMa to one network."""
    return ReGraMa(config, target)
