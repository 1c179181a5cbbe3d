"""One colour and dash per arm in all figures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.compare.study import Study
from analysis.plots import COLOURS, DASHES

WIDTH = 7.2
LETTERS_PER_INCH = 14


class ArmStyles:
    """Colour and dash of every arm; the baseline is black."""

    def __init__(self, study: Study) -> None:
        black, others = COLOURS[-1], COLOURS[:-1]
        self._styles: dict[str, dict[str, Any]] = {}
        for place, arm in enumerate(a for a in study.arms if a.name != study.baseline):
            dash = DASHES[place // len(others) % len(DASHES)]
            style = {"color": others[place % len(others)], "linestyle": dash}
            self._styles[arm.name] = style
        self._styles[study.baseline] = {"color": black, "linestyle": "-"}

    def __getitem__(self, arm: str) -> dict[str, Any]:
        return self._styles[arm]

    def legend(self, figure: Figure, study: Study) -> None:
        """One legend above all panels, in one row if it fits."""
        names = [arm.name for arm in study.arms]
        handles = [Line2D([], [], label=name, **self._styles[name]) for name in names]
        room = LETTERS_PER_INCH * figure.get_figwidth()
        columns = len(names)
        while columns > 1 and _letters(names, columns) > room:
            columns -= 1
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=columns,
            columnspacing=1.2,
            handlelength=1.6,
        )


def _letters(names: Sequence[str], columns: int) -> int:
    """Width of a legend in letters; a column is as wide as its widest name."""
    rows = math.ceil(len(names) / columns)
    starts = range(0, len(names), rows)
    return sum(max(map(len, names[start : start + rows])) + 6 for start in starts)
