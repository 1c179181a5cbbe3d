"""Figures of comparisons on several tasks: one bar per task and arm, and success over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.compare.arm_scores import Scores
from analysis.compare.quick_evaluations import quick_curves
from analysis.compare.study import Study
from analysis.compare.styles import WIDTH, ArmStyles
from analysis.statistics import Interval, pointwise_band

_ROW_HEIGHT = 0.11
BAR: dict[str, Any] = {"ecolor": "#404040", "elinewidth": 0.7, "capsize": 1.5}


def tasks_figure(study: Study, scores: Scores, styles: ArmStyles) -> Figure | None:
    """Success by task, and over tasks with whole-seed and with stratified intervals."""
    if not scores.tasks:
        return None
    labels = [str(label).removesuffix("-v3") for label in study.about["tasks"]]
    rows = [*labels, "mean", "IQM (whole seeds)", "IQM (tasks apart)"]
    num_arms = len(scores.tasks)
    height = 1.0 + len(rows) * (0.1 + _ROW_HEIGHT * num_arms)
    figure = Figure(figsize=(WIDTH / 1.2, height), layout="constrained")
    axes = figure.subplots()
    gap = 0.5  # between single tasks and what is over all of them
    places = np.arange(len(rows)) + np.where(np.arange(len(rows)) >= len(labels), gap, 0.0)
    thickness = 0.8 / num_arms
    for place, arm in enumerate(scores.tasks):
        found = [*arm.tasks, arm.mean, arm.iqm, arm.iqm_by_task]
        shift = 0.8 * ((place + 0.5) / num_arms - 0.5)
        _bars(axes, places + shift, found, thickness, styles[arm.arm]["color"])
    axes.set_yticks(places, rows)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("success at any step, 95 % over seeds")
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    styles.legend(figure, study)
    return figure


def _bars(
    axes: Axes, places: np.ndarray, found: list[Interval], thickness: float, colour: str
) -> None:
    rates = np.array([one.estimate for one in found])
    bounds = np.array([[one.low, one.high] for one in found])
    errors = np.abs(np.where(np.isnan(bounds), rates[:, None], bounds) - rates[:, None]).T
    style = {"height": 0.9 * thickness, "color": colour, "alpha": 0.75}
    axes.barh(places, rates, xerr=errors, error_kw=BAR, **style)


def learning_figure(study: Study, scores: Scores, styles: ArmStyles) -> Figure | None:
    """Success of the quick evaluations over time."""
    figure = Figure(figsize=(WIDTH / 1.6, 2.8), layout="constrained")
    axes, drawn = figure.subplots(), False
    end = float(study.about["end"])
    for arm in study.arms:
        steps, success = quick_curves(list(study.runs[arm.name].values()))
        if not steps.size:
            continue
        band = pointwise_band(success)
        style = styles[arm.name]
        axes.plot(steps, 100.0 * band.mean, marker="o", markersize=2, **style)
        low, high = 100.0 * band.low, 100.0 * band.high
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
        drawn = True
    if not drawn:
        return None
    axes.set_ylabel("success, a few goals (%)")
    axes.set_ylim(0.0, 100.0)
    axes.set_xlim(0.0, end)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    unit, word = (1e6, "millions") if end >= 2e6 else (1e3, "thousands")
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / unit:g}")
    axes.set_xlabel(f"environment steps ({word})")
    styles.legend(figure, study)
    return figure
