"""One page about one run: returns, dormant units, ranks and weights over environment steps."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.continual import Episodes
from analysis.run_columns import SAMPLE_SETS, Columns
from analysis.run_files import (
    Regime,
    last_step,
    read_episodes,
    read_progress,
    read_regimes,
)
from analysis.storage import StorageError, temporary_name
from analysis.unit_figures import draw_units

__all__ = ["draw_run", "return_bins", "run_figure", "save_figure"]

# Source: Okabe and Ito, colours that colour-blind readers tell apart; yellow is too pale here.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
QUIET, FAINT = "#8c8c8c", "#c4c4c4"
MAX_BINS = 100
EPISODES_PER_BIN = 5
MAX_LABELS = 12
STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "neoteny",  # equal runs give equal files
}


@dataclass(frozen=True)
class Bins:
    """Episode returns over time.

    Attributes:
        centres: (bins,) environment steps.
        mean: (bins,) mean return of the episodes that ended in a bin; NaN where none did.
        low: (bins,) lower quartile.
        high: (bins,) upper quartile.
    """

    centres: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def return_bins(episodes: Episodes, total_steps: int) -> Bins:
    """Average the returns of full episodes in equal bins of time.

    Bins are 1 % of the run, wider in runs with fewer than 500 episodes. An empty bin is missing,
    never 0.
    """
    full = episodes.select(~episodes.cut)
    num_bins = max(1, min(MAX_BINS, len(full.returns) // EPISODES_PER_BIN))
    edges = np.linspace(0.0, max(total_steps, 1), num_bins + 1)
    # An episode that ends exactly at an edge belongs to the bin before it.
    position = np.clip(np.searchsorted(edges, full.end_steps, side="left") - 1, 0, num_bins - 1)
    statistics = np.full((3, num_bins), math.nan)
    for index in np.unique(position):
        returns = full.returns[position == index]
        statistics[:, index] = returns.mean(), *np.quantile(returns, (0.25, 0.75))
    return Bins((edges[:-1] + edges[1:]) / 2.0, *statistics)


def draw_run(run_dir: Path | str) -> list[Path]:
    """Draw the figure of one run, finished or not, into its folder `figures`.

    Args:
        run_dir: Run directory.

    Returns:
        The files written, PNG and SVG; with those of the unit histories where the run keeps any.

    Raises:
        NotARun: The path is not a run directory, or its files are damaged.
        StorageError: A file cannot be written.
    """
    path = Path(run_dir)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = run_figure(path)
        files = [save_figure(figure, path / "figures" / f"run.{kind}") for kind in ("png", "svg")]
    return [*files, *draw_units(path, STYLE)]


def run_figure(run_dir: Path) -> Figure:
    """Compose the figure of one run without writing it; what is missing is said in its place."""
    progress = read_progress(run_dir)
    columns, regimes = Columns.of(run_dir, progress), read_regimes(run_dir)
    total_steps = max(last_step(run_dir), 1)
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    _draw_returns(axes[0, 0], read_episodes(run_dir), total_steps)
    _label_regimes(axes[0, 0], regimes, columns.regime_label)
    _draw_dormant(axes[0, 1], progress, columns)
    _draw_ranks(axes[1, 0], progress, columns)
    _draw_weights(axes[1, 1], progress, columns)
    for letter, panel in zip("abcd", axes.flat, strict=True):
        _finish_panel(panel, letter, regimes, total_steps)
    figure.suptitle(_title(run_dir), fontsize=7, color=QUIET)
    return figure


def _title(path: Path) -> str:
    place = path.resolve()
    return " / ".join((*(parent.name for parent in reversed(place.parents[:2])), place.name))


# Panels --------------------------------------------------------------------------------------


def _draw_returns(axes: Axes, episodes: Episodes, total_steps: int) -> None:
    axes.set_ylabel("episode return (mean, quartiles)")
    bins = return_bins(episodes, total_steps)
    if np.isnan(bins.mean).all():
        _say_empty(axes, "no full episode yet")
        return
    axes.fill_between(bins.centres, bins.low, bins.high, color=COLOURS[0], alpha=0.2, linewidth=0)
    _draw_line(axes, bins.centres, bins.mean, color=COLOURS[0])


def _draw_dormant(axes: Axes, progress: Mapping[str, np.ndarray], columns: Columns) -> None:
    axes.set_ylabel("dormant units (%)")
    series = {
        (network, sample_set): 100.0 * progress[columns.dormant(sample_set, network)]
        for network in columns.networks
        for sample_set in SAMPLE_SETS
        if columns.dormant(sample_set, network) in progress
    }
    _draw_measured(axes, progress, series)
    top = max(axes.get_ylim()[1], 1.0)
    axes.set_ylim(-0.02 * top, top)


def _draw_ranks(axes: Axes, progress: Mapping[str, np.ndarray], columns: Columns) -> None:
    axes.set_ylabel("stable rank, last layer" + (" (% of units)" if columns.num_units else ""))
    series = {
        (network, sample_set): columns.rank_scale
        * progress[columns.stable_rank(sample_set, network)]
        for network in columns.networks
        for sample_set in SAMPLE_SETS
        if columns.stable_rank(sample_set, network) in progress
    }
    _draw_measured(axes, progress, series)
    axes.set_ylim(0.0, 102.0 if columns.num_units else None)


def _draw_measured(
    axes: Axes, progress: Mapping[str, np.ndarray], series: dict[tuple[str, str], np.ndarray]
) -> None:
    """One line per network (colour) and sample set (dash)."""
    colours = _styles(COLOURS, [network for network, _ in series])
    dashes = _styles(DASHES, [sample_set for _, sample_set in series])
    for (network, sample_set), values in series.items():
        _draw_line(
            axes,
            progress["env_steps"],
            values,
            color=colours[network],
            linestyle=dashes[sample_set],
        )
    _legend_or_note(axes, colours, dashes)


def _draw_weights(axes: Axes, progress: Mapping[str, np.ndarray], columns: Columns) -> None:
    """One line per layer (colour, counted from the input) and network (dash)."""
    axes.set_ylabel("mean |weight| per layer")
    depth = max((len(layers) for layers in columns.weights.values()), default=0)
    names = [f"layer {position + 1}" for position in range(depth - 1)] + ["output"]
    if depth > 4:  # too many words for one line
        names = [f"{position + 1}" for position in range(depth)]
    colours, dashes = _styles(COLOURS, names), _styles(DASHES, columns.networks)
    known = np.zeros(0)
    for network, layers in columns.weights.items():
        for name, layer in zip(names, layers, strict=False):  # networks may differ in depth
            values = progress[columns.weight_magnitude(network, layer)]
            known = np.append(known, values[np.isfinite(values)])
            _draw_line(
                axes, progress["env_steps"], values, color=colours[name], linestyle=dashes[network]
            )
    _legend_or_note(axes, colours, dashes)
    if len(known) and 0.0 < 10.0 * known.min() < known.max():
        axes.set_yscale("log")
    elif len(known):
        axes.set_ylim(bottom=0.0)


# Shared parts --------------------------------------------------------------------------------


def _styles(choices: Sequence[Any], names: Iterable[str]) -> dict[str, Any]:
    """Give every distinct name its style; they repeat when there are more names."""
    distinct = list(dict.fromkeys(names))
    return {name: choices[position % len(choices)] for position, name in enumerate(distinct)}


def _draw_line(axes: Axes, steps: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Draw finite points, joined; a single point as a dot, so that it can be seen."""
    known = np.isfinite(values)
    if known.any():
        marker = "o" if known.sum() == 1 else None
        axes.plot(steps[known], values[known], marker=marker, markersize=3, **style)


