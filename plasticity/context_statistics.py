"""Running usefulness of units in every context apart: who is needed there, though silent here."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from networks.units import UnitGroup
from plasticity.unit_statistics import UnitStatistics
from plasticity.utilities import SMALLEST_DENOMINATOR, summing_dtype


class ContextStatistics(UnitStatistics):
    """One contribution utility and one counter per unit and context; units are judged by the best.

    With y_ic = mean |h_i| over the samples of context c, times the mean outgoing weight, u_ic
    decays towards y_ic in the steps whose minibatch holds samples of c and stands still in all
    others. A unit is as useful as in its best context, max_c u_ic / (1 - decay^n_ic), with n_ic
    the steps that have shown c since the unit was renewed. A utility keeps the outgoing weights
    of the time when its context was last seen.

    Args:
        group: The units.
        num_contexts: Contexts there are, >= 1; samples that show none count as one more.
        decay, rank_key, out_aggregate, mean_transfer: As for `UnitStatistics`.

    Attributes:
        by_context: u_ic, (units, num_contexts + 1).
        seen: n_ic, int64 (units, num_contexts + 1).
    """

    def __init__(
        self,
        group: UnitGroup,
        num_contexts: int,
        decay: float,
        rank_key: str = "corrected",
        out_aggregate: str = "mean",
        mean_transfer: bool = False,
    ) -> None:
        super().__init__(group, "contribution", decay, rank_key, out_aggregate, mean_transfer)
        shape = (group.num_units, num_contexts + 1)
        self.by_context = self.utility.new_zeros(shape)
        self.seen = torch.zeros(shape, dtype=torch.int64, device=self.utility.device)

    def update_by_context(self, activation: Tensor, contexts: Tensor) -> None:
        """Fold one minibatch into the utilities of the contexts that it holds.

        Args:
            activation: As for `UnitStatistics.update`.
            contexts: Context of every sample, (B,) int64, `num_contexts` for none.
        """
        self.update_mean(activation)
        strength = self._strength(activation).to(self.by_context.dtype)
        member = functional.one_hot(contexts, self.by_context.shape[1]).to(strength.dtype)
        samples = member.sum(0)
        present = samples > 0.0
        fresh = strength.t() @ member / samples.clamp_min(1.0)
        self.by_context.copy_(
            torch.where(present, self.by_context.lerp(fresh, 1.0 - self.decay), self.by_context)
        )
        self.seen.add_(present)

    def _strength(self, activation: Tensor) -> Tensor:
        """Contribution of every unit in every sample, (B, units), as pooled utilities mean it."""
        magnitude = activation.abs()
        if self.group.values_per_unit > 1:
            outgoing = self.group.outgoing_sums() / self.num_outgoing
            return (magnitude * outgoing).sum(2)
        if magnitude.dim() > 2:
            magnitude = magnitude.flatten(2).mean(2, dtype=summing_dtype(activation))
        return magnitude * (self.group.outgoing_sum() / self.num_outgoing)

    def scores(self, call: int) -> Tensor:
        """The corrected utility in a unit's best context, (units,)."""
        correction = (1.0 - self.decay ** self.seen.double()).clamp_min(SMALLEST_DENOMINATOR)
        return (self.by_context / correction.to(self.by_context.dtype)).amax(1)

    def raw_scores(self) -> Tensor:
        """The uncorrected utility in a unit's best context, (units,)."""
        return self.by_context.amax(1)

    def clear(self, units: Tensor, call: int) -> None:
        """Forget the statistics of renewed units."""
        super().clear(units, call)
        self.by_context[units] = 0.0
        self.seen[units] = 0

    def _kept(self) -> dict[str, Tensor]:
        return {**super()._kept(), "by_context": self.by_context, "seen": self.seen}
