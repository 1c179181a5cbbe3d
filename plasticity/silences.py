"""How long hidden units are silent, and how long they have been in the past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity.diagnostics.unit_gradients import VANISHED

NUM_CLASSES = 256


class SilenceRecord:
    """Current silences and histograms of past ones, for the units of one group.

    Nothing here waits for the device except `due`, which looks only when a unit can be due at all:
    silences grow by at most one per step, so the last look tells how soon that may be.

    Args:
        num_units: Units of the group.
        min_silence: Least limit.
        max_silence: Largest limit, and the limit of units with too few records.
        device: Where tensors live.

    Attributes:
        silence: Steps since every unit was last heard, int64 (units,).
        limit: Silence at which every unit is due, int64 (units,).
        born: Call at which every unit was last renewed, int64 (units,).
        histogram: Past silences by length class, int32 (units, classes).
        upper_edges: Longest silence of every class, int64 (classes,). The first class holds all
            up to `min_silence`, which cannot matter one by one.
        replaced_total: Units renewed so far.
    """

    def __init__(
        self, num_units: int, min_silence: int, max_silence: int, device: torch.device
    ) -> None:
        self.max_silence = max_silence
        ratios = torch.linspace(0.0, 1.0, NUM_CLASSES, dtype=torch.float64)
        edges = min_silence * (max_silence / min_silence) ** ratios
        self.upper_edges = edges.round().long().unique().to(device)
        self.silence = torch.zeros(num_units, dtype=torch.int64, device=device)
        self.limit = torch.full_like(self.silence, max_silence)
        self.born = torch.zeros_like(self.silence)
        self.histogram = torch.zeros(
            (num_units, len(self.upper_edges)), dtype=torch.int32, device=device
        )
        self.replaced_total = 0
        self._steps_to_look = 0

    def count(self, silent: Tensor) -> None:
        """Count one step: lengthen the silences of silent units, record those that end.

        Args:
            silent: (units,) bool.
        """
        self._count(silent, ~silent)

    def count_by_gradient(self, magnitude: Tensor, threshold: float) -> None:
        """Count one step of units that count as silent while they hardly learn.

        A step on which the whole layer has no gradient says nothing and is not counted.

        Args:
            magnitude: Mean incoming |gradient| of every unit, (units,).
            threshold: Units of at most this share of the layer mean are silent.
        """
        mean = magnitude.mean()
        silent, tells = magnitude <= threshold * mean, mean >= VANISHED
        self._count(silent & tells, ~silent & tells)

    def _count(self, silent: Tensor, heard: Tensor) -> None:
        classes = torch.bucketize(self.silence, self.upper_edges)
        classes.clamp_(max=len(self.upper_edges) - 1)
        self.histogram.scatter_add_(1, classes[:, None], heard[:, None].int())
        self.silence.add_(silent).mul_(~heard)
        self._steps_to_look -= 1

    def refresh(self, tail_probability: float, min_records: int) -> None:
        """Compute the limits of all units from their own records."""
        cumulated = self.histogram.cumsum(1)
        records = cumulated[:, -1]
        # The slack keeps 98 % of 100 records (98.00000000000001) at 98.
        enough = cumulated >= (1.0 - tail_probability) * records[:, None].double() - 1e-6
        percentile = self.upper_edges[enough.int().argmax(1)]
        self.limit = torch.where(records >= min_records, percentile, self.max_silence)
        self._steps_to_look = 0

    def due(self) -> Tensor | None:
        """Indices of the units whose silence has reached its limit, int64, or None."""
        if self._steps_to_look > 0:
            return None
        remaining = self.limit - self.silence
        self._steps_to_look = int(remaining.min())
        return (remaining <= 0).nonzero().flatten() if self._steps_to_look <= 0 else None

    def clear(self, units: Tensor, call: int) -> None:
        """Start anew for units that the method has renewed."""
        self.restart(units, call)
        self.replaced_total += len(units)

    def restart(self, units: Tensor, call: int) -> None:
        """Start anew for units drawn anew: each has its own law of silences."""
        self.silence[units] = 0
        self.limit[units] = self.max_silence
        self.histogram[units] = 0
        self.born[units] = call

    def log_values(self) -> dict[str, float]:
        """Units renewed, longest silence, and median limit, read off the device."""
        return {
            "replaced_total": self.replaced_total,
            "longest_silence": float(self.silence.max()),
            "median_limit": float(self.limit.double().median()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all state, cloned."""
        return {
            "silence": self.silence.clone(),
            "limit": self.limit.clone(),
            "born": self.born.clone(),
            "histogram": self.histogram.clone(),
            "upper_edges": self.upper_edges.clone(),
            "replaced_total": self.replaced_total,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, in place.

        Records that were kept between other limits go into the classes of this one, by the longest
        silence that their old class may hold. Older states, which do not name their classes, are
        taken to have those of this record.

        Raises:
            ValueError: The records are of another number of units or classes.
        """
        edges = state.get("upper_edges", self.upper_edges).to(self.upper_edges.device)
        histogram = state["histogram"].to(self.histogram.device)
        if histogram.shape != (len(self.silence), len(edges)):
            raise ValueError(
                f"the saved silences are of {tuple(histogram.shape)} units and classes, and this "
                f"run keeps {tuple(self.histogram.shape)}"
            )
        for name in ("silence", "limit", "born"):
            getattr(self, name).copy_(state[name])
        if torch.equal(edges, self.upper_edges):
            self.histogram.copy_(histogram)
        else:
            classes = torch.bucketize(edges, self.upper_edges)
            classes.clamp_(max=len(self.upper_edges) - 1)
            self.histogram.zero_().index_add_(1, classes, histogram)
            unknown = self.limit >= edges[-1]  # too few records, or none that long
            self.limit.clamp_(int(self.upper_edges[0]), self.max_silence)
            self.limit[unknown] = self.max_silence
        self.replaced_total = int(state["replaced_total"])
        self._steps_to_look = 0
