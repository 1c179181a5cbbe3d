"""Diagnostics at the end of runs: mean over those that measured them, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.continual.episodes import Array
from analysis.statistics import Interval, interval

END_METRICS = (
    "dormant_fraction",
    "stable_rank",
    "weight_magnitude",
    "hidden_weight_magnitude",
    "action_std",
    "trainability_gap",
)


@dataclass(frozen=True)
class EndValue:
    """A diagnostic at the end of the runs of an arm.

    Attributes:
        mean: Over the runs that measured it; None where none did.
        num_missing: Runs that did not.
    """

    mean: Interval | None
    num_missing: int

    @classmethod
    def of(cls, values: Array) -> EndValue:
        """From one value per run, NaN where it is missing."""
        present = values[~np.isnan(values)]
        mean = interval(present, "mean") if present.size else None
        return cls(mean, values.size - present.size)
