"""Reads what a comparison needs from every run directory, each file once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.canonical_json import JsonError, parse_json
from analysis.compare.before import metric_columns, values_before
from analysis.compare.condensed import Condensed, read_condensed
from analysis.continual.episodes import Array, Episodes
from analysis.run_columns import Columns
from analysis.run_files import (
    NotARun,
    last_step,
    number,
    read_cells,
    read_config,
    read_episodes,
    read_table,
    world_events,
)
from analysis.runs import describe_run, find_runs

Series = tuple[Array, Array]
COMMANDS_FILE = "commands.txt"
QUICK_SUCCESS = "quick_success"


@dataclass(frozen=True)
class Member:
    """One run of a comparison.

    Attributes:
        path: Run directory.
        config: Nested settings.
        identity: See `analysis.runs.describe_run`.
        status: `finished`, `failed` or `unfinished`.
        env_steps: Environment steps done.
        episodes: Training episodes; none in a copy, which holds scores of them instead.
        condensed: What a small copy holds instead, see `analysis.compare.copies`; None for a run.
        regimes: Numbers of the regimes it has reached.
        starts: For each of them the global step at which it began.
        values: For each of them its physical value; NaN where no event says.
        series: Diagnostic -> (environment steps, values).
        before: Diagnostic -> its value just before each of `regimes`.
        rank_units: Units of the last hidden layer, NaN where unknown.
        iterations: Update phases done.
        speed: Median environment steps per second; NaN without timing.csv.
        environment: environment.json, {} without it.
        parameters: Of all networks at the end, NaN where done.json does not say.
        peak_memory_mib: Largest resident set in MiB, NaN where done.json does not say.
    """

    path: Path
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    status: str
    env_steps: int
    episodes: Episodes
    condensed: Condensed | None
    regimes: tuple[int, ...]
    starts: tuple[int, ...]
    values: tuple[float, ...]
    series: Mapping[str, Series]
    before: Mapping[str, Array]
    rank_units: float
    iterations: int
    speed: float
    environment: Mapping[str, Any]
    parameters: float
    peak_memory_mib: float

    @property
    def key(self) -> tuple[int, int]:
        """(world_seed, seed): runs of two arms with equal keys form a pair."""
        return int(self.identity["world_seed"]), int(self.identity["seed"])


def find_members(paths: Iterable[Path | str]) -> list[Member]:
    """Read all runs in or below some folders, each once.

    Raises:
        NotARun: A folder holds no run, or files are damaged.
        ValueError: No path is given.
    """
    directories: dict[Path, Path] = {}
    for path in paths:
        directories.update({found.resolve(): found for found in find_runs(path)})
    if not directories:
        raise ValueError("no runs are named; give run directories or folders of them")
    return [read_member(directories[path]) for path in sorted(directories)]


def read_member(path: Path) -> Member:
    """Read one run.

    Raises:
        NotARun: The path is not a run directory, or its files are damaged.
    """
    done = _read_json(path / "done.json")
    summary = done.get("summary") or {}
    status = str(done.get("status", "unfinished"))
    condensed = read_condensed(path)
    steps = summary.get("env_steps")
    if steps is None:
        steps = last_step(path) if condensed is None else condensed.env_steps
    progress = _Progress(path)
    regimes, starts, values = _regimes(path, progress.first_value())
    speeds = read_table(path / "timing.csv").get("steps_per_second", np.zeros(0))
    return Member(
        path,
        read_config(path),
        describe_run(path),
        status,
        int(steps),
        read_episodes(path),
        condensed,
        regimes,
        starts,
        values,
        progress.series(),
        progress.before(starts),
        progress.rank_units,
        progress.iterations(),
        float(np.median(speeds)) if len(speeds) else math.nan,
        _read_json(path / "environment.json"),
        float(summary.get("parameters", math.nan)),
        float(summary.get("peak_memory_mib", math.nan)),
    )


def training_commands(members: Sequence[Member]) -> list[str]:
    """Command lines that sweeps have noted beside the environments of their groups."""
    folders = {m.path.resolve().parents[2] for m in members if len(m.path.resolve().parents) > 2}
    commands: list[str] = []
    for folder in sorted(folders):
        file = folder / COMMANDS_FILE
        if file.is_file():
            commands += file.read_text(encoding="utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(line for line in commands if line.strip()))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, JsonError) as error:
        raise NotARun(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise NotARun(f"{path} is damaged: it holds no JSON object")
    return value


def columns_of(columns: Columns) -> dict[str, str]:
    """Diagnostic of a report -> column of progress.csv: the policy on the on-policy window."""
    names = {"action_std": "action_std", QUICK_SUCCESS: "eval_quick/success"}
    if columns.networks:
        network = columns.networks[0]
        names |= {
            "dormant_fraction": columns.dormant("window", network),
            "stable_rank": columns.stable_rank("window", network),
            "weight_magnitude": columns.all_weights(network),
            "hidden_weight_magnitude": columns.hidden_weights(network),
            "trainability_gap": f"probe/{network}/all/trainability_gap",
        }
    return names


class _Progress:
    """The rows of progress.csv."""

    def __init__(self, path: Path) -> None:
        self._file = path / "progress.csv"
        self._header, self._rows = read_cells(self._file)
        self._columns = Columns.of(path, self._header)
        self._positions = {name: place for place, name in enumerate(self._header)}
        units = self._columns.num_units
        self.rank_units = math.nan if units is None else float(units)

    def _column(self, name: str) -> Array:
        place = self._positions.get(name)
        cells = [] if place is None else [row[place] for row in self._rows]
        try:
            return np.array([number(cell) for cell in cells], dtype=np.float64)
        except ValueError as error:
            raise NotARun(f"{self._file} is damaged: {error}") from error

    def series(self) -> dict[str, Series]:
        """Finite values of the diagnostics that reports follow over time."""
        steps, found = self._column("env_steps"), {}
        for metric, name in columns_of(self._columns).items():
            values = self._column(name)
            known = np.isfinite(values)
            if known.any():
                found[metric] = (steps[known], values[known])
        return found

    def before(self, starts: Sequence[int]) -> dict[str, Array]:
        """All diagnostics of the policy just before every switch."""
        names = metric_columns(self._header, self._columns)
        try:
            return values_before(self._header, self._rows, starts, names)
        except ValueError as error:
            raise NotARun(f"{self._file} is damaged: {error}") from error

    def iterations(self) -> int:
        """Update phases done."""
        done = self._column("iteration")
        return int(done[-1]) if len(done) else 0

    def first_value(self) -> float:
        """Physical value of the first regime: no event announces it."""
        regimes, places = self._column("regime"), self._column("regime_value")
        return float(places[0]) if len(places) and regimes[0] == 0.0 else math.nan


def _regimes(
    path: Path, first_value: float
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Numbers, starts and values of the worlds that a run has reached."""
    starts, values = {0: 0}, {0: first_value}
    for index, env_steps, value in world_events(path / "events.jsonl"):
        starts.setdefault(index, env_steps)
        values.setdefault(index, value[0] if value else math.nan)
    ordered = sorted(starts)
    return (
        tuple(ordered),
        tuple(starts[k] for k in ordered),
        tuple(values[k] for k in ordered),
    )
