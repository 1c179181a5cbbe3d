"""Figures of a comparison, one colour and dash per arm in all of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.compare.arm_scores import Scores
from analysis.compare.study import Study, after_failures
from analysis.compare.styles import WIDTH, ArmStyles
from analysis.compare.task_figures import learning_figure, tasks_figure
from analysis.continual.episodes import Array
from analysis.plots import FAINT, QUIET, STYLE
from analysis.statistics import Band, performance_profile, pointwise_band

MAX_MARKERS = 50
PROFILE_POINTS = 101
DPI = 160
PANELS = (
    ("return", "episode return", 1.0),
    ("dormant_fraction", "dormant units (%)", 100.0),
    ("stable_rank", "stable rank", 1.0),
    ("weight_magnitude", "mean |weight|", 1.0),
)
KINDS = ("png", "svg")


def draw_figures(study: Study, scores: Scores) -> dict[str, bytes]:
    """Draw all figures.

    Returns:
        File name -> contents, PNG and SVG; equal data give equal bytes.
    """
    files = {}
    drawings: dict[str, Callable[[Study, Scores, ArmStyles], Figure | None]] = {
        "panels": _panels,
        "regimes": _regimes,
        "recovery": _recovery,
        "profile": _profile,
        "improvement": _improvement,
        "action_std": _action_std,
        "tasks": tasks_figure,
        "learning": learning_figure,
    }
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        for name, draw in drawings.items():
            figure = draw(study, scores, ArmStyles(study))
            if figure is None:
                continue
            for kind in KINDS:
                buffer = io.BytesIO()
                metadata = {"Date": None} if kind == "svg" else {"Software": None}
                figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
                files[f"{name}.{kind}"] = buffer.getvalue()
    return files


# Figures -------------------------------------------------------------------------------------


def _panels(study: Study, scores: Scores, styles: ArmStyles) -> Figure:
    """Return, dormant units, stable rank and weights of all arms over time."""
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for letter, panel, (metric, label, factor) in zip("abcd", axes.flat, PANELS, strict=True):
        if metric == "stable_rank" and study.about["rank_in_percent"]:
            label = "stable rank (% of units)"
        panel.set_ylabel(label)
        _curves(panel, study, scores, styles, metric, factor)
        _time_axis(panel, study, letter in "cd")
        panel.annotate(
            *(letter, (0.0, 1.0)),
            xycoords="axes fraction",
            xytext=(-30, 4),
            textcoords="offset points",
            fontweight="bold",
        )
    styles.legend(figure, study)
    return figure


def _action_std(study: Study, scores: Scores, styles: ArmStyles) -> Figure | None:
    """How much the policy explores: a late network may have lost that instead of plasticity."""
    if not any(study.matrix(arm.name, "curve/action_std").size for arm in study.arms):
        return None
    figure = Figure(figsize=(WIDTH / 1.6, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel("action standard deviation")
    _curves(axes, study, scores, styles, "action_std", 1.0)
    _time_axis(axes, study, True)
    styles.legend(figure, study)
    return figure


def _regimes(study: Study, scores: Scores, styles: ArmStyles) -> Figure:
    """End-of-phase return against regime number."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    num_arms = len(study.arms)
    for place, arm in enumerate(study.arms):
        phases = scores.phases[arm.name]
        band = pointwise_band(phases)
        # Side by side, so that intervals can be told apart.
        shift = 0.5 * ((place + 0.5) / num_arms - 0.5)
        x = np.arange(phases.shape[1]) + shift
        errors = np.nan_to_num(np.maximum([band.mean - band.low, band.high - band.mean], 0.0))
        axes.errorbar(x, band.mean, yerr=errors, marker="o", markersize=3, **styles[arm.name])
    axes.set_ylabel("return at the end of the phase")
    axes.set_xlabel("window of a tenth of the run" if study.about["windows"] else "regime")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    styles.legend(figure, study)
    return figure


def _recovery(study: Study, scores: Scores, styles: ArmStyles) -> Figure | None:
    """Restricted mean recovery time and censored share against the number of the regime."""
    known = {
        arm.name: scores.recoveries[arm.name]
        for arm in study.arms
        if np.isfinite(np.minimum(scores.recoveries[arm.name][:, 1:], 1.0)).any()
    }
    if not known or study.about["windows"]:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for place, (name, times) in enumerate(known.items()):
        shift = 0.5 * ((place + 0.5) / len(known) - 0.5)
        regimes = np.arange(1, times.shape[1])
        limited = np.minimum(times[:, 1:], 1.0)  # NaN stays: no threshold is known
        band = pointwise_band(limited)
        mean, low, high = band.mean, band.low, band.high
        if resampled := scores.recovery_regimes.get(name):
            rows = [(each.estimate, each.low, each.high) for each in resampled]
            mean, low, high = np.array(rows).T
        errors = np.nan_to_num(np.maximum([mean - low, high - mean], 0.0))
        style = {"marker": "o", "markersize": 3, **styles[name]}
        upper.errorbar(regimes + shift, mean, yerr=errors, **style)
        censored = np.where(np.isnan(limited), math.nan, np.isinf(times[:, 1:]))
        lower.plot(regimes + shift, 100.0 * pointwise_band(censored).mean, **style)
    upper.set_ylabel("recovery time (share of the regime)")
    upper.set_ylim(-0.02, 1.05)
    lower.set_ylabel("never recovered (%)")
    lower.set_ylim(-4, 104)
    lower.set_xlabel("regime")
    lower.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    styles.legend(figure, study)
    return figure


