"""Measures one network per context: who is silent where, how much contexts share, what gates do.

Units that compete are silent on most samples by design, and features of several contexts in blocks
have a larger rank than those of any one; both are therefore asked per context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from networks.dendritic_layer import DendriticLayer
from networks.heads import Network
from networks.torso import ContextSpec, index_of_one_hot
from networks.units import UnitGroup
from networks.winners import Winners
from plasticity import diagnostics
from plasticity.diagnostics import contexts

# Activations that are silent at exactly 0, so that "active" means something.
SILENT = frozenset({"relu", "k_winners"})
RANK = "stable_rank"
OF_ACTIVITY = ("dormant_fraction", "active_fraction")
OVERLAPS = ("overlap_within_contexts", "overlap_across_contexts")
OF_WINNERS = ("negative_winner_fraction", "duty_entropy")
OF_SEGMENTS = ("segment_entropy", "never_winning_segments")
SATURATION, SEGMENT_OVERLAP = "gate_saturation", "segment_overlap"
MAX_GATE_CONTEXTS = 100


def num_contexts(network: Network) -> int:
    """Contexts that samples of a network can be sorted by; 0 where there are not several."""
    spec = getattr(getattr(network, "torso", None), "context", ContextSpec())
    return spec.dim if spec.discrete and spec.dim > 1 else 0


def context_ids(network: Network, context: Tensor | None) -> Tensor | None:
    """Context of every sample, (N,) int64; None where there are not several.

    Args:
        network: The network.
        context: (N, C) what it is shown.

    Returns:
        Indices; the number of contexts for a sample that shows none.
    """
    count = num_contexts(network)
    return None if not count or context is None else index_of_one_hot(context[:, :count])


def _metrics(group: UnitGroup, count: int) -> Iterator[str]:
    """Names of everything measured about one layer."""
    if count:
        summarised = (*OF_ACTIVITY, RANK) if group.activation in SILENT else (RANK,)
        for metric in summarised:
            yield f"{metric}_per_context"
            yield from (f"{metric}_context_{context}" for context in range(count))
        if group.activation in SILENT:
            yield from OVERLAPS
    if isinstance(getattr(group.tap, "activation", None), Winners):
        yield from OF_WINNERS
    if isinstance(group.layer, DendriticLayer):
        yield from OF_SEGMENTS
        if count:
            yield SEGMENT_OVERLAP
        if group.layer.gate_mode != "bias":  # which adds, and has nothing to saturate
            yield SATURATION


def columns(sample_set: str, name: str, network: Network, groups: Sequence[UnitGroup]) -> list[str]:
    """Names of what `measure` returns."""
    return [
        f"{sample_set}/{name}/{group.name}/{metric}"
        for group in groups
        for metric in _metrics(group, num_contexts(network))
    ]


def measure(
    sample_set: str,
    name: str,
    network: Network,
    groups: Sequence[UnitGroup],
    features: Mapping[str, Tensor],
    context: Tensor | None,
    reasons: dict[str, str],
) -> dict[str, float]:
    """Everything that depends on contexts, gates or competition.

    `<metric>_context_<i>` is of the samples of context i alone: the share of units that are active
    on at most 1 % of them (`dormant_fraction`), the mean share of units that are active
    (`active_fraction`), the stable rank of the features. `<metric>_per_context` is the mean over
    contexts. Overlaps are shared active units of pairs of samples relative to chance: 1 is what
    independent sets share.

    Args:
        sample_set: `window` or `probe`.
        name: Name of the network.
        network: The network.
        groups: Unit groups to measure.
        features: Unit-group name -> (N, units).
        context: (N, C) what it was shown, or None.
        reasons: Gets one sentence for every metric that has no value and is NaN.

    Returns:
        Column name -> value, no column for what does not exist in this network.
    """
    ids, count = context_ids(network, context), num_contexts(network)
    row: dict[str, float] = {}
    for group in groups:
        place = f"{sample_set}/{name}/{group.name}"
        values = {}
        if ids is not None:
            shown = ids < count
            values |= _by_context(group, features[group.name][shown], ids[shown], count)
        values |= _competition(group, features[group.name])
        values |= _gates(group, network, context)
        for metric, function in values.items():
            row[f"{place}/{metric}"], reason = diagnostics.measured(function)
            if reason is not None:
                reasons[f"{place}/{metric}"] = reason
    return row


def _by_context(
    group: UnitGroup, features: Tensor, ids: Tensor, count: int
) -> dict[str, Callable[[], float]]:
    present = [int(context) for context in ids.unique()]

    @cache  # of what is not finite nothing can be measured, which the caller gives as the reason
    def ranks() -> dict[int, float]:
        parts = {context: features[ids == context] for context in present}
        spectra = {context: diagnostics.spectrum(part) for context, part in parts.items()}
        return {
            c: diagnostics.ranks_of_spectrum(spectra[c], len(part)).stable_rank
            for c, part in parts.items()
        }

    @cache
    def active() -> dict[int, float]:
        shares = contexts.activity_map(features, ids, count).mean(1)
        return {context: float(shares[context]) for context in present}

    @cache
    def dormant() -> dict[int, float]:
        found = contexts.context_dormancy(features, ids, count).per_context.double().mean(1)
        return {context: float(found[context]) for context in present}

    @cache
    def overlap() -> Tensor:
        return contexts.representation_overlap(features, ids, count).chance_ratio

    measured: dict[str, Callable[[], dict[int, float]]] = {RANK: ranks}
    functions: dict[str, Callable[[], float]] = {}
    if group.activation in SILENT and len(ids):
        measured |= {"active_fraction": active, "dormant_fraction": dormant}
        others = ~torch.eye(count, dtype=torch.bool)
        functions[OVERLAPS[0]] = lambda: _known_mean(overlap().diagonal())
        functions[OVERLAPS[1]] = lambda: _known_mean(overlap()[others])
    for metric, values in measured.items():
        functions[f"{metric}_per_context"] = lambda v=values: _mean(v())
        for context in range(count):
            name = f"{metric}_context_{context}"
            functions[name] = lambda v=values, c=context: v().get(c, math.nan)
    return functions


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values) if values else math.nan


def _known_mean(values: Tensor) -> float:
    return float(values[~values.isnan()].mean())


def _competition(group: UnitGroup, features: Tensor) -> dict[str, Callable[[], float]]:
    winners = getattr(group.tap, "activation", None)
    if not isinstance(winners, Winners):
        return {}
    # Of all that is possible: 1 when every unit wins equally often.
    most = contexts.max_unit_duty_entropy(winners.num_units, winners.k)
    return {
        OF_WINNERS[0]: lambda: contexts.negative_winner_fraction(features),
        OF_WINNERS[1]: lambda: contexts.unit_duty_entropy(winners.duty.clamp(0.0, 1.0)) / most,
    }


def gate_contexts(network: Network, context: Tensor) -> Tensor:
    """Distinct contexts that gates are shown, (T, C); of continuous ones at most a hundred.

    Each counts once, however often it occurs, so that frequent contexts do not hide rare ones.
    """
    spec: ContextSpec = network.torso.context
    shown = context if spec.gate is None else context[:, spec.dim :]
    distinct = shown.unique(dim=0)
    if spec.of_gates.discrete:
        return distinct[distinct.any(1)]
    step = max(1, len(distinct) // MAX_GATE_CONTEXTS)
    return distinct[::step][:MAX_GATE_CONTEXTS]


def segment_contexts(network: Network, shown: Tensor) -> Tensor:
    """What the segments see of the contexts (N, C) of gates: zeros in one control arm."""
    config = getattr(network.torso, "config", None)
    hidden = getattr(config, "segment_context", "given") == "zero"
    return torch.zeros_like(shown) if hidden else shown


def wins_by_magnitude(layer: DendriticLayer) -> bool:
    """Whether the largest magnitude among segments decides; otherwise the largest value does."""
    return layer.gate_mode in ("absmax", "absmax_unsigned")


def _gates(
    group: UnitGroup, network: Network, context: Tensor | None
) -> dict[str, Callable[[], float]]:
    layer = group.layer
    if not isinstance(layer, DendriticLayer) or context is None:
        return {}
    shown = segment_contexts(network, gate_contexts(network, context)).to(layer.segments.dtype)
    activations = layer.segment_activations(shown)
    signed = wins_by_magnitude(layer)

    def saturation() -> float:
        with torch.no_grad():
            return contexts.gate_saturation(layer.modulation(shown), layer.gate_scale)

    values: dict[str, Callable[[], float]] = {
        OF_SEGMENTS[0]: lambda: float(contexts.segment_use(activations, signed).entropy.mean()),
        OF_SEGMENTS[1]: lambda: contexts.segment_use(activations, signed).never_winning,
    }
    if num_contexts(network):
        overlap = contexts.segment_overlap
        values[SEGMENT_OVERLAP] = lambda: (  # no directions to compare where all is 0
            float(overlap(activations).mean()) if bool(activations.any()) else math.nan
        )
    if layer.gate_mode != "bias":
        values[SATURATION] = saturation
    return values
