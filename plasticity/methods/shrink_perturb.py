"""Shrink and perturb: mix every weight with a fresh draw from its own layer's initialiser."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from networks.masks import apply_masks
from networks.redraw import redraw
from networks.units import Touched
from plasticity.interventions import Intervention, check_intervention
from plasticity.method import Target
from plasticity.optimizer_state import apply_policy
from plasticity.parameters import WEIGHTS_AND_BIASES, trained_parameters, whole
from plasticity.recycling import check_edits
from plasticity.settings import check_choice, check_number

LAWS = ("initial", "normal")


@dataclass(frozen=True)
class Config:
    """Settings of shrink and perturb.

    Attributes:
        kind: Name of this file.
        shrink: lambda in [0, 1], share of the old weights that stays.
        noise: epsilon in [0, 1], factor of the fresh draw. shrink=1 with noise=0 switches the
            method off without a trace.
        variance_preserving: Use epsilon = sqrt(1 - lambda^2) instead of `noise`: weights of the
            initial variance keep it.
        period: Steps of `clock` between two edits, 0 for none; 1 is the soft form.
        clock: `gradient_step` of the network, or `env_step`.
        at_task_change: Edit at announced task changes.
        optimizer_state: `keep`, `zero_moments` or `per_unit_step`.
        target_edit: `copy` gives target networks the new weights, `drift` leaves them to
            averaging. The soft form needs `drift`.
        networks: `all`, `actors`, or a list of networks.
        law: Of the fresh draw: `initial`, that of every layer, or `normal`, so that `noise` is the
            standard deviation of the noise on every weight and bias.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "shrink_perturb"
    shrink: float = 0.5
    noise: float = 0.5
    variance_preserving: bool = False
    period: int = 0
    clock: str = "gradient_step"
    at_task_change: bool = True
    optimizer_state: str = "keep"
    target_edit: str = "copy"
    networks: str | list[str] = "all"
    law: str = field(default="initial", metadata={"later": True})

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.shrink", self.shrink, 0.0, 1.0)
        check_number(f"{where}.noise", self.noise, 0.0, 1.0)
        check_edits(self)
        check_choice(f"{where}.law", self.law, LAWS)
        if self.law == "normal" and self.variance_preserving:
            raise ValueError(
                f"{where}.variance_preserving keeps the variance of the initial law; leave it "
                f"false with {where}.law=normal"
            )
        if self.period == 1 and self.clock == "gradient_step":
            _check_targets(self)
        object.__setattr__(self, "networks", check_intervention(self))

    @property
    def epsilon(self) -> float:
        """Factor of the fresh draw in force."""
        return math.sqrt(1.0 - self.shrink**2) if self.variance_preserving else self.noise


def _check_targets(config: Config) -> None:
    """Refuse edits of every gradient step that target networks would copy."""
    if config.target_edit == "copy":
        raise ValueError(
            f"method.{config.kind}.period={config.period} ({config.clock}) edits at every gradient "
            "step, so target_edit=copy would undo the averaging of target networks; set "
            "target_edit=drift"
        )


class ShrinkPerturb(Intervention):
    """theta <- lambda theta + epsilon theta_new for weights and biases.

    theta_new is drawn anew each time, every layer from the law it started with, or standard
    normal, as Dohare et al. add it, whose shrinking is the optimizer's weight decay. The soft form
    (period 1, lambda = 1 - p, epsilon = p) has stationary noise of sqrt(p / (2 - p)) initial
    standard deviations: for p = 1e-6 it is in practice decay with a half-life of 693,147 steps.

    Source: Ash and Adams 2020, "On warm-starting neural network training", arXiv 1910.08475;
    soft form: Dohare et al. 2024; Juliani and Ash 2024, arXiv 2405.19153.
    Mixing with the *fixed* initial weights, as some public code does under this name, is
    decoupled L2-Init.
    """

    renews_entries = False
    changes_weights = True

    def __init__(self, config: Config, target: Target) -> None:
        self.config = config
        super().__init__(config, target, config.shrink < 1.0 or config.epsilon > 0.0)
        self.mirrors_targets = config.target_edit == "copy"
        if not self.active:
            return
        if self.period == 1:  # as it is, or converted from environment steps
            _check_targets(config)
        self.resets_optimizer = "no" if config.optimizer_state == "keep" else "entries"
        self._donor = copy.deepcopy(target.module).requires_grad_(False)
        parameters, donor = (
            trained_parameters(target.module, WEIGHTS_AND_BIASES),
            dict(self._donor.named_parameters()),
        )
        self._parameters: list[Tensor] = list(parameters.values())
        self._fresh: list[Tensor] = [donor[name] for name in parameters]

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched]:
        """Shrink, and add a fresh draw."""
        for mine, theirs in zip(self._donor.buffers(), self.target.module.buffers(), strict=True):
            mine.copy_(theirs)  # masks, which a checkpoint may have replaced
        if self.config.law == "initial":
            redraw(self._donor, self.target.generator)
        else:
            generator = self.target.generator  # lives on the CPU wherever the network does
            for fresh in self._fresh:
                drawn = torch.empty_like(fresh, device=generator.device)
                fresh.copy_(drawn.normal_(generator=generator))
            apply_masks(self._donor)
        torch._foreach_mul_(self._parameters, self.config.shrink)
        torch._foreach_add_(self._parameters, self._fresh, alpha=self.config.epsilon)
        if self.config.optimizer_state == "keep" and self.period == 1:
            return []
        touched = [whole(parameter) for parameter in self._parameters]
        apply_policy(self.config.optimizer_state, optimizer, touched)
        return touched


def build(config: Config, target: Target) -> ShrinkPerturb:
    """Attach shrink and perturb to one network."""
    return ShrinkPerturb(config, target)
