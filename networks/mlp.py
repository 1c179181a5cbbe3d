"""Multi-layer perceptron: linear, optional LayerNorm, activation, for every hidden layer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.activations import activation
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec, Torso, linear_readers
from networks.units import (
    HiddenLayer,
    Touched,
    UnitGroup,
    initialize_linear,
    reset_linear_units,
    reset_norm_units,
)


@dataclass(frozen=True)
class Config:
    """Settings of the multi-layer perceptron.

    Attributes:
        kind: Name of this file.
        hidden_sizes: Units of each hidden layer, each >= 1.
        activation: Name of the nonlinearity.
        layer_norm: LayerNorm before every nonlinearity (affine, eps 1e-5), not on outputs.
        initializer: Law of hidden weights.
        head_initializer: Law of the heads.
        context_to_input: Concatenate the context to the input; ignored without a context.
    """

    kind: str = "mlp"
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    activation: str = "relu"
    layer_norm: bool = False
    initializer: str = "lecun_uniform"
    head_initializer: str = "lecun_uniform"
    context_to_input: bool = True

    def __post_init__(self) -> None:
        if not self.hidden_sizes or any(size < 1 for size in self.hidden_sizes):
            raise ValueError(
                f"network.hidden_sizes is {list(self.hidden_sizes)}; give one or more layers of "
                "at least 1 unit"
            )
        activation(self.activation)
        Initializer(self.initializer)
        Initializer(self.head_initializer)


class DenseLayer(HiddenLayer):
    """Fully connected hidden layer: act(norm(W x + b))."""

    def __init__(
        self,
        input_dim: int,
        num_units: int,
        activation_name: str,
        initializer: Initializer,
        generator: torch.Generator,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_units = num_units
        self.activation_name = activation_name
        self.initializer = initializer
        self.linear = nn.Linear(input_dim, num_units)
        self.norm = nn.LayerNorm(num_units) if layer_norm else None
        self.activation = activation(activation_name)
        initialize_linear(self.linear, initializer, generator)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) to (B, units); the context is not used here."""
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)

    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]:
        """Redraw rows and biases; gain 1 and offset 0 where the layer is normalised."""
        touched = reset_linear_units(self.linear, units, self.initializer, generator)
        return touched if self.norm is None else touched + reset_norm_units(self.norm, units)

    def incoming_magnitude(self) -> Tensor:
        """Mean absolute incoming weight of every unit, (units,)."""
        return self.linear.weight.detach().abs().mean(dim=1)


class MLP(Torso):
    """Stack of dense hidden layers."""

    def __init__(
        self, config: Config, input_dim: int, context: ContextSpec, streams: Streams
    ) -> None:
        super().__init__()
        self.uses_context = config.context_to_input and context.dim > 0
        self.num_contexts = context.dim
        widths = [input_dim + (context.dim if self.uses_context else 0), *config.hidden_sizes]
        law = Initializer(config.initializer)
        self.layers = nn.ModuleList(
            DenseLayer(
                width,
                units,
                config.activation,
                law,
                streams.torch(f"layers.{index}"),
                config.layer_norm,
            )
            for index, (width, units) in enumerate(itertools.pairwise(widths))
        )
        self.output_dim = widths[-1]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, input_dim) and the context to (B, output_dim)."""
        if self.uses_context:
            if context is None:
                raise ValueError("this network was built with a context; pass one to forward")
            if not context.is_floating_point():
                context = functional.one_hot(context, self.num_contexts)
            x = torch.cat((x, context.to(x.dtype)), dim=-1)
        for layer in self.layers:
            x = layer(x)
        return x

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """Return one group per hidden layer; the last is read by the heads."""
        groups = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DenseLayer)
            if index + 1 < len(self.layers):
                readers = linear_readers((self.layers[index + 1].linear,))  # type: ignore[arg-type]
            else:
                readers = linear_readers(heads)
            groups.append(
                UnitGroup(
                    f"layers.{index}",
                    layer,
                    readers,
                    layer,
                    layer.activation_name,
                    nonnegative=layer.activation_name in ("relu", "sigmoid"),
                )
            )
        return tuple(groups)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> MLP:
    """Build the torso."""
    return MLP(config, input_dim, context, streams)
