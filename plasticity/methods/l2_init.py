"""L2-Init: pull every weight and bias towards its own initial value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.method import Method, Target
from plasticity.parameters import WEIGHTS_AND_BIASES, References, learning_rates, trained_parameters
from plasticity.settings import acts_on, check_choice, check_networks, check_number


@dataclass(frozen=True)
class Config:
    """Settings of L2-Init.

    Attributes:
        kind: Name of this file.
        strength: lambda >= 0; useful 1e-6 to 1e-1. 0 switches the method off without a trace.
        reduction: `sum` over all entries, or `mean` over each tensor's entries (then 1e-2 for
            walking robots and Meta-World).
        decoupled: Pull the weights directly after the optimizer's step instead of through the
            gradient, as AdamW does for decay towards 0.
        theta0: Initial value of entries that another method redraws: `renewed` takes the new
            ones, `original` keeps pulling back to the first.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "l2_init"
    strength: float = 1e-3
    reduction: str = "sum"
    decoupled: bool = False
    theta0: str = "renewed"
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_number(f"method.{self.kind}.strength", self.strength, 0.0)
        check_choice(f"method.{self.kind}.reduction", self.reduction, ("sum", "mean"))
        check_choice(f"method.{self.kind}.theta0", self.theta0, ("renewed", "original"))
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


class L2Init(Method):
    """lambda sum (theta - theta_0)^2 over weights and biases.

    Decoupled, with eta the learning rate: theta <- theta - 2 eta lambda (theta - theta_0).

    Source: Kumar, Marklund and Van Roy 2023, "Maintaining plasticity in continual learning via
    regenerative regularization", arXiv 2308.11958, equation 1: the norm is squared. Public
    re-implementations use the unsquared norm, whose pull is equally strong at any distance.
    """

    def __init__(self, config: Config, target: Target) -> None:
        self.config = config
        self.changes_weights = config.decoupled  # a penalty edits nothing
        self.active = config.strength > 0.0 and acts_on(config.networks, target.name)
        if not self.active:
            return
        self._references = References(trained_parameters(target.module, WEIGHTS_AND_BIASES))
        self._initial = self._references.copies()
        sizes = [value.numel() for value in self._initial]
        mean = config.reduction == "mean"
        self._strengths = [config.strength / (size if mean else 1) for size in sizes]

    @property
    def adds_penalty(self) -> bool:
        """Only the coupled form needs a loss."""
        return self.active and not self.config.decoupled

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted squared distance to the initial values, ()."""
        if not self.adds_penalty:
            return None
        terms = [
            difference.square().sum() * strength
            for difference, strength in zip(
                self._references.differences(self._initial), self._strengths, strict=True
            )
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Pull directly, in the decoupled form."""
        if not self.active or not self.config.decoupled:
            return
        parameters = self._references.parameters
        rates = learning_rates(optimizer, parameters)
        for parameter, initial, rate, strength in zip(
            parameters, self._initial, rates, self._strengths, strict=True
        ):
            parameter.lerp_(initial, min(1.0, 2.0 * rate * strength))

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Renewed entries are pulled towards their new initial values from now on.

        What a bias takes over from a renewed unit moves its initial value along.
        """
        if self.config.theta0 != "renewed":
            return
        if renewed:
            self._references.copy_entries(self._initial, touched)
        else:
            self._references.shift_entries(self._initial, touched)

    def notice_start(self, touched: Sequence[Touched]) -> None:
        """Loaded weights are the first ones, whatever `theta0` says of later edits."""
        self._references.copy_entries(self._initial, touched)

    def state_dict(self) -> dict[str, Any]:
        """Initial values, cloned; {} when switched off."""
        return {"initial": self._references.state(self._initial)} if self.active else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.active:
            self._references.load(self._initial, state["initial"])


def build(config: Config, target: Target) -> L2Init:
    """Attach L2-Init to one network."""
    return L2Init(config, target)
