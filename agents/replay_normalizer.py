"""Running moments of observations for agents that learn from a replay of raw ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from agents.normalization import RunningNormalizer
from agents.replay import Batch


class ReplayNormalizer(RunningNormalizer):
    """Standardises acting observations and minibatches by the moments of now.

    The replay keeps raw observations: stored ones would be standardised by the moments of long ago,
    and every minibatch would mix scales.

    Args:
        size: Length of an observation.
        device: Where minibatches live.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__(size)
        self._device = device
        self._moments: tuple[int, Tensor, Tensor] | None = None  # count, mean, deviation

    def batch(self, batch: Batch) -> Batch:
        """The same minibatch with both observations standardised; float32, new tensors."""
        return replace(
            batch,
            observation=self._standardized(batch.observation),
            next_observation=self._standardized(batch.next_observation),
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the statistics."""
        super().load_state_dict(state)
        self._moments = None

    def _standardized(self, observation: Tensor) -> Tensor:
        mean, deviation = self._on_device()
        scaled = (observation.double() - mean) / deviation
        return scaled.clamp_(-self.clip, self.clip).float()

    def _on_device(self) -> tuple[Tensor, Tensor]:
        """Moments as tensors (size,), sent once for each count: vector steps learn many times."""
        if self._moments is None or self._moments[0] != self.count:
            arrays = torch.from_numpy(self.mean.copy()), torch.from_numpy(self.deviation)
            mean, deviation = (array.to(self._device) for array in arrays)
            self._moments = self.count, mean, deviation
        return self._moments[1:]
