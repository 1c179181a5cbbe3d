"""Failure policy and pooling: a metric that cannot be measured is NaN with a reason, never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NOT_DEFINED = "not defined for this input"


def check_samples(features: Tensor, name: str = "features") -> Tensor:
    """Return (N, H) samples detached, or say what is wrong with them.

    A comparison such as `h > 0` is false for NaN, so without this check a diverged layer would
    be reported as dormant.

    Raises:
        ValueError: Not two-dimensional, empty, or not finite.
    """
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}; give a non-empty (samples, units) "
            "matrix, flattening positions into the sample dimension"
        )
    features = features.detach()
    # A float64 sum of float32 values cannot overflow and is ten times faster than isfinite().
    if not bool(features.sum(dtype=torch.float64).isfinite()):
        bad = int((~features.isfinite()).sum())
        raise ValueError(f"{name} holds {bad} NaN or infinite values; the network has diverged")
    return features


def measured(
    metric: Callable[..., Any], *args: Any, otherwise: Any = math.nan, **kwargs: Any
) -> tuple[Any, str | None]:
    """Evaluate a metric without letting it stop training.

    Args:
        metric: A function of the remaining arguments.
        *args: Passed on.
        otherwise: Value reported when the metric raises; a table of NaN for metrics with
            several values.
        **kwargs: Passed on.

    Returns:
        The value and None, or NaN and why. A metric that returns NaN by its definition (for
        instance the overlap with an empty set) carries a reason as well.
    """
    try:
        value = metric(*args, **kwargs)
    except Exception as error:  # the one place where every failure becomes a reason
        return otherwise, f"{type(error).__name__}: {error}"
    if isinstance(value, float) and math.isnan(value):
        return value, NOT_DEFINED
    return value, None


@dataclass
class Measurements:
    """Values of several metrics, with a reason for each that is NaN.

    Attributes:
        values: Metric name to value.
        reasons: Metric name to the reason it is NaN; only failed metrics appear.
    """

    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, metric: Callable[..., float], *args: Any, **kwargs: Any) -> None:
        """Measure one metric under the failure policy and store it as `name`."""
        self.put(name, *measured(metric, *args, **kwargs))

    def put(self, name: str, value: float, reason: str | None) -> None:
        """Store a value, and the reason if it is NaN."""
        self.values[name] = float(value)
        if reason is not None:
            self.reasons[name] = reason


def pooled(counts: Sequence[float], num_units: Sequence[int]) -> float:
    """Unit-weighted total of a fraction over layers: sum of counts / sum of units.

    The mean of layer fractions would let a layer of 10 units weigh as much as one of 1,000.

    Args:
        counts: Affected units per layer, for instance dormant ones.
        num_units: Units per layer.

    Returns:
        The pooled fraction; NaN when there is no unit.

    Raises:
        ValueError: The two sequences differ in length.
    """
    if len(counts) != len(num_units):
        raise ValueError(f"{len(counts)} counts for {len(num_units)} layers; give one per layer")
    total = sum(num_units)
    return float(sum(counts)) / total if total else math.nan


def pooled_fraction(masks: Sequence[Tensor]) -> float:
    """Unit-weighted share of marked units over the masks of several layers."""
    return pooled([float(mask.sum()) for mask in masks], [mask.numel() for mask in masks])


def doubled(tensor: Tensor) -> Tensor:
    """Detach and widen to float64, in which sums of many float32 values are exact enough."""
    return tensor.detach().to(torch.float64)
