"""The tables of the training benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analysis.throughput import summary
from analysis.throughput.section import Section, Table
from analysis.throughput.summary import Results, Spread

SIDE_BY_SIDE = 0.9
MAIN_HEADER = (
    "mode",
    "suite, env steps/s",
    "share of floor",
    "SB3, env steps/s",
    "suite / SB3",
    "peak MiB (suite, SB3)",
)


class Report:
    """The tables of one benchmark.

    Args:
        results: Raw windows.
        cores: Cores that were used.
        methods: Ids of the methods that were measured.
        about: Machine, versions, settings and load, for the reader and the JSON.
    """

    def __init__(
        self,
        results: Results,
        cores: Sequence[int],
        methods: Sequence[str],
        about: Mapping[str, Any],
    ) -> None:
        summary.check_equal_work(results)
        self._results, self._about = results, dict(about)
        self._rows = summary.rows(results, len(cores))
        self._overheads = summary.overheads(results, methods)
        self._budget = summary.budget(results)
        self._floors = summary.floors(results)
        self._side_by_side = summary.side_by_side(results, len(cores))

    def tables(self) -> list[Table]:
        """Title, header and cells of every table."""
        return [
            Table(
                "PPO on the Ant: training speed", MAIN_HEADER, [_main_cells(r) for r in self._rows]
            ),
            Table(
                "Overhead",
                ("feature", "overhead", "target"),
                [(o.name, _percent(o.fraction, 2), _limit(o.limit)) for o in self._overheads],
            ),
            Table(
                "Two runs side by side, one core each",
                ("mode", "sum / twice one run alone on its core", "target"),
                [
                    (name, _percent(value, 1), f"at least {100 * SIDE_BY_SIDE:.0f} %")
                    for name, value in self._side_by_side.items()
                ],
            ),
            Table(
                "Where the time goes (16 x 128, everything on)",
                ("part", "share of wall time"),
                [(part, f"{100 * share:.1f} %") for part, share in self._budget.items()],
            ),
            Table(
                "Floor of this machine, all cores busy",
                ("quantity", "median (min to max)"),
                [(name, _number(value, 1)) for name, value in self._floors.items()],
            ),
            Table(
                "SB3, every row",
                ("measurement", "env steps/s"),
                [
                    (name, _number(summary.spread([summary.rate(w) for w in repeats]), 0))
                    for name, repeats in self._results.items()
                    if "SB3" in name
                ],
            ),
        ]

    def note(self) -> str:
        """How the numbers came about, in a few sentences."""
        about = self._about
        return (
            f"{about['repeats']} interleaved repeats, windows of at least {about['seconds']} s "
            f"after one warm-up rollout, cores {about['cores']}. "
            "2,048 transitions per rollout, 10 epochs, minibatches of 128, "
            "2 x 256 ReLU, Ant with 27 numbers at friction 1. Medians; in brackets smallest and "
            "largest, after the semicolon the 95 % bootstrap interval of the median."
        )

    def section(self) -> Section:
        """The tables with everything that they were made from."""
        data = {
            "rows": [asdict(row) for row in self._rows],
            "overheads": [asdict(overhead) for overhead in self._overheads],
            "side_by_side": {name: asdict(value) for name, value in self._side_by_side.items()},
            "budget": self._budget,
            "floors": {name: asdict(value) for name, value in self._floors.items()},
            "windows": self._results,
        }
        return Section("ppo", "PPO on the Ant", self.note(), self.tables(), data)


def _main_cells(row: summary.Row) -> tuple[str, ...]:
    share = _percent(row.share, 0)
    if row.trained_share is not None:
        share += f", trained {_percent(row.trained_share, 0)}"
    ours, theirs = row.memory
    return (
        row.name,
        _number(row.suite, 0),
        share,
        "" if row.sb3 is None else _number(row.sb3, 0),
        "" if row.ratio is None else _number(row.ratio, 2),
        f"{ours:.0f}" + ("" if theirs is None else f", {theirs:.0f}"),
    )


def _number(value: Spread, digits: int) -> str:
    if value.low == value.high:
        return f"{value.median:,.{digits}f}"
    text = f"{value.median:,.{digits}f} ({value.low:,.{digits}f} to {value.high:,.{digits}f}"
    if value.interval is not None:
        low, high = value.interval
        text += f"; {low:,.{digits}f} to {high:,.{digits}f}"
    return text + ")"


def _percent(value: Spread, digits: int) -> str:
    scaled = Spread(
        100 * value.median,
        100 * value.low,
        100 * value.high,
        None if value.interval is None else (100 * value.interval[0], 100 * value.interval[1]),
    )
    return _number(scaled, digits) + " %"


def _limit(limit: float | None) -> str:
    return "" if limit is None else f"at most {100 * limit:.0f} %"
