"""Measures one network on one set of samples: units, ranks and weights, never touching training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from networks.dendritic_layer import DendriticLayer
from networks.heads import Network
from networks.masks import MaskedLinear
from networks.units import Recording, UnitGroup, by_unit
from plasticity import diagnostics

ACTIVITY = ("dormant_fraction", "dead_fraction", "tau_dormant_fraction")
RANKS = ("stable_rank", "stable_rank_sq", "effective_rank", "numerical_rank", "feature_rank")
TAU = 0.025  # reported dormancy of the normalised score; Source: Sokar et al. 2023


def unit_features(
    network: Network, inputs: Tensor, context: Tensor | None, groups: Sequence[UnitGroup]
) -> dict[str, Tensor]:
    """Values that readers consume, by unit group, (samples, units).

    One forward pass without gradient; layers that behave differently in training are switched to
    evaluation for it, so statistics stay frozen.
    """
    recording = Recording(groups)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), recording as activations:
            network(inputs, context)
        return {name: by_unit(values) for name, values in activations.items()}
    finally:
        network.train(was_training)
        recording.close()


def activity_columns(sample_set: str, network: str, groups: Sequence[UnitGroup]) -> list[str]:
    """Names of what `measure_activity` returns; nothing where there are no hidden units."""
    if not groups:
        return []
    return [
        f"{sample_set}/{network}/{layer}/{metric}"
        for layer in (*(group.name for group in groups), "all")
        for metric in ACTIVITY
    ]


def measure_activity(
    sample_set: str,
    network: str,
    groups: Sequence[UnitGroup],
    features: dict[str, Tensor],
    reasons: dict[str, str],
    context_ids: Tensor | None = None,
) -> dict[str, float]:
    """Dormant, dead and tau-dormant fractions per layer, and over all units of the network.

    Args:
        sample_set: `window` or `probe`.
        network: Name of the network.
        groups: Its unit groups.
        features: Unit-group name -> (samples, units).
        reasons: Gets one sentence for every metric that has no value and is NaN.
        context_ids: (samples,) context of each sample. A unit that competes for winning is silent
            on most samples by design; it is dormant only where it is silent in every context.
    """
    row: dict[str, float] = {}
    totals: dict[str, float] = dict.fromkeys(ACTIVITY, 0.0)
    for group in groups:
        values = features[group.name]
        functions: dict[str, Callable[[], float]] = {
            "dormant_fraction": functools.partial(_dormant_fraction, group, values, context_ids),
            "dead_fraction": functools.partial(diagnostics.dead_fraction, values),
            "tau_dormant_fraction": functools.partial(
                diagnostics.tau_dormant_fraction, values, TAU
            ),
        }
        for metric, function in functions.items():
            name = f"{sample_set}/{network}/{group.name}/{metric}"
            row[name], reason = diagnostics.measured(function)
            if reason is not None:
                reasons[name] = reason
            totals[metric] += row[name] * group.num_units
    num_units = sum(group.num_units for group in groups)
    for metric, total in totals.items() if groups else ():
        row[f"{sample_set}/{network}/all/{metric}"] = total / num_units
    return row


def _dormant_fraction(group: UnitGroup, features: Tensor, context_ids: Tensor | None) -> float:
    linear = getattr(group.layer, "linear", None)
    gradient = None if linear is None else linear.weight.grad
    mask = diagnostics.dormant_mask(
        features, group.activation, weight_gradient=gradient, context_ids=context_ids
    )
    return float(mask.double().mean())


def judge_by_gradient(
    row: dict[str, float],
    network: str,
    groups: Sequence[UnitGroup],
    scores: Callable[[UnitGroup], tuple[float, str | None]],
    reasons: dict[str, str],
) -> None:
    """Take dormancy of units that are never silent from several watched gradient steps.

    What is left in `.grad` is of a single minibatch, and gone in a run that has been continued.

    Args:
        row: With what `measure_activity` has returned, changed here.
        network: Name of the network.
        groups: Its unit groups.
        scores: Share of a group's units without gradient, or NaN and why.
        reasons: Gets one sentence for every metric that has no value and is NaN.
    """
    if not any(group.activation in diagnostics.BY_GRADIENT for group in groups):
        return
    for sample_set in ("window", "probe"):
        place, total = f"{sample_set}/{network}", 0.0
        if f"{place}/all/dormant_fraction" not in row:
            continue
        for group in groups:
            column = f"{place}/{group.name}/dormant_fraction"
            if group.activation in diagnostics.BY_GRADIENT:
                reasons.pop(column, None)
                row[column], reason = scores(group)
                if reason is not None:
                    reasons[column] = reason
            total += row[column] * group.num_units
        row[f"{place}/all/dormant_fraction"] = total / sum(group.num_units for group in groups)


def rank_columns(sample_set: str, network: str, groups: Sequence[UnitGroup]) -> list[str]:
    """Names of what `measure_ranks` returns."""
    return [
        f"{sample_set}/{network}/{group.name}/{prefix}{metric}"
        for group in groups
        for prefix in ("", "centred_")
        for metric in RANKS
    ]


def measure_ranks(
    sample_set: str,
    network: str,
    groups: Sequence[UnitGroup],
    features: dict[str, Tensor],
    reasons: dict[str, str],
) -> dict[str, float]:
    """Ranks of the features of the given groups, raw and mean-centred; see `measure_activity`."""
    row: dict[str, float] = {}
    for group in groups:
        name = f"{sample_set}/{network}/{group.name}"
        try:
            measured = diagnostics.ranks(features[group.name])
            raw, centred = measured.raw, measured.centred
        except ValueError as error:
            raw = centred = diagnostics.Ranks.unknown()
            reasons[f"{name}/ranks"] = str(error)
        for prefix, ranks in (("", raw), ("centred_", centred)):
            for metric in RANKS:
                row[f"{name}/{prefix}{metric}"] = float(getattr(ranks, metric))
    return row


def weight_columns(network_name: str, network: Network) -> list[str]:
    """Names of what `measure_weights` returns."""
    return [
        *(f"weights/{network_name}/{layer}/weight_magnitude" for layer in weights_of(network)),
        f"weights/{network_name}/all/weight_magnitude",
        *(f"weights/{network_name}/{layer}/segment_magnitude" for layer in _segments_of(network)),
    ]


def measure_weights(network_name: str, network: Network) -> dict[str, float]:
    """Mean absolute weight of every weight matrix, and over all of them together.

    Weights that a fixed mask leaves out do not exist: their zeros are not averaged. Dendritic
    segments have a column of their own for every layer and are no part of the others.
    """
    row: dict[str, float] = {}
    total, count = 0.0, 0
    masks, num_live = masks_of(network), live_counts(network)
    for layer, weight in weights_of(network).items():
        magnitude = float(diagnostics.weight_magnitude(weight, masks.get(layer)))
        row[f"weights/{network_name}/{layer}/weight_magnitude"] = magnitude
        total += magnitude * num_live[layer]
        count += num_live[layer]
    row[f"weights/{network_name}/all/weight_magnitude"] = total / count
    for layer, (segments, mask) in _segments_of(network).items():
        magnitude = float(diagnostics.weight_magnitude(segments, mask))
        row[f"weights/{network_name}/{layer}/segment_magnitude"] = magnitude
    return row


def live_counts(network: Network) -> dict[str, int]:
    """Weights that no mask leaves out, by layer name."""
    masks = masks_of(network)
    return {
        layer: int(masks[layer].sum()) if layer in masks else weight.numel()
        for layer, weight in weights_of(network).items()
    }


def weights_of(network: Network) -> dict[str, Tensor]:
    """Weight tensors (no biases, gains or log_std) by layer name."""
    named = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.nn.Parameter) and weight.dim() >= 2:
            named[_layer_name(name)] = weight.detach()
    return named


def _layer_name(module_name: str) -> str:
    return module_name.removeprefix("torso.").removesuffix(".linear")


def masks_of(network: Network) -> dict[str, Tensor]:
    """Fixed masks of weight tensors by layer name, of those that have one."""
    return {
        _layer_name(name): module.mask
        for name, module in network.named_modules()
        if isinstance(module, MaskedLinear) and module.mask is not None
    }


def _segments_of(network: Network) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Segments and their mask, of the layers that have any, by layer name."""
    return {
        _layer_name(name): (module.segments.detach(), module.segment_mask)
        for name, module in network.named_modules()
        if isinstance(module, DendriticLayer)
    }


def flat_weights(network: Network) -> Tensor:
    """All weight tensors of a network as one vector, copied."""
    return torch.cat([weight.flatten() for weight in weights_of(network).values()])
