"""What reads a hidden unit: weight columns, and the edits of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Touched:
    """Entries of one parameter that an edit rewrote.

    Attributes:
        parameter: The parameter, edited in place.
        dim: 0 when whole rows (incoming side) were rewritten, 1 when columns (outgoing side) were.
        indices: Rewritten positions along `dim`, int64.
        renewed: False where the old value was shifted and goes on being learnt: optimizers keep
            what they know about such entries. (Methods that never draw anew say so for all of
            theirs, `Method.renews_entries`.)
        mirrored: Whether target networks are to copy the new values.
        shift: What was added to these entries, in their shape, where they were not renewed.
    """

    parameter: Tensor
    dim: int
    indices: Tensor
    renewed: bool = True
    mirrored: bool = True
    shift: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Reader:
    """One layer that reads the units of a group, and the weight columns it reads them through.

    Attributes:
        layer: Linear or convolutional layer; its weight has the columns in dimension 1.
        columns: (units, columns per unit) int64, or None when column i belongs to unit i and
            the layer reads nothing else.
    """

    layer: nn.Linear | nn.Conv2d
    columns: Tensor | None = None

    @torch.no_grad()
    def forget_inputs(self, units: Tensor) -> list[Touched]:
        """Zero every weight that reads some units; returns the rewritten columns."""
        columns = units if self.columns is None else self.columns[units].flatten()
        self.layer.weight[:, columns] = 0.0
        return [Touched(self.layer.weight, 1, columns)]

    def weight_sum(self) -> Tensor:
        """Sum of absolute weights that read each unit, (units,)."""
        # Runs at every gradient step. On CPU abs().sum(0) is several times faster than a vector
        # norm along the rows, and detach() than a no_grad block.
        per_column = self._column_sums()
        return per_column if self.columns is None else per_column[self.columns].sum(-1)

    def weight_sums(self) -> Tensor:
        """The same for every column of a unit apart, (units, columns per unit)."""
        per_column = self._column_sums()
        return per_column[:, None] if self.columns is None else per_column[self.columns]

    def _column_sums(self) -> Tensor:
        weight = self.layer.weight.detach()
        if weight.dim() > 2:
            weight = weight.transpose(1, -1).flatten(0, -2)  # positions join the rows
        return weight.abs().sum(0)

    def num_weights(self, num_units: int) -> int:
        """How many weights read one unit."""
        return self.layer.weight[:, 0].numel() * (
            1 if self.columns is None else self.columns.numel() // num_units
        )

    @torch.no_grad()
    def absorb_mean(self, units: Tensor, means: Tensor) -> list[Touched]:
        """Add the mean contribution of some units to this layer's bias, before they are zeroed.

        Args:
            units: Indices of the units, int64 (k,).
            means: Their mean activations, (k,), or (k, columns per unit) for units that give
                every column a value of its own.

        Returns:
            The bias. Target networks are to add the same and not to copy it: theirs lags behind,
            and copying would move it by more than the means.

        Raises:
            ValueError: The layer has no bias to move the mean into.
        """
        if self.layer.bias is None:
            raise ValueError(
                "mean_transfer needs readers with a bias; a reading layer was built with bias=False"
            )
        columns = units[:, None] if self.columns is None else self.columns[units]
        weight = self.layer.weight[:, columns]  # (outputs, k, columns per unit, *kernel)
        means = means.to(weight.dtype)
        bias = self.layer.bias
        if means.dim() == 2:
            shift = torch.einsum("okc,kc->o", weight, means)
        else:
            shift = weight.flatten(2).sum(-1) @ means
        bias.add_(shift)
        every = torch.arange(len(bias), device=bias.device)
        return [Touched(bias, 0, every, renewed=False, mirrored=False, shift=shift)]


def paired_readers(layers: Iterable[nn.Linear], num_units: int) -> tuple[Reader, ...]:
    """Readers of units with two values each: columns i and i + units belong to unit i."""
    return tuple(
        Reader(
            layer, torch.arange(2 * num_units, device=layer.weight.device).view(2, num_units).t()
        )
        for layer in layers
    )
