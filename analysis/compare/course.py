"""Return and state of the policy network at every fifth of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.compare.cells import Table
from analysis.compare.ends import EndValue
from analysis.compare.study import Study, after_failures, csv_bytes
from analysis.compare.tables import interval_text, rank_title
from analysis.compare.yardsticks import untrained_return
from analysis.continual.episodes import Array
from analysis.statistics import Interval

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
_STRETCH = 0.05  # of the run before each point: one bin alone holds few measurements


@dataclass(frozen=True)
class CoursePoint:
    """One number of one arm.

    Attributes:
        arm: Name.
        quantity: Name of the curve.
        env_steps: Where the stretch that it is the mean of ends.
        mean: Over runs that have it; None where no run has.
    """

    arm: str
    quantity: str
    env_steps: int
    mean: Interval | None


def course(study: Study) -> list[CoursePoint]:
    """Means over runs of all curves at every fifth of the run, each over the 5 % before it
    (less where whole bins are less).

    Curves with wider bins than that, and curves that no run has, are left out.
    """
    return list(_points(study))


def _points(study: Study) -> Iterator[CoursePoint]:
    end = int(study.about["end"])
    for quantity in _quantities(study):
        for arm in study.arms:
            curves = study.matrix(arm.name, f"curve/{quantity}")
            if quantity == "return":
                curves = after_failures(study, arm.name, curves, untrained_return(study))
            for share in SHARES:
                values = _before(curves, share) if curves.shape[1] else np.zeros(0)
                point = EndValue.of(values).mean
                yield CoursePoint(arm.name, quantity, round(share * end), point)


def _quantities(study: Study) -> list[str]:
    """Curves whose bins are fine enough, in the order of the titles."""
    names = [arm.name for arm in study.arms]
    widths = {q: max(study.matrix(n, f"curve/{q}").shape[1] for n in names) for q in _titles(study)}
    return [quantity for quantity, width in widths.items() if width * _STRETCH >= 1.0]


def _titles(study: Study) -> dict[str, str]:
    return {
        "return": "return",
        "dormant_fraction": "dormant units (%)",
        "stable_rank": rank_title(study),
        "weight_magnitude": "mean |weight|",
        "hidden_weight_magnitude": "mean |weight|, last hidden layer",
        "action_std": "action std",
    }


def _before(curves: Array, share: float) -> Array:
    """(runs,) means of the bins in the stretch that ends at a share of the run."""
    width = curves.shape[1]
    last = round(share * width)
    stretch = curves[:, last - int(_STRETCH * width) : last]
    present = ~np.isnan(stretch)
    counts = present.sum(axis=1)
    sums = np.where(present, stretch, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def course_table(study: Study, points: Sequence[CoursePoint]) -> Table:
    """One row per quantity and arm, one column per fifth of the run."""
    titles = _titles(study)
    steps = sorted({point.env_steps for point in points})
    cells: dict[tuple[str, str], list[str]] = {}
    for point in points:
        factor = 100.0 if point.quantity == "dormant_fraction" else 1.0
        row = cells.setdefault((point.quantity, point.arm), [])
        text = interval_text(point.mean, factor)
        if point.mean is not None and point.mean.n < len(study.runs[point.arm]):
            text += f" (n = {point.mean.n})"
        row.append(text)
    return Table(
        "Course of training",
        ("quantity", "arm", *(f"{step:,} steps" for step in steps)),
        tuple((titles[quantity], arm, *row) for (quantity, arm), row in cells.items()),
        "Means over runs with 95 % intervals, each run over the 5 % of training before the step "
        "(whole bins); diagnostics of the policy on the on-policy window. A failed run earns the "
        "untrained policy's return from its failure on and has no diagnostics; n: runs with a "
        "value, where some have none.",
    )


def course_csv(points: Sequence[CoursePoint]) -> bytes:
    """The same numbers, unrounded; dormant units as a share."""
    rows = []
    for point in points:
        found = point.mean
        bounds = (math.nan,) * 3 if found is None else (found.estimate, found.low, found.high)
        runs = 0 if found is None else found.n
        rows.append((point.arm, point.quantity, point.env_steps, runs, *map(float, bounds)))
    return csv_bytes(("arm", "quantity", "env_steps", "runs", "mean", "low", "high"), rows)
