"""What perceptrons share whose hidden layers are gated by the context and have no k-winners."""

from __future__ import annotations

from dataclasses import dataclass, field

from networks.activations import activation
from networks.gated_layer import Laws, LayerPlan
from networks.initializers import Initializer
from networks.stack import check_hidden_sizes
from networks.streams import Streams


@dataclass(frozen=True)
class PlainSettings:
    """Settings of such a perceptron.

    Attributes:
        hidden_sizes: Units of each hidden layer, each >= 1; all are gated.
        activation: Name of the nonlinearity.
        layer_norm: LayerNorm on every pre-activation, before gate and nonlinearity.
        initializer: Law of hidden weights.
        head_initializer: Law of the heads.
        context_to_input: Concatenate the context to the input too.

    Raises:
        ValueError: A value is out of range.
    """

    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    activation: str = "relu"
    layer_norm: bool = False
    initializer: str = "lecun_uniform"
    head_initializer: str = "lecun_uniform"
    context_to_input: bool = False

    def __post_init__(self) -> None:
        check_hidden_sizes(self.hidden_sizes)
        activation(self.activation)
        Initializer(self.initializer)
        Initializer(self.head_initializer)


def plain_plan(config: PlainSettings, index: int, width: int, streams: Streams) -> LayerPlan:
    """Plan one layer of a perceptron without k-winners.

    Args:
        config: Settings of the network.
        index: Number of the layer.
        width: Inputs of the layer.
        streams: Random streams of the network.
    """
    return LayerPlan(
        width,
        config.hidden_sizes[index],
        streams,
        f"layers.{index}",
        Laws.suite(config.initializer, activation=config.activation),
        layer_norm=config.layer_norm,
        activation=config.activation,
    )
