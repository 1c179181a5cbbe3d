"""What diagnostics said just before every switch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from analysis.continual.episodes import Array
from analysis.run_columns import SAMPLE_SETS, Columns
from analysis.run_files import number

METRIC_CLOCK = "env_steps"
MAX_SWITCHES = 50
_NO_METRICS = frozenset(
    {
        *("env_steps", "iteration", "episodes", "episode_return", "episode_length"),
        *("reward_per_step", "regime", "regime_value", "replay_size"),
    }
)
_NO_PREFIXES = ("eval/", "eval_quick/", "temperature/")


def metric_columns(header: Iterable[str], columns: Columns) -> list[str]:
    """Diagnostics of the policy: of the whole network and its last hidden layer, and of updates."""
    network = columns.networks[0] if columns.networks else ""
    layers = ("all", columns.last_layers.get(network, "all"))
    found = []
    for name in header:
        parts = name.split("/")
        if len(parts) == 1:
            wanted = name not in _NO_METRICS
        elif len(parts) > 3 and parts[0] in ("weights", *SAMPLE_SETS):
            wanted = parts[1] == network and "/".join(parts[2:-1]) in layers
        else:
            wanted = len(parts) > 1 and network in parts[:-1]
        if wanted and "_context_" not in name and not name.startswith(_NO_PREFIXES):
            found.append(name)
    return found


def rows_before(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    starts: Sequence[int],
    names: Sequence[str],
) -> dict[str, dict[int, int]]:
    """Rows that hold the last value of every metric before each switch.

    Args:
        header: Columns of progress.csv.
        rows: Its cells.
        starts: Environment step at which every regime begins.
        names: Metrics.

    Returns:
        Metric -> row -> regime that begins after it. A value older than a regime does not count.
    """
    if not 1 < len(starts) <= MAX_SWITCHES or METRIC_CLOCK not in header:
        return {name: {} for name in names}
    positions = {name: place for place, name in enumerate(header)}
    clock = np.array([float(row[positions[METRIC_CLOCK]]) for row in rows])
    found: dict[str, dict[int, int]] = {name: {} for name in names}
    for regime in range(1, len(starts)):
        first = int(np.searchsorted(clock, starts[regime - 1], side="right"))
        last = int(np.searchsorted(clock, starts[regime], side="right"))
        for name in names:
            place = positions[name]
            for row in range(last - 1, first - 1, -1):
                if rows[row][place]:
                    found[name][row] = regime
                    break
    return found


def values_before(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    starts: Sequence[int],
    names: Sequence[str],
) -> dict[str, Array]:
    """Metric -> (regimes,) its last value before each begins, NaN where there is none.

    Raises:
        ValueError: A cell holds no number.
    """
    positions = {name: place for place, name in enumerate(header)}
    values = {}
    for name, places in rows_before(header, rows, starts, names).items():
        if places:
            values[name] = np.full(len(starts), math.nan)
            for row, regime in places.items():
                values[name][regime] = number(rows[row][positions[name]])
    return values
