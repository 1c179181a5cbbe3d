"""Scores of continual learning: pure functions of episodes and of runs x regimes matrices."""

from analysis.continual.episodes import (
    Episodes,
    binned_returns,
    end_of_phase,
    lifetime_average,
    regime_areas,
    window_average,
    window_averages,
    zero_shot_return,
)
from analysis.continual.failures import (
    FailureReport,
    completed_shares,
    failure_report,
    score_failures,
)
from analysis.continual.gate import Verdict, validity_gate
from analysis.continual.interpolated_recovery import (
    RecoveryRecords,
    RestrictedRecovery,
    restricted_recovery,
    seed_thresholds,
)
from analysis.continual.oracle_grid import (
    OracleGrid,
    interpolated_gate,
    interpolated_index,
    interpolated_interval,
)
from analysis.continual.plasticity_index import (
    PlasticityIndex,
    index_interval,
    late_means,
    plasticity_index,
    retention_index,
    slopes,
)
from analysis.continual.recovery import (
    records_between,
    recovery_shares,
    recovery_threshold,
    trailing_means,
    trailing_records,
)
from analysis.continual.sequences import (
    ForwardTransfer,
    SequenceScores,
    default_window,
    forward_transfer,
    forward_transfer_interval,
    sequence_scores,
)

__all__ = [
    "Episodes",
    "FailureReport",
    "ForwardTransfer",
    "OracleGrid",
    "PlasticityIndex",
    "RecoveryRecords",
    "RestrictedRecovery",
    "SequenceScores",
    "Verdict",
    "binned_returns",
    "completed_shares",
    "default_window",
    "end_of_phase",
    "failure_report",
    "forward_transfer",
    "forward_transfer_interval",
    "index_interval",
    "interpolated_gate",
    "interpolated_index",
    "interpolated_interval",
    "late_means",
    "lifetime_average",
    "plasticity_index",
    "records_between",
    "recovery_shares",
    "recovery_threshold",
    "regime_areas",
    "restricted_recovery",
    "retention_index",
    "score_failures",
    "seed_thresholds",
    "sequence_scores",
    "slopes",
    "trailing_means",
    "trailing_records",
    "validity_gate",
    "window_average",
    "window_averages",
    "zero_shot_return",
]
