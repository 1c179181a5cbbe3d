"""Curvature of a loss from Hessian-vector products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if loss.ndim != 0 or not loss.requires_grad:
        raise ValueError(
            f"loss has shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}; give a "
            "scalar computed with gradients on"
        )
    return torch.autograd.grad(
        loss, list(parameters), create_graph=True, allow_unused=True, materialize_grads=True
    )


def _product(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """H v, one tensor per parameter."""
    dot = sum((g * v).sum() for g, v in zip(gradients, vectors, strict=True))
    if not (isinstance(dot, Tensor) and dot.requires_grad):  # a loss linear in the parameters
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(
        torch.autograd.grad(
            dot, list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum(dtype=torch.float64)) for a, b in zip(first, second, strict=True))


def hessian_trace(
    loss: Tensor,
    parameters: Sequence[Tensor],
    generator: torch.Generator,
    num_vectors: int = 8,
) -> float:
    """Hutchinson's estimate of the trace: mean of v^T H v over Rademacher vectors.

    Args:
        loss: Scalar with its graph, on a fixed batch.
        parameters: What the Hessian is taken with respect to.
        generator: A CPU stream of its own, so that measuring changes no other draw.
        num_vectors: Number of vectors.

    Raises:
        ValueError: The loss is no scalar with a graph, or num_vectors is below 1.
    """
    if num_vectors < 1:
        raise ValueError(f"num_vectors is {num_vectors}; give at least 1")
    gradients = _gradients(loss, parameters)
    total = 0.0
    for _ in range(num_vectors):
        vectors = [
            (torch.randint(0, 2, p.shape, generator=generator) * 2 - 1).to(p) for p in parameters
        ]
        total += _dot(vectors, _product(gradients, parameters, vectors))
    return total / num_vectors


def hessian_max(
    loss: Tensor,
    parameters: Sequence[Tensor],
    start: Sequence[Tensor] | torch.Generator,
    num_iterations: int = 10,
) -> float:
    """Eigenvalue of largest magnitude, by power iteration, as the final Rayleigh quotient.

    Args:
        loss: Scalar with its graph, on a fixed batch.
        parameters: What the Hessian is taken with respect to.
        start: First vector, one tensor per parameter, or a CPU generator to draw it from.
        num_iterations: Power iterations; one more product gives the quotient.

    Returns:
        The quotient, negative if the dominant curvature is; 0 for a zero Hessian.

    Raises:
        ValueError: The loss is no scalar with a graph, or the start vector is zero.
    """
    gradients = _gradients(loss, parameters)
    if isinstance(start, torch.Generator):
        vectors = [torch.randn(p.shape, generator=start).to(p) for p in parameters]
    else:
        vectors = [vector.detach() for vector in start]
    for iteration in range(num_iterations + 1):
        norm = math.sqrt(_dot(vectors, vectors))
        if norm == 0.0:
            if iteration == 0:
                raise ValueError("the start vector is zero; give any other one")
            return 0.0
        vectors = [vector / norm for vector in vectors]
        if iteration < num_iterations:
            vectors = _product(gradients, parameters, vectors)
    return _dot(vectors, _product(gradients, parameters, vectors))
