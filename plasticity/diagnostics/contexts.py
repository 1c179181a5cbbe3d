"""How the units of one layer share their work between contexts.

Pure functions of features (N, H), the values readers consume, and context ids (N,). Units that
compete for winning are silent on most samples by design, so everything is asked per context;
balance the sample over contexts before asking. A unit is active on a sample when h is not 0,
whatever its sign.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.diagnostics.activity import dormant_mask
from plasticity.diagnostics.measuring import check_samples, doubled


def activity_map(features: Tensor, context_ids: Tensor, num_contexts: int) -> Tensor:
    """Share of the samples of each context on which each unit is active, (T, H) float64.

    Args:
        features: (N, H).
        context_ids: (N,) int64 in [0, num_contexts).
        num_contexts: T.

    Returns:
        Rows of contexts without samples are NaN.

    Raises:
        ValueError: Ids and samples differ in number, or an id is out of range.
    """
    return context_means((check_samples(features) != 0).double(), context_ids, num_contexts)


def context_means(values: Tensor, context_ids: Tensor, num_contexts: int) -> Tensor:
    """Mean of values (N, ...) over the samples of each context, (T, ...) float64; NaN for none.

    With gates (N, H) this is the gate map, with segment activations (N, H, J) the segment map.

    Raises:
        ValueError: Ids and samples differ in number, or an id is out of range.
    """
    _check_ids(context_ids, len(values), num_contexts)
    totals = _sums(doubled(values), context_ids, num_contexts)
    counts = torch.bincount(context_ids, minlength=num_contexts).double()
    return totals / counts.view(-1, *(1,) * (values.dim() - 1))


def _sums(values: Tensor, context_ids: Tensor, num_contexts: int) -> Tensor:
    totals = values.new_zeros(num_contexts, *values.shape[1:])
    return totals.index_add_(0, context_ids, values)


def _check_ids(context_ids: Tensor, num_samples: int, num_contexts: int) -> None:
    if context_ids.shape != (num_samples,):
        raise ValueError(
            f"context_ids has shape {tuple(context_ids.shape)}; give one id for each of "
            f"{num_samples} samples"
        )
    if num_samples and not 0 <= int(context_ids.min()) <= int(context_ids.max()) < num_contexts:
        raise ValueError(
            f"context_ids holds {int(context_ids.min())} to {int(context_ids.max())}; with "
            f"{num_contexts} contexts ids are 0 to {num_contexts - 1}"
        )


class ContextDormancy(NamedTuple):
    """Units that do not speak.

    Attributes:
        per_context: (T, H) bool, active on at most the threshold share of a context's samples.
            False for contexts without samples, about which nothing is known.
        everywhere: (H,) bool, dormant in every context that has samples.
    """

    per_context: Tensor
    everywhere: Tensor


def context_dormancy(
    features: Tensor, context_ids: Tensor, num_contexts: int, threshold: float = 0.01
) -> ContextDormancy:
    """Which units are dormant in each context, and which in all of them.

    A specialist of one context is dormant in the others and alive as a unit.

    Args:
        features: (N, H).
        context_ids: (N,).
        num_contexts: T.
        threshold: Share of samples.

    Raises:
        ValueError: Ids and samples differ in number, or an id is out of range.
    """
    features = check_samples(features)
    _check_ids(context_ids, len(features), num_contexts)
    per_context = torch.zeros(
        num_contexts, features.shape[1], dtype=torch.bool, device=features.device
    )
    for context in context_ids.unique().tolist():
        rows = features[context_ids == context]
        per_context[context] = dormant_mask(rows, "k_winners", threshold=threshold)
    everywhere = dormant_mask(features, "k_winners", threshold=threshold, context_ids=context_ids)
    return ContextDormancy(per_context, everywhere)


class Overlap(NamedTuple):
    """Shared active units of pairs of samples, by the contexts of the two samples.

    Attributes:
        overlap: (T, T) mean |active and active| / H over pairs of distinct samples.
        chance_ratio: (T, T) the same relative to p_c p_c', p the mean active share of a context:
            (k/n)^2 where exactly k of n units win. 1 means that sets are as good as independent.
    """

    overlap: Tensor
    chance_ratio: Tensor


def representation_overlap(features: Tensor, context_ids: Tensor, num_contexts: int) -> Overlap:
    """Overlap of active sets within (diagonal) and across contexts, over all pairs of samples.

    Args:
        features: (N, H).
        context_ids: (N,).
        num_contexts: T.

    Returns:
        float64; NaN where there is no pair, or nothing active to compare with.

    Raises:
        ValueError: Ids and samples differ in number, or an id is out of range.
    """
    active = (check_samples(features) != 0).double()
    shared = _mean_products(active, context_ids, num_contexts) / features.shape[1]
    share = activity_map(features, context_ids, num_contexts).mean(1)
    return Overlap(shared, shared / torch.outer(share, share))


def context_cosine_distance(features: Tensor, context_ids: Tensor, num_contexts: int) -> Tensor:
    """Mean cosine distance of pairs of samples within and across contexts, (T, T) float64.

    A silent sample counts as orthogonal to every other one.

    Raises:
        ValueError: Ids and samples differ in number, or an id is out of range.
    """
    directions = torch.nn.functional.normalize(doubled(check_samples(features)), dim=1)
    return 1.0 - _mean_products(directions, context_ids, num_contexts)


def _mean_products(vectors: Tensor, context_ids: Tensor, num_contexts: int) -> Tensor:
    """Mean inner product over all pairs of distinct samples, (T, T); NaN without a pair."""
    _check_ids(context_ids, len(vectors), num_contexts)
    # The sum over pairs is the product of sums: no N x N matrix is needed.
    sums = _sums(vectors, context_ids, num_contexts)
    counts = torch.bincount(context_ids, minlength=num_contexts).double()
    products = sums @ sums.T
    with_itself = _sums(vectors.square().sum(1), context_ids, num_contexts)
    products.diagonal().sub_(with_itself)
    pairs = torch.outer(counts, counts)
    pairs.diagonal().sub_(counts)
    return products / pairs


def negative_winner_fraction(features: Tensor) -> float:
    """Share of active (sample, unit) pairs with a negative value; NaN when nothing is active.

    Above 0.05 so many units win without being driven that the layer is close to linear.
    """
    active = check_samples(features) != 0
    count = int(active.sum())
    return int((features < 0).sum()) / count if count else math.nan


def unit_duty_entropy(duty: Tensor) -> float:
    """Sum over units of the binary entropy of their duty cycles, in bits.

    Args:
        duty: (H,) share of samples on which each unit is active, in [0, 1].

    Raises:
        ValueError: A duty cycle is outside [0, 1].
    """
    duty = doubled(duty)
    if bool(((duty < 0.0) | (duty > 1.0)).any()):
        raise ValueError(
            f"duty cycles reach from {float(duty.min()):g} to {float(duty.max()):g}; they are "
            "shares in [0, 1]"
        )
    silent = 1.0 - duty
    bits = -(torch.xlogy(duty, duty) + torch.xlogy(silent, silent)) / math.log(2.0)
    return float(bits.sum())


def max_unit_duty_entropy(num_units: int, num_winners: int) -> float:
    """Unit duty entropy when all units win equally often, n H2(k/n) bits."""
    equal = torch.full((num_units,), num_winners / num_units, dtype=torch.float64)
    return unit_duty_entropy(equal)


class SegmentUse(NamedTuple):
    """Which segments decide.

    Attributes:
        wins: (H, J) share of samples on which each segment won.
        entropy: (H,) entropy of the wins of each unit, in nats, at most ln J.
        never_winning: Share of segments that never won.
    """

    wins: Tensor
    entropy: Tensor
    never_winning: float


def segment_use(activations: Tensor, signed: bool = True) -> SegmentUse:
    """How often each segment wins.

    Args:
        activations: (N, H, J) products of segments and contexts.
        signed: The largest magnitude wins, whatever its sign; False where the largest value does.

    Raises:
        ValueError: Another shape, or no sample.
    """
    if activations.dim() != 3 or activations.numel() == 0:
        raise ValueError(
            f"activations has shape {tuple(activations.shape)}; give (samples, units, segments)"
        )
    winners = _winners(activations, signed)
    wins = torch.nn.functional.one_hot(winners, activations.shape[2]).double().mean(0)
    entropy = -torch.xlogy(wins, wins).sum(1)
    return SegmentUse(wins, entropy, float((wins == 0).double().mean()))


def segment_wins_by_context(
    activations: Tensor, context_ids: Tensor, num_contexts: int, signed: bool = True
) -> Tensor:
    """P(segment wins | context) of every unit, (T, H, J) float64; NaN without samples.

    Args:
        activations: (N, H, J).
        context_ids: (N,).
        num_contexts: T.
        signed: See `segment_use`.
    """
    winners = _winners(activations, signed)
    one_hot = torch.nn.functional.one_hot(winners, activations.shape[2])
    return context_means(one_hot, context_ids, num_contexts)


def _winners(activations: Tensor, signed: bool) -> Tensor:
    """Segments that decide, (N, H)."""
    activations = activations.detach()
    return (activations.abs() if signed else activations).argmax(2)


def segment_overlap(activations: Tensor) -> Tensor:
    """Mean cosine between the segment vectors of different contexts, per unit, (H,) float64.

    1 means that a unit's segments answer every context alike, 0 that they tell contexts apart.

    Args:
        activations: (T, H, J) mean activation of each segment in each context, T >= 2.

    Raises:
        ValueError: Fewer than two contexts.
    """
    if activations.dim() != 3 or len(activations) < 2:
        raise ValueError(
            f"activations has shape {tuple(activations.shape)}; give (contexts, units, segments) "
            "with at least two contexts"
        )
    directions = torch.nn.functional.normalize(doubled(activations), dim=2)
    num_contexts = len(activations)
    total = directions.sum(0).square().sum(1) - directions.square().sum((0, 2))
    return total / (num_contexts * (num_contexts - 1))


def gate_saturation(gates: Tensor, gate_scale: float = 1.0, margin: float = 0.05) -> float:
    """Share of (sample, unit) gates that are nearly closed or nearly open.

    Args:
        gates: (N, H) factors scale * sigmoid(d).
        gate_scale: Their scale.
        margin: Closed is below this share of the scale, open above one minus it.
    """
    opened = check_samples(gates, "gates") / gate_scale
    return float(((opened < margin) | (opened > 1.0 - margin)).double().mean())
