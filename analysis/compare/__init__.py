"""Comparisons of methods: many run directories in, one report with its data out."""

from __future__ import annotations

from analysis.compare.arms import CannotCompare
from analysis.compare.collecting import Extras
from analysis.compare.command import build_oracles, compare_runs, report_again
from analysis.compare.study import Study

__all__ = ["CannotCompare", "Extras", "Study", "build_oracles", "compare_runs", "report_again"]
