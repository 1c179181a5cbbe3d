"""Running usefulness of the units of one group, as continual backprop keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from networks.units import UnitGroup
from plasticity.recycling import Selection
from plasticity.utilities import (
    SMALLEST_DENOMINATOR,
    UTILITIES,
    instantaneous_utility,
    num_samples,
    sample_dims,
    summing_dtype,
)

QUANTILES = (0.25, 0.5, 0.75)


class UnitStatistics:
    """Running statistics of the units of one group; all tensors, updated in place.

    Args:
        group: The units.
        utility: One of `UTILITIES`.
        decay: Decay of the running averages, in [0, 1).
        rank_key: `corrected` or `raw`.
        out_aggregate: `mean` or `sum` of outgoing weight magnitudes.
        mean_transfer: Hand out the mean activation of selected units.

    Attributes:
        utility: Running utility u, not corrected for its start at 0, (units,).
        mean: Running mean activation mu, not corrected, (units,), or (units, values) where units
            have several values; None when nothing needs it.
        born: Call at which every unit was last renewed, int64 (units,). Storing births makes
            ages free: they grow without a tensor being touched.
    """

    def __init__(
        self,
        group: UnitGroup,
        utility: str,
        decay: float,
        rank_key: str = "corrected",
        out_aggregate: str = "mean",
        mean_transfer: bool = False,
    ) -> None:
        weight = group.readers[0].layer.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.group = group
        self.formula = utility
        self.decay = decay
        self.rank_key = rank_key
        self.mean_transfer = mean_transfer
        self.num_outgoing = 1 if out_aggregate == "sum" else group.num_outgoing
        self.utility = torch.zeros(group.num_units, dtype=dtype, device=weight.device)
        keeps_mean = UTILITIES[utility].uses_deviation or mean_transfer
        shape = (group.num_units, group.values_per_unit)[: 1 + (group.values_per_unit > 1)]
        self.mean = self.utility.new_zeros(shape) if keeps_mean else None
        self.born = torch.zeros(group.num_units, dtype=torch.int64, device=weight.device)

    def ages(self, call: int) -> Tensor:
        """Calls since every unit was renewed, int64 (units,)."""
        return call - self.born

    def corrected(self, running: Tensor, call: int) -> Tensor:
        """Divide a running average by 1 - decay^age; 0 for units of age 0."""
        correction = 1.0 - self.decay ** self.ages(call).double()
        correction = correction.view(-1, *(1,) * (running.dim() - 1))
        return running / correction.clamp_min(SMALLEST_DENOMINATOR).to(running.dtype)

    def scores(self, call: int) -> Tensor:
        """How useful every unit is, corrected for the start of its average at 0, (units,)."""
        return self.corrected(self.utility, call)

    def raw_scores(self) -> Tensor:
        """The same without the correction, (units,)."""
        return self.utility

    def update(
        self,
        activation: Tensor,
        call: int,
        gradient: Tensor | None = None,
        given: Tensor | None = None,
    ) -> None:
        """Fold one minibatch into the running statistics.

        Args:
            activation: Values that readers consumed, (B, units) or (B, channels, height, width);
                (B, units, values) where units have several values.
            call: Number of this call, from 1.
            gradient: Derivative of the loss by `activation`, for utilities that use it.
            given: Utility on this minibatch, (units,), where its formula is of whole networks.
        """
        several = self.group.values_per_unit > 1
        self.update_mean(activation)
        if self.formula == "contribution" and not several:
            self._update_contribution(activation)
        elif self.formula != "random":
            instantaneous = given
            if instantaneous is None:
                instantaneous = self._instantaneous(activation, call, gradient)
            self.utility.mul_(self.decay).add_(instantaneous, alpha=1.0 - self.decay)

    def update_mean(self, activation: Tensor) -> None:
        """Fold the mean activation of a minibatch in, where something needs it."""
        if self.mean is None:
            return
        several = self.group.values_per_unit > 1
        dims = (0,) if several else sample_dims(activation)
        summed = activation.sum(dims, dtype=summing_dtype(activation)).to(self.mean.dtype)
        samples = len(activation) if several else num_samples(activation)
        self.mean.mul_(self.decay).add_(summed, alpha=(1.0 - self.decay) / samples)

    def _update_contribution(self, activation: Tensor) -> None:
        """The hot path: sums instead of means, their sizes folded into one scalar."""
        magnitude = activation if self.group.nonnegative else activation.abs()
        magnitude = magnitude.sum(sample_dims(activation), dtype=summing_dtype(activation))
        scale = (1.0 - self.decay) / (num_samples(activation) * self.num_outgoing)
        self.utility.mul_(self.decay).addcmul_(magnitude, self.group.outgoing_sum(), value=scale)

    def _instantaneous(self, activation: Tensor, call: int, gradient: Tensor | None) -> Tensor:
        """Utility on one minibatch; the mean over its values where a unit has several."""
        formula, unused = UTILITIES[self.formula], self.utility
        values = self.group.values_per_unit
        incoming = unused
        if formula.uses_incoming:
            incoming = self.group.layer.incoming_magnitude().to(unused.dtype)
        mean = unused if self.mean is None else self.corrected(self.mean, call)
        outgoing = unused
        if values == 1:
            if formula.uses_outgoing:
                outgoing = (self.group.outgoing_sum() / self.num_outgoing).to(unused.dtype)
            return instantaneous_utility(
                self.formula, activation, outgoing, incoming, mean, gradient
            )
        if formula.uses_outgoing:
            outgoing = (self.group.outgoing_sums() * values / self.num_outgoing).to(unused.dtype)
        each = [
            instantaneous_utility(
                self.formula,
                activation[..., value],
                outgoing[:, value] if formula.uses_outgoing else outgoing,
                incoming,
                mean if self.mean is None else mean[:, value],
                None if gradient is None else gradient[..., value],
            )
            for value in range(values)
        ]
        return torch.stack(each).mean(0)

    def select(
        self, due: int, call: int, maturity_threshold: int, generator: torch.Generator
    ) -> Selection:
        """Choose the eligible units with the smallest keys; ties go to the lowest index."""
        ages = self.ages(call)
        if self.formula == "random":
            noise = torch.rand(len(ages), generator=generator, device=generator.device)
            key = scores = noise.to(self.utility)
        else:
            scores = self.scores(call)
            key = self.raw_scores() if self.rank_key == "raw" else scores
        # An overflowing utility ranks last among the eligible, never among the immature.
        largest = torch.finfo(key.dtype).max
        key = key.nan_to_num(nan=largest, posinf=largest)
        key = key.masked_fill(ages <= maturity_threshold, torch.inf)
        units = torch.sort(key, stable=True).indices[:due]
        means = None
        if self.mean_transfer and self.mean is not None:
            means = self.corrected(self.mean, call)[units]
        return Selection(self.group, units, scores[units], ages[units], means)

    def clear(self, units: Tensor, call: int) -> None:
        """Forget the statistics of renewed units."""
        self.utility[units] = 0.0
        self.born[units] = call
        if self.mean is not None:
            self.mean[units] = 0.0

    def log_values(self, call: int) -> dict[str, float]:
        """Quantiles of age and corrected utility, read off the device."""
        levels = torch.tensor(QUANTILES, device=self.utility.device, dtype=torch.float64)
        values: dict[str, float] = {}
        for name, data in (
            ("age", self.ages(call)),
            ("utility", self.scores(call)),
        ):
            quantiles = torch.quantile(data.double(), levels).tolist()
            for level, value in zip(QUANTILES, quantiles, strict=True):
                values[f"{name}_q{round(100 * level)}"] = value
        return values

    def _kept(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name."""
        kept = {"utility": self.utility, "born": self.born}
        return kept if self.mean is None else {**kept, "mean": self.mean}

    def state_dict(self) -> dict[str, Any]:
        """Return all state, cloned."""
        return {name: tensor.clone() for name, tensor in self._kept().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, in place.

        Raises:
            ValueError: The statistics were kept for another utility, or for other units.
        """
        kept = self._kept()
        missing = [name for name in kept if name not in state]
        if "by_context" in state and "by_context" not in kept:
            missing.append("pooled utility")  # it stands still at 0 beside those of contexts
        if missing:
            raise ValueError(
                f"the saved statistics of the units of {self.group.name!r} hold no {missing[0]}: "
                "utility, utility_over_contexts or mean_transfer was set differently"
            )
        for name, tensor in kept.items():
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"{name} of the units of {self.group.name!r} has the shape "
                    f"{tuple(state[name].shape)}, and this run keeps {tuple(tensor.shape)}"
                )
            tensor.copy_(state[name])
