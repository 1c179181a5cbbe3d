"""Hidden layer whose units are gated by context segments.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from networks.gated_layer import GatedLayer, LayerPlan
from networks.segments import dense_logits, look_up, segment_activations
from networks.units import Touched


class DendriticLayer(GatedLayer):
    """Hidden layer whose units are gated by segments.

    Args:
        plan: The feed-forward part.
        segments: (units, segments, C) initial weights, masked entries 0.
        segment_bound: Half width of the uniform law they were drawn from.
        segment_mask: (units, segments, C) bool, or None.
        gate_mode: One of `networks.segments.GATE_MODES` except `none`.
        gate_scale: Factor on the gate.
    """

    segment_mask: Tensor | None

    def __init__(
        self,
        plan: LayerPlan,
        segments: Tensor,
        segment_bound: float,
        segment_mask: Tensor | None,
        gate_mode: str,
        gate_scale: float,
    ) -> None:
        super().__init__(plan)
        self.segment_bound = segment_bound
        self.gate_mode, self.gate_scale = gate_mode, gate_scale
        self.segments = nn.Parameter(segments)
        self.register_buffer("segment_mask", segment_mask)

    @property
    def live_segments(self) -> Tensor:
        """Segment weights under their mask."""
        return self.segments if self.segment_mask is None else self.segments * self.segment_mask

    @property
    def gate_adds(self) -> bool:
        """Segments add with `gate_mode=bias` and multiply otherwise."""
        return self.gate_mode == "bias"

    def gate(self, values: Tensor, context: Tensor | None) -> Tensor:
        """Gate pre-activations (B, units) by the context, (B,) indices or (B, C) vectors."""
        assert context is not None
        modulation = self.modulation(context)
        return values + modulation if self.gate_mode == "bias" else values * modulation

    def modulation(self, context: Tensor) -> Tensor:
        """Factor on every unit, or what is added to it with `gate_mode=bias`, (B, units).

        Args:
            context: (B,) indices, or (B, C) vectors.
        """
        if not context.is_floating_point():
            return look_up(self.live_segments, self.gate_mode, context, self._transform)
        return self._transform(dense_logits(self.live_segments, context, self.gate_mode))

    def segment_activations(self, context: Tensor) -> Tensor:
        """All u_ij . c for contexts (B, C), (B, units, segments); for analysis."""
        return segment_activations(self.live_segments.detach(), context)

    def _transform(self, logits: Tensor) -> Tensor:
        if self.gate_mode == "bias":
            return logits
        opened = torch.sigmoid(logits)
        return opened if self.gate_scale == 1.0 else opened * self.gate_scale

    @torch.no_grad()
    def reset_units(self, units: Tensor, generator: torch.Generator) -> list[Touched]:
        """Redraw weights, bias and all segments of some units; clear their duty cycles."""
        touched = super().reset_units(units, generator)
        shape = (len(units), *self.segments.shape[1:])
        fresh = torch.empty(shape, dtype=self.segments.dtype, device=generator.device)
        fresh = fresh.uniform_(-self.segment_bound, self.segment_bound, generator=generator)
        fresh = fresh.to(self.segments.device)
        mask = self.segment_mask
        self.segments[units] = fresh if mask is None else fresh * mask[units]
        return [*touched, Touched(self.segments, 0, units)]

    def masked_parameters(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The segments, where they are masked."""
        if self.segment_mask is not None:
            yield self.segments, self.segment_mask
