"""Reads what a run has written, finished or not, and never writes itself."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from analysis.canonical_json import parse_json
from analysis.checkpoint_files import parse_step_name
from analysis.continual import Episodes
from analysis.run_clock import num_envs

_MAX_CONFIG_BYTES = 2**20
WORLD_EVENTS = ("switch", "hidden_switch", "drift")
_EVENT_WORDS = tuple(f'"{name}"' for name in WORLD_EVENTS)
_CELLS = {"": math.nan, "True": 1.0, "False": 0.0}


class NotARun(ValueError):
    """A path that is not a run directory, or one whose files are damaged."""


@dataclass(frozen=True)
class Regime:
    """One world of a run.

    Attributes:
        index: 0, 1, ...
        start: Environment steps at its beginning.
        end: Environment steps at its end; of the last one, the last step of the run.
        low: Smallest physical value in it, NaN if unknown.
        high: Largest physical value; above `low` where the value drifts.
    """

    index: int
    start: int
    end: int
    low: float
    high: float

    @property
    def label(self) -> str:
        """The value, or its range, with two significant digits."""
        if math.isnan(self.low):
            return "?"
        if self.high > self.low * 1.01:
            return f"{self.low:.2g}–{self.high:.2g}"
        return f"{self.low:.2g}"


def read_config(run_dir: Path | str) -> dict[str, Any]:
    """The configuration of a run as plain nested values.

    Raises:
        NotARun: The path has no readable config.yaml with an agent and an environment.
    """
    path = Path(run_dir)
    advice = "name a folder such as runs/<group>/<env>/<agent>-<network>-<arm>/seed_0"
    if not path.is_dir():
        raise NotARun(f"{path} is not a directory; {advice}")
    file = path / "config.yaml"
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_CONFIG_BYTES + 1)
        config = yaml.safe_load(data) if len(data) <= _MAX_CONFIG_BYTES else None
    except FileNotFoundError as error:
        raise NotARun(f"{path} is not a run directory (no config.yaml); {advice}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise NotARun(f"{file} cannot be read: {reason}; {advice}") from error
    groups = config if isinstance(config, dict) else {}
    if not all(isinstance(groups.get(key), dict) for key in ("agent", "env", "network")):
        raise NotARun(f"{file} holds no configuration of a run; {advice}")
    return groups


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file; both empty without the file.

    A last line without its line break is left out: a running process is still writing it.

    Raises:
        NotARun: A line has too many or too few cells, or the file is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return [], []
    except (OSError, UnicodeDecodeError) as error:
        raise NotARun(f"{path} cannot be read: {error}") from error
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if not rows:
        return [], []
    header = rows.pop(0)
    for number, cells in enumerate(rows, start=2):
        if len(cells) != len(header):
            raise NotARun(
                f"{path}, line {number}, is damaged: {len(cells)} cells, not {len(header)}"
            )
    return header, rows


def number(cell: str) -> float:
    """Value of one cell: empty is NaN, a boolean 1 or 0.

    Raises:
        ValueError: The cell holds no number.
    """
    known = _CELLS.get(cell)
    return float(cell) if known is None else known


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Read a CSV file of numbers: column -> (rows,) float64, see `number`; {} without the file.

    Raises:
        NotARun: The file is damaged.
    """
    header, rows = read_cells(path)
    try:
        values = [[number(cell) for cell in cells] for cells in rows]
    except ValueError as error:
        raise NotARun(f"{path} is damaged: {error}") from error
    columns = np.array(values, dtype=np.float64).reshape(len(rows), len(header)).T.copy()
    return dict(zip(header, columns, strict=True))


def read_progress(run_dir: Path) -> dict[str, np.ndarray]:
    """Columns of progress.csv; see `read_table`."""
    return read_table(Path(run_dir) / "progress.csv")


def read_episodes(run_dir: Path) -> Episodes:
    """Training episodes that have ended so far; none is not an error.

    Raises:
        NotARun: The path is not a run directory, or its episodes.csv is damaged.
    """
    table = read_table(Path(run_dir) / "episodes.csv")
    names = ("episode_return", "episode_length", "env_steps", "regime", "switch_truncated")
    try:
        columns = [table[name] for name in names] if table else [np.zeros(0)] * len(names)
        rows = num_envs(read_config(run_dir)["env"])
        return Episodes.from_rows(*columns, num_envs=rows)
    except (KeyError, ValueError) as error:
        raise NotARun(f"{Path(run_dir) / 'episodes.csv'} is damaged: {error}") from error


def last_step(run_dir: Path) -> int:
    """Environment steps that the run has certainly done.

    The newest checkpoint counts too: rows lag behind by up to a log period.
    """
    path = Path(run_dir)
    steps = [0]
    for name in ("progress.csv", "episodes.csv"):
        column = read_table(path / name).get("env_steps")
        if column is not None and len(column):
            steps.append(int(column[-1]))
    checkpoints = path / "checkpoints"
    names = [entry.name for entry in checkpoints.iterdir()] if checkpoints.is_dir() else []
    parsed = [parse_step_name(name) for name in names]
    return max(steps + [found[0] for found in parsed if found is not None])


def read_regimes(run_dir: Path) -> tuple[Regime, ...]:
    """Worlds of a run so far, from its events; a run without any has one.

    Where each environment changes at its own time, a world begins with the first that enters it.
    A world that a run enters at its very last step is left out: nothing has happened in it.

    Raises:
        NotARun: A line of events.jsonl is damaged.
    """
    starts: dict[int, int] = {0: 0}
    values: dict[int, list[float]] = {0: _first_value(Path(run_dir))}
    for index, env_steps, value in world_events(Path(run_dir) / "events.jsonl"):
        starts.setdefault(index, env_steps)
        values.setdefault(index, []).extend(value)
    ordered, last = sorted(starts), last_step(run_dir)
    ends = [starts[index] for index in ordered[1:]] + [last]
    while len(ordered) > 1 and starts[ordered[-1]] >= last:
        del ordered[-1], ends[-1]
    return tuple(
        Regime(
            index,
            starts[index],
            max(end, starts[index]),
            min(values[index], default=math.nan),
            max(values[index], default=math.nan),
        )
        for index, end in zip(ordered, ends, strict=True)
    )


def _first_value(run_dir: Path) -> list[float]:
    """Value of the first world, if known: no event announces it."""
    progress = read_progress(run_dir)
    if len(progress.get("regime_value", ())) and progress["regime"][0] == 0.0:
        return [float(progress["regime_value"][0])]
    episodes = read_table(run_dir / "episodes.csv")
    values = episodes.get("regime_value", np.zeros(0))
    return [float(value) for value in values[episodes.get("regime", values) == 0][:1]]


def world_events(path: Path) -> list[tuple[int, int, list[float]]]:
    """(regime, env_steps, [value] or []) of every change of the world, in file order.

    Args:
        path: events.jsonl of a run; without the file there are no events.

    Raises:
        NotARun: A line is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise NotARun(f"{path} cannot be read: {error}") from error
    events = []
    # Unit resets are the bulk of the file; only the lines that may matter are parsed.
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        if not any(word in line for word in _EVENT_WORDS):
            continue
        try:
            event = parse_json(line.encode())
            if event.get("event") not in WORLD_EVENTS:
                continue
            value = event.get("value", event.get("friction"))
            values = [] if value is None else [float(value)]
            events.append((int(event["regime"]), int(event["env_steps"]), values))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise NotARun(f"{path}, line {number}, is damaged: {error!r}") from error
    return events
