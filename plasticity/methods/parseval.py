"""Parseval regularisation: keep the rows of every hidden matrix orthogonal and of one length."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.method import Method, Target
from plasticity.parameters import matrices
from plasticity.settings import acts_on, check_networks, check_number


@dataclass(frozen=True)
class Config:
    """Settings of Parseval regularisation.

    Attributes:
        kind: Name of this file.
        strength: lambda >= 0 at 64 units; 1e-3 on Meta-World, 1e-4 for walking robots. 0 switches
            the method off without a trace.
        squared_gain: s > 0, squared length of a row; 2 belongs to orthogonal initial weights with
            gain sqrt(2) (`network.initializer=orthogonal`), where the penalty starts at 0.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "parseval"
    strength: float = 1e-3
    squared_gain: float = 2.0
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_number(f"method.{self.kind}.strength", self.strength, 0.0)
        check_number(f"method.{self.kind}.squared_gain", self.squared_gain, 0.0, open_low=True)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


def parseval_distance(weight: Tensor, squared_gain: float) -> Tensor:
    """||W W^T - s I||_F^2 less the smallest value it can have, ().

    The smaller Gram matrix is used: for more rows (m) than columns (n), W W^T has at least m - n
    zero eigenvalues, so both forms differ by s^2 (m - n), and gradients agree.

    Args:
        weight: (m, n).
        squared_gain: s.
    """
    rows, columns = weight.shape
    gram = weight @ weight.T if rows <= columns else weight.T @ weight
    # ||G - sI||^2 = ||G||^2 - 2 s tr G + s^2 d would cancel; the difference is formed instead.
    identity = torch.eye(len(gram), dtype=weight.dtype, device=weight.device)
    return (gram - squared_gain * identity).square().sum()


class Parseval(Method):
    """lambda sum_l (64 / H_l)^2 ||W_l W_l^T - s I||_F^2 over all hidden matrices.

    H_l is the number of rows. The reported penalty is above its floor: 0 is the optimum.

    Source: Chung et al. 2024, "Parseval regularization for continual reinforcement learning",
    arXiv 2412.07224; actor and critics, first layer included, heads left out.
    Deviation: no diagonal layer behind the matrices. Convolutions are left alone.
    """

    touches = frozenset({"weight"})

    def __init__(self, config: Config, target: Target) -> None:
        self.config = config
        self.active = config.strength > 0.0 and acts_on(config.networks, target.name)
        if not self.active:
            return
        self._matrices = matrices(target.module, heads=False)
        with torch.no_grad():
            start = torch.stack(self._terms()).sum().item() / config.strength
        if start > 1e-3:
            warnings.warn(
                f"the Parseval penalty of {target.name!r} starts at {config.strength * start:.3g} "
                "and first has to make the weights orthogonal; set network.initializer=orthogonal "
                f"(or method.{config.kind}.squared_gain to the square of its gain)",
                stacklevel=2,
            )

    def _terms(self) -> list[Tensor]:
        return [
            self.config.strength
            * (64.0 / matrix.weight.shape[0]) ** 2
            * parseval_distance(matrix.live_weight(), self.config.squared_gain)
            for matrix in self._matrices
        ]

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted distance from orthogonality, ()."""
        return torch.stack(self._terms()).sum() if self.active else None


def build(config: Config, target: Target) -> Parseval:
    """Attach Parseval regularisation to one network."""
    return Parseval(config, target)
