"""Success of one agent on every task and goal: measuring, storing, comparing and showing it."""

from analysis.multitask.evaluation import Outcomes, deterministic_policy, run_goals
from analysis.multitask.records import (
    Evaluation,
    NotAnEvaluation,
    load_evaluations,
    write_evaluation,
)
from analysis.multitask.scores import Scores, score
from analysis.multitask.study import TaskStudy, UnlikeRuns, check_alike, study

__all__ = [
    "Evaluation",
    "NotAnEvaluation",
    "Outcomes",
    "Scores",
    "TaskStudy",
    "UnlikeRuns",
    "check_alike",
    "deterministic_policy",
    "load_evaluations",
    "run_goals",
    "score",
    "study",
    "write_evaluation",
]
