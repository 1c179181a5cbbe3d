"""Fixed connectivity: 0/1 masks drawn once, and linear layers that carry one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves upwards (Python's `round` goes to even)."""
    return math.floor(value + 0.5)


def fixed_mask(
    num_rows: int, num_columns: int, density: float, generator: torch.Generator
) -> Tensor | None:
    """Draw which inputs each row keeps, without replacement.

    Args:
        num_rows: Rows of the mask.
        num_columns: Inputs of each row.
        density: Share of inputs every row keeps, in (0, 1].
        generator: Source of randomness.

    Returns:
        (rows, columns) bool with exactly floor(density * columns + 0.5) True per row; None where
        every input is kept, so that dense layers pay nothing.

    Raises:
        ValueError: The density is outside (0, 1], or so small that rows would keep nothing.
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"a density is {density}; give the share of weights kept, in (0, 1]")
    if density == 1.0:
        return None
    kept = round_half_up(density * num_columns)
    if kept == 0:
        raise ValueError(
            f"a density of {density} keeps none of {num_columns} inputs; give at least "
            f"{0.5 / num_columns:.3g}"
        )
    ranking = torch.rand(num_rows, num_columns, generator=generator)
    mask = torch.zeros(num_rows, num_columns, dtype=torch.bool)
    return mask.scatter_(1, ranking.topk(kept, dim=1, sorted=False).indices, True)


class MaskedLinear(nn.Linear):
    """Linear layer whose masked weights are 0 in storage, in the product and in their gradient.

    Args:
        input_dim: Inputs.
        output_dim: Outputs.
        mask: (outputs, inputs) bool, True where a weight exists; None for a dense layer.

    Deviation: common implementations zero masked weights after each step and leave their
    gradients; those then count in the norm that gradient clipping uses, and in Adam's moments.
    """

    mask: Tensor | None

    def __init__(self, input_dim: int, output_dim: int, mask: Tensor | None = None) -> None:
        super().__init__(input_dim, output_dim)
        self.register_buffer("mask", mask)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return functional.linear(input, weight, self.bias)

    def masked_parameters(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters with a mask, and the mask."""
        if self.mask is not None:
            yield self.weight, self.mask


@runtime_checkable
class HasMasks(Protocol):
    """A module that owns masked parameters."""

    def masked_parameters(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@torch.no_grad()
def apply_masks(network: nn.Module) -> None:
    """Store 0 in every masked entry; call it after writing whole weight tensors."""
    for module in network.modules():
        if isinstance(module, HasMasks):
            for parameter, mask in module.masked_parameters():
                parameter.mul_(mask)


def live_parameters(network: nn.Module) -> int:
    """Number of parameters that no mask switches off."""
    stored = sum(parameter.numel() for parameter in network.parameters())
    return stored - sum(
        int((~mask).sum())
        for module in network.modules()
        if isinstance(module, HasMasks)
        for _, mask in module.masked_parameters()
    )
