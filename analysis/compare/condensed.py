"""The training episodes of one run, condensed to what a report needs of them.

Reports are always made from this, never from the episodes themselves, so that a small copy of a
run gives the same report as the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.continual import (
    Episodes,
    end_of_phase,
    lifetime_average,
    regime_areas,
    trailing_records,
    window_average,
    window_averages,
    zero_shot_return,
)
from analysis.continual.episodes import PHASE_SHARE, Array
from analysis.run_files import NotARun, number, read_cells

BASE_BINS = 100
SCALARS = ("end", "windows", "env_steps", "num_complete", "lifetime")
REGIME_ARRAYS = ("starts", "areas", "phases", "first", "drops")
BIN_ARRAYS = ("bin_counts", "bin_sums")
ARRAYS = (*REGIME_ARRAYS, *BIN_ARRAYS)
RETURNS_FILE, RECORDS_FILE = "returns.csv", "records.csv"
RETURN_COLUMNS = ("quantity", "index", "value")
RECORD_COLUMNS = ("regime", "env_steps", "trailing_return")
_RECORDS = ("record_regimes", "record_steps", "record_returns")


@dataclass(frozen=True)
class Condensed:
    """Returns of one run up to a step.

    Attributes:
        end: Environment steps looked at.
        windows: Whether equal windows stand for regimes.
        env_steps: Environment steps that the run has done.
        num_complete: Episodes that no switch cut short.
        lifetime: Lifetime average return.
        starts: (regimes,) environment step at which each begins.
        areas: (regimes,) mean return by steps: of the episodes that began in a regime, or of what
            they have in a window.
        phases: (regimes,) the same at the end of each.
        first: (regimes,) mean of the first episodes of each.
        drops: (regimes,) fall of the trailing return after a switch.
        bin_counts: (100,) complete episodes that ended in equal bins of time.
        bin_sums: (100,) sums of their returns.
        record_regimes: (records,) regime of every record; see `trailing_records`.
        record_steps: (records,) environment step.
        record_returns: (records,) trailing return.
    """

    end: int
    windows: bool
    env_steps: int
    num_complete: int
    lifetime: float
    starts: Array
    areas: Array
    phases: Array
    first: Array
    drops: Array
    bin_counts: Array
    bin_sums: Array
    record_regimes: Array
    record_steps: Array
    record_returns: Array

    def curve(self, num_bins: int) -> Array:
        """Mean return of the complete episodes that ended in each bin; NaN for an empty one.

        Args:
            num_bins: A divisor of 100.
        """
        counts = self.bin_counts.reshape(num_bins, -1).sum(axis=1)
        sums = self.bin_sums.reshape(num_bins, -1).sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1.0), math.nan)

    def regimes(self, name: str, num_regimes: int) -> Array:
        """(num_regimes,) one of the arrays over regimes; NaN for those the run has not seen."""
        known = getattr(self, name)[:num_regimes]
        return np.append(known, np.full(num_regimes - len(known), math.nan))


def condense(
    episodes: Episodes, boundaries: Array, end: int, windows: bool, env_steps: int
) -> Condensed:
    """Condense the episodes of one run.

    Args:
        episodes: Those that ended by `end`, with their regimes.
        boundaries: (regimes + 1,) environment steps.
        end: Environment steps looked at.
        windows: Whether equal windows stand for regimes.
        env_steps: Environment steps that the run has done.
    """
    num_regimes = len(boundaries) - 1
    whole = episodes.select(~episodes.cut)
    edges = np.linspace(0.0, end, BASE_BINS + 1)
    places = np.searchsorted(edges, whole.end_steps, side="left") - 1
    inside = (places >= 0) & (places < BASE_BINS)
    drops, *records = trailing_records(episodes, boundaries)
    areas, phases = regime_areas(episodes, num_regimes), end_of_phase(episodes, boundaries)
    if windows:  # which cut through episodes, so that steps count and not beginnings
        areas = window_averages(episodes, end, num_regimes)
        phases = _ends_of_windows(whole, boundaries)
    return Condensed(
        end=end,
        windows=windows,
        env_steps=env_steps,
        num_complete=len(whole.returns),
        lifetime=lifetime_average(episodes.returns, episodes.lengths),
        starts=np.array(boundaries[:-1], dtype=np.float64),
        areas=areas,
        phases=phases,
        # A fresh network's first episodes are those of an untrained policy.
        first=np.array([zero_shot_return(episodes, k) for k in range(num_regimes)]),
        drops=drops,
        bin_counts=np.bincount(places[inside], minlength=BASE_BINS).astype(np.float64),
        bin_sums=_sums(places[inside], whole.returns[inside]),
        record_regimes=records[0],
        record_steps=records[1],
        record_returns=records[2],
    )


def _ends_of_windows(episodes: Episodes, boundaries: Array) -> Array:
    """Mean return by steps over the last eighth of every window."""
    lows = boundaries[1:] - PHASE_SHARE * np.diff(boundaries)
    limits = zip(lows, boundaries[1:], strict=True)
    return np.array([window_average(episodes, low, high) for low, high in limits])


def _sums(places: Any, returns: Array) -> Array:
    return np.bincount(places, returns, minlength=BASE_BINS).astype(np.float64)


def return_rows(condensed: Condensed) -> list[tuple[str, int, float]]:
    """Everything but the records as (quantity, index, value)."""
    rows = [(name, 0, float(getattr(condensed, name))) for name in SCALARS]
    for name in ARRAYS:
        rows += [(name, i, float(v)) for i, v in enumerate(getattr(condensed, name))]
    return rows


def record_rows(condensed: Condensed) -> list[tuple[float, float, float]]:
    """(regime, env_steps, trailing return) of every record."""
    columns = (getattr(condensed, name).tolist() for name in _RECORDS)
    return list(zip(*columns, strict=True))


def from_rows(
    values: Mapping[str, Sequence[float]], records: Sequence[Sequence[float]]
) -> Condensed:
    """The inverse of `return_rows` and `record_rows`.

    Args:
        values: Quantity -> its values in order.
        records: One row per record.

    Raises:
        ValueError: Something is missing.
    """
    lacking = [name for name in SCALARS if name not in values]
    lacking += [name for name in BIN_ARRAYS if len(values.get(name, ())) != BASE_BINS]
    sizes = {len(values.get(name, ())) for name in REGIME_ARRAYS}
    if lacking or len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"it lacks {', '.join(lacking) or 'scores of regimes'}")
    scalars: dict[str, Any] = {name: values[name][0] for name in SCALARS}
    scalars |= {name: int(scalars[name]) for name in ("end", "env_steps", "num_complete")}
    scalars["windows"] = bool(scalars["windows"])
    arrays: dict[str, Any] = {name: np.array(values[name], dtype=np.float64) for name in ARRAYS}
    matrix = np.array(records, dtype=np.float64).reshape(-1, 3)
    arrays |= {name: matrix[:, place] for place, name in enumerate(_RECORDS)}
    return Condensed(**scalars, **arrays)


def read_condensed(path: Path) -> Condensed | None:
    """What a copy holds in place of episodes; None for a run that has its episodes.

    Raises:
        NotARun: The files are damaged.
    """
    file = path / RETURNS_FILE
    header, rows = read_cells(file)
    if not header:
        return None
    try:
        _expect(file, header, RETURN_COLUMNS)
        values: dict[str, list[float]] = {}
        for quantity, _, value in rows:
            values.setdefault(quantity, []).append(number(value))
        names, records = read_cells(path / RECORDS_FILE)
        _expect(path / RECORDS_FILE, names, RECORD_COLUMNS)
        return from_rows(values, [[number(cell) for cell in row] for row in records])
    except ValueError as error:
        raise NotARun(f"{file} is damaged: {error}") from error


def _expect(file: Path, found: Sequence[str], columns: Sequence[str]) -> None:
    if list(found) != list(columns):
        raise ValueError(f"{file.name} has columns {list(found)}, not {list(columns)}")
