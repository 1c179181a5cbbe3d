"""Comparisons of methods: many run directories in, one report with its data out."""

from __future__ import annotations

from analysis.compare.arms import CannotCompare
from analysis.compare.command import compare_runs, report_again
from analysis.compare.study import Study

__all__ = ["CannotCompare", "Study", "compare_runs", "report_again"]
