"""The unit graph of a plain `nn.Sequential`, so that methods work in anybody's training loop."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.activations import activation_name, values_per_unit
from networks.initializers import Initializer
from networks.readers import Reader, paired_readers
from networks.units import (
    Touched,
    UnitGroup,
    mean_gradient,
    reset_linear_units,
    reset_norm_units,
)

_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.RMSNorm)
NONNEGATIVE = ("relu", "sigmoid")
_POSITIONAL = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout)


@dataclass(eq=False)
class SequentialLayer:
    """Producer made of a linear or convolutional module and an optional normalisation."""

    linear: nn.Linear | nn.Conv2d
    initializer: Initializer
    norm: nn.Module | None = None

    @property
    def num_units(self) -> int:
        """Units, or channels of a convolution."""
        return self.linear.weight.shape[0]

    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]:
        """Redraw the incoming parameters of some units."""
        touched = reset_linear_units(self.linear, units, self.initializer, generator)
        return touched if self.norm is None else touched + reset_norm_units(self.norm, units)

    def incoming_magnitude(self) -> Tensor:
        """Mean absolute incoming weight of every unit, (units,)."""
        return self.linear.weight.detach().flatten(1).abs().mean(dim=1)

    def incoming_gradient(self) -> Tensor | None:
        """Mean |gradient| of the incoming weights of every unit, (units,)."""
        return mean_gradient((self.linear,))


def unit_groups_of(
    network: nn.Sequential, initializer: Initializer | str = "pytorch"
) -> tuple[UnitGroup, ...]:
    """Build the producer/reader graph of a plain sequential network.

    Understands Linear and Conv2d layers, each followed by an optional normalisation and an
    activation; pooling, Flatten and Dropout may stand between. A convolution that is flattened
    into a linear layer with P positions per channel owns P columns per channel. The last linear
    layer is the head; its outputs are not units. Inputs may be normalised or flattened first.

    Args:
        network: The network, left unchanged.
        initializer: The law its layers were initialised with; `pytorch` is the default of
            `nn.Linear` and `nn.Conv2d`.

    Returns:
        One group per hidden layer, in order.

    Raises:
        ValueError: A module is not understood, an activation is missing, or widths do not chain;
            a module or a weight is used twice, a layer stands before those that are found, or
            weights are computed from other parameters.
    """
    _refuse_repetition(network)
    law = Initializer(initializer) if isinstance(initializer, str) else initializer
    linears = [i for i, module in enumerate(network) if isinstance(module, nn.Linear | nn.Conv2d)]
    if len(linears) < 2:
        raise ValueError("the network needs at least one hidden layer and a head, both linear")
    _refuse_layers_before(network, linears[0])
    for index, module in enumerate(network):
        _refuse_computed_weights(index, module)
    groups = []
    for start, stop in itertools.pairwise(linears):
        groups.append(_group(network, start, stop, law))
    for module in list(network)[linears[-1] + 1 :]:
        if not isinstance(module, nn.Identity):
            raise ValueError(
                f"the network ends with {type(module).__name__}; it must end with its linear head"
            )
    return tuple(groups)


def _refuse_repetition(network: nn.Sequential) -> None:
    """Refuse a module at two positions: its output and its columns would be of both at once."""
    modules: dict[int, int] = {}
    owners: dict[int, int] = {}
    for index, module in enumerate(network):
        first = modules.setdefault(id(module), index)
        if first != index:
            raise ValueError(
                f"the {type(module).__name__} at position {index} is the module of position "
                f"{first} again; give every position a module of its own"
            )
        for name, parameter in module.named_parameters():
            first = owners.setdefault(id(parameter), index)
            if first != index:
                raise ValueError(
                    f"the {name} of position {index} is that of position {first} again, so that "
                    "an edit of one unit would change two layers; give every layer its own"
                )


def _refuse_layers_before(network: nn.Sequential, first: int) -> None:
    """Refuse hidden units that would be missed; a normalisation of the inputs makes none."""
    for index, module in enumerate(list(network)[:first]):
        if not isinstance(module, _NORMS) and next(module.parameters(), None) is not None:
            raise ValueError(
                f"{type(module).__name__} at position {index} has parameters and stands before "
                f"the first Linear or Conv2d, at position {first}, so that its units would be "
                "missed; list nested modules one by one, or describe the network with UnitGroup "
                "objects instead"
            )


def _refuse_computed_weights(index: int, module: nn.Module) -> None:
    """Refuse weights that are recomputed before every pass: edits of them would be lost."""
    if not isinstance(module, (nn.Linear, nn.Conv2d, *_NORMS)):
        return
    for name in ("weight", "bias"):
        if hasattr(module, name) and name not in module._parameters:
            raise ValueError(
                f"the {name} of position {index} is computed from other parameters (by a "
                "parametrization such as weight_norm), so that edits of units would be lost; "
                "remove it, or do not attach methods that edit units to this network"
            )


def _group(network: nn.Sequential, start: int, stop: int, law: Initializer) -> UnitGroup:
    producer, reader = network[start], network[stop]
    assert isinstance(producer, nn.Linear | nn.Conv2d)
    assert isinstance(reader, nn.Linear | nn.Conv2d)
    norm, name, tap = None, None, None
    for module in list(network)[start + 1 : stop]:
        if isinstance(module, _NORMS) and name is None:
            norm = module
        elif activation_name(module) is not None and name is None:
            name, tap = activation_name(module), module
        elif isinstance(module, _POSITIONAL):
            # Channels survive pooling, and features count after it: that is what readers consume.
            tap = module if tap is not None and not isinstance(module, nn.Flatten) else tap
        else:
            raise ValueError(
                f"{type(module).__name__} at position {list(network).index(module)} is not "
                "understood; describe the network with UnitGroup objects instead"
            )
    if name is None or tap is None:
        raise ValueError(f"no activation between the linear modules {start} and {stop}")
    layer = SequentialLayer(producer, law, norm)
    nonnegative = name in NONNEGATIVE  # pooling and dropout keep it so
    values = values_per_unit(name)
    readers = (_reader(layer, reader, values),)
    return UnitGroup(str(start), layer, readers, tap, name, nonnegative, values)


def _reader(layer: SequentialLayer, reader: nn.Linear | nn.Conv2d, values: int) -> Reader:
    inputs, units = reader.weight.shape[1], layer.num_units
    if values == 2:
        if not isinstance(reader, nn.Linear) or inputs != 2 * units:
            raise ValueError(
                f"{units} units with two values each can be read by a linear layer with "
                f"{2 * units} inputs only"
            )
        return paired_readers((reader,), units)[0]
    if inputs == units:
        return Reader(reader)
    if not isinstance(layer.linear, nn.Conv2d) or not isinstance(reader, nn.Linear):
        raise ValueError(f"a layer of {units} units is read by a layer with {inputs} inputs")
    if inputs % units:
        raise ValueError(f"{inputs} inputs cannot be split over {units} channels")
    columns = torch.arange(inputs, device=reader.weight.device)
    return Reader(reader, columns.reshape(units, inputs // units))
