"""SimBa: residual blocks x + W2 relu(W1 norm(x)) between a linear embedding and a final norm.

The hidden layer of each block is a group of units. The residual stream is not: every block adds
to it and no nonlinearity separates it from its readers, so its entries have no incoming weights
of their own.

Source: Lee et al. 2024, "SimBa: simplicity bias for scaling up parameters in deep reinforcement
learning", arXiv 2410.09754. Its running normalisation of observations is the agent's
(`agent.normalize_observation=true`), which also clips to [-10, 10].
Deviation: hidden weights are uniform of the same variance, where the paper draws normal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from networks.activations import activation
from networks.gated_layer import GatedLayer, Laws, LayerPlan
from networks.initializers import Initializer
from networks.readouts import linear_readout
from networks.stack import ContextTorso, unit_group
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import UnitGroup


@dataclass(frozen=True)
class Config:
    """Settings of the residual network.

    Attributes:
        kind: Name of this file.
        width: Entries of the residual stream, >= 1 (published: actor 128, critic 512).
        num_blocks: Residual blocks, >= 1 (published: actor 1, critic 2).
        expansion: Hidden units of a block per entry of the stream, >= 1.
        activation: Name of the nonlinearity.
        initializer: Law of the weights inside blocks.
        head_initializer: Law of the heads.
        context_to_input: Concatenate the context to the input; ignored without a context.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "simba"
    width: int = 128
    num_blocks: int = 2
    expansion: int = 4
    activation: str = "relu"
    initializer: str = "kaiming_uniform"
    head_initializer: str = "lecun_uniform"
    context_to_input: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "num_blocks", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} is {getattr(self, name)}; give at least 1")
        activation(self.activation)
        Initializer(self.initializer)
        Initializer(self.head_initializer)


class Block(nn.Module):
    """One residual block."""

    def __init__(self, config: Config, streams: Streams, name: str) -> None:
        super().__init__()
        hidden = config.width * config.expansion
        self.norm = nn.LayerNorm(config.width)
        self.hidden = GatedLayer(
            LayerPlan(
                config.width,
                hidden,
                streams,
                f"{name}.hidden",
                Laws.suite(config.initializer, activation=config.activation),
                activation=config.activation,
            )
        )
        self.output = linear_readout(
            hidden,
            config.width,
            Initializer(config.initializer),
            streams.torch(f"{name}.output"),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's answer to the stream, (B, width) to (B, width)."""
        return x + self.output(self.hidden(self.norm(x)))


class Simba(ContextTorso):
    """Embedding, residual blocks, final LayerNorm."""

    def __init__(
        self, config: Config, input_dim: int, context: ContextSpec, streams: Streams
    ) -> None:
        super().__init__(context, config.context_to_input, context_to_layers=False)
        self.embedding = linear_readout(
            self.input_width(input_dim),
            config.width,
            Initializer("orthogonal", 1.0),
            streams.torch("embedding"),
        )
        self.blocks = nn.ModuleList(
            Block(config, streams, f"blocks.{index}") for index in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.output_dim = config.width

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, input_dim) and the context to (B, width)."""
        x, _ = self.enter(x, context)
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """Return one group per block; its hidden units are read by the block's own output."""
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        return tuple(
            unit_group(f"blocks.{index}", block.hidden, (block.output,))
            for index, block in enumerate(blocks)
        )


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> Simba:
    """Build the torso."""
    return Simba(config, input_dim, context, streams)
