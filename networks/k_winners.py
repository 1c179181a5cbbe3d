"""Perceptron with k-winners in every hidden layer and no gate.

Source: Ahmad and Scheinkman 2019, arXiv 1903.11257; as a control arm, Iyer et al. 2022.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from networks.gated_layer import GatedLayer, Laws, LayerPlan
from networks.initializers import Initializer
from networks.stack import LayerStack, check_hidden_sizes, check_winners
from networks.streams import Streams
from networks.torso import ContextSpec


@dataclass(frozen=True)
class Config:
    """Settings of the k-winners perceptron.

    Attributes:
        kind: Name of this file.
        hidden_sizes: Units of each hidden layer, each >= 1.
        active_fraction: Share of units that win in each sample, in (0, 1]; 1 makes the network
            linear unless `rectify`.
        rectify: ReLU after the selection of winners.
        boost_strength: Bonus of rarely winning units in the selection, >= 0.
        layer_norm: LayerNorm on every pre-activation.
        weight_density: Share of weights each unit keeps, in (0, 1].
        initializer: Law of hidden weights.
        init_gain: Factor on the hidden weights that read k-winners: sqrt(0.5 / share of the
            mean square that the winners keep) restores the signal of a ReLU network; the share
            is 0.464 for a quarter of the units, 0.325 for a tenth and 0.219 for a twentieth.
        head_initializer: Law of the heads.
        context_to_input: Concatenate the context to the input; ignored without a context.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "k_winners"
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    active_fraction: float = 0.25
    rectify: bool = False
    boost_strength: float = 0.0
    layer_norm: bool = False
    weight_density: float = 1.0
    initializer: str = "lecun_uniform"
    init_gain: float = 1.0
    head_initializer: str = "lecun_uniform"
    context_to_input: bool = True

    def __post_init__(self) -> None:
        check_hidden_sizes(self.hidden_sizes)
        check_winners(self.hidden_sizes, self.active_fraction, self.boost_strength)
        if not 0.0 < self.weight_density <= 1.0:
            raise ValueError(
                f"network.weight_density is {self.weight_density}; give the share of weights "
                "kept, in (0, 1]"
            )
        if not self.init_gain > 0.0:
            raise ValueError(f"network.init_gain is {self.init_gain}; give a factor above 0")
        Initializer(self.initializer)
        Initializer(self.head_initializer)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> LayerStack:
    """Build the torso."""

    def layer(index: int, width: int) -> GatedLayer:
        plan = LayerPlan(
            width,
            config.hidden_sizes[index],
            streams,
            f"layers.{index}",
            Laws.suite(config.initializer, config.init_gain if index else 1.0),
            density=config.weight_density,
            layer_norm=config.layer_norm,
            active_fraction=config.active_fraction,
            rectify=config.rectify,
            boost_strength=config.boost_strength,
        )
        return GatedLayer(plan)

    torso = LayerStack(context, config.context_to_input, context_to_layers=False)
    return torso.chain(input_dim, len(config.hidden_sizes), layer)