def _profile(study: Study, scores: Scores, styles: ArmStyles) -> Figure | None:
    """Share of runs and regimes above a return."""
    known = {
        arm.name: scores.areas[arm.name]
        for arm in study.arms
        if np.isfinite(scores.areas[arm.name]).all()
    }
    if not known:
        return None
    low = min(float(matrix.min()) for matrix in known.values())
    high = max(float(matrix.max()) for matrix in known.values())
    margin = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, PROFILE_POINTS)
    figure = Figure(figsize=(WIDTH / 1.6, 2.8), layout="constrained")
    axes = figure.subplots()
    for name, matrix in known.items():
        band = performance_profile(matrix, thresholds)
        _band(axes, thresholds, band, 100.0, styles[name])
    axes.set_xlabel("mean return τ of a regime")
    axes.set_ylabel("runs and regimes above τ (%)")
    axes.set_xlim(thresholds[0], thresholds[-1])
    axes.set_ylim(0, 103)
    styles.legend(figure, study)
    return figure


def _improvement(study: Study, scores: Scores, styles: ArmStyles) -> Figure | None:
    """Paired probability of improvement over the baseline."""
    rows = [arm for arm in scores.arms if arm.comparison is not None]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH / 1.6, 0.9 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(reversed(rows)):
        assert arm.comparison is not None
        found, colour = arm.comparison.improvement, styles[arm.facts.name]["color"]
        if not math.isnan(found.low):
            axes.barh(place, found.high - found.low, 0.5, found.low, color=colour, alpha=0.3)
        axes.plot([found.estimate] * 2, [place - 0.25, place + 0.25], color=colour, linewidth=2)
    axes.axvline(0.5, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(rows)), [arm.facts.name for arm in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P(higher lifetime return than {study.baseline})")
    axes.tick_params(axis="y", length=0)
    return figure


# Shared parts --------------------------------------------------------------------------------


def _curves(
    axes: Axes, study: Study, scores: Scores, styles: ArmStyles, metric: str, factor: float
) -> None:
    end, drawn = float(study.about["end"]), False
    for arm in study.arms:
        matrix = study.matrix(arm.name, f"curve/{metric}")
        if not np.isfinite(matrix).any():
            continue
        edges = np.linspace(0.0, end, matrix.shape[1] + 1)
        centres = (edges[:-1] + edges[1:]) / 2.0
        if metric == "return":
            matrix = after_failures(study, arm.name, matrix, scores.untrained)
        _band(axes, centres, pointwise_band(matrix), factor, styles[arm.name])
        drawn = True
    if not drawn:
        note = {"transform": axes.transAxes, "ha": "center", "va": "center", "color": QUIET}
        axes.text(0.5, 0.5, "not measured", **note)
        axes.set_yticks([])
    elif metric != "return" and axes.get_ylim()[0] < 0.25 * axes.get_ylim()[1]:
        axes.set_ylim(bottom=0.0)


def _band(axes: Axes, x: Array, band: Band, factor: float, style: dict[str, Any]) -> None:
    """A line with its band; bins without data are bridged, a single point is a dot."""
    known = np.isfinite(band.mean)
    marker = "o" if known.sum() == 1 else None
    axes.plot(x[known], factor * band.mean[known], marker=marker, markersize=3, **style)
    sure = known & np.isfinite(band.low)
    low, high = factor * band.low[sure], factor * band.high[sure]
    axes.fill_between(x[sure], low, high, color=style["color"], alpha=0.15, linewidth=0)


def _time_axis(axes: Axes, study: Study, labelled: bool) -> None:
    end = int(study.about["end"])
    for start in _switches(study):
        axes.axvline(start, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_xlim(0, end)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    unit, word = (1e6, "millions") if end >= 2e6 else (1e3, "thousands")
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / unit:g}")
    if labelled:
        axes.set_xlabel(f"environment steps ({word})")


def _switches(study: Study) -> Sequence[float]:
    """Switches that all runs share; where every run switches at its own time, none."""
    if study.about["windows"]:
        return []
    rows = [
        tuple(run.values["regime/start"]) for runs in study.runs.values() for run in runs.values()
    ]
    same = len(set(rows)) == 1 and len(rows[0]) <= MAX_MARKERS
    return rows[0][1:] if same else []
