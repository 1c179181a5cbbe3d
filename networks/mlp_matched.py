"""Perceptron with as many parameters as a dendritic network: the control arm for size.

All hidden layers are equally wide, and the width is computed where the network is built, from the
inputs, contexts and outputs that it really has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from networks import dendritic, mlp
from networks.masks import live_parameters, round_half_up
from networks.matching import matched_width
from networks.streams import Streams
from networks.torso import ContextSpec


@dataclass(frozen=True)
class Config(mlp.Config):
    """Settings of the matched perceptron; see `mlp.Config`.

    Attributes:
        kind: Name of this file.
        hidden_sizes: Of the network to match; the perceptron has as many layers of another width.
        reference: The other settings of the network to match.
        num_outputs: Outputs of all heads together, which count too; agents fill it in, and 0
            matches the hidden layers alone.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "mlp_matched"
    reference: dendritic.Config = field(default_factory=dendritic.Config)
    num_outputs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_norm or self.activation != "relu":
            raise ValueError(
                "network.kind=mlp_matched counts the parameters of a plain ReLU perceptron; leave "
                "layer_norm=false and activation=relu"
            )
        if self.num_outputs < 0:
            raise ValueError(f"network.num_outputs is {self.num_outputs}; give 0 or more")


def width_of(config: Config, input_dim: int, context: ContextSpec) -> int:
    """Units of every hidden layer.

    Args:
        config: Settings.
        input_dim: Inputs without the context.
        context: Shape of the context.

    Raises:
        ValueError: The network to match cannot be built with this context.
    """
    sizes, outputs = config.hidden_sizes, config.num_outputs
    reference = replace(config.reference, hidden_sizes=sizes)
    # Built rather than counted by formula: no setting of it can be forgotten.
    live = live_parameters(dendritic.build(reference, input_dim, context, Streams(0)))
    live += outputs * (round_half_up(reference.head_density * sizes[-1]) + 1)
    inputs = input_dim + (context.dim if config.context_to_input else 0)
    return matched_width(live, inputs, len(sizes), outputs)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> mlp.MLP:
    """Build the torso.

    Raises:
        ValueError: The network to match acts on a context, and there is none.
    """
    width = width_of(config, input_dim, context)
    return mlp.MLP(
        replace(config, hidden_sizes=[width] * len(config.hidden_sizes)),
        input_dim,
        context,
        streams,
    )
