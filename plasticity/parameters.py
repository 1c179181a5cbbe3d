"""Views of a network's parameters that methods share: by role, as matrices, as copies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks.heads import Network
from networks.masks import HasMasks
from networks.units import Touched, parameter_roles

WEIGHTS_AND_BIASES = frozenset({"weight", "bias"})
FEED_FORWARD = frozenset({"weight", "bias", "norm_gain", "norm_offset"})


def trained_parameters(module: nn.Module, roles: Collection[str]) -> dict[str, nn.Parameter]:
    """Trainable parameters of some roles, by name.

    Raises:
        ValueError: There is none.
    """
    role_of = parameter_roles(module)
    found = {n: p for n, p in module.named_parameters() if p.requires_grad and role_of[n] in roles}
    if not found:
        raise ValueError(f"the network has no trainable {' or '.join(sorted(roles))}")
    return found


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters to optimize, by name.

    Raises:
        ValueError: There is none.
    """
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("the network has no trainable parameter, so there is nothing to optimize")
    return found


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    """Fixed 0/1 masks of parameters, by name of the parameter; only those that have one."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: mask
        for owner in module.modules()
        if isinstance(owner, HasMasks)
        for parameter, mask in owner.masked_parameters()
    }


@dataclass(frozen=True, eq=False)
class Matrix:
    """One linear layer of a network, or one convolution where these are asked for.

    Attributes:
        name: Its name within the network.
        layer: The layer.
        is_head: Whether it makes an output of the network.
        mask: (outputs, inputs), True where a weight exists, or None where all do.
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    is_head: bool
    mask: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The stored weight, (outputs, inputs), of a convolution (channels, inputs, *kernel)."""
        return self.layer.weight

    def live_weight(self) -> Tensor:
        """The weight under its mask; carries gradients."""
        return self.weight if self.mask is None else self.weight * self.mask

    @property
    def fan_in(self) -> int:
        """Inputs that reach one output."""
        return self.weight[0].numel() if self.mask is None else int(self.mask[0].sum())


def matrices(module: nn.Module, heads: bool, only_bounds: bool = False) -> list[Matrix]:
    """Linear layers of a network, in order of construction.

    Layers that are entirely zero are left out: they modulate others (context scales that start
    at no effect) and have no size or direction to keep.

    Args:
        module: A `Network`, or any module whose last linear layer is its head.
        heads: Include the heads.
        only_bounds: The caller needs no more of a layer than its fan-in: include convolutions, and
            layers that start at zero.

    Raises:
        ValueError: There is no such layer.
    """
    kinds = nn.Linear | nn.Conv2d if only_bounds else nn.Linear
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, kinds)]
    outputs = module.heads() if isinstance(module, Network) else [m for _, m in layers[-1:]]
    head_ids, masks = {id(layer) for layer in outputs}, masks_of(module)
    found = [
        Matrix(name, layer, id(layer) in head_ids, masks.get(f"{name}.weight"))
        for name, layer in layers
        if (heads or id(layer) not in head_ids)
        and (only_bounds or bool(layer.weight.detach().any()))
    ]
    if not found:
        raise ValueError("the network has no hidden linear layer")
    return found


def whole(parameter: Tensor) -> Touched:
    """Say that every entry of a parameter was rewritten."""
    return Touched(parameter, 0, torch.arange(len(parameter), device=parameter.device))


def learning_rates(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> list[float]:
    """Learning rate in force for each of some parameters.

    Raises:
        ValueError: The optimizer does not train one of them.
    """
    rates = {id(p): float(g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    missing = [tuple(p.shape) for p in parameters if id(p) not in rates]
    if missing:
        raise ValueError(f"the optimizer does not train parameters of the shapes {missing}")
    return [rates[id(parameter)] for parameter in parameters]


class References:
    """Tensors kept for every parameter of a network: initial values, averages, importances.

    Args:
        parameters: The parameters, by name.

    Attributes:
        parameters: The same, in order.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = list(parameters.values())
        self._names = list(parameters)
        self._positions = {id(p): i for i, p in enumerate(self.parameters)}

    def copies(self) -> list[Tensor]:
        """Detached copies of the parameters as they are now."""
        return [parameter.detach().clone() for parameter in self.parameters]

    def zeros(self) -> list[Tensor]:
        """Zeros in the shapes of the parameters."""
        return [torch.zeros_like(parameter.detach()) for parameter in self.parameters]

    def differences(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Parameters less some values; carries gradients of the parameters."""
        return [p - v for p, v in zip(self.parameters, values, strict=True)]

    def squared_distance(self, values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Sum of weighted squared differences, (); carries gradients of the parameters."""
        terms = [
            (weight * difference.square()).sum()
            for weight, difference in zip(weights, self.differences(values), strict=True)
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def copy_entries(self, values: Sequence[Tensor], touched: Sequence[Touched]) -> None:
        """Write the present value of rewritten entries into copies."""
        for entry, value in self._mine(values, touched):
            fresh = entry.parameter.index_select(entry.dim, entry.indices)
            value.index_copy_(entry.dim, entry.indices, fresh)

    @torch.no_grad()
    def zero_entries(self, values: Sequence[Tensor], touched: Sequence[Touched]) -> None:
        """Write 0 into rewritten entries."""
        for entry, value in self._mine(values, touched):
            value.index_fill_(entry.dim, entry.indices, 0.0)

    @torch.no_grad()
    def shift_entries(self, values: Sequence[Tensor], touched: Sequence[Touched]) -> None:
        """Add to copies what was added to entries that go on being learnt (absorbed means)."""
        for entry, value in self._mine(values, touched):
            if entry.shift is not None:
                value.index_add_(entry.dim, entry.indices, entry.shift.to(value.dtype))

    def _mine(self, values: Sequence[Tensor], touched: Sequence[Touched]):
        for entry in touched:
            position = self._positions.get(id(entry.parameter))
            if position is not None:
                yield entry, values[position]

    def state(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """Copies of some values, by name of the parameter."""
        return {n: v.detach().clone() for n, v in zip(self._names, values, strict=True)}

    @torch.no_grad()
    def load(self, values: Sequence[Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, in place.

        Raises:
            ValueError: The state is of other parameters.
        """
        if set(state) != set(self._names):
            differing = ", ".join(sorted(set(state) ^ set(self._names)))
            raise ValueError(
                f"the saved state of a method is of other parameters than this run has: "
                f"{differing}; the method or the network was configured differently"
            )
        for name, value in zip(self._names, values, strict=True):
            value.copy_(state[name])
