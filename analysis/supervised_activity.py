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
from analysis.supervised_runs import account, finished_runs
from analysis.supervised_tables import mean_text, write_rows, write_table

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
    lines = []
    for name, seeds in measured.items():
        for index, layer in enumerate(next(iter(seeds.values())).layers):
            found = [numbers(data.layers[index]) for data in seeds.values()]
            means = {key: mean_text(np.array([row[key] for row in found])) for key in NUMBERS}
            lines.append({"network": name, "layer": layer.layer, "runs": str(len(found)), **means})
    shown = {name: seeds[min(seeds)] for name, seeds in measured.items()}
    _write_activity(out / "activity.csv", shown)
    _draw(out, shown)
    table = write_table(out / "overlap_table.csv", lines)
    return f"{table}\n\n{account(root, used, 'with fewer tasks')}"


def _measure(root: Path, used: list[Path]) -> dict[str, dict[int, ContextData]]:
    """Network -> seed -> its layers, of the runs with the most tasks; `used` gets these."""
    runs = [run for run in finished_runs(root) if "num_tasks" in run[1]["env"]]
    if not runs:
        raise ValueError(f"{root} holds no finished runs with a number of tasks; train some first")
    most = max(config["env"]["num_tasks"] for _, config, _ in runs)
    measured: dict[str, dict[int, ContextData]] = {}
    for path, config, name in runs:
        if config["env"]["num_tasks"] != most:
            continue
        data = context_data(path)
        if data is None:
            raise ValueError(
                f"{path} was not trained on several tasks with images of their own; name a folder "
                "of runs on env=permuted_digits or env=permuted_mnist"
            )
        measured.setdefault(name, {})[int(path.name.removeprefix("seed_"))] = data
        used.append(path)
    return measured


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


def _draw(out: Path, shown: Mapping[str, ContextData]) -> None:
    """A map of 64 units per network (column) and layer (row), sorted by their favourite task."""
    depth = max(len(data.layers) for data in shown.values())
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.4 * len(shown), 1.9 * depth + 0.3), layout="constrained")
        every = figure.subplots(depth, len(shown), squeeze=False, sharey=True)
        for column, (name, data) in zip(every.T, shown.items(), strict=True):
            for axes, layer in zip(column, data.layers, strict=False):
                order = unit_order(layer.activity)
                axes.imshow(
                    layer.activity[:, order],
                    aspect="auto",
                    interpolation="nearest",
                    norm=Normalize(0.0, 1.0),
                    cmap="viridis",
                )
                shared = numbers(layer)["shared"]
                axes.set_title(f"{name}\n{layer.layer}, shared {shared:.2f}", fontsize=6)
            for axes in column:
                axes.set_xticks([])
            for axes in column[len(data.layers) :]:
                axes.set_axis_off()
        bar = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), "viridis"), ax=every)
        bar.set_label("share of images active", fontsize=7)
        figure.supylabel("task", fontsize=8)
        figure.supxlabel("64 of the units, sorted by the task they prefer", fontsize=8)
        seeds = "lowest seed, after the last task"
        figure.suptitle(seeds, fontsize=7, color=QUIET)
        for kind in ("png", "svg"):
            save_figure(figure, out / f"activity.{kind}")
