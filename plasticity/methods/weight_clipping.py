"""Weight clipping: no weight leaves a multiple of its initial range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.method import Method, Target
from plasticity.parameters import matrices
from plasticity.settings import acts_on, check_networks, check_number


@dataclass(frozen=True)
class Config:
    """Settings of weight clipping.

    Attributes:
        kind: Name of this file.
        kappa: Bound in units of 1 / sqrt(fan_in), > 0; useful 1 to 5. null (or infinity)
            switches the method off without a trace.
        clip_heads: Clip the last layers too.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "weight_clipping"
    kappa: float | None = 3.0
    clip_heads: bool = True
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        if self.kappa is not None:
            check_number(f"method.{self.kind}.kappa", self.kappa, 0.0, open_low=True)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


class WeightClipping(Method):
    """theta <- clip(theta, -kappa / sqrt(fan_in), kappa / sqrt(fan_in)) after every step.

    A bias has the bound of its layer's weights. The fan-in of a convolution counts the positions
    of its kernel. Log standard deviations and normalisation entries are never clipped.

    Source: Elsayed et al. 2024, "Weight clipping for deep continual and reinforcement learning",
    arXiv 2407.01704, Algorithm 1.
    Deviation: the public code takes a log standard deviation of shape (1, actions) for a matrix
    and finds the last layer by position; here roles decide.
    """

    renews_entries = False
    changes_weights = True

    def __init__(self, config: Config, target: Target) -> None:
        kappa = math.inf if config.kappa is None else config.kappa
        self.active = math.isfinite(kappa) and acts_on(config.networks, target.name)
        if not self.active:
            return
        bounded = [
            (parameter, kappa / math.sqrt(matrix.fan_in))
            for matrix in matrices(target.module, heads=config.clip_heads, only_bounds=True)
            for parameter in (matrix.layer.weight, matrix.layer.bias)
            if parameter is not None
        ]
        self._parameters: list[Tensor] = [parameter for parameter, _ in bounded]
        self._bounds = [bound for _, bound in bounded]
        self._lows = [-bound for bound in self._bounds]

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip."""
        if self.active:
            torch._foreach_clamp_max_(self._parameters, self._bounds)
            torch._foreach_clamp_min_(self._parameters, self._lows)


def build(config: Config, target: Target) -> WeightClipping:
    """Attach weight clipping to one network."""
    return WeightClipping(config, target)
