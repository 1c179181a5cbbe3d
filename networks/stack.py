"""Torsos that take a context: how it enters, and a plain stack of hidden layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.activations import ACTIVATIONS, activation
from networks.gated_layer import K_WINNERS, GatedLayer
from networks.masks import live_parameters
from networks.torso import (
    ContextSpec,
    Torso,
    index_of_one_hot,
    linear_readers,
    refuse_gate_context,
)
from networks.units import UnitGroup
from networks.winners import num_winners

FEW_WINNERS = 8


def check_hidden_sizes(sizes: Sequence[int]) -> None:
    """Raise ValueError unless there is at least one layer and every layer has units."""
    if not sizes or any(not 1 <= size <= 65_536 for size in sizes):
        raise ValueError(
            f"network.hidden_sizes is {list(sizes)}; give one or more layers of at least 1 unit, "
            "and at most 65,536"
        )


def check_activation(name: str) -> None:
    """Raise ValueError unless the name is `k_winners` or a plain activation."""
    if name == K_WINNERS:
        return
    if name not in ACTIVATIONS:
        raise ValueError(
            f"network.activation is {name!r}; choose one of {K_WINNERS}, {', '.join(ACTIVATIONS)}"
        )
    activation(name)


def check_winners(sizes: Sequence[int], active_fraction: float, boost_strength: float) -> None:
    """Check the settings of k-winners; warn where very few units would win.

    Raises:
        ValueError: `active_fraction` is outside (0, 1], or `boost_strength` negative.
    """
    if not 0.0 < active_fraction <= 1.0:
        raise ValueError(
            f"network.active_fraction is {active_fraction}; give the share of winning units, in "
            "(0, 1]"
        )
    if not boost_strength >= 0.0:
        raise ValueError(
            f"network.boost_strength is {boost_strength}; give 0 (off) or a positive strength"
        )
    fewest = min(num_winners(size, active_fraction) for size in sizes)
    if fewest < min(FEW_WINNERS, *sizes):
        warnings.warn(
            f"network.active_fraction={active_fraction} lets only {fewest} units of a layer win; "
            f"below {FEW_WINNERS} a layer can hardly represent anything",
            stacklevel=4,
        )


def require_context(kind: str, context: ContextSpec, discrete: bool = False) -> None:
    """Refuse a network that acts on a context where there is none.

    Raises:
        ValueError: No context, or a continuous one where only a discrete one makes sense.
    """
    shown = context.of_gates
    if shown.dim < 1:
        raise ValueError(
            f"network.kind={kind} acts on a context, but this environment announces none; choose "
            "an environment with tasks, or context=friction on walking robots, or a network "
            "without a gate (mlp, k_winners)"
        )
    if discrete and not shown.discrete:
        raise ValueError(
            f"network.kind={kind} needs one of a finite number of contexts (one-hot), but this "
            f"environment announces {shown.dim} continuous values; choose dendritic or film"
        )


class ContextTorso(Torso):
    """Torso that concatenates the context to its input, acts on it, both or neither.

    Args:
        context: Shape of the context.
        context_to_input: Concatenate the context to the input; ignored without a context.
        context_to_layers: Hidden layers take the context.
    """

    def __init__(
        self, context: ContextSpec, context_to_input: bool, context_to_layers: bool
    ) -> None:
        super().__init__()
        if not context_to_layers:
            refuse_gate_context(context)
        self.context = context
        self.context_to_input = context_to_input and context.dim > 0
        self.context_to_layers = context_to_layers

    def input_width(self, input_dim: int) -> int:
        """Inputs of the first layer."""
        return input_dim + (self.context.dim if self.context_to_input else 0)

    def enter(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Prepare input and context for the layers.

        Args:
            x: (B, input_dim).
            context: (B,) indices of a discrete context, (B, C) vectors, or None.

        Returns:
            The input of the first layer; and for layers that take the context, (B,) indices
            where it is discrete (C for a vector of zeros: no context), otherwise (B, C).

        Raises:
            ValueError: The context is missing or of another size.
        """
        if not (self.context_to_input or self.context_to_layers):
            return x, None
        if context is None:
            raise ValueError("this network was built with a context; pass one to forward")
        spec = self.context
        is_vector = context.is_floating_point()
        if is_vector and context.shape[-1] != spec.width:
            raise ValueError(
                f"the context has {context.shape[-1]} entries per sample, but this network was "
                f"built for {spec.width}"
            )
        if not is_vector and (spec.gate is not None or not spec.discrete):
            raise ValueError(
                "the context is an index, but this network was built for continuous contexts or "
                f"for several; pass vectors of {spec.width} numbers"
            )
        if self.context_to_input:
            vector = context[:, : spec.dim] if is_vector else functional.one_hot(context, spec.dim)
            x = torch.cat((x, vector.to(x.dtype)), dim=-1)
        if not self.context_to_layers:
            return x, None
        if not is_vector:
            return x, context
        shown = context if spec.gate is None else context[:, spec.dim :]
        return x, index_of_one_hot(shown) if spec.of_gates.discrete else shown.to(x.dtype)

    def check_contexts(self, context: Tensor | None) -> None:
        """Refuse discrete contexts that are neither one-hot nor all zero.

        Reads a value off the device, so it is called once per update, not in every pass.

        Raises:
            ValueError: A row has several non-zero entries or one other than 1.
        """
        if context is None or not context.is_floating_point():
            return
        spec = self.context
        parts = [(spec.discrete, context[:, : spec.dim])]
        if spec.gate is not None:
            parts.append((spec.gate.discrete, context[:, spec.dim :]))
        for discrete, part in parts:
            bad = (part != 0).sum(-1) > (part == 1).any(-1)
            if discrete and bool(bad.any()):
                raise ValueError(
                    f"a context is {part[bad][0].tolist()}, but this network was built for "
                    "discrete contexts; give one-hot vectors (or zeros), or declare it continuous"
                )

    def describe(self) -> dict[str, int]:
        """Return the number of stored parameters and of those that no mask switches off."""
        stored = sum(parameter.numel() for parameter in self.parameters())
        return {"parameters": stored, "live_parameters": live_parameters(self)}


