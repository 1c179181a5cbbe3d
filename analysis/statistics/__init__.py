"""Statistics of runs x regimes matrices: interquartile means, whole-run bootstrap, paired tests."""

from analysis.statistics.bootstrap import (
    Interval,
    MeanOfPresent,
    StatisticName,
    bootstrap_indices,
    interval,
    iqm,
    mean_of_present,
    percentile_interval,
    resample_runs,
    run_matrix,
    stratified_interval,
)
from analysis.statistics.comparisons import (
    Comparison,
    MissingPairError,
    adjust,
    compare,
    holm,
    improvement_interval,
    paired_differences,
    paired_improvement_interval,
    probability_of_improvement,
    sign_flip_p_value,
)
from analysis.statistics.curves import Band, performance_profile, pointwise_band
from analysis.statistics.rates import wilson_interval

__all__ = [
    "Band",
    "Comparison",
    "Interval",
    "MeanOfPresent",
    "MissingPairError",
    "StatisticName",
    "adjust",
    "bootstrap_indices",
    "compare",
    "holm",
    "improvement_interval",
    "interval",
    "iqm",
    "mean_of_present",
    "paired_differences",
    "paired_improvement_interval",
    "percentile_interval",
    "performance_profile",
    "pointwise_band",
    "probability_of_improvement",
    "resample_runs",
    "run_matrix",
    "sign_flip_p_value",
    "stratified_interval",
    "wilson_interval",
]
