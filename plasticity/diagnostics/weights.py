"""Sizes, distances and conditioning of weights, and sizes of updates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.diagnostics.measuring import doubled

Tensors = Tensor | Sequence[Tensor]


def _listed(tensors: Tensors) -> list[Tensor]:
    listed = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not listed or not any(tensor.numel() for tensor in listed):
        raise ValueError("no weights given; pass a tensor or a non-empty sequence of tensors")
    return [tensor.detach() for tensor in listed]


def _paired(first: Tensors, second: Tensors) -> tuple[list[Tensor], list[Tensor]]:
    left, right = _listed(first), _listed(second)
    if [tensor.shape for tensor in left] != [tensor.shape for tensor in right]:
        raise ValueError(
            f"shapes {[tuple(t.shape) for t in left]} and {[tuple(t.shape) for t in right]} "
            "differ; compare the same parameters in the same order"
        )
    return left, right


def _count(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _norm(tensors: Sequence[Tensor]) -> float:
    norms = torch._foreach_norm(list(tensors), 2)
    return math.sqrt(sum(float(norm) ** 2 for norm in norms))


def _unmasked(weight: Tensor, mask: Tensor | None) -> Tensor:
    weight = _listed(weight)[0]
    if mask is None:
        return weight.flatten()
    if mask.shape != weight.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, weight {tuple(weight.shape)}")
    kept = weight[mask.bool()]
    if kept.numel() == 0:
        raise ValueError("the mask hides every weight; there is nothing to average")
    return kept


def weight_magnitude(weight: Tensor, mask: Tensor | None = None) -> float:
    """Mean |w| of one layer: weights only, without the bias and without masked entries."""
    return float(_unmasked(weight, mask).abs().mean(dtype=torch.float64))


def weight_rms(weight: Tensor, mask: Tensor | None = None) -> float:
    """Root of the mean square of one layer's unmasked weights."""
    kept = _unmasked(weight, mask)
    return float(torch.linalg.vector_norm(kept, dtype=torch.float64)) / math.sqrt(kept.numel())


def distance_from_init(parameters: Tensors, initial: Tensors) -> float:
    """||theta - theta_0||_2 / sqrt(P) over all given parameters.

    Raises:
        ValueError: Nothing given, or the two sides differ in shape.
    """
    now, then = _paired(parameters, initial)
    return _norm(torch._foreach_sub(now, then)) / math.sqrt(_count(now))


def weight_change(before: Tensors, after: Tensors) -> float:
    """Sum of |w_before - w_after|; over 160 gradient steps in the published plots.

    Raises:
        ValueError: Nothing given, or the two sides differ in shape.
    """
    left, right = _paired(before, after)
    return sum(float(d.abs().sum(dtype=torch.float64)) for d in torch._foreach_sub(right, left))


def update_ratio(before: Tensors, after: Tensors) -> float:
    """||theta_after - theta_before|| / ||theta_before||; NaN for zero weights.

    Raises:
        ValueError: Nothing given, or the two sides differ in shape.
    """
    left, right = _paired(before, after)
    size = _norm(left)
    return _norm(torch._foreach_sub(right, left)) / size if size else math.nan


def _singular_values(weight: Tensor) -> Tensor:
    if weight.ndim < 2 or weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; give a non-empty matrix")
    return torch.linalg.svdvals(doubled(weight).flatten(1).cpu())


def sigma_max(weight: Tensor) -> float:
    """Largest singular value of a weight matrix; convolutions are flattened per channel."""
    return float(_singular_values(weight)[0])


def condition(weight: Tensor) -> float:
    """Largest over smallest singular value; infinite or huge if singular, NaN for zero."""
    values = _singular_values(weight)
    largest, smallest = float(values[0]), float(values[-1])
    if largest == 0.0:
        return math.nan
    return largest / smallest if smallest else math.inf


def orthogonality(weight: Tensor) -> float:
    """||W^T W - I||_F^2: 0 for orthonormal columns; at least in - out for a wide matrix."""
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; give a matrix")
    matrix = doubled(weight).flatten(1)
    gram = matrix.T @ matrix
    gram.diagonal().sub_(1.0)
    return float(gram.square().sum())


def grad_norm(gradients: Tensors) -> float:
    """Euclidean norm of all gradients together, before any clipping."""
    return _norm(_listed(gradients))


def clip_share(grad_norms: Tensor, max_norm: float) -> float:
    """Share of updates whose gradient norm exceeded `max_norm` and was clipped; NaN without any."""
    return float((grad_norms > max_norm).double().mean()) if grad_norms.numel() else math.nan


def update_cosine(first: Tensors, second: Tensors) -> float:
    """Cosine between two updates or two tasks' gradients; NaN if either is zero.

    Raises:
        ValueError: Nothing given, or the two sides differ in shape.
    """
    left, right = _paired(first, second)
    product = sum(float((doubled(a) * doubled(b)).sum()) for a, b in zip(left, right, strict=True))
    scale = _norm(left) * _norm(right)
    return product / scale if scale else math.nan
