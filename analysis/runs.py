"""Several runs as one long-form table, for anybody's own plots and statistics."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.run_files import NotARun, number, read_cells, read_config

__all__ = ["LongTable", "NotARun", "find_runs", "load_runs"]

TEXT = ("run", "group", "env", "agent", "network", "arm", "metric")
INTEGER = ("seed", "world_seed", "env_steps")
COLUMNS = ("run", "group", "env", "agent", "network", "arm", *INTEGER, "metric", "value")
_CLOCK = "env_steps"


class LongTable:
    """One row per run, environment step and metric; it never changes.

    Text is stored once per distinct word, so that tables of many runs fit into memory.

    Args:
        codes: Text column -> (rows,) int32 positions in `words`.
        words: Text column -> its distinct values.
        numbers: Numeric column -> (rows,) values.
    """

    def __init__(
        self,
        codes: Mapping[str, np.ndarray],
        words: Mapping[str, Sequence[str]],
        numbers: Mapping[str, np.ndarray],
    ) -> None:
        self._codes, self._numbers = dict(codes), dict(numbers)
        self._words = {name: tuple(values) for name, values in words.items()}
        for array in (*self._codes.values(), *self._numbers.values()):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self._numbers["value"])

    def __repr__(self) -> str:
        """Size and columns, for interactive sessions."""
        runs, metrics = (len(set(self._codes[name].tolist())) for name in ("run", "metric"))
        return (
            f"LongTable({len(self):,} rows of {runs} runs and {metrics} metrics; columns "
            f"{', '.join(COLUMNS)})"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return COLUMNS

    def column(self, name: str) -> np.ndarray:
        """One column, (rows,): str objects, int64 or float64; read-only.

        Raises:
            ValueError: There is no such column.
        """
        _check_columns([name])
        if name in self._numbers:
            return self._numbers[name]
        values = np.array(self._words[name], dtype=object)[self._codes[name]]
        values.flags.writeable = False
        return values

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as dictionaries of Python values, in order."""
        columns = [self.column(name).tolist() for name in COLUMNS]
        for values in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, values, strict=True))

    def where(self, **equal: Any) -> LongTable:
        """Keep the rows whose columns equal the given values; no match gives an empty table.

        Raises:
            ValueError: There is no such column.
        """
        _check_columns(equal)
        mask = np.ones(len(self), dtype=bool)
        for name, value in equal.items():
            if name in self._numbers:
                mask &= self._numbers[name] == value
            else:
                words = self._words[name]
                mask &= self._codes[name] == (words.index(value) if value in words else -1)
        return LongTable(
            {name: codes[mask] for name, codes in self._codes.items()},
            self._words,
            {name: values[mask] for name, values in self._numbers.items()},
        )

    def distinct(self, name: str) -> list[Any]:
        """Values that occur in one column, sorted."""
        return sorted(set(self.column(name).tolist()))

    def to_csv(self, path: Path | str) -> Path:
        """Write all rows, numbers so that they read back exactly; replaces an older file."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in self.rows():
                writer.writerow([repr(v) if isinstance(v, float) else v for v in row.values()])
        return temporary.replace(path)


def _check_columns(names: Iterable[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise ValueError(f"there is no column {name!r}; choose one of {', '.join(COLUMNS)}")


def load_runs(
    paths: Iterable[Path | str] | Path | str, metrics: Iterable[str] | None = None
) -> LongTable:
    """Read progress.csv of several runs, finished or not; empty cells make no row.

    Args:
        paths: Run directories; `find_runs` finds all below a folder.
        metrics: Columns of progress.csv to keep, None for all.

    Raises:
        NotARun: A path is not a run directory, or its files are damaged.
        ValueError: The same run is named twice, or no run has one of `metrics`.
    """
    listed = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    repeated = {str(p) for p in listed if [q.resolve() for q in listed].count(p.resolve()) > 1}
    if repeated:
        raise ValueError(f"{min(repeated)} is named twice; name each run once")
    wanted = None if metrics is None else list(metrics)
    words: dict[str, dict[str, int]] = {name: {} for name in TEXT}
    codes: dict[str, list[np.ndarray]] = {name: [] for name in TEXT}
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in (*INTEGER, "value")}
    for path in listed:
        identity = describe_run(path)
        for metric, steps, values in _series(path, wanted):
            row: dict[str, Any] = {**identity, "metric": metric}
            for name in TEXT:
                code = words[name].setdefault(row[name], len(words[name]))
                codes[name].append(np.full(len(values), code, dtype=np.int32))
            for name in ("seed", "world_seed"):
                numbers[name].append(np.full(len(values), row[name], dtype=np.int64))
            numbers[_CLOCK].append(steps)
            numbers["value"].append(values)
    missing = sorted(set(wanted or ()) - set(words["metric"])) if listed else []
    if missing:
        raise ValueError(f"no run has written {missing[0]!r}; see the header of a progress.csv")
    return LongTable(
        {name: _joined(parts, np.int32) for name, parts in codes.items()},
        {name: list(known) for name, known in words.items()},
        {n: _joined(v, np.float64 if n == "value" else np.int64) for n, v in numbers.items()},
    )


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)


def _series(path: Path, metrics: list[str] | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(metric, env_steps, values) for every column of one progress.csv.

    NaN stays: it says that a metric was due and failed, unlike an empty cell.
    """
    file = path / "progress.csv"
    header, rows = read_cells(file)
    clock = header.index(_CLOCK) if _CLOCK in header else -1
    for position, metric in enumerate(header):
        if metric == _CLOCK or (metrics is not None and metric not in metrics):
            continue
        written = [cells for cells in rows if cells[position]]
        try:
            steps = np.array([int(float(cells[clock])) for cells in written], dtype=np.int64)
            values = np.array([number(cells[position]) for cells in written], dtype=np.float64)
        except ValueError as error:
            raise NotARun(f"{file} is damaged: {error}") from error
        if len(written):
            yield metric, steps, values


