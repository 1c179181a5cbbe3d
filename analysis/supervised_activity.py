"""Which hidden units are active for which task, network by network, and how much tasks share.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, figure of hidden activations.
Deviation: the share of images on which a unit is active, where mean values are published; and how
much tasks share is a number beside the figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.context_data import ContextData, LayerData, context_data
from analysis.context_figures import unit_order
from analysis.plots import QUIET, STYLE, save_figure
from analysis.supervised_runs import account, finished_runs, place_once
from analysis.supervised_tables import (
    mean_text,
    read_number,
    read_rows,
    write_rows,
    write_table,
)

Maps = Mapping[str, Mapping[str, np.ndarray]]  # network -> layer -> (tasks, units)
USED = 0.01  # a unit that no task activates on more than this share of its images is unused
NUMBERS = ("active", "used", "within", "across", "shared")


def activity(root: Path, out: Path) -> str:
    """Write activity.csv, overlap.csv, overlap_table.csv and the figure of hidden activations.

    Of all finished runs below a folder, those with the largest number of tasks are measured on all
    test images at their last checkpoint. The figure and activity.csv show the lowest seed.

    Args:
        root: Folder of run directories.
        out: Folder of the results.

    Returns:
        The table as Markdown, a line per network and layer, means over runs: `active`, share of
        units active on an image; `used`, share of units that some task activates on over 1 % of its
        images; `within` and `across`, active units that two images of one task, or of two tasks,
        have in common, relative to chance; `shared`, see `shared_activity`.

    Raises:
        ValueError: There is no such run, or its contexts are not several tasks.
        CheckpointError: A run has no intact checkpoint.
    """
    used: list[Path] = []
    measured = _measure(root, used)
    write_rows(
        out / "overlap.csv",
        ("network", "seed", "layer", *NUMBERS),
        [
            (name, seed, layer.layer, *(f"{value:.4f}" for value in numbers(layer).values()))
            for name, seeds in measured.items()
            for seed, data in seeds.items()
            for layer in data.layers
        ],
    )
    _write_activity(out / "activity.csv", {name: s[min(s)] for name, s in measured.items()})
    return f"{draw_activity(out, out)}\n\n{account(root, used, 'with fewer tasks')}"


def draw_activity(stored: Path, out: Path) -> str:
    """Write overlap_table.csv and the figure from a stored overlap.csv and activity.csv.

    Returns:
        The table as Markdown, see `activity`.

    Raises:
        ValueError: There are no such files, or they are damaged.
    """
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    path = stored / "overlap.csv"
    for row in read_rows(path, ("network", "layer", *NUMBERS)):
        values = {key: read_number(path, row[key]) for key in NUMBERS}
        found.setdefault((row["network"], row["layer"]), []).append(values)
    lines = []
    for (name, layer), rows in found.items():
        means = {key: mean_text(np.array([row[key] for row in rows])) for key in NUMBERS}
        lines.append({"network": name, "layer": layer, "runs": str(len(rows)), **means})
    _draw(out, _stored_activity(stored / "activity.csv"))
    return write_table(out / "overlap_table.csv", lines)


def _measure(root: Path, used: list[Path]) -> dict[str, dict[int, ContextData]]:
    """Network -> seed -> its layers, of the runs with the most tasks; `used` gets these."""
    runs = [run for run in finished_runs(root) if "num_tasks" in run[1]["env"]]
    if not runs:
        raise ValueError(f"{root} holds no finished runs with a number of tasks; train some first")
    most = max(config["env"]["num_tasks"] for _, config, _ in runs)
    measured: dict[str, dict[int, tuple[ContextData, Path]]] = {}
    for path, config, name in runs:
        if config["env"]["num_tasks"] != most:
            continue
        data = context_data(path)
        if data is None:
            raise ValueError(
                f"{path} was not trained on several tasks with images of their own; name a folder "
                "of runs on env=permuted_digits or env=permuted_mnist"
            )
        place_once(measured.setdefault(name, {}), path, data)
        used.append(path)
    return {name: {s: data for s, (data, _) in seeds.items()} for name, seeds in measured.items()}


def numbers(layer: LayerData) -> dict[str, float]:
    """The five numbers of one layer by name; see `activity`."""
    apart = ~np.eye(len(layer.overlap), dtype=bool)
    values = (
        float(layer.activity.mean()),
        float((layer.activity.max(0) > USED).mean()),
        float(np.diag(layer.overlap).mean()),
        float(layer.overlap[apart].mean()),
        shared_activity(layer.activity),
    )
    return dict(zip(NUMBERS, values, strict=True))


def shared_activity(shares: np.ndarray) -> float:
    """How much of the activity of two tasks is in common, mean over pairs of tasks.

    The sum over units of the smaller of two shares, over the sum of the larger: 0 for disjoint
    sets of units, 1 where both tasks activate every unit equally often. For units that are active
    always or never this is the Jaccard index of the two sets.

    Args:
        shares: (T, H) share of the images of a task on which a unit is active.
    """
    smaller = np.minimum(shares[:, None], shares[None]).sum(2)
    larger = np.maximum(shares[:, None], shares[None]).sum(2)
    upper = np.triu_indices(len(shares), 1)
    return float((smaller / larger)[upper].mean())


def _write_activity(path: Path, shown: Mapping[str, ContextData]) -> None:
    """One row per network, layer and task, one column per unit."""
    layers = [(name, layer) for name, data in shown.items() for layer in data.layers]
    width = max(layer.activity.shape[1] for _, layer in layers)
    write_rows(
        path,
        ("network", "layer", "task", *(f"unit_{unit}" for unit in range(width))),
        [
            (name, layer.layer, task, *(f"{share:.3f}" for share in row))
            for name, layer in layers
            for task, row in enumerate(layer.activity)
        ],
    )


def _stored_activity(path: Path) -> Maps:
    maps: dict[str, dict[str, list[list[float]]]] = {}
    for row in read_rows(path, ("network", "layer", "task", "unit_0")):
        units = [cell for name, cell in row.items() if name.startswith("unit_") and cell]
        layers = maps.setdefault(row["network"], {})
        layers.setdefault(row["layer"], []).append([read_number(path, cell) for cell in units])
    return {
        name: {layer: np.array(rows) for layer, rows in layers.items()}
        for name, layers in maps.items()
    }


def _draw(out: Path, maps: Maps) -> None:
    """A map of 64 units per network (column) and layer (row), sorted by their favourite task."""
    depth = max(map(len, maps.values()))
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.4 * len(maps), 1.9 * depth + 0.3), layout="constrained")
        every = figure.subplots(depth, len(maps), squeeze=False, sharey=True)
        for column, (name, layers) in zip(every.T, maps.items(), strict=True):
            for axes, (layer, shares) in zip(column, layers.items(), strict=False):
                axes.imshow(
                    shares[:, unit_order(shares)],
                    aspect="auto",
                    interpolation="nearest",
                    norm=Normalize(0.0, 1.0),
                    cmap="viridis",
                )
                title = f"{name}\n{layer}, shared {shared_activity(shares):.2f}"
                axes.set_title(title, fontsize=6)
            for axes in column:
                axes.set_xticks([])
            for axes in column[len(layers) :]:
                axes.set_axis_off()
        bar = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), "viridis"), ax=every)
        bar.set_label("share of images active", fontsize=7)
        figure.supylabel("task", fontsize=8)
        figure.supxlabel("64 of the units, sorted by the task they prefer", fontsize=8)
        seeds = "lowest seed, after the last task"
        figure.suptitle(seeds, fontsize=7, color=QUIET)
        for kind in ("png", "svg"):
            save_figure(figure, out / f"activity.{kind}")
