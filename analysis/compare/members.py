"""Reads what a comparison needs from every run directory, each file once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.canonical_json import JsonError, parse_json
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


@dataclass(frozen=True)
class Member:
    """One run of a comparison.

    Attributes:
        path: Run directory.
        config: Nested settings.
        identity: See `analysis.runs.describe_run`.
        status: `finished`, `failed` or `unfinished`.
        env_steps: Environment steps done.
        episodes: Training episodes.
        starts: Regime -> global step at which it began.
        values: Regime -> physical value; NaN where no event says.
        series: Diagnostic -> (environment steps, values).
        rank_units: Units of the last hidden layer, NaN where unknown.
        iterations: Update phases done.
        speed: Median environment steps per second; NaN without timing.csv.
        environment: environment.json, {} without it.
    """

    path: Path
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    status: str
    env_steps: int
    episodes: Episodes
    starts: tuple[int, ...]
    values: tuple[float, ...]
    series: Mapping[str, Series]
    rank_units: float
    iterations: int
    speed: float
    environment: Mapping[str, Any]

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
    steps = summary.get("env_steps")
    series, rank_units, iterations, first_value = _series(path)
    starts, values = _regimes(path, first_value)
    speeds = read_table(path / "timing.csv").get("steps_per_second", np.zeros(0))
    return Member(
        path,
        read_config(path),
        describe_run(path),
        status,
        last_step(path) if steps is None else int(steps),
        read_episodes(path),
        starts,
        values,
        series,
        rank_units,
        iterations,
        float(np.median(speeds)) if len(speeds) else math.nan,
        _read_json(path / "environment.json"),
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


def _series(path: Path) -> tuple[dict[str, Series], float, int, float]:
    """Diagnostics of the policy on the on-policy window, units, iterations, first value."""
    header, rows = read_cells(path / "progress.csv")
    columns = Columns.of(path, header)
    names = {"action_std": "action_std"}
    if columns.networks:
        network = columns.networks[0]
        names |= {
            "dormant_fraction": columns.dormant("window", network),
            "stable_rank": columns.stable_rank("window", network),
            "weight_magnitude": columns.all_weights(network),
        }
    positions = {name: place for place, name in enumerate(header)}

    def column(name: str) -> Array:
        place = positions.get(name)
        cells = [] if place is None else [row[place] for row in rows]
        try:
            return np.array([number(cell) for cell in cells], dtype=np.float64)
        except ValueError as error:
            raise NotARun(f"{path / 'progress.csv'} is damaged: {error}") from error

    steps, found = column("env_steps"), {}
    for metric, name in names.items():
        values = column(name)
        known = np.isfinite(values)
        if known.any():
            found[metric] = (steps[known], values[known])
    iterations, regimes, places = column("iteration"), column("regime"), column("regime_value")
    first_value = float(places[0]) if len(places) and regimes[0] == 0.0 else math.nan
    units = math.nan if columns.num_units is None else float(columns.num_units)
    return found, units, int(iterations[-1]) if len(iterations) else 0, first_value


def _regimes(path: Path, first_value: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Starts and values of the worlds that a run has reached."""
    starts, values = {0: 0}, {0: first_value}
    for index, env_steps, value in world_events(path / "events.jsonl"):
        starts.setdefault(index, env_steps)
        values.setdefault(index, value[0] if value else math.nan)
    ordered = sorted(starts)
    return tuple(starts[k] for k in ordered), tuple(values[k] for k in ordered)