def describe_run(path: Path | str) -> dict[str, Any]:
    """What identifies one run: run, group, env, agent, network, arm, seed and world_seed.

    Names of presets come from the place of the directory,
    `<group>/<env>/<agent>-<network>-<arm>/seed_<n>`. Elsewhere the kinds of the configuration
    stand in for them, and the arm is the list of methods.

    Raises:
        NotARun: The path is not a run directory.
    """
    config = read_config(path)
    place = Path(path).resolve()
    seed = int(config.get("seed", 0))
    methods = config.get("method") or {}
    names = {
        "env": str(config["env"].get("kind")),
        "agent": str(config["agent"].get("kind")),
        "network": str(config["network"].get("kind")),
        "arm": "+".join(methods) or "none",
    }
    parts = place.parent.name.split("-", 2)
    group = str(config.get("group", ""))
    if place.name == f"seed_{seed}" and len(parts) == 3 and place.parents[2].name == group:
        names = {"env": place.parents[1].name}
        names.update(zip(("agent", "network", "arm"), parts, strict=True))
    return {
        "run": str(path),
        "group": group,
        **names,
        "seed": seed,
        "world_seed": int(config["env"].get("world_seed", seed)),
    }


def find_runs(folder: Path | str) -> list[Path]:
    """All run directories below a folder, the folder itself included, sorted by path.

    Raises:
        NotARun: There is none. Moved-away runs (`*.old-<n>`) and hidden folders do not count.
    """
    folder = Path(folder)
    found = sorted(
        config.parent
        for config in folder.rglob("config.yaml")
        if not any(
            part.startswith(".") or ".old-" in part
            for part in config.parent.relative_to(folder).parts
        )
    )
    if not found:
        raise NotARun(f"{folder} holds no run; train one first, or name another folder")
    return found
