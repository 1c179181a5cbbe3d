"""Tables of fresh networks on a grid of worlds: made once from runs, kept beside the results.

A table is a JSON file with one row per run, the settings that it stands for, and a SHA-256 of all
that. Its name ends with the key of the settings, so that a folder of tables is a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.canonical_json import JsonError, canonical_json, parse_json
from analysis.compare.oracle_settings import MEASURES_VERSION, OracleSettings
from analysis.continual import OracleGrid
from analysis.run_files import NotARun
from analysis.storage import StorageError, atomic_write_text

ENOUGH_SEEDS = 5
_COLUMNS = ("value", "seed", "area", "end_of_phase", "untrained")


@dataclass(frozen=True)
class OracleTable:
    """Fresh networks of one agent on a grid of worlds.

    Attributes:
        arm: Short name of the agent's arm.
        label: Presets: environment, agent, network and arm.
        settings: What the table stands for.
        seeds: Of the networks, the same at every value.
        grid: Their scores.
        about: Plain facts: commits, machines, commands.
    """

    arm: str
    label: str
    settings: OracleSettings
    seeds: tuple[int, ...]
    grid: OracleGrid
    about: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """Presets and the beginning of the key."""
        return f"{self.label}-{self.settings.key[:8]}.json"

    def plain(self) -> dict[str, Any]:
        """Contents of the file."""
        rows = []
        for place, value in enumerate(self.grid.values.tolist()):
            for column, seed in enumerate(self.seeds):
                scores = (self.grid.areas, self.grid.phases, self.grid.untrained)
                rows.append([value, seed, *(float(s[place, column]) for s in scores)])
        content = {
            "about": dict(self.about),
            "arm": self.arm,
            "columns": list(_COLUMNS),
            "key": self.settings.key,
            "label": self.label,
            "rows": rows,
            "settings": self.settings.plain(),
        }
        return {**content, "sha256": _digest(content)}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> OracleTable:
        """The inverse of `plain`.

        Raises:
            ValueError: Something is missing, or has been changed by hand.
        """
        try:
            unsigned = {key: value for key, value in content.items() if key != "sha256"}
            if _digest(unsigned) != content["sha256"]:
                raise ValueError("its contents do not have the SHA-256 that it names")
            settings = OracleSettings(**content["settings"])
            seeds, grid = grid_of([tuple(row) for row in content["rows"]])
            label, arm, about = content["label"], content["arm"], content["about"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"something is missing ({error})") from error
        return cls(str(arm), str(label), settings, seeds, grid, about)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


def grid_of(
    rows: Sequence[tuple[float, int, float, float, float]],
) -> tuple[tuple[int, ...], OracleGrid]:
    """Seeds and scores of rows (value, seed, area, end of phase, untrained).

    Raises:
        ValueError: A seed is missing at a value.
    """
    found = {(float(value), int(seed)): scores for value, seed, *scores in rows}
    values = sorted({value for value, _ in found})
    seeds = tuple(sorted({seed for _, seed in found}))
    lacking = [(v, s) for v in values for s in seeds if (v, s) not in found]
    if lacking or len(found) != len(rows):
        value, seed = lacking[0] if lacking else (rows[0][0], rows[0][1])
        what = "lacks" if lacking else "has twice"
        raise ValueError(
            f"the grid {what} seed {seed} at {value:.6g}; it needs every seed once at every value"
        )
    scores = np.array([[found[value, seed] for seed in seeds] for value in values])
    scores = scores.reshape(len(values), len(seeds), 3)
    areas, phases, untrained = np.moveaxis(scores.astype(np.float64), 2, 0)
    return seeds, OracleGrid(np.array(values), areas, phases, untrained)


def write_table(table: OracleTable, folder: Path) -> Path:
    """Write a table, replacing an older one of the same settings.

    Raises:
        StorageError: The disk refused.
    """
    path = folder / table.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    content = table.plain()
    rows = ",\n  ".join(json.dumps(row) for row in content.pop("rows"))
    text = canonical_json({**content, "rows": []}, indent=1).decode()
    atomic_write_text(path, text.replace('"rows": []', f'"rows": [\n  {rows}\n ]') + "\n")
    return path


def read_table(path: Path) -> OracleTable:
    """Read one table and check that nobody has changed it.

    Raises:
        NotARun: The file is missing, damaged, or was made with other measures.
    """
    try:
        content = parse_json(path.read_bytes())
        table = OracleTable.from_plain(content)
    except FileNotFoundError as error:
        raise NotARun(f"{path} does not exist; make it with: python evaluate.py oracle") from error
    except (OSError, JsonError, ValueError) as error:
        raise NotARun(f"{path} is no table of fresh networks, or damaged: {error}") from error
    if table.settings.version != MEASURES_VERSION:
        raise NotARun(
            f"{path} was made with version {table.settings.version} of the measures, this is "
            f"version {MEASURES_VERSION}; make it again with: python evaluate.py oracle"
        )
    return table


def read_tables(paths: Iterable[Path | str]) -> list[tuple[OracleTable, bool]]:
    """Read files, and of folders all `*.json` files.

    Returns:
        Tables, and whether each was named itself: then it must fit.

    Raises:
        NotARun: A file is no table, or a folder holds none.
    """
    found: list[tuple[OracleTable, bool]] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path / name for name in os.listdir(path) if name.endswith(".json"))
            if not files:
                raise NotARun(f"{path} holds no table; make one with: python evaluate.py oracle")
            found += [(read_table(file), False) for file in files]
        else:
            found.append((read_table(path), True))
    return found
