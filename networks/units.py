"""Hidden units, what produces them and everything that reads them.

Methods that recycle units need to know, for every hidden layer, which parameters produce a unit
and which parameters read it. Layers own the edit (what a fresh unit looks like); methods own the
decision (which units to renew). `UnitGroup` is the graph that connects the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from networks.initializers import Initializer


@dataclass(frozen=True, eq=False)
class Touched:
    """Entries of one parameter that an edit rewrote.

    Attributes:
        parameter: The parameter, edited in place.
        dim: 0 when whole rows (incoming side) were rewritten, 1 when columns (outgoing side) were.
        indices: Rewritten positions along `dim`, int64.
    """

    parameter: Tensor
    dim: int
    indices: Tensor


class Producer(Protocol):
    """Whatever makes the units of one hidden layer."""

    @property
    def num_units(self) -> int: ...

    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]: ...

    def incoming_magnitude(self) -> Tensor: ...


class HiddenLayer(nn.Module):
    """A layer whose outputs are hidden units that methods may renew.

    Subclasses implement `forward`, `reset_units` and `incoming_magnitude`, and set `num_units`
    and `activation_name`. `forward` returns the value that readers consume: after
    normalisation, gating, activation and winner selection.
    """

    num_units: int
    activation_name: str

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) and an optional context to (B, units)."""
        raise NotImplementedError

    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]:
        """Give some units fresh incoming parameters from the layer's own initialiser.

        Args:
            units: Indices of the units, int64 (k,).
            generator: Source of the fresh draws.

        Returns:
            The rewritten entries, for the optimizer-state policy.
        """
        raise NotImplementedError

    def incoming_magnitude(self) -> Tensor:
        """Mean absolute incoming weight of every unit, (units,)."""
        raise NotImplementedError


@torch.no_grad()
def reset_linear_units(
    layer: nn.Linear | nn.Conv2d,
    units: Tensor,
    initializer: Initializer,
    generator: torch.Generator,
    mask: Tensor | None = None,
) -> list[Touched]:
    """Redraw weight rows and biases of some units of a linear or convolutional layer.

    Args:
        layer: Layer whose rows are the units.
        units: Indices of the units, int64 (k,).
        initializer: The law the layer was built with.
        generator: Source of randomness.
        mask: Fixed 0/1 mask of the weights, or None. Masked weights stay exactly 0 and the
            fan-in counts unmasked inputs only.

    Returns:
        The rewritten rows of weight and bias.
    """
    fan_in = None if mask is None else int(mask[0].sum())
    rows = initializer.weight_rows(layer.weight, len(units), generator, fan_in)
    layer.weight[units] = rows if mask is None else rows * mask[units]
    touched = [Touched(layer.weight, 0, units)]
    if layer.bias is not None:
        layer.bias[units] = initializer.bias_rows(layer.weight, len(units), generator, fan_in)
        touched.append(Touched(layer.bias, 0, units))
    return touched


@torch.no_grad()
def reset_norm_units(norm: nn.Module, units: Tensor) -> list[Touched]:
    """Set gain 1, offset 0 and running statistics (0, 1) for some units of a normalisation."""
    touched: list[Touched] = []
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        parameter = getattr(norm, name, None)
        if isinstance(parameter, nn.Parameter):
            parameter[units] = value
            touched.append(Touched(parameter, 0, units))
    for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
        buffer = getattr(norm, name, None)
        if buffer is not None:
            buffer[units] = value
    return touched


