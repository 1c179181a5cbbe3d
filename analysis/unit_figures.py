"""Draws what became of every hidden unit of a run, from its unit histories."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.unit_log import UnitLog, read_unit_log

QUIET = "#8c8c8c"
TITLES = {
    "utility": "log10 utility",
    "age": "log10 age",
    "gradient": "log10 mean |gradient|",
    "saturation": "saturated share",
}
_LOGARITHMIC = ("utility", "age", "gradient")


def unit_figure(log: UnitLog) -> Figure | None:
    """One row per unit group: maps of units over time, and how long fresh units waited.

    Units are sorted by their last utility, the least useful at the bottom. None without snapshots.
    """
    if not len(log.env_steps):
        return None
    rows = len(log.groups)
    figure = Figure(figsize=(9.0, 0.6 + 1.3 * rows), layout="constrained")
    axes = figure.subplots(rows, len(TITLES) + 1, squeeze=False)
    for row, name in enumerate(log.groups):
        order = np.argsort(log.of("utility", row)[-1], kind="stable")
        for column, metric in enumerate(TITLES):
            values = log.of(metric, row)[:, order]
            _draw_map(figure, axes[row, column], metric, values, log.env_steps)
        _draw_moves(axes[row, -1], log.moved_bins[row], int(log.ended_before[row]))
        axes[row, 0].set_ylabel(name, fontsize=7)
    for column, title in enumerate((*TITLES.values(), "steps until read")):
        axes[0, column].set_title(title, fontsize=7)
    for axis in axes[-1, :-1]:
        axis.set_xlabel("environment steps")
    axes[-1, -1].set_xlabel("gradient steps")
    return figure


def _draw_map(
    figure: Figure, axes: Axes, metric: str, values: np.ndarray, env_steps: np.ndarray
) -> None:
    if metric in _LOGARITHMIC:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log10(values)
        values = np.where(np.isfinite(values), values, math.nan)
    axes.set_yticks([])
    if np.isnan(values).all():
        _say(axes, "not measured")
        return
    edges = np.concatenate(([0.0], env_steps.astype(float)))
    mesh = axes.pcolormesh(
        edges, np.arange(values.shape[1] + 1), values.T, cmap="viridis", rasterized=True
    )
    figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=QUIET, fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_moves(axes: Axes, bins: np.ndarray, ended_before: int) -> None:
    """Histogram of the steps until a fresh unit was read, in powers of two."""
    if not bins.sum() + ended_before:
        axes.text(
            0.5, 0.5, "no unit was renewed", ha="center", va="center", color=QUIET, fontsize=7
        )
        axes.set_xticks([])
        axes.set_yticks([])
        return
    last = int(np.flatnonzero(bins)[-1]) + 1 if bins.any() else 1
    axes.bar(np.arange(last), bins[:last], color="#0072B2", width=0.9)
    axes.bar(last + 0.5, ended_before, color="#D55E00", width=0.9)
    shown = [*range(0, last, max(1, last // 3)), last + 0.5]
    labels = [f"{2**place:,}" for place in range(0, last, max(1, last // 3))]
    axes.set_xticks(shown, [*labels, "never"], fontsize=6)


def draw_units(run_dir: Path, style: dict[str, object]) -> list[Path]:
    """Draw the unit histories of a run into its folder `figures`; [] where it keeps none.

    Args:
        run_dir: Run directory.
        style: Settings of the other figures.

    Raises:
        NotARun: The file is damaged.
        StorageError: A figure cannot be written.
    """
    from analysis.plots import save_figure

    log = read_unit_log(run_dir)
    if log is None:
        return []
    with mpl.rc_context(style):  # type: ignore[arg-type]
        figure = unit_figure(log)
        if figure is None:
            return []
        folder = run_dir / "figures"
        return [save_figure(figure, folder / f"units.{kind}") for kind in ("png", "svg")]
