"""The perceptron of Continual World: a normalised first layer, one head per task.

Source: Wolczyk et al. 2021, arXiv 2105.10919, appendix A: LayerNorm and tanh after the first hidden
    layer, leaky ReLU (slope 0.2) after the others.
Deviation: PyTorch's slope of 0.01 unless `activation_slope=0.2` is set, and weights from the law
    of the configuration, with the gain of ReLU (`kaiming_uniform`) in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

from networks import mlp
from networks.activations import values_per_unit
from networks.initializers import Initializer
from networks.readouts import Readout, linear_readout, multi_head_readout
from networks.stack import require_context
from networks.streams import Streams
from networks.torso import ContextSpec


@dataclass(frozen=True)
class Config(mlp.Config):
    """Settings; see `mlp.Config`.

    Attributes:
        kind: Name of this file.
        activation: Of all layers but the first; published: leaky_relu.
        layer_norm: LayerNorm before the nonlinearity of the first layer; the others have none.
        separate_heads: One linear head per context; needs a one-hot context.
    """

    kind: str = "continual_world"
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256, 256, 256])
    layer_norm: bool = True
    context_to_input: bool = False
    separate_heads: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if values_per_unit(self.activation) != 1:
            raise ValueError(
                f"network.activation is {self.activation}; give one with one value per unit"
            )


class ContinualWorld(mlp.MLP):
    """Perceptron whose first layer is normalised and squashed."""

    def __init__(
        self, config: Config, input_dim: int, context: ContextSpec, streams: Streams
    ) -> None:
        law = Initializer(config.initializer)
        super().__init__(replace(config, layer_norm=False), input_dim, context, streams, law)
        self._separate_heads = config.separate_heads
        first = cast(mlp.DenseLayer, self.layers[0])
        self.layers[0] = mlp.DenseLayer(
            first.linear.in_features,
            first.num_units,
            "tanh",
            law,
            streams.torch("layers.0"),
            layer_norm=config.layer_norm,
        )

    def head(
        self, output_dim: int, initializer: Initializer, streams: Streams, name: str
    ) -> Readout:
        """Build one linear head per context, or one for all."""
        stream = streams.torch(name)
        if not self._separate_heads:
            return linear_readout(self.output_dim, output_dim, initializer, stream)
        return multi_head_readout(
            self.output_dim, output_dim, self.num_contexts, initializer, stream
        )


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> ContinualWorld:
    """Build the torso.

    Raises:
        ValueError: Heads are to be separate, but there is no discrete context.
    """
    if config.separate_heads:
        require_context(config.kind, context, discrete=True)
    return ContinualWorld(config, input_dim, context, streams)