def _legend_or_note(axes: Axes, colours: dict[str, str], dashes: dict[str, Any]) -> None:
    """Explain colours and dashes apart, above the panel, where no data are."""
    if not axes.lines:
        _say_empty(axes, "not measured yet")
        return
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color=QUIET, linestyle=dash, label=name) for name, dash in dashes.items()
    ]
    legend = axes.legend(
        handles=handles[:MAX_LABELS],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=min(len(handles), 5),
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=0.8,
        handletextpad=0.4,
    )
    # Its height counts in the layout, its width would push the panels apart.
    legend.set_in_layout(len(handles) > 5)


def _say_empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=QUIET)
    axes.set_yticks([])


def _label_regimes(axes: Axes, regimes: tuple[Regime, ...], name: str) -> None:
    """Write the value of every world above its stretch of time."""
    every = math.ceil(len(regimes) / MAX_LABELS)
    above = axes.get_xaxis_transform()
    for regime in regimes[::every]:
        middle = (regime.start + regime.end) / 2.0
        axes.text(middle, 1.01, regime.label, transform=above, ha="center", va="bottom", fontsize=6)
    axes.text(0.0, 1.07, name, transform=axes.transAxes, ha="left", va="bottom", fontsize=7)


def _finish_panel(axes: Axes, letter: str, regimes: tuple[Regime, ...], total_steps: int) -> None:
    for regime in regimes[1:]:
        axes.axvline(regime.start, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_xlim(0, total_steps)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    unit, word = (1e6, "millions") if total_steps >= 2e6 else (1e3, "thousands")
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / unit:g}")
    if letter in "cd":
        axes.set_xlabel(f"environment steps ({word})")
    axes.annotate(
        letter,
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(-30, 6),
        textcoords="offset points",
        fontweight="bold",
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Replace an older file at once, so that a viewer never sees half a figure.

    Raises:
        StorageError: The file cannot be written.
    """
    kind = path.suffix[1:]
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    temporary = path.parent / temporary_name(path.name)
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    return path
