"""No hidden layer at all: the heads read the input. The baseline that cannot lose plasticity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.initializers import Initializer
from networks.stack import ContextTorso
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import UnitGroup


@dataclass(frozen=True)
class Config:
    """Settings of the linear network.

    Attributes:
        kind: Name of this file.
        head_initializer: Law of the heads.
        context_to_input: Concatenate the context to the input; ignored without a context.
    """

    kind: str = "linear"
    head_initializer: str = "lecun_uniform"
    context_to_input: bool = True

    def __post_init__(self) -> None:
        Initializer(self.head_initializer)


class Linear(ContextTorso):
    """Hands on its input. It has no units, so methods that renew units refuse it."""

    def __init__(self, config: Config, input_dim: int, context: ContextSpec) -> None:
        super().__init__(context, config.context_to_input, context_to_layers=False)
        self.uses_context = self.context_to_input
        self.output_dim = self.input_width(input_dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, input_dim) and the context to (B, output_dim): both side by side."""
        return self.enter(x, context)[0]

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """There are none."""
        return ()

    @torch.no_grad()
    def record_statistics(self, x: Tensor, context: Tensor | None = None) -> None:
        """Only checks the context."""
        self.check_contexts(context)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> Linear:
    """Build the torso; nothing is drawn."""
    return Linear(config, input_dim, context)
