"""Spectral regularisation: keep the largest singular value of every layer near 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import parameter_roles
from plasticity.method import Method, Target
from plasticity.parameters import matrices
from plasticity.settings import acts_on, check_networks, check_number

START_ITERATIONS = 10  # so that the first estimates are not those of random vectors


@dataclass(frozen=True)
class Config:
    """Settings of spectral regularisation.

    Attributes:
        kind: Name of this file.
        strength: lambda >= 0; useful 1e-5 to 1e-2. 0 switches the method off without a trace.
        exponent: k >= 1 of the singular values.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "spectral"
    strength: float = 1e-4
    exponent: int = 2
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_number(f"method.{self.kind}.strength", self.strength, 0.0)
        check_number(f"method.{self.kind}.exponent", self.exponent, 1)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


class Spectral(Method):
    """lambda [sum_l (sigma_max(W_l)^k - 1)^2 + sum ||b||^(2k) + sum (max |g|^k - 1)^2].

    The sums run over all matrices, heads included; over biases and normalisation offsets b, which
    are drawn to 0; and over normalisation gains g, whose largest singular value as a diagonal
    matrix is max |g|. sigma_max is estimated by one power iteration per call on vectors u, v that
    are kept; its gradient flows through u^T W v alone.

    Source: Lewandowski et al. 2024, "Learning continually by spectral regularization",
    arXiv 2406.06811.
    Deviation: the terms of biases and gains are our reading of "norm of the additive and
    multiplicative parameters". Convolutions, and heads that start at zero, are left alone.
    """

    touches = frozenset({"weight", "bias", "norm_gain", "norm_offset"})

    def __init__(self, config: Config, target: Target) -> None:
        self.config = config
        self.active = config.strength > 0.0 and acts_on(config.networks, target.name)
        if not self.active:
            return
        module, roles = target.module, parameter_roles(target.module)
        self._matrices = matrices(module, heads=True)
        named = [(roles[name], p) for name, p in module.named_parameters() if p.requires_grad]
        self._additive = [p for role, p in named if role in ("bias", "norm_offset")]
        self._gains = [p for role, p in named if role == "norm_gain"]
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        for matrix in self._matrices:
            drawn = torch.randn(matrix.weight.shape[0], generator=target.generator)
            self._left[matrix.name] = _unit(drawn.to(matrix.weight))
            for _ in range(START_ITERATIONS):
                self._iterate(matrix.name, matrix.live_weight())

    @torch.no_grad()
    def _iterate(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        right = _unit(weight.T @ self._left[name])
        left = _unit(weight @ right)
        self._left[name], self._right[name] = left, right
        return left, right

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted distance of the largest singular values from 1, ()."""
        if not self.active:
            return None
        exponent, terms = self.config.exponent, []
        for matrix in self._matrices:
            weight = matrix.live_weight()
            left, right = self._iterate(matrix.name, weight.detach())
            terms.append(((left @ weight @ right) ** exponent - 1.0).square())
        terms += [parameter.square().sum() ** exponent for parameter in self._additive]
        terms += [(gain.abs().max() ** exponent - 1.0).square() for gain in self._gains]
        return self.config.strength * torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """Power-iteration vectors, cloned; {} when switched off."""
        if not self.active:
            return {}
        return {
            "left": {name: value.clone() for name, value in self._left.items()},
            "right": {name: value.clone() for name, value in self._right.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.active:
            for mine, saved in ((self._left, state["left"]), (self._right, state["right"])):
                for name, value in mine.items():
                    mine[name] = saved[name].to(value, copy=True)


def _unit(vector: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vector, dim=0)


def build(config: Config, target: Target) -> Spectral:
    """Attach spectral regularisation to one network."""
    return Spectral(config, target)
