"""Which hidden units still do something, judged from the values their readers consume.

Every function takes features of shape (N, H): N samples of the value after activation, gate and
winner selection. One forward pass of 1,000 samples feeds all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.diagnostics.measuring import Measurements, check_samples, doubled, measured
from plasticity.diagnostics.unit_gradients import grama_scores

TAUS = (0.0, 0.025, 0.1)
CONSTANT_STD = 1e-3

RECTIFIED = frozenset({"relu"})
WINNERS = frozenset({"k_winners"})
BOUNDED = frozenset({"tanh", "sigmoid"})
PAIRED = frozenset({"crelu", "deep_fourier"})
BY_GRADIENT = PAIRED | {"leaky_relu", "elu", "swish", "gelu", "identity", "smooth_leaky"}


def _at_most(active: Tensor, threshold: float) -> Tensor:
    """Units active on at most `threshold` of the samples, from a (N, H) boolean matrix."""
    # The slack keeps a share such as 0.29 of 100 samples (28.999...96) at its intended count.
    return active.sum(0) <= math.floor(threshold * active.shape[0] + 1e-9)


def dormant_units(features: Tensor, threshold: float = 0.01) -> Tensor:
    """Mask (H,) of units that are positive on at most a share `threshold` of the samples.

    Source: Dohare et al., Nature 632 (2024), "less than 1 %"; 10 of 1,000 counts as dormant.
    """
    return _at_most(check_samples(features) > 0, threshold)


def dormant_fraction(features: Tensor, threshold: float = 0.01) -> float:
    """Share of units that are positive on at most a share `threshold` of the samples."""
    return _share(dormant_units(features, threshold))


def dormant_mask(
    features: Tensor,
    activation: str,
    *,
    threshold: float = 0.01,
    weight_gradient: Tensor | None = None,
    context_ids: Tensor | None = None,
) -> Tensor:
    """Mask (units,) of dormant units by the rule that suits the activation.

    relu: positive on at most `threshold` of the samples. k_winners: non-zero (winners may be
    negative) on at most `threshold` of the samples of every context, so that a specialist of
    one context is alive. tanh, sigmoid: standard deviation below 1e-3. Leaky, smooth and linear
    units, and the pairs of concatenated ReLU and Fourier features, are never silent, so they are
    judged by their gradient: GraMa score at most `threshold`.

    Args:
        features: (N, H); units are half of H where the activation gives pairs, else all.
        activation: Name of the activation.
        threshold: Share of samples, or GraMa score.
        weight_gradient: (units, fan_in) gradient of the incoming weights; for the last kind only.
        context_ids: (N,) context of each sample, for k_winners; None: a single context.

    Returns:
        Boolean mask on the device of the features.

    Raises:
        ValueError: Unknown activation, missing or vanished gradient, or a wrong shape.

    Deviation: sigmoid follows the tanh rule, being bounded as well.
    """
    features = check_samples(features)
    if activation in RECTIFIED:
        return _at_most(features > 0, threshold)
    if activation in WINNERS:
        return _never_winning(features != 0, threshold, context_ids)
    if activation in BOUNDED:
        return _mean_and_std(features)[1] < CONSTANT_STD
    if activation not in BY_GRADIENT:
        known = ", ".join(sorted(RECTIFIED | WINNERS | BOUNDED | BY_GRADIENT))
        raise ValueError(f"activation is {activation!r}; there is a dormancy rule for {known}")
    if weight_gradient is None:
        raise ValueError(
            f"{activation} units are never silent; pass weight_gradient, the gradient of their "
            "incoming weights, to judge them by GraMa"
        )
    num_units = features.shape[1] // (2 if activation in PAIRED else 1)
    if weight_gradient.shape[0] != num_units:
        raise ValueError(
            f"weight_gradient has {weight_gradient.shape[0]} rows for {num_units} units"
        )
    return grama_scores(weight_gradient) <= threshold


def _share(marked: Tensor) -> float:
    return int(marked.sum()) / marked.numel()


def _mean_and_std(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation over samples, (H,) each, in float64."""
    wide = doubled(samples)
    mean = wide.mean(0)
    return mean, (wide - mean).square_().mean(0).sqrt()


def _never_winning(won: Tensor, threshold: float, context_ids: Tensor | None) -> Tensor:
    if context_ids is None:
        return _at_most(won, threshold)
    if context_ids.shape != won.shape[:1]:
        raise ValueError(
            f"context_ids has shape {tuple(context_ids.shape)}; give one id for each of "
            f"{won.shape[0]} samples"
        )
    silent = [_at_most(won[context_ids == context], threshold) for context in context_ids.unique()]
    return torch.stack(silent).all(0)


