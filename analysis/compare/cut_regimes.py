"""A last regime that the comparison cuts short: no score of it stands for a whole regime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.compare.study import Study
from analysis.continual.episodes import Array
from analysis.run_clock import drifts

CUT = "cut_regime"
# Where worlds change at ends of episodes, the last regime lacks what the others took longer.
_WHOLE_ENOUGH = 0.9


def cut_facts(env: Mapping[str, Any], lines: Sequence[Array], windows: bool) -> dict[str, Any]:
    """How long the last regime is and should be, if it is cut short; else nothing.

    Regimes of lengths that vary have no planned length.

    Args:
        env: Settings of the environment.
        lines: (regimes + 1,) boundaries of every run.
        windows: Whether equal windows stand for regimes.
    """
    planned = env.get("switch_interval")
    if windows or planned is None or drifts(env) or env.get("intervals", "fixed") != "fixed":
        return {}
    shortest = min(float(line[-1] - line[-2]) for line in lines)
    if shortest >= _WHOLE_ENOUGH * float(planned):
        return {}
    return {CUT: {"steps": int(shortest), "planned": int(planned)}}


def whole_only(study: Study, values: Array) -> Array:
    """(runs, regimes) without the column of a last regime that is cut short."""
    return values[:, :-1] if CUT in study.about else values


def without_cut(study: Study, values: Array) -> Array:
    """(runs, regimes) with NaN for a last regime that is cut short."""
    found = values.copy()
    if CUT in study.about:
        found[:, -1:] = math.nan
    return found


def cut_note(study: Study) -> list[str]:
    """One sentence about a regime that is left out, or none."""
    if CUT not in study.about:
        return []
    cut = study.about[CUT]
    return [
        f"the last regime is cut short, {cut['steps']:,} of {cut['planned']:,} steps: it counts in "
        "lifetimes and curves, and is left out of areas, ends of phases, recovery and indices"
    ]
