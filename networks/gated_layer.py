"""The hidden layer that most networks are made of: linear, norm, gate by context, activation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.activations import activation
from networks.initializers import Initializer, hidden_law
from networks.masks import MaskedLinear, fixed_mask
from networks.streams import Streams
from networks.units import HiddenLayer, Touched, reset_norm_units
from networks.winners import Winners

K_WINNERS = "k_winners"


@dataclass(frozen=True)
class Laws:
    """Laws of initial weights of one layer: `suite` for comparisons, `published` as in the paper.

    Attributes:
        weight: Law of the weights.
        bias: Law of the biases.
    """

    weight: Initializer
    bias: Initializer

    @staticmethod
    def suite(initializer: str, gain: float = 1.0, activation: str = K_WINNERS) -> Laws:
        """The common law, without correction for how many weights or units are active."""
        law = hidden_law(initializer, activation)
        if gain != 1.0:
            law = Initializer(initializer, law.scale * gain)
        return Laws(law, law)

    @staticmethod
    def published(input_dim: int, weight_density: float, input_density: float) -> Laws:
        """Uniform laws widened for inputs that are mostly silent and weights that do not exist.

        Weights from U(-h, h) with h = 1 / sqrt(input_density weight_density input_dim), biases
        from U(-1 / sqrt(input_dim), 1 / sqrt(input_dim)).

        Source: Iyer et al. 2022, section 4 and public configuration.
        """
        bound = 1.0 / math.sqrt(input_density * weight_density * input_dim)
        return Laws(Initializer("uniform", bound), Initializer("pytorch"))


@dataclass(frozen=True)
class LayerPlan:
    """What one hidden layer is built from.

    Attributes:
        input_dim: Inputs.
        num_units: Units.
        streams: Random streams of the network.
        name: Name of the layer, which names its streams.
        laws: Laws of weights and biases; masked weights are drawn and then dropped.
        density: Share of weights each unit keeps, in (0, 1].
        layer_norm: LayerNorm on the pre-activation, before any gate.
        activation: Name of the nonlinearity, or `k_winners`.
        active_fraction: Share of winning units where the activation is `k_winners`.
        rectify: ReLU after the selection of winners.
        boost_strength: Strength of the selection bonus of rarely winning units.
    """

    input_dim: int
    num_units: int
    streams: Streams
    name: str
    laws: Laws
    density: float = 1.0
    layer_norm: bool = False
    activation: str = K_WINNERS
    active_fraction: float = 0.25
    rectify: bool = False
    boost_strength: float = 0.0

    def stream(self, tensor: str) -> torch.Generator:
        """Random stream of one tensor of the layer."""
        return self.streams.torch(f"{self.name}.{tensor}")


class GatedLayer(HiddenLayer):
    """Hidden layer act(gate(norm(W x + b), context)); this base class has no gate.

    Weights and biases come from the same stream and in the same order as in a plain perceptron,
    so layers of equal shape start with equal bits in every arm of a comparison.
    """

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.num_units = plan.num_units
        self.activation_name = plan.activation
        self.laws = plan.laws
        mask = fixed_mask(plan.num_units, plan.input_dim, plan.density, plan.stream("mask"))
        self.linear = MaskedLinear(plan.input_dim, plan.num_units, mask)
        self.norm = nn.LayerNorm(plan.num_units) if plan.layer_norm else None
        self.activation = (
            Winners(plan.num_units, plan.active_fraction, plan.rectify, plan.boost_strength)
            if plan.activation == K_WINNERS
            else activation(plan.activation)
        )
        with torch.no_grad():
            self._draw(torch.arange(plan.num_units), plan.streams.torch(plan.name))

    def _draw(self, units: Tensor, generator: torch.Generator) -> None:
        linear = self.linear
        rows = self.laws.weight.weight_rows(linear.weight, len(units), generator)
        linear.weight[units] = rows if linear.mask is None else rows * linear.mask[units]
        linear.bias[units] = self.laws.bias.bias_rows(linear.weight, len(units), generator)

    @property
    def is_nonnegative(self) -> bool:
        """Whether the output never falls below 0."""
        if isinstance(self.activation, Winners):
            return self.activation.rectify
        return self.activation_name in ("relu", "sigmoid")

    @property
    def gate_adds(self) -> bool:
        """Whether the context adds to pre-activations, which then do not scale as a whole."""
        return False

    def gate(self, values: Tensor, context: Tensor | None) -> Tensor:
        """Let the context act on pre-activations (B, units); nothing happens here."""
        return values

    def pre_activation(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What the nonlinearity receives, (B, units)."""
        values = self.linear(x)
        if self.norm is not None:
            values = self.norm(values)
        return self.gate(values, context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) and the context, (B,) indices or (B, C) vectors, to (B, units)."""
        return self.activation(self.pre_activation(x, context))

    @torch.no_grad()
    def record(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Count one batch into the duty cycles, if the layer has any; returns the output."""
        if not isinstance(self.activation, Winners):
            return self.forward(x, context)
        return self.activation.record(self.pre_activation(x, context))

    @torch.no_grad()
    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]:
        """Redraw everything that makes some units, as a new layer would; clear duty cycles."""
        self._draw(units, generator)
        touched = [Touched(self.linear.weight, 0, units), Touched(self.linear.bias, 0, units)]
        if self.norm is not None:
            touched += reset_norm_units(self.norm, units)
        if isinstance(self.activation, Winners):
            self.activation.clear(units)
        return touched

    def incoming_magnitude(self) -> Tensor:
        """Mean absolute incoming weight of every unit, masked entries aside, (units,)."""
        magnitude = self.linear.weight.detach().abs()
        if self.linear.mask is None:
            return magnitude.mean(dim=1)
        return magnitude.sum(dim=1) / self.linear.mask.sum(dim=1)

    def masked_parameters(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Masked parameters of this layer besides its linear part."""
        return iter(())
