"""Which hidden units still learn, judged from the gradient of their incoming weights.

Smooth, leaky and normalised units are never silent, so their activity says nothing; whether
their weights still receive gradient does. Pass the training gradient, or |gradient| averaged
over the last ten updates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.diagnostics.measuring import check_samples, doubled

VANISHED = 1e-12


def _mean_magnitudes(weight_gradient: Tensor) -> Tensor:
    return doubled(check_samples(weight_gradient.flatten(1), "weight_gradient")).abs().mean(1)


def grama_scores(weight_gradient: Tensor) -> Tensor:
    """Mean |dL/dw_in| of each unit over the layer's mean, (H,).

    Args:
        weight_gradient: (H, fan_in ...); rows are units, convolutions are flattened.

    Raises:
        ValueError: The layer mean is below 1e-12, so that every ratio would be noise.

    Source: Liu et al. (2025), gradient magnitude neural activity (GraMa).
    """
    magnitudes = _mean_magnitudes(weight_gradient)
    if float(magnitudes.mean()) < VANISHED:
        raise ValueError(f"the mean gradient of the layer is below {VANISHED:g}; no unit learns")
    return magnitudes / magnitudes.mean()


def grama_dormant(weight_gradient: Tensor, tau: float = 0.01) -> float:
    """Share of units with a GraMa score of at most tau; NaN if the whole layer has no gradient."""
    if float(_mean_magnitudes(weight_gradient).mean()) < VANISHED:
        return math.nan
    return float((grama_scores(weight_gradient) <= tau).double().mean())


class Rua(NamedTuple):
    """Shares of units at the two ends of the relative update activity."""

    stagnant: float
    volatile: float


def rua(
    weight_gradient: Tensor, weight: Tensor, *, stagnant: float = 0.25, volatile: float = 3.0
) -> Rua:
    """Shares of units that learn far slower or far faster than their layer.

    r_i = (||g_i|| / ||w_i||) / layer mean; stagnant below 0.25, volatile above 3.

    Args:
        weight_gradient: (H, fan_in ...).
        weight: The same shape.
        stagnant: Ratio below which a unit is stagnant.
        volatile: Ratio above which a unit is volatile.

    Returns:
        The two shares; NaN when no ratio is defined (no gradient, or all weights zero).

    Raises:
        ValueError: Shapes differ or values are not finite.

    Deviation: units whose incoming weights are all zero have no ratio and are left out.
    """
    if weight_gradient.shape != weight.shape:
        raise ValueError(
            f"weight_gradient has shape {tuple(weight_gradient.shape)}, weight "
            f"{tuple(weight.shape)}; they must be equal"
        )
    gradient = doubled(check_samples(weight_gradient.flatten(1), "weight_gradient"))
    incoming = doubled(check_samples(weight.flatten(1), "weight"))
    sizes = torch.linalg.vector_norm(incoming, dim=1)
    ratios = (torch.linalg.vector_norm(gradient, dim=1) / sizes)[sizes > 0]
    if ratios.numel() == 0 or float(ratios.mean()) == 0.0:
        return Rua(math.nan, math.nan)
    relative = ratios / ratios.mean()
    return Rua(
        float((relative < stagnant).double().mean()), float((relative > volatile).double().mean())
    )
