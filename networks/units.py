"""Hidden units, what produces them and everything that reads them.

Methods that recycle units need to know, for every hidden layer, which parameters produce a unit
and which parameters read it. Layers own the edit (what a fresh unit looks like); methods own the
decision (which units to renew). `UnitGroup` is the graph that connects the two.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from networks.initializers import Initializer
from networks.readers import Reader, Touched


class Producer(Protocol):
    """Whatever makes the units of one hidden layer."""

    @property
    def num_units(self) -> int: ...

    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]: ...

    def incoming_magnitude(self) -> Tensor: ...

    def incoming_gradient(self) -> Tensor | None: ...


class ShowsContexts(Protocol):
    """Hidden part of a network that is shown one of a finite number of contexts."""

    def context_indices(self, context: Tensor | None) -> Tensor: ...

    def register_forward_pre_hook(self, hook: Any) -> Any: ...


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

    def incoming_gradient(self) -> Tensor | None:
        """Mean |gradient| of the incoming weights of every unit, (units,); see `mean_gradient`.

        Counts every linear map of the layer whose rows are its units.
        """
        linears = [m for m in self.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return mean_gradient([m for m in linears if m.weight.shape[0] == self.num_units])


@torch.no_grad()
def mean_gradient(linears: Sequence[nn.Linear | nn.Conv2d]) -> Tensor | None:
    """Mean |gradient| of the weights in every row, masked weights aside.

    Args:
        linears: Layers with equally many rows.

    Returns:
        (rows,), or None when no layer has a gradient: before a backward pass, or frozen.
    """
    total, count = None, None
    for linear in linears:
        gradient = linear.weight.grad
        if gradient is None:
            continue
        mask = getattr(linear, "mask", None)
        rows = gradient.abs().flatten(1).sum(1)
        entries = gradient[0].numel() if mask is None else mask.flatten(1).sum(1)
        total = rows if total is None else total + rows
        count = entries if count is None else count + entries
    return None if total is None or count is None else total / count


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
class UnitGroup:
    """The units of one hidden layer and everything that reads them, heads included.

    Attributes:
        name: Unique within the network, for example `layers.0`.
        layer: Producer of the units.
        readers: All layers that read the units. A unit's outgoing weights are its columns in
            all of them together.
        tap: Module whose output is the value that readers consume, (B, units) or
            (B, channels, height, width); (B, values x units) where units have several values.
        activation: Name of the nonlinearity, which decides how dormancy is measured.
        nonnegative: True when the tap never gives a negative value, so that |h| is h.
        values_per_unit: Values the tap gives per unit: 2 for concatenated ReLU, where unit i owns
            the values i and i + units. Every reader then needs `columns` with one column per
            value (`paired_readers`).

    Raises:
        ValueError: No reader was given. A hidden layer that nothing reads cannot be recycled, and
            usually means that the head was forgotten. Or the readers do not have one column per
            value.
    """

    name: str
    layer: Producer
    readers: tuple[Reader, ...]
    tap: nn.Module
    activation: str = "relu"
    nonnegative: bool = False
    values_per_unit: int = 1
    _num_outgoing: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        if not self.readers:
            raise ValueError(f"unit group {self.name!r} has no readers; was the head left out?")
        if self.values_per_unit > 1 and any(
            reader.columns is None
            or tuple(reader.columns.shape) != (self.num_units, self.values_per_unit)
            for reader in self.readers
        ):
            raise ValueError(
                f"unit group {self.name!r} gives {self.values_per_unit} values per unit; every "
                f"reader needs columns of shape ({self.num_units}, {self.values_per_unit})"
            )
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

    def outgoing_sums(self) -> Tensor:
        """The same for every value of a unit apart, (units, values per unit)."""
        total = self.readers[0].weight_sums()
        for reader in self.readers[1:]:
            total = total + reader.weight_sums()
        return total

    def unit_values(self, tapped: Tensor) -> Tensor:
        """Arrange what the tap gave by unit.

        Args:
            tapped: (B, units) or (B, channels, height, width), (B, values x units) where units
                have several values.

        Returns:
            The same, with the several values of a unit in dimension 2: (B, units, values).

        Raises:
            ValueError: Another number of values.
        """
        if tapped.shape[1] != self.num_units * self.values_per_unit:
            raise ValueError(
                f"unit group {self.name!r} has {self.num_units} units with {self.values_per_unit} "
                f"value(s) each, but its tap gave values of shape {tuple(tapped.shape)}; "
                "dimension 1 must hold the units"
            )
        if self.values_per_unit == 1:
            return tapped
        return tapped.view(len(tapped), self.values_per_unit, self.num_units).transpose(1, 2)

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

    Args:
        groups: Whose activations.
        gradients: Keep the derivative of the loss by these activations too.
        torso: Keep which context it was shown, too (`Torso.context_indices`), or None.

    Attributes:
        activations: Unit-group name -> what the tap gave in the last block.
        gradients: The same shapes, filled by the backward pass; empty unless asked for.
        contexts: (B,) int64 of the last pass; None unless asked for.
    """

    def __init__(
        self,
        groups: Sequence[UnitGroup],
        gradients: bool = False,
        torso: ShowsContexts | None = None,
    ) -> None:
        self.activations: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.contexts: Tensor | None = None
        self._keeps_gradients = gradients
        self._enabled = False
        self._handles = [
            group.tap.register_forward_hook(self._hook(group.name)) for group in groups
        ]
        if torso is not None:
            self._handles.append(torso.register_forward_pre_hook(self._keep_contexts))

    def _hook(self, name: str):
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            if not self._enabled:
                return
            self.activations[name] = output.detach()
            if self._keeps_gradients and output.requires_grad:
                output.register_hook(functools.partial(self.gradients.__setitem__, name))

        return keep

    def _keep_contexts(self, torso: nn.Module, inputs: tuple[Tensor | None, ...]) -> None:
        if self._enabled:
            context = inputs[1] if len(inputs) > 1 else None
            self.contexts = cast(ShowsContexts, torso).context_indices(context)

    def __enter__(self) -> dict[str, Tensor]:
        self.activations, self.gradients, self.contexts = {}, {}, None
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


def context_parameters(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of which every context has entries of its own.

    These are dendritic segments and whatever modules declare as `of_contexts`, the names of such
    parameters relative to the module. Entries of contexts that are not in a minibatch have no
    gradient there, so that whatever pulls at them besides the loss erases what they know.
    """
    found = {name for name, role in parameter_roles(module).items() if role == "segment"}
    for path, owner in module.named_modules():
        names: Sequence[str] = getattr(owner, "of_contexts", ())
        found.update(f"{path}.{name}" if path else name for name in names)
    return frozenset(found)


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
