"""ReDo: every so often, renew all units that are dormant relative to their layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.method import Target
from plasticity.periodic_recycling import (
    ActivityWindow,
    PeriodicRecycler,
    check_periodic_settings,
)
from plasticity.settings import check_choice, check_number
from plasticity.utilities import dormancy_scores


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
        where, networks = f"method.{self.kind}", check_periodic_settings(self)
        check_number(f"{where}.window_samples", self.window_samples, 1)
        check_choice(f"{where}.score_batch", self.score_batch, ("window", "minibatch"))
        object.__setattr__(self, "networks", networks)


class ReDo(PeriodicRecycler):
    """ReDo on one network."""

    def __init__(self, config: Config, target: Target) -> None:
        samples = config.window_samples if config.score_batch == "window" else 1
        super().__init__(config, target, samples)
        self.config = config

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Collect activity shortly before a check, and renew dormant units at the check."""
        if not self.active:
            return
        self.begin_call(optimizer)
        for window in self.groups.values():
            activation = self.activation_of(window.group, activations)
            if self.steps_to_check * len(activation) < window.min_samples:
                window.add(activation)
        if self.steps_to_check == 0:
            self.check(optimizer)

    def scores(self, window: ActivityWindow) -> Tensor:
        """Mean |h| relative to the layer."""
        return dormancy_scores(window.mean())


def build(config: Config, target: Target) -> ReDo:
    """Attach ReDo to one network."""
    return ReDo(config, target)
