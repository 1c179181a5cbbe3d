"""A utility that looks past the next layer: units hand their own on to what feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.readers import Reader
from networks.units import Producer, UnitGroup
from plasticity.utilities import sample_dims, shared_utility, summing_dtype


@dataclass(frozen=True, eq=False)
class _ReadingLayer:
    """One layer that reads units: what it makes, and whose units it reads.

    Attributes:
        layer: The layer.
        makes: Name of the unit group that its rows are; None for outputs.
        inputs: Unit group and reader for everything it reads.
    """

    layer: nn.Linear | nn.Conv2d
    makes: str | None
    inputs: list[tuple[UnitGroup, Reader]]


class PropagatedUtility:
    """Utilities of all units of a network on one minibatch, from the outputs backwards.

    Every output has the utility 1. A reading layer splits the utility of each of its rows among
    the units it reads, in proportion to their contributions:
    U_i = sum_k U_k mean|h_i| |w_ki| / (sum_j mean|h_j| |w_kj| + eps).
    The utilities of a layer of a plain network therefore add up to the number of outputs. Rows
    that are the units of no group, such as what a residual block adds to its stream, count as
    outputs; inputs of a layer that are no units get no share.

    Args:
        groups: All unit groups of the network, in any order.

    Raises:
        ValueError: The groups read each other in a circle.

    Source: the proportional split of Bach et al. 2015, "On pixel-wise explanations for
    non-linear classifier decisions by layer-wise relevance propagation", section 2.
    Deviation: magnitudes of weights and mean activations in place of signed single contributions,
    utilities of the outputs of 1 in place of their values, and no share for biases.
    """

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        makers = {group.name: group for group in groups}
        plan: dict[int, _ReadingLayer] = {}
        for group in groups:
            for reader in group.readers:
                made = [g.name for g in makers.values() if _makes(g.layer, reader.layer)]
                entry = _ReadingLayer(reader.layer, made[0] if made else None, [])
                plan.setdefault(id(reader.layer), entry).inputs.append((group, reader))
        self._groups = list(groups)
        self._layers = _outputs_first(list(plan.values()))

    @torch.no_grad()
    def __call__(self, activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the utilities.

        Args:
            activations: Unit-group name -> values that readers consumed, arranged by unit
                (`UnitGroup.unit_values`).

        Returns:
            Unit-group name -> utility of every unit, (units,), at least float32.
        """
        magnitudes = {
            group.name: unit_magnitudes(group, activations[group.name]) for group in self._groups
        }
        utilities = {
            group.name: _widened(group.readers[0].layer.weight).new_zeros(group.num_units)
            for group in self._groups
        }
        for reading in self._layers:
            weight = _widened(reading.layer.weight.detach()).abs()
            if weight.dim() > 2:
                weight = weight.flatten(2).sum(2)  # positions of the kernel
            strength = weight.new_zeros(weight.shape[1])
            for group, reader in reading.inputs:
                _add_strength(strength, magnitudes[group.name], reader)
            made = None if reading.makes is None else utilities[reading.makes]
            shares = shared_utility(weight, strength, made)
            for group, reader in reading.inputs:
                own = shares if reader.columns is None else shares[reader.columns].sum(-1)
                utilities[group.name] += own
        return utilities


def unit_magnitudes(group: UnitGroup, activation: Tensor) -> Tensor:
    """Mean |h| over samples and positions, (units,), or (units, values) for several values."""
    several = group.values_per_unit > 1
    dims = (0,) if several else sample_dims(activation)
    return activation.abs().mean(dims, dtype=summing_dtype(activation))


def _add_strength(strength: Tensor, magnitude: Tensor, reader: Reader) -> None:
    """Write magnitudes to the columns through which a layer reads them."""
    if reader.columns is None:
        strength += magnitude
        return
    if magnitude.dim() == 1:  # several columns may read the one value of a unit
        magnitude = magnitude[:, None]
    strength[reader.columns] += magnitude.expand(reader.columns.shape).to(strength.dtype)


def _widened(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _makes(producer: Producer, layer: nn.Module) -> bool:
    """Whether the rows of a layer are the units of a producer."""
    parts = producer.modules() if isinstance(producer, nn.Module) else vars(producer).values()
    return any(part is layer for part in parts)


def _outputs_first(layers: list[_ReadingLayer]) -> list[_ReadingLayer]:
    """Sort layers so that each comes after all that read the units it makes.

    Raises:
        ValueError: There is no such order.
    """
    ordered: list[_ReadingLayer] = []
    waiting = list(layers)
    while waiting:
        unfinished = {group.name for reading in waiting for group, _ in reading.inputs}
        ready = [reading for reading in waiting if reading.makes not in unfinished]
        if not ready:
            raise ValueError(
                f"the unit groups {sorted(unfinished)} read each other in a circle, so none is "
                "nearest to the outputs; choose another utility than propagated"
            )
        ordered += ready
        waiting = [reading for reading in waiting if reading.makes in unfinished]
    return ordered
