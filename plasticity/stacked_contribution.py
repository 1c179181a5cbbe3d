"""The utility of all groups of a network in a handful of operations, for the hot path.

Continual backprop updates its utilities after every gradient step. On networks of a few hundred
units the price is the number of operations and the memory they touch, not their arithmetic, so
the groups share one flat buffer and every elementwise operation runs once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.unit_statistics import UnitStatistics


class StackedContribution:
    """Updates the running contribution utility of several groups, with the bits of one by one.

    The utilities of the statistics given become views of one buffer. All shapes are fixed and
    nothing is read off the device.

    Args:
        statistics: Statistics for which `supports` is true.
    """

    def __init__(self, statistics: Sequence[UnitStatistics]) -> None:
        first = statistics[0].utility
        self._decay = statistics[0].decay
        groups = [one.group for one in statistics]
        self._names = [group.name for group in groups]
        self._num_outgoing = [one.num_outgoing for one in statistics]
        self._sizes = [group.num_units for group in groups]
        buffers = first.new_zeros(4, sum(self._sizes))
        self._utility, self._magnitude, self._outgoing, self._scale = buffers.unbind()
        for one, view in zip(statistics, self._utility.split(self._sizes), strict=True):
            view.copy_(one.utility)
            one.utility = view
        # Absolute weights go into one buffer for all layers, which then stays in the cache.
        weights = [[reader.layer.weight.detach() for reader in group.readers] for group in groups]
        scratch = first.new_empty(max(weight.numel() for each in weights for weight in each))
        self._fixed = [
            (
                group.name,
                group.nonnegative,
                magnitude,
                outgoing,
                [(weight, scratch[: weight.numel()].view_as(weight)) for weight in each],
            )
            for group, magnitude, outgoing, each in zip(
                groups,
                self._magnitude.split(self._sizes),
                self._outgoing.split(self._sizes),
                weights,
                strict=True,
            )
        ]
        self._plan: list[Any] = [(name, None, *rest) for name, *rest in self._fixed]
        self._on_host = first.device.type == "cpu"

    @staticmethod
    def supports(statistics: Sequence[UnitStatistics]) -> bool:
        """Whether all groups are plain: one value per unit, linear readers, one dtype, device."""
        readers = [reader for one in statistics for reader in one.group.readers]
        weights = [reader.layer.weight for reader in readers]
        return (
            all(
                one.formula == "contribution"
                and one.mean is None
                and one.group.values_per_unit == 1
                for one in statistics
            )
            and all(reader.columns is None for reader in readers)
            and all(weight.dim() == 2 for weight in weights)
            and len({(weight.dtype, weight.device) for weight in weights}) == 1
            and weights[0].dtype in (torch.float32, torch.float64)
        )

    def update(self, activations: Mapping[str, Tensor]) -> bool:
        """Fold one minibatch into the utilities; see `UnitStatistics.update`.

        Args:
            activations: Unit-group name -> (B, units), detached.

        Returns:
            False where the activations have another form; nothing was changed then.
        """
        for name, shape, nonnegative, magnitude, total, readers in self._plan:
            value = activations.get(name)
            if value is None or value.shape != shape:
                return self._adopt(activations) and self.update(activations)
            torch.sum(value if nonnegative else value.abs(), 0, out=magnitude)
            for index, (weight, absolute) in enumerate(readers):
                torch.abs(weight, out=absolute)
                if index:
                    total.add_(absolute.sum(0))
                else:
                    torch.sum(absolute, 0, out=total)
        if self._on_host:
            # A third of torch's time for a few hundred numbers, and the same bits.
            magnitude, utility = self._magnitude.numpy(), self._utility.numpy()
            magnitude *= self._scale.numpy()
            utility *= self._decay
        else:
            self._magnitude.mul_(self._scale)
            self._utility.mul_(self._decay)
        self._utility.addcmul_(self._magnitude, self._outgoing)
        return True

    def _adopt(self, activations: Mapping[str, Tensor]) -> bool:
        """Get ready for activations of other shapes; False if they are not (B, units) each."""
        values = [activations.get(name) for name in self._names]
        for value, size in zip(values, self._sizes, strict=True):
            if value is None or value.dim() != 2 or value.shape[1] != size:
                return False
            if value.dtype != self._utility.dtype:
                return False
        self._plan = []
        scales = self._scale.split(self._sizes)
        for value, fixed, scale, count in zip(
            values, self._fixed, scales, self._num_outgoing, strict=True
        ):
            assert value is not None
            name, *rest = fixed
            self._plan.append((name, value.shape, *rest))
            # What makes means, over samples and outgoing weights, of the sums.
            scale.fill_((1.0 - self._decay) / (len(value) * count))
        return True
