"""Feature-wise linear modulation: the context scales and shifts every pre-activation.

h = act((1 + gamma(c)) * norm(W x + b) + beta(c)), gamma and beta linear in the context.

Source: Perez et al. 2018, "FiLM: visual reasoning with a general conditioning layer",
arXiv 1709.07871 (with gamma predicted as a difference from 1, their section 7).
Deviation: gamma and beta start at 0, so that the network starts as the plain perceptron of the
same seed, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.gated_layer import GatedLayer, LayerPlan
from networks.plain_gated import PlainSettings, plain_plan
from networks.stack import LayerStack, require_context
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Touched


@dataclass(frozen=True)
class Config(PlainSettings):
    """Settings of the modulated perceptron.

    Attributes:
        kind: Name of this file.
    """

    kind: str = "film"


class FilmLayer(GatedLayer):
    """Hidden layer with a scale and a shift per unit and context."""

    of_contexts = ("modulation.weight",)  # see networks.units.context_parameters

    def __init__(self, plan: LayerPlan, context_dim: int) -> None:
        super().__init__(plan)
        # No bias: b is one already, and a context of 0 then means the plain perceptron.
        self.modulation = nn.Linear(context_dim, 2 * plan.num_units, bias=False)
        nn.init.zeros_(self.modulation.weight)

    @property
    def gate_adds(self) -> bool:
        """A shift is added."""
        return True

    def gate(self, values: Tensor, context: Tensor | None) -> Tensor:
        """Scale and shift pre-activations (B, units) by the context."""
        assert context is not None
        if context.is_floating_point():
            modulation = self.modulation(context)
        else:
            table = self.modulation.weight.t()
            table = torch.cat((table, table.new_zeros(1, table.shape[1])))  # no context
            modulation = table.index_select(0, context)
        scale, shift = modulation.chunk(2, dim=-1)
        return torch.addcmul(values + shift, values, scale)

    @torch.no_grad()
    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]:
        """Redraw weights and biases; the modulation of renewed units is 0 again."""
        rows = torch.cat((units, units + self.num_units))
        self.modulation.weight[rows] = 0.0
        return [
            *super().reset_units(units, generator),
            Touched(self.modulation.weight, 0, rows),
        ]


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> LayerStack:
    """Build the torso.

    Raises:
        ValueError: There is no context.
    """
    require_context(config.kind, context)
    torso = LayerStack(context, config.context_to_input, context_to_layers=True)

    def layer(index: int, width: int) -> GatedLayer:
        return FilmLayer(plain_plan(config, index, width, streams), context.of_gates.dim)

    return torso.chain(input_dim, len(config.hidden_sizes), layer)