def tau_dormant_units(features: Tensor, tau: float) -> Tensor:
    """Mask (H,) of units whose normalised mean activity is at most tau.

    s_i = mean|h_i| / (mean over the layer + 1e-9); an all-zero layer has s = 0 everywhere.

    Source: Sokar et al. (2023), arXiv 2302.12902, definition 3.1.
    """
    activity = check_samples(features).abs().mean(0, dtype=torch.float64)
    return activity / (activity.mean() + 1e-9) <= tau


def tau_dormant_fraction(features: Tensor, tau: float) -> float:
    """Share of units whose normalised mean activity is at most tau."""
    return _share(tau_dormant_units(features, tau))


def dead_units(features: Tensor) -> Tensor:
    """Mask (H,) of units that are 0 on every sample."""
    return (check_samples(features) == 0).all(0)


def dead_fraction(features: Tensor) -> float:
    """Share of units that are 0 on every sample.

    A unit that never rises above 0 after a ReLU is exactly 0; a tanh unit stuck at -1 is not
    dead but saturated.
    """
    return _share(dead_units(features))


def saturated_fraction(features: Tensor, threshold: float = 0.9) -> float:
    """Share of (sample, unit) pairs with |h| above `threshold`; for tanh layers."""
    return _share(check_samples(features).abs() > threshold)


def active_fraction_measured(features: Tensor) -> float:
    """Mean of 1[h > 0] over samples and units.

    Concatenated ReLU gives 0.5 by construction; for Fourier features it has no meaning.
    """
    return _share(check_samples(features) > 0)


def dormant_overlap(current: Tensor, previous: Tensor) -> float:
    """Share of the previously dormant units that are dormant still.

    Args:
        current: Boolean mask (H,).
        previous: Boolean mask (H,) of the measurement before.

    Returns:
        |D_t and D_(t-1)| / |D_(t-1)|; NaN when no unit was dormant.

    Raises:
        ValueError: The masks differ in shape.
    """
    if current.shape != previous.shape:
        raise ValueError(
            f"masks of shapes {tuple(current.shape)} and {tuple(previous.shape)} cannot overlap"
        )
    count = int(previous.sum())
    return int((current & previous).sum()) / count if count else math.nan


class PreactivationStats(NamedTuple):
    """Statistics of Wx + b.

    Attributes:
        mean: (H,) mean over samples, float64.
        std: (H,) population standard deviation over samples, float64.
        large_share: Share of (sample, unit) pairs with |z| above the threshold.
    """

    mean: Tensor
    std: Tensor
    large_share: float


def preactivation_stats(preactivations: Tensor, threshold: float = 4.0) -> PreactivationStats:
    """Per-unit mean and standard deviation of the pre-activation, and the share beyond 4."""
    values = check_samples(preactivations, "preactivations")
    mean, std = _mean_and_std(values)
    return PreactivationStats(mean, std, _share(values.abs() > threshold))


def feature_norm(features: Tensor) -> float:
    """Mean over samples of the Euclidean norm of the feature vector."""
    norms = torch.linalg.vector_norm(check_samples(features), dim=1, dtype=torch.float64)
    return float(norms.mean())


def measure_activity(
    features: Tensor,
    activation: str,
    *,
    preactivations: Tensor | None = None,
    weight_gradient: Tensor | None = None,
    previous_dormant: Tensor | None = None,
    context_ids: Tensor | None = None,
) -> Measurements:
    """Measure everything cheap about one layer; what fails is NaN with a reason.

    Args:
        features: (N, H).
        activation: Name of the activation.
        preactivations: (N, H), adds the pre-activation summary.
        weight_gradient: (units, fan_in), required for leaky, smooth and paired units.
        previous_dormant: (H,) mask of the measurement before, adds `dormant_overlap`.
        context_ids: (N,), for k_winners.
    """
    result = Measurements()

    def dormant() -> Tensor:
        return dormant_mask(
            features, activation, weight_gradient=weight_gradient, context_ids=context_ids
        )

    result.take("dormant_fraction", lambda: _share(dormant()))
    for tau in TAUS:
        result.take(f"tau_dormant_fraction_{tau:g}", tau_dormant_fraction, features, tau)
    result.take("dead_fraction", dead_fraction, features)
    result.take("active_fraction_measured", active_fraction_measured, features)
    result.take("feature_norm", feature_norm, features)
    if activation == "tanh":
        result.take("saturated_fraction", saturated_fraction, features)
    if previous_dormant is not None:
        result.take("dormant_overlap", lambda: dormant_overlap(dormant(), previous_dormant))
    if preactivations is not None:
        unknown = PreactivationStats(torch.tensor(math.nan), torch.tensor(math.nan), math.nan)
        stats, reason = measured(preactivation_stats, preactivations, otherwise=unknown)
        result.put("preact_mean", float(stats.mean.mean()), reason)
        result.put("preact_std", float(stats.std.mean()), reason)
        result.put("preact_large", stats.large_share, reason)
    return result
