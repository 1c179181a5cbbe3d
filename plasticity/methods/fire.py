"""FIRE: replace every hidden matrix by the nearest one of equal singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.interventions import Intervention, check_intervention
from plasticity.method import Target
from plasticity.optimizer_state import apply_policy
from plasticity.parameters import matrices, whole
from plasticity.recycling import check_edits
from plasticity.settings import check_number


@dataclass(frozen=True)
class Config:
    """Settings of FIRE.

    Attributes:
        kind: Name of this file.
        iterations: Newton-Schulz iterations, >= 0; 10 as published leave small singular values
            behind in wide layers. 0 switches the method off without a trace.
        project_heads: Project the output layers too.
        period: Steps of `clock` between two projections, 0 for none.
        clock: `gradient_step` of the network, or `env_step`.
        at_task_change: Project at announced task changes.
        optimizer_state: `keep`, `zero_moments` or `per_unit_step`.
        target_edit: `copy` makes the matrices of target networks equal to the projected ones,
            `drift` leaves them to averaging.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "fire"
    iterations: int = 20
    project_heads: bool = False
    period: int = 0
    clock: str = "gradient_step"
    at_task_change: bool = True
    optimizer_state: str = "keep"
    target_edit: str = "copy"
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.iterations", self.iterations, 0)
        check_edits(self)
        object.__setattr__(self, "networks", check_intervention(self))


def polar_factor(weight: Tensor, iterations: int) -> Tensor:
    """Approximate the nearest matrix whose singular values are all 1.

    Newton-Schulz, X <- 1.5 X - 0.5 X X^T X from W / ||W||_F; every non-zero singular value grows
    towards 1, small ones by a factor of 1.5 per iteration.

    Args:
        weight: (m, n).
        iterations: How many.
    """
    x = weight / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)
    for _ in range(iterations):
        gram_first = x.shape[0] <= x.shape[1]
        cubic = (x @ x.T) @ x if gram_first else x @ (x.T @ x)
        x = 1.5 * x - 0.5 * cubic
    return x


class Fire(Intervention):
    """W <- sqrt(d_out / d_in) polar(W) for every hidden matrix; biases stay.

    Source: Han et al. 2026, "FIRE: Frobenius-isometry reinitialization for balancing the
    stability-plasticity tradeoff", arXiv 2602.08040; from the formulas, not from the public code.
    Deviation: 20 iterations instead of 10. The published SAC runs also rebuilt the optimizers
    and the temperature; here the optimizer is kept unless `optimizer_state` says otherwise.
    Convolutions are left alone.
    """

    touches = frozenset({"weight"})
    renews_entries = False
    changes_weights = True

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, enabled=config.iterations > 0)
        self.config = config
        self.mirrors_targets = config.target_edit == "copy"
        if self.active:
            self.resets_optimizer = "no" if config.optimizer_state == "keep" else "entries"
            self._matrices = matrices(target.module, heads=config.project_heads)

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched]:
        """Project."""
        for matrix in self._matrices:
            rows, columns = matrix.weight.shape
            factor = polar_factor(matrix.weight.double(), self.config.iterations)
            factor *= math.sqrt(rows / columns)
            matrix.weight.copy_(factor if matrix.mask is None else factor * matrix.mask)
        touched = [whole(matrix.weight) for matrix in self._matrices]
        apply_policy(self.config.optimizer_state, optimizer, touched)
        return touched


def build(config: Config, target: Target) -> Fire:
    """Attach FIRE to one network."""
    return Fire(config, target)
