"""Context-dependent gating: each context silences a fixed random set of units in every layer.

Source: Masse, Grant and Freedman 2018, "Alleviating catastrophic forgetting using
context-dependent gating and synaptic stabilization", PNAS 115(44), which gates 80 % of the units.
Deviation: exactly the given share of units passes in every context, where the paper draws each
unit independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from networks.gated_layer import GatedLayer, LayerPlan
from networks.masks import fixed_mask
from networks.plain_gated import PlainSettings, plain_plan
from networks.stack import LayerStack, require_context
from networks.streams import Streams
from networks.torso import ContextSpec


@dataclass(frozen=True)
class Config(PlainSettings):
    """Settings of the perceptron with context masks.

    With few contexts some units are in no mask: (1 - active_fraction)^contexts of them on
    average, a tenth for 0.2 and ten contexts. Methods that renew useless units find these first.

    Attributes:
        kind: Name of this file.
        active_fraction: Share of units that each context lets pass, in (0, 1].

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "xdg"
    active_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.active_fraction <= 1.0:
            raise ValueError(
                f"network.active_fraction is {self.active_fraction}; give the share of units "
                "that pass, in (0, 1]"
            )


class XdgLayer(GatedLayer):
    """Hidden layer of which each context sees a fixed part."""

    passes: Tensor

    def __init__(self, plan: LayerPlan, num_contexts: int, active_fraction: float) -> None:
        super().__init__(plan)
        passes = torch.ones(num_contexts + 1, plan.num_units, dtype=torch.bool)
        mask = fixed_mask(num_contexts, plan.num_units, active_fraction, plan.stream("passes"))
        if mask is not None:
            passes[:num_contexts] = mask  # the last row, no context, lets everything pass
        self.register_buffer("passes", passes)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) and context indices (B,) to (B, units)."""
        assert context is not None
        return super().forward(x) * self.passes.index_select(0, context)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> LayerStack:
    """Build the torso.

    Raises:
        ValueError: There is no discrete context.
    """
    require_context(config.kind, context, discrete=True)
    torso = LayerStack(context, config.context_to_input, context_to_layers=True)

    def layer(index: int, width: int) -> GatedLayer:
        plan = plain_plan(config, index, width, streams)
        return XdgLayer(plan, context.of_gates.dim, config.active_fraction)

    return torso.chain(input_dim, len(config.hidden_sizes), layer)
