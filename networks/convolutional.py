"""Convolutional network for images: convolutions with pooling, then dense layers.

Every layer is followed by ReLU, every convolution also by 2 x 2 max-pooling; channels of a
convolution are units, read by the next layer after pooling.

Source: Dohare et al., Nature 632:768-774 (2024), Continual ImageNet: 32 (5 x 5), 64 and 128
(3 x 3) channels without padding, then 128-128 units on images of 32 x 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from networks.images import check_counts, image_shape
from networks.initializers import Initializer
from networks.sequential import unit_groups_of
from networks.streams import Streams
from networks.torso import ContextSpec, Torso, linear_readers, refuse_gate_context
from networks.units import UnitGroup, initialize_linear


@dataclass(frozen=True)
class Config:
    """Settings of the convolutional network.

    Attributes:
        kind: Name of this file.
        image_channels: Channels of an image; images are square.
        channels: Channels of every convolution, at least one.
        kernel_sizes: Width of every kernel.
        padding: Zeros around every image and feature map.
        hidden_sizes: Units of the dense layers, at least one.
        initializer: Law of hidden weights.
        head_initializer: Law of the heads.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "convolutional"
    image_channels: int = 3
    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    kernel_sizes: list[int] = field(default_factory=lambda: [5, 3, 3])
    padding: int = 0
    hidden_sizes: list[int] = field(default_factory=lambda: [128, 128])
    initializer: str = "pytorch"
    head_initializer: str = "pytorch"

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.kernel_sizes):
            raise ValueError(
                f"network.channels has {len(self.channels)} entries and network.kernel_sizes "
                f"{len(self.kernel_sizes)}; give one kernel size per convolution"
            )
        check_counts(
            {
                "image_channels": [self.image_channels],
                "channels": self.channels,
                "kernel_sizes": self.kernel_sizes,
                "hidden_sizes": self.hidden_sizes,
            }
        )
        if self.padding < 0:
            raise ValueError(f"network.padding is {self.padding}; give 0 or more")
        Initializer(self.initializer)
        Initializer(self.head_initializer)


class Convolution(nn.Conv2d):
    """Knows the law it was drawn from."""

    law: Initializer

    def redraw(self, generator: torch.Generator) -> None:
        """Fill weights and biases afresh."""
        initialize_linear(self, self.law, generator)


class Dense(nn.Linear):
    """Knows the law it was drawn from."""

    law: Initializer

    def redraw(self, generator: torch.Generator) -> None:
        """Fill weights and biases afresh."""
        initialize_linear(self, self.law, generator)


class Convolutional(Torso):
    """The hidden layers; the context is not read."""

    def __init__(
        self, config: Config, input_dim: int, context: ContextSpec, streams: Streams
    ) -> None:
        super().__init__()
        refuse_gate_context(context)
        self.context = context
        self._image = image_shape(input_dim, config.image_channels)
        self._law = Initializer(config.initializer)
        modules: list[nn.Module] = []
        width, side, _ = self._image
        for channels, kernel in zip(config.channels, config.kernel_sizes, strict=True):
            side = (side + 2 * config.padding - kernel + 1) // 2
            if side < 1:
                raise ValueError(
                    f"network.kernel_sizes is {config.kernel_sizes}: images of "
                    f"{self._image[1]} x {self._image[2]} pixels shrink to nothing; leave out "
                    "convolutions, or set network.padding=1"
                )
            layer = Convolution(width, channels, kernel, padding=config.padding)
            modules += [layer, nn.ReLU(), nn.MaxPool2d(2)]
            width = channels
        modules.append(nn.Flatten())
        width *= side * side
        for units in config.hidden_sizes:
            modules += [Dense(width, units), nn.ReLU()]
            width = units
        self.layers = nn.Sequential(*modules)
        for index, module in enumerate(self.layers):
            if isinstance(module, Convolution | Dense):
                module.law = self._law
                module.redraw(streams.torch(f"layers.{index}"))
        self.output_dim = width

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map flat images (B, pixels) to (B, output_dim)."""
        return self.layers(x.reshape(-1, *self._image))

    def unit_groups(self, heads: Sequence[nn.Linear]) -> tuple[UnitGroup, ...]:
        """One group per convolution and dense layer; the heads read the last one."""
        any_head = nn.Linear(self.output_dim, 1, device="meta")
        *groups, last = unit_groups_of(nn.Sequential(*self.layers, any_head), self._law)
        return *groups, replace(last, readers=linear_readers(heads))


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> Convolutional:
    """Build the torso.

    Raises:
        ValueError: The inputs are no such images, or too small for the convolutions.
    """
    return Convolutional(config, input_dim, context, streams)
