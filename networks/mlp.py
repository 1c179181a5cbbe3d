"""Multi-layer perceptron: linear, optional LayerNorm, activation, for every hidden layer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.activations import SLOPES, any_activation, values_per_unit
from networks.initializers import Initializer, hidden_law
from networks.readers import paired_readers
from networks.stack import check_hidden_sizes
from networks.streams import Streams
from networks.torso import ContextSpec, Torso, linear_readers, refuse_gate_context
from networks.units import (
    HiddenLayer,
    Touched,
    UnitGroup,
    initialize_linear,
    reset_linear_units,
    reset_norm_units,
)

# What is recorded of activations without a slope, as it always was, so that older runs go on.
_NO_SLOPE = 0.1


@dataclass(frozen=True)
class Config:
    """Settings of the multi-layer perceptron.

    Attributes:
        kind: Name of this file.
        hidden_sizes: Features of each hidden layer, each >= 1. These are its units, except that
            `crelu` and `deep_fourier` make two features of every unit, so that a layer of H
            features (H even) has H/2 units.
        activation: Name of the nonlinearity, one or two values per unit.
        activation_slope: Slope far below 0 of `smooth_leaky` (published .01 to .3) and
            `leaky_relu`, in [0, 1). None takes .1 and .01; the other activations have none, where
            anything else is refused. Runs record the slope, and .1 where there is none.
        layer_norm: LayerNorm before every nonlinearity (affine, eps 1e-5), not on outputs.
        initializer: Law of hidden weights; the gain of `kaiming_uniform` is the activation's.
        head_initializer: Law of the heads.
        context_to_input: Concatenate the context to the input; ignored without a context.

    Raises:
        ValueError: A value is out of range, or a slope is set that nothing reads.
    """

    kind: str = "mlp"
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    activation: str = "relu"
    activation_slope: float | None = None
    layer_norm: bool = False
    initializer: str = "lecun_uniform"
    head_initializer: str = "lecun_uniform"
    context_to_input: bool = True

    def __post_init__(self) -> None:
        check_hidden_sizes(self.hidden_sizes)
        any_activation(self.activation)
        self._check_slope()
        values = values_per_unit(self.activation)
        if any(size % values for size in self.hidden_sizes):
            raise ValueError(
                f"network.hidden_sizes is {list(self.hidden_sizes)}; {self.activation} makes "
                f"{values} features of every unit, so give even numbers"
            )
        Initializer(self.initializer)
        Initializer(self.head_initializer)

    def _check_slope(self) -> None:
        slope = self.activation_slope
        if slope is None:
            slope = SLOPES.get(self.activation, _NO_SLOPE)
            object.__setattr__(self, "activation_slope", slope)
        if not 0.0 <= slope < 1.0:
            raise ValueError(f"network.activation_slope is {slope}; give a slope in [0, 1)")
        if self.activation not in SLOPES and slope != _NO_SLOPE:
            raise ValueError(
                f"network.activation_slope={slope} would do nothing with network.activation="
                f"{self.activation}, which has no slope to set; leave it null, or choose "
                f"{' or '.join(SLOPES)}"
            )


class DenseLayer(HiddenLayer):
    """Fully connected hidden layer: act(norm(W x + b)).

    Attributes:
        values_per_unit: 2 where the activation makes two features of every unit, else 1.
    """

    def __init__(
        self,
        input_dim: int,
        num_units: int,
        activation_name: str,
        initializer: Initializer,
        generator: torch.Generator,
        layer_norm: bool = False,
        slope: float | None = None,
    ) -> None:
        super().__init__()
        self.num_units = num_units
        self.activation_name = activation_name
        self.initializer = initializer
        self.linear = nn.Linear(input_dim, num_units)
        self.norm = nn.LayerNorm(num_units) if layer_norm else None
        self.activation = any_activation(activation_name, slope)
        self.values_per_unit = values_per_unit(activation_name)
        initialize_linear(self.linear, initializer, generator)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) to (B, values x units); the context is not used here."""
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
    """Stack of dense hidden layers.

    Args:
        config: Settings.
        input_dim: Inputs without the context.
        context: Shape of the context.
        streams: Random streams of the network.
        law: Of hidden weights; None takes that of the configuration with the activation's gain.
    """

    def __init__(
        self,
        config: Config,
        input_dim: int,
        context: ContextSpec,
        streams: Streams,
        law: Initializer | None = None,
    ) -> None:
        super().__init__()
        refuse_gate_context(context)
        self.context = context
        self.uses_context = config.context_to_input and context.dim > 0
        self.num_contexts = context.dim
        widths = [input_dim + (context.dim if self.uses_context else 0), *config.hidden_sizes]
        values = values_per_unit(config.activation)
        if law is None:
            law = hidden_law(config.initializer, config.activation, config.activation_slope)
        self.layers = nn.ModuleList(
            DenseLayer(
                width,
                features // values,
                config.activation,
                law,
                streams.torch(f"layers.{index}"),
                config.layer_norm,
                config.activation_slope,
            )
            for index, (width, features) in enumerate(itertools.pairwise(widths))
        )
        self.output_dim = widths[-1]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, input_dim) and the context to (B, output_dim)."""
        if self.uses_context:
            if context is None:
                raise ValueError("this network was built with a context; pass one to forward")
            if not context.is_floating_point():
                context = functional.one_hot(context, self.num_contexts)
            elif context.shape[-1] != self.num_contexts:
                raise ValueError(
                    f"the context has {context.shape[-1]} entries per sample, but this network "
                    f"was built for {self.num_contexts}"
                )
            x = torch.cat((x, context.to(x.dtype)), dim=-1)
        for layer in self.layers:
            x = layer(x)
        return x

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """Return one group per hidden layer; the last is read by the heads."""
        groups = []
        layers = [layer for layer in self.layers if isinstance(layer, DenseLayer)]
        for index, layer in enumerate(layers):
            reading = (layers[index + 1].linear,) if index + 1 < len(layers) else heads
            paired = layer.values_per_unit == 2
            groups.append(
                UnitGroup(
                    f"layers.{index}",
                    layer,
                    paired_readers(reading, layer.num_units) if paired else linear_readers(reading),
                    layer,
                    layer.activation_name,
                    nonnegative=layer.activation_name in ("relu", "sigmoid"),
                    values_per_unit=layer.values_per_unit,
                )
            )
        return tuple(groups)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> MLP:
    """Build the torso."""
    return MLP(config, input_dim, context, streams)
