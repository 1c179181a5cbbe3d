"""Synaptic intelligence: hold the weights whose movement has paid off in earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.interventions import Intervention, check_intervention
from plasticity.method import Target
from plasticity.parameters import FEED_FORWARD, References, trained_parameters
from plasticity.settings import check_choice, check_number


@dataclass(frozen=True)
class Config:
    """Settings of synaptic intelligence.

    Attributes:
        kind: Name of this file.
        strength: c >= 0. 0 switches the method off without a trace.
        damping: Added to squared distances, > 0.
        gradient: `task` leaves the penalty's own gradient out of the path integral, `total`
            includes it, as published.
        first_task: Task that is protected first: 1, or 2 as in the published code, which leaves
            what was learnt in the first task unprotected.
        period: Steps of `clock` between consolidations without announcements, 0 for none.
        clock: `gradient_step` of the network, or `env_step`.
        at_task_change: Consolidate at announced task changes.
        include_segments: Protect dendritic segments too.
        networks: `actors`, `all`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "si"
    strength: float = 0.1
    damping: float = 0.1
    gradient: str = "task"
    first_task: int = 1
    period: int = 0
    clock: str = "gradient_step"
    at_task_change: bool = True
    include_segments: bool = False
    networks: str | list[str] = "actors"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.strength", self.strength, 0.0)
        check_number(f"{where}.damping", self.damping, 0.0, open_low=True)
        check_choice(f"{where}.gradient", self.gradient, ("task", "total"))
        check_number(f"{where}.first_task", self.first_task, 1, 2)
        object.__setattr__(self, "networks", check_intervention(self))


class SI(Intervention):
    """c sum Omega (theta - theta*)^2 over the feed-forward parameters.

    Every step: omega <- omega - g dtheta, with g before clipping and dtheta the optimizer's step.
    At a consolidation: Omega <- Omega + max(omega, 0) / ((theta - theta*)^2 + damping),
    theta* <- theta, omega <- 0.

    Source: Zenke, Poole and Ganguli 2017, arXiv 1703.04200, equations 3 to 5.
    Deviation: by default g is the gradient without this penalty (`gradient=task`); edits by other
    methods are no part of dtheta.
    """

    touches = FEED_FORWARD

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, enabled=config.strength > 0.0)
        self.config = config
        if not self.active:
            return
        roles = FEED_FORWARD | ({"segment"} if config.include_segments else set())
        self.touches = roles
        self._references = References(trained_parameters(target.module, roles))
        self._anchor = self._references.copies()
        self._importance = self._references.zeros()
        self._path = self._references.zeros()
        self._gradient = self._references.zeros()  # of the step under way
        self._before = self._references.copies()  # its weights

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted distance from what was consolidated, (); None before the first time."""
        if not self.active or self.count < self.config.first_task:
            return None
        distance = self._references.squared_distance(self._anchor, self._importance)
        return self.config.strength * distance

    @torch.no_grad()
    def after_backward(self) -> None:
        """Keep gradients and weights of this step, before clipping."""
        parameters: list[Tensor] = list(self._references.parameters)
        for kept, parameter in zip(self._gradient, parameters, strict=True):
            if parameter.grad is None:
                kept.zero_()
            else:
                kept.copy_(parameter.grad)
        torch._foreach_copy_(self._before, parameters)
        if self.config.gradient == "task" and self.count >= self.config.first_task:
            for kept, importance, difference in zip(
                self._gradient,
                self._importance,
                self._references.differences(self._anchor),
                strict=True,
            ):
                kept.addcmul_(importance, difference, value=-2.0 * self.config.strength)

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Extend the path integral, and consolidate when the period is over."""
        with torch.no_grad():
            moved = self._references.differences(self._before)
            torch._foreach_addcmul_(self._path, self._gradient, moved, -1.0)
        super().after_step(activations, optimizer)

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched]:
        """Consolidate; changes no parameter."""
        protects = self.count + 1 >= self.config.first_task
        for importance, path, anchor, parameter in zip(
            self._importance, self._path, self._anchor, self._references.parameters, strict=True
        ):
            if protects:
                moved = (parameter - anchor).square()
                importance += path.clamp_min(0.0) / (moved + self.config.damping)
            anchor.copy_(parameter)
            path.zero_()
        return []

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Edits are no part of the path; renewed entries start without importance."""
        if renewed:
            self._references.copy_entries(self._before, touched)
            self._references.copy_entries(self._anchor, touched)
            self._references.zero_entries(self._importance, touched)
            self._references.zero_entries(self._path, touched)
        else:
            rewritten = [entry for entry in touched if entry.shift is None]
            self._references.copy_entries(self._before, rewritten)
            self._references.shift_entries(self._before, touched)
            self._references.shift_entries(self._anchor, touched)

    def state_dict(self) -> dict[str, Any]:
        """Counters, importances, paths and anchors, cloned; {} when switched off."""
        if not self.active:
            return {}
        return {
            **super().state_dict(),
            "anchor": self._references.state(self._anchor),
            "importance": self._references.state(self._importance),
            "path": self._references.state(self._path),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        if self.active:
            self._references.load(self._anchor, state["anchor"])
            self._references.load(self._importance, state["importance"])
            self._references.load(self._path, state["path"])


def build(config: Config, target: Target) -> SI:
    """Attach synaptic intelligence to one network."""
    return SI(config, target)
