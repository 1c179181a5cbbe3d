"""Figures of sequences: who can do what after every stage, and success over the whole run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.continual.episodes import Array
from analysis.plots import COLOURS, DASHES, QUIET, STYLE
from analysis.sequences.matrix import SuccessMatrix

KINDS = ("png", "svg")


def matrix_figure(ends: Mapping[str, Array], tasks: Sequence[str]) -> Figure:
    """Heat maps of success after every stage; a task is framed where it has just been trained.

    Args:
        ends: Title -> (stages, stages) success of every task (columns) after every stage (rows).
        tasks: Task of every stage.
    """
    count, short = len(tasks), [name.replace("-v3", "") for name in tasks]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        size = max(2.6, 0.32 * count)
        figure = Figure(figsize=(size * len(ends) + 1.6, size + 1.3), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(ends), sharey=True))
        image = None
        for axes, (title, values) in zip(panels, ends.items(), strict=True):
            image = axes.imshow(values, vmin=0.0, vmax=1.0, cmap="cividis", aspect="equal")
            if count <= 12:
                _write_numbers(axes, values)
            for stage in range(count):
                axes.add_patch(
                    Rectangle((stage - 0.5, stage - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1])
                )
            axes.set_xticks(range(count), short, rotation=90)
            axes.set_yticks(range(count), short)
            axes.set_title(title, fontsize=7)
            axes.set_xlabel("success on")
        panels[0].set_ylabel("after training on")
        if image is not None:
            figure.colorbar(image, ax=panels.tolist(), label="success", shrink=0.8)
    return figure


def _write_numbers(axes: Axes, values: Array) -> None:
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.1f}".removeprefix("0") if 0.0 < value < 1.0 else f"{value:.0f}"
        shade = "black" if value > 0.6 else "white"
        axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color=shade)


def curves_figure(curves: Mapping[str, Array], matrix: SuccessMatrix) -> Figure:
    """One panel per task: its success over the whole run, its own stage shaded.

    Args:
        curves: Name of an arm -> (evaluations, stages) mean success.
        matrix: Any matrix of these runs, for its tasks and its grid.
    """
    count = len(matrix.tasks)
    columns = min(5, count)
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(1.5 * columns + 0.8, 1.2 * rows + 0.8), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
        million = matrix.env_steps / 1e6
        for stage, (axes, task) in enumerate(zip(panels, matrix.tasks, strict=False)):
            start = stage * matrix.steps_per_task / 1e6
            axes.axvspan(start, start + matrix.steps_per_task / 1e6, color="#e8e8e8", linewidth=0)
            for index, (name, values) in enumerate(curves.items()):
                dashes = DASHES[index // len(COLOURS) % len(DASHES)]
                colour = COLOURS[index % len(COLOURS)]
                marker = "." if len(million) <= 20 else ""
                axes.plot(
                    *(million, values[:, stage]),
                    marker=marker,
                    color=colour,
                    linestyle=dashes,
                    label=name,
                )
            axes.set_ylim(-0.03, 1.03)
            axes.set_title(task.replace("-v3", ""), fontsize=7, color=QUIET)
        for axes in panels[count:]:
            axes.set_axis_off()
        figure.supxlabel("million environment steps (own stage shaded)", fontsize=8)
        figure.supylabel("success", fontsize=8)
        handles, labels = panels[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)))
    return figure


def rendered(figure: Figure, kind: str) -> bytes:
    """Bytes of a figure, the same for equal figures."""
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure.savefig(stream, format=kind, dpi=200, metadata=metadata)
    return stream.getvalue()
