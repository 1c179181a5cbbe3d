"""What the gradients of single samples say: interference, noise and the tangent kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.diagnostics.measuring import check_samples, doubled
from plasticity.diagnostics.ranks import EPSILON, ranks_of_spectrum


def per_sample_gradients(
    values: Tensor, parameters: Sequence[Tensor], keep_graph: bool = False
) -> Tensor:
    """Gradient of each entry of a vector with respect to all parameters.

    One backward pass per entry: slower than vectorised transforms, but it works for every
    module, and 64 samples suffice for the metrics below.

    Args:
        values: (n,) per-sample losses or outputs that still carry their graph.
        parameters: P numbers in total; unused ones get zeros.
        keep_graph: Keep the graph for another use afterwards.

    Returns:
        (n, P), detached.

    Raises:
        ValueError: `values` is not a non-empty vector with a graph.
    """
    if values.ndim != 1 or values.numel() == 0 or not values.requires_grad:
        raise ValueError(
            f"values has shape {tuple(values.shape)}, requires_grad={values.requires_grad}; give "
            "one scalar per sample, computed with gradients on"
        )
    rows = []
    for index, value in enumerate(values):
        last = index == len(values) - 1
        gradients = torch.autograd.grad(
            value,
            list(parameters),
            retain_graph=keep_graph or not last,
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


class GradCovariance(NamedTuple):
    """Cosines between per-sample gradients.

    Attributes:
        mean_cosine: Mean off-diagonal entry; high and positive means samples learn as one.
        rank: Rank of the cosine matrix.
    """

    mean_cosine: float
    rank: float


def grad_covariance(gradients: Tensor) -> GradCovariance:
    """Mean off-diagonal cosine and rank of per-sample gradients.

    Args:
        gradients: (n, P); 64 samples by default elsewhere.

    Returns:
        Both NaN when fewer than two samples have a gradient.

    Source: Lyle et al. (2023), arXiv 2303.01486, gradient covariance.
    Deviation: samples without any gradient have no direction and are left out. An eigenvalue
    counts towards the rank above n * machine epsilon of the input type times the largest.
    """
    rows = doubled(check_samples(gradients, "gradients"))
    norms = torch.linalg.vector_norm(rows, dim=1)
    directions = rows[norms > 0] / norms[norms > 0, None]
    count = directions.shape[0]
    if count < 2:
        return GradCovariance(math.nan, math.nan)
    cosines = directions @ directions.T
    off_diagonal = (float(cosines.sum()) - float(cosines.trace())) / (count * (count - 1))
    eigenvalues = torch.linalg.eigvalsh(cosines)
    tolerance = count * torch.finfo(gradients.dtype).eps * float(eigenvalues[-1])
    return GradCovariance(off_diagonal, float((eigenvalues > tolerance).sum()))


def grad_noise(gradients: Tensor) -> float:
    """mean_b ||g_b - gbar||^2 / ||gbar||^2 of per-sample gradients (n, P); NaN if gbar is 0."""
    rows = doubled(check_samples(gradients, "gradients"))
    mean = rows.mean(0)
    signal = float(mean.square().sum())
    return float((rows - mean).square().sum(1).mean()) / signal if signal else math.nan


def random_direction(output_dim: int, generator: torch.Generator) -> Tensor:
    """A random unit vector in output space, drawn once and kept for a whole run."""
    vector = torch.randn(output_dim, generator=generator)
    return vector / vector.norm()


def entk(jacobian: Tensor) -> Tensor:
    """Empirical neural tangent kernel K = J J^T in float64, (n, n).

    Args:
        jacobian: (n, P) gradients of the outputs of n fixed states along one fixed direction,
            from `per_sample_gradients`.
    """
    wide = doubled(check_samples(jacobian, "jacobian"))
    return wide @ wide.T


class KernelRank(NamedTuple):
    """Ranks of a kernel, from its eigenvalues; 0 for the zero kernel."""

    effective_rank: float
    stable_rank: float


def entk_rank(kernel: Tensor) -> KernelRank:
    """Effective and stable rank of the eigenvalues of a symmetric kernel (n, n).

    The cheap proxy is the same function of Phi Phi^T, the features' kernel.
    """
    kernel = doubled(check_samples(kernel, "kernel"))
    eigenvalues = torch.linalg.eigvalsh(kernel).flip(0).clamp_min(0.0)
    noise = eigenvalues[0] * kernel.shape[0] * EPSILON
    found = ranks_of_spectrum(torch.where(eigenvalues < noise, 0.0, eigenvalues), 1)
    return KernelRank(found.effective_rank, found.stable_rank)
