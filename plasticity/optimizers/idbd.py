"""IDBD: gradient descent that learns a step size for every single weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.optimizers.per_unit_adam import PerUnitAdam

LARGEST_CHANGE = 2.0
SMALLEST_LOG_GAIN = -10.0
# What every weight remembers, all 0 at its start; subclasses add to it.
MEMORY = ("trace", "log_gain", "curvature")


@dataclass(frozen=True)
class Config:
    """Settings of IDBD.

    There is no momentum and no division by the size of a gradient, so the scale of the loss
    matters to `learning_rate` as for plain gradient descent, and to `meta_learning_rate` even
    more: a loss c times as large needs one c squared times as small. Autostep removes the second
    dependence.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size alpha_0 that every weight starts with, > 0.
        meta_learning_rate: Step size theta of the logarithms of the step sizes, >= 0; 0 is plain
            gradient descent. Useful on linear problems of unit scale: 1e-3 to 1e-2.
        curvature_decay: Decay of the running mean of squared gradients, in [0, 1).

    Raises:
        ValueError: A value is out of range.

    Source: Sutton 1992, "Adapting bias by gradient descent: an incremental version of
    delta-bar-delta", Figure 2; its footnote 2 for the bounds on the logarithms.
    Deviation: beyond linear learners, where x_i^2 is not the curvature, a running mean of squared
    gradients stands for it; the lower bound of -10 counts from the logarithm of alpha_0.
    """

    kind: str = "idbd"
    learning_rate: float = 1e-3
    meta_learning_rate: float = 1e-2
    curvature_decay: float = 0.999

    def __post_init__(self) -> None:
        check(self)


class StepSizeSettings(Config):
    """What both optimizers with learned step sizes are configured with."""


def check(config: Any) -> None:
    """Check the settings that optimizers with learned step sizes share.

    Raises:
        ValueError: A value is out of range.
    """
    if not config.learning_rate > 0.0:
        raise ValueError(f"optimizer.learning_rate is {config.learning_rate}; it must be > 0")
    if not config.meta_learning_rate >= 0.0:
        raise ValueError(
            f"optimizer.meta_learning_rate is {config.meta_learning_rate}; it must be >= 0"
        )
    if not 0.0 <= config.curvature_decay < 1.0:
        raise ValueError(
            f"optimizer.curvature_decay is {config.curvature_decay}; it must be at least 0 and "
            "below 1"
        )
