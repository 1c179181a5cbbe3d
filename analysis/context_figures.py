"""Figures of the dendrite papers from one checkpoint: who is active where, what is shared, what
segments do and how evenly units win. The numbers are beside every figure as CSV.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, figures of hidden activations.
Deviation: the activity map shows how often a unit is active, where the published one shows mean
values under that name; overlaps are relative to what independent sets share.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.checkpoint import CheckpointError
from analysis.context_data import ContextData, LayerData, context_data
from analysis.plots import COLOURS, QUIET, STYLE, save_figure
from analysis.storage import atomic_write_text
from configs.schema import ConfigurationError

NUM_UNITS = 64
PANEL = (3.5, 2.2)
BINS = np.linspace(0.0, 1.0, 41)


def draw_contexts(run_dir: Path | str, checkpoint: Path | None = None) -> list[Path]:
    """Draw what contexts do to the hidden layers of a run, into its folder `figures`.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.

    Returns:
        The files written; none where there are no several contexts.

    Raises:
        NotARun: The path is not a run directory.
        CheckpointError: There is no intact checkpoint, or it does not fit.
        StorageError: A file cannot be written.
    """
    data = context_data(Path(run_dir), checkpoint)
    return [] if data is None else draw(data, Path(run_dir) / "figures")


def draw_contexts_if_any(run_dir: Path) -> list[Path]:
    """The same for any run; where its agent cannot be looked at, a line says why."""
    try:
        return draw_contexts(run_dir)
    except (CheckpointError, ConfigurationError) as error:
        print(f"no figures about contexts: {error}", file=sys.stderr)
        return []


def draw(data: ContextData, folder: Path) -> list[Path]:
    """Draw measured layers into a folder; see `draw_contexts`."""
    plans: list[tuple[str, Callable[..., None], list[LayerData], str]] = [
        ("activity", _draw_activity, _shown_layers(data), f"{NUM_UNITS} of the units"),
        ("overlap", _draw_overlap, _shown_layers(data), data.kind),
        ("segments", _draw_segments, [d for d in data.layers if d.segments], "segment"),
        ("duty", _draw_duty, [d for d in data.layers if d.duty is not None], "duty cycle"),
    ]
    written: list[Path] = []
    folder.mkdir(exist_ok=True)
    for name, panel, layers, label in plans:
        if not layers:
            continue
        path = folder / f"contexts_{name}.csv"
        header, rows = TABLES[name](data)
        atomic_write_text(path, _csv(header, rows))
        with mpl.rc_context(STYLE):  # type: ignore[arg-type]
            figure = _figure(data, layers, panel, label)
            kinds = ("png", "svg")
            written += [save_figure(figure, path.with_suffix(f".{kind}")) for kind in kinds]
        written.append(path)
    return written


def _shown_layers(data: ContextData) -> list[LayerData]:
    """The last hidden layer of every network; all of them where there is only one network."""
    last = {layer.network: layer for layer in data.layers}
    return list(last.values()) if len(last) > 1 else list(data.layers)


def _figure(
    data: ContextData, layers: Sequence[LayerData], panel: Callable[..., None], label: str
) -> Figure:
    columns = min(len(layers), 3)
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.3), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False)
    for axes, layer in zip(every.flat, layers, strict=False):
        panel(axes, layer, data)
        axes.set_title(f"{layer.network} {layer.layer}", fontsize=7)
    for axes in every.flat[len(layers) :]:
        axes.set_axis_off()
    figure.supxlabel(label, fontsize=8)
    figure.suptitle(f"after {data.env_steps:,} environment steps", fontsize=7, color=QUIET)
    return figure


def unit_order(activity: np.ndarray, count: int = NUM_UNITS) -> np.ndarray:
    """Units for a map, sorted by the context in which they are most active, evenly thinned out.

    Args:
        activity: (T, H).
        count: At most so many.

    Returns:
        Indices, so that units of one context stand together.
    """
    most = activity.max(0)
    favourite = np.where(most > 0.0, activity.argmax(0), len(activity))  # silent units come last
    order = np.lexsort((-most, favourite))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return order[places]


# Panels --------------------------------------------------------------------------------------


def _draw_activity(axes: Axes, layer: LayerData, data: ContextData) -> None:
    shown = layer.activity[:, unit_order(layer.activity)]
    _map(axes, shown, data, "share of samples active", cmap="viridis", vmin=0.0, vmax=1.0)
    axes.set_xticks([])


def _draw_overlap(axes: Axes, layer: LayerData, data: ContextData) -> None:
    known = layer.overlap[np.isfinite(layer.overlap)]
    most = max(2.0, float(known.max())) if len(known) else 2.0
    _map(axes, layer.overlap, data, "overlap / chance", cmap="viridis", vmin=0.0, vmax=most)
    axes.set_xticks(range(len(data.labels)), data.labels, rotation=90, fontsize=5)


def _draw_segments(axes: Axes, layer: LayerData, data: ContextData) -> None:
    assert layer.segments is not None
    wins = layer.segments.wins
    _map(axes, wins, data, "share of units it decides", cmap="viridis", vmin=0.0)
    axes.set_xticks(range(wins.shape[1]))


def _draw_duty(axes: Axes, layer: LayerData, data: ContextData) -> None:
    assert layer.duty is not None
    assert layer.winners is not None
    equal = layer.winners / len(layer.duty)
    axes.hist(layer.duty, bins=list(BINS), color=COLOURS[0])
    axes.axvline(equal, color=COLOURS[1], linewidth=0.8, label=f"if all won alike: {equal:.2g}")
    axes.set_ylabel("units")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.legend(loc="upper right")


def _map(axes: Axes, values: np.ndarray, data: ContextData, label: str, **style: Any) -> None:
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **style)
    axes.set_yticks(range(len(data.labels)), data.labels, fontsize=5)
    assert axes.figure is not None
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(label, fontsize=6)
    bar.ax.tick_params(labelsize=5)


# Tables --------------------------------------------------------------------------------------

Table = tuple[tuple[str, ...], Iterable[Sequence[object]]]


def _activity_table(data: ContextData) -> Table:
    header = ("network", "layer", "context", "unit", "active_share", "mean_value")
    return header, (
        (layer.network, layer.layer, label, unit, share, mean)
        for layer in data.layers
        for label, shares, means in zip(data.labels, layer.activity, layer.mean_value, strict=True)
        for unit, (share, mean) in enumerate(zip(shares, means, strict=True))
    )


def _overlap_table(data: ContextData) -> Table:
    header = ("network", "layer", "context", "other", "overlap_to_chance", "cosine_distance")
    return header, (
        (layer.network, layer.layer, a, b, layer.overlap[i, j], layer.cosine_distance[i, j])
        for layer in data.layers
        for i, a in enumerate(data.labels)
        for j, b in enumerate(data.labels)
    )


def _segments_table(data: ContextData) -> Table:
    header = ("network", "layer", "context", "segment", "win_share", "mean_activation")
    return header, (
        (layer.network, layer.layer, label, j, win, layer.segments.activation[i, j])
        for layer in data.layers
        if layer.segments is not None
        for i, label in enumerate(data.labels)
        for j, win in enumerate(layer.segments.wins[i])
    )


def _duty_table(data: ContextData) -> Table:
    header = ("network", "layer", "unit", "duty", "if_all_won_alike")
    return header, (
        (layer.network, layer.layer, unit, duty, layer.winners / len(layer.duty))
        for layer in data.layers
        if layer.duty is not None and layer.winners is not None
        for unit, duty in enumerate(layer.duty)
    )


TABLES: dict[str, Callable[[ContextData], Table]] = {
    "activity": _activity_table,
    "overlap": _overlap_table,
    "segments": _segments_table,
    "duty": _duty_table,
}


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return stream.getvalue()
