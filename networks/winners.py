"""k-winners: only the k largest units of a layer speak, sample by sample.

The output jumps where another unit begins to win. A policy can live with that; a critic whose
gradient by the action is to say which action is better hardly can: give critics another network
(`value_network=dendrites_relu`, `value_network=mlp`), or use agents that do not differentiate them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.masks import round_half_up

DUTY_PERIOD = 1000


def num_winners(num_units: int, active_fraction: float) -> int:
    """Units that win in each sample: max(1, floor(units * active_fraction + 0.5)).

    Raises:
        ValueError: `active_fraction` is outside (0, 1].
    """
    if not 0.0 < active_fraction <= 1.0:
        raise ValueError(
            f"active_fraction is {active_fraction}; give the share of winning units, in (0, 1]"
        )
    return max(1, round_half_up(num_units * active_fraction))


def winner_mask(scores: Tensor, k: int) -> Tensor:
    """Mark the k largest scores of every sample.

    Args:
        scores: (B, units).
        k: Winners per sample, at most the number of units.

    Returns:
        (B, units) of 0 and 1 in the dtype of the scores, with exactly k ones per row, also where
        scores tie.
    """
    # kthvalue and a comparison would be as fast, but lets every tied unit win.
    scores = scores.detach()
    winners = scores.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(scores).scatter_(-1, winners, 1.0)


class Winners(nn.Module):
    """Passes the k largest values of every sample unchanged and silences all others.

    A negative winner stays negative unless `rectify`. Losers get no gradient.

    Args:
        num_units: Units of the layer.
        active_fraction: Share of units that win, in (0, 1]; 1 passes everything.
        rectify: Apply ReLU after the selection.
        boost_strength: beta >= 0 of the selection score y exp(beta (k/n - duty)), which lets
            rarely winning units win; the value passed on is never scaled. For negative y the
            product works in reverse: the boosted unit moves further down.

    Attributes:
        duty: Running share of samples in which each unit won, (units,); starts at k/n.
        seen: Samples recorded so far, at most `DUTY_PERIOD`.

    Raises:
        ValueError: A setting is out of range.

    Source: Ahmad and Scheinkman 2019, arXiv 1903.11257.
    Deviation: the duty cycle is a convex average, duty += B / (seen + B) (wins - duty), which
    stays in [0, 1] and has mean k/n for every batch size; the published factor
    (period - B) / period diverges for batches above two periods. It counts winning, not being
    positive.
    """

    duty: Tensor
    seen: Tensor

    def __init__(
        self,
        num_units: int,
        active_fraction: float,
        rectify: bool = False,
        boost_strength: float = 0.0,
    ) -> None:
        super().__init__()
        if boost_strength < 0.0:
            raise ValueError(f"boost_strength is {boost_strength}; give 0 (off) or more")
        self.num_units = num_units
        self.k = num_winners(num_units, active_fraction)
        self.rectify = rectify
        self.boost_strength = boost_strength
        self.register_buffer("duty", torch.full((num_units,), self.k / num_units))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"k={self.k} of {self.num_units}, rectify={self.rectify}"

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, units) to (B, units) with at most k non-zero entries per row."""
        if self.k == self.num_units:
            return values.relu() if self.rectify else values
        return self._pass_on(values, self.membership(values))

    def membership(self, values: Tensor) -> Tensor:
        """Which units win, (B, units) of 0 and 1; changes nothing."""
        if not self.boost_strength:
            return winner_mask(values, self.k)
        boost = torch.exp(self.boost_strength * (self.k / self.num_units - self.duty))
        return winner_mask(values * boost, self.k)

    def _pass_on(self, values: Tensor, winners: Tensor) -> Tensor:
        kept = values * winners  # on CPU many times faster than selecting by an irregular mask
        return kept.relu() if self.rectify else kept

    @torch.no_grad()
    def record(self, values: Tensor) -> Tensor:
        """Count the winners of one batch into the duty cycles.

        Args:
            values: (B, units).

        Returns:
            What `forward` would have returned before the count.
        """
        winners = self.membership(values)
        kept = self._pass_on(values, winners)
        size = len(values)
        weight = size / (self.seen + size).to(self.duty.dtype)
        self.duty.lerp_(winners.to(self.duty.dtype).mean(0), weight)
        self.seen.add_(size).clamp_(max=DUTY_PERIOD)
        return kept

    @staticmethod
    def boosting_statistics(module: nn.Module) -> list[Tensor]:
        """Buffers by which the winners of a network depend on its past; none without boosting."""
        layers = [m for m in module.modules() if isinstance(m, Winners) and m.boost_strength]
        return [buffer for layer in layers for buffer in (layer.duty, layer.seen)]

    @torch.no_grad()
    def clear(self, units: Tensor) -> None:
        """Set the duty cycles of some units back to k/n; of all at once, they begin anew."""
        self.duty[units] = self.k / self.num_units
        if len(units) == self.num_units:
            self.seen.zero_()