@torch.no_grad()
def initialize_linear(
    layer: nn.Linear | nn.Conv2d, initializer: Initializer, generator: torch.Generator
) -> None:
    """Fill a whole layer from its law."""
    layer.weight.copy_(initializer.weight_rows(layer.weight, layer.weight.shape[0], generator))
    if layer.bias is not None:
        layer.bias.copy_(initializer.bias_rows(layer.weight, layer.weight.shape[0], generator))


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
        weight = self.layer.weight.detach()
        if weight.dim() > 2:
            weight = weight.transpose(1, -1).flatten(0, -2)  # positions join the rows
        per_column = weight.abs().sum(0)
        return per_column if self.columns is None else per_column[self.columns].sum(-1)

    def num_weights(self, num_units: int) -> int:
        """How many weights read one unit."""
        return self.layer.weight[:, 0].numel() * (
            1 if self.columns is None else self.columns.numel() // num_units
        )

    @torch.no_grad()
    def absorb_mean(self, units: Tensor, means: Tensor) -> None:
        """Add the mean contribution of some units to this layer's bias, before they are zeroed.

        Args:
            units: Indices of the units, int64 (k,).
            means: Their mean activations, (k,).

        Raises:
            ValueError: The layer has no bias to move the mean into.
        """
        if self.layer.bias is None:
            raise ValueError(
                "mean_transfer needs readers with a bias; a reading layer was built with bias=False"
            )
        columns = units[:, None] if self.columns is None else self.columns[units]
        weight = self.layer.weight[:, columns]  # (outputs, k, columns per unit, *kernel)
        summed = weight.flatten(2).sum(-1)
        self.layer.bias.add_(summed @ means.to(summed.dtype))


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The units of one hidden layer and everything that reads them, heads included.

    Attributes:
        name: Unique within the network, for example `layers.0`.
        layer: Producer of the units.
        readers: All layers that read the units. A unit's outgoing weights are its columns in
            all of them together.
        tap: Module whose output is the value that readers consume, (B, units) or
            (B, channels, height, width).
        activation: Name of the nonlinearity, which decides how dormancy is measured.
        nonnegative: True when the tap never gives a negative value, so that |h| is h.

    Raises:
        ValueError: No reader was given. A hidden layer that nothing reads cannot be recycled, and
            usually means that the head was forgotten.
    """

    name: str
    layer: Producer
    readers: tuple[Reader, ...]
    tap: nn.Module
    activation: str = "relu"
    nonnegative: bool = False
    _num_outgoing: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        if not self.readers:
            raise ValueError(f"unit group {self.name!r} has no readers; was the head left out?")
        total = sum(reader.num_weights(self.num_units) for reader in self.readers)
        object.__setattr__(self, "_num_outgoing", total)

    @property
    def num_units(self) -> int:
        """Number of units (channels for a convolution)."""
        return self.layer.num_units

    def outgoing_sum(self) -> Tensor:
        """Sum of absolute outgoing weights of every unit over all readers, (units,)."""
        total = self.readers[0].weight_sum()
        for reader in self.readers[1:]:
            total = total + reader.weight_sum()
        return total

    @property
    def num_outgoing(self) -> int:
        """Number of outgoing weights of one unit over all readers."""
        return self._num_outgoing

    def forget_units(self, units: Tensor) -> list[Touched]:
        """Zero the outgoing weights of some units in every reader."""
        return [touched for reader in self.readers for touched in reader.forget_inputs(units)]


def by_unit(activation: Tensor) -> Tensor:
    """View activations as (samples, units); positions of a convolution count as samples."""
    if activation.dim() == 2:
        return activation
    return activation.movedim(1, -1).reshape(-1, activation.shape[1])


class Recording:
    """Keeps the activations of unit groups from forward passes inside a `with` block.

    Hooks are registered once, at construction, and do nothing outside the block, so acting,
    evaluation and target passes never reach a method. The tensors are detached.
    """

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        self.activations: dict[str, Tensor] = {}
        self._enabled = False
        self._handles = [
            group.tap.register_forward_hook(self._hook(group.name)) for group in groups
        ]

    def _hook(self, name: str):
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            if self._enabled:
                self.activations[name] = output.detach()

        return keep

    def __enter__(self) -> dict[str, Tensor]:
        self.activations = {}
        self._enabled = True
        return self.activations

    def __exit__(self, *exception: object) -> None:
        self._enabled = False

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def parameter_roles(module: nn.Module) -> dict[str, str]:
    """Name the role of every parameter of a network.

    Returns:
        Parameter name -> `weight`, `bias`, `norm_gain`, `norm_offset`, `segment`, `log_std` or
        `temperature`. Roles decide what weight decay and edits may touch.

    Raises:
        ValueError: A parameter has no recognisable role.
    """
    roles: dict[str, str] = {}
    for path, owner in module.named_modules():
        for name, _ in owner.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            roles[full] = _role(owner, name, full)
    return roles


_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
_NAMED_ROLES = {
    "log_std": "log_std",
    "log_temperature": "temperature",
    "segments": "segment",
    "weight": "weight",
    "bias": "bias",
}


def _role(owner: nn.Module, name: str, full: str) -> str:
    if isinstance(owner, _NORMS):
        return {"weight": "norm_gain", "bias": "norm_offset"}[name]
    if name not in _NAMED_ROLES:
        raise ValueError(
            f"parameter {full!r} has no known role; name it one of {', '.join(_NAMED_ROLES)}"
        )
    return _NAMED_ROLES[name]