def unit_group(name: str, layer: GatedLayer, readers: tuple[nn.Linear, ...]) -> UnitGroup:
    """Group of the units of one layer, all of whose readers are linear layers."""
    return UnitGroup(
        name,
        layer,
        linear_readers(readers),
        layer,
        layer.activation_name,
        nonnegative=layer.is_nonnegative,
    )


class LayerStack(ContextTorso):
    """Hidden layers one after another; the last one is read by the heads."""

    layers: nn.ModuleList

    def chain(
        self, input_dim: int, num_layers: int, make: Callable[[int, int], GatedLayer]
    ) -> LayerStack:
        """Build the hidden layers.

        Args:
            input_dim: Inputs of the torso, without the context.
            num_layers: Number of hidden layers.
            make: Builds one layer from its index and its number of inputs.

        Returns:
            The torso itself.
        """
        self.layers, width = nn.ModuleList(), self.input_width(input_dim)
        for index in range(num_layers):
            layer = make(index, width)
            self.layers.append(layer)
            width = layer.num_units
        self.output_dim = width
        return self

    def hidden_layers(self) -> list[GatedLayer]:
        """The hidden layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, input_dim) and the context to (B, output_dim)."""
        x, context = self.enter(x, context)
        for layer in self.layers:
            x = layer(x, context)
        return x

    @torch.no_grad()
    def record_statistics(self, x: Tensor, context: Tensor | None = None) -> None:
        """Count one batch into the duty cycles of all layers; the only call that changes them."""
        self.check_contexts(context)
        x, context = self.enter(x, context)
        for layer in self.hidden_layers():
            x = layer.record(x, context)

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """Return one group per hidden layer; the last is read by the heads."""
        layers = self.hidden_layers()
        readers: list[tuple[nn.Linear, ...]] = [(layer.linear,) for layer in layers[1:]]
        return tuple(
            unit_group(f"layers.{index}", layer, linears)
            for index, (layer, linears) in enumerate(zip(layers, [*readers, heads], strict=True))
        )
