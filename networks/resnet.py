"""Residual network for images: a stem, stages of blocks of two convolutions, mean pooling.

Every convolution has a bias and is followed by batch normalisation. The units that methods may
renew are the inner channels of every block, read by the second convolution of the block alone, and
the pooled features, read by the heads: renewing one of these redraws its row of the last
convolution. Channels of the stream between blocks are carried on by identities, which no zeroed
column stops, and so are no units.

Source: He et al. 2016; Dohare et al., Nature 632:768-774 (2024), class-incremental CIFAR-100:
ResNet-18 with a first convolution of 3 x 3 with stride 1 and no max-pooling.
Deviation: there the head is drawn from a normal law, here from a uniform one of the same variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from networks.convolutional import Convolution
from networks.images import check_counts, image_shape
from networks.initializers import Initializer
from networks.readers import Reader
from networks.sequential import SequentialLayer
from networks.streams import Streams
from networks.torso import ContextSpec, Torso, linear_readers, refuse_gate_context
from networks.units import UnitGroup


@dataclass(frozen=True)
class Config:
    """Settings of the residual network.

    Attributes:
        kind: Name of this file.
        image_channels: Channels of an image; images are square.
        channels: Channels of every stage; each stage after the first halves the images.
        blocks_per_stage: Blocks of two convolutions.
        head_initializer: Law of the heads.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "resnet"
    image_channels: int = 3
    channels: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    blocks_per_stage: int = 2
    head_initializer: str = "lecun_uniform"

    def __post_init__(self) -> None:
        check_counts(
            {
                "image_channels": [self.image_channels],
                "channels": self.channels,
                "blocks_per_stage": [self.blocks_per_stage],
            }
        )
        Initializer(self.head_initializer)


class KaimingNormal(Initializer):
    """Weights from N(0, 2 / fan_in), biases 0. Source: He et al. 2015."""

    def weight_rows(
        self, like: Tensor, num_rows: int, generator: torch.Generator, fan_in: int | None = None
    ) -> Tensor:
        """Draw fresh incoming weights for some units; see `Initializer`."""
        fan_in = fan_in or math.prod(like.shape[1:])
        shape = (num_rows, *like.shape[1:])
        rows = torch.randn(shape, dtype=like.dtype, device=generator.device, generator=generator)
        return rows.mul_(math.sqrt(2.0 / fan_in)).to(like.device)


LAW = KaimingNormal("kaiming_uniform")


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> Convolution:
    layer = Convolution(inputs, outputs, kernel, stride, padding=kernel // 2)
    layer.law = LAW
    return layer


class Block(nn.Module):
    """Two convolutions and a path around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.inner = nn.ReLU()
        self.second = _convolution(outputs, outputs, 3, 1)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.around = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                _convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        inner = self.inner(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.around(x))


class ResNet(Torso):
    """The hidden layers; the context is not read."""

    def __init__(
        self, config: Config, input_dim: int, context: ContextSpec, streams: Streams
    ) -> None:
        super().__init__()
        refuse_gate_context(context)
        self.context = context
        self._image = image_shape(input_dim, config.image_channels)
        width = config.channels[0]
        self.stem = nn.Sequential(
            _convolution(config.image_channels, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[Block] = []
        for stage, channels in enumerate(config.channels):
            for position in range(config.blocks_per_stage):
                blocks.append(Block(width, channels, 2 if stage and not position else 1))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for name, module in self.named_modules():
            if isinstance(module, Convolution):
                module.redraw(streams.torch(name))
        self.output_dim = width

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map flat images (B, pixels) to pooled features (B, output_dim)."""
        x = self.stem(x.reshape(-1, *self._image))
        for block in self.blocks:
            x = block(x)
        return self.pool(x)

    def unit_groups(self, heads: Sequence[nn.Linear]) -> tuple[UnitGroup, ...]:
        """One group per block, its inner channels, and the pooled features."""
        groups = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            layer = SequentialLayer(block.first, LAW, block.first_norm)
            readers = (Reader(block.second),)
            groups.append(UnitGroup(f"blocks.{index}", layer, readers, block.inner, "relu", True))
        last = self.blocks[-1]
        assert isinstance(last, Block)
        pooled = SequentialLayer(last.second, LAW, last.second_norm)
        readers = linear_readers(heads)
        return *groups, UnitGroup("pooled", pooled, readers, self.pool, "relu", True)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> ResNet:
    """Build the torso.

    Raises:
        ValueError: The inputs are no such images.
    """
    return ResNet(config, input_dim, context, streams)
