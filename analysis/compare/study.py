"""The data of a comparison: small tables from which everything else can be made again."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.canonical_json import JsonError, canonical_json, parse_json
from analysis.continual.episodes import Array
from analysis.run_files import NotARun, number, read_cells
from analysis.statistics.bootstrap import NUM_RESAMPLES

MEMBER_COLUMNS = (
    *("arm", "world_seed", "seed", "status", "env_steps", "gradient_steps"),
    "steps_per_second",
)
VALUE_COLUMNS = ("arm", "world_seed", "seed", "quantity", "index", "value")
CURVES = ("return", "dormant_fraction", "stable_rank", "weight_magnitude", "action_std")
# Records of the trailing return around thresholds that are estimates, for their intervals.
RECORDS = ("recovery/regime", "recovery/share", "recovery/return")
# 1 for regimes with too few episodes to say whether the run recovered; absent where none has.
UNKNOWN_RECOVERY = "regime/recovery_unknown"
# Arms whose runs go on from a checkpoint; absent where none does, and in older data.
BEGUN_TRAINED = "begun_trained"
# How switches were verified, where whoever made the report said so.
VERIFIED = "switching_verified"
# Bootstrap draws of intervals; absent where they are the usual ones.
DRAWS = "draws"
Key = tuple[int, int]
FORMAT = 3  # 2 had no records around the thresholds of recovery


@dataclass(frozen=True)
class ArmFacts:
    """What is known about an arm besides its numbers.

    Attributes:
        name: Short name.
        agent: Preset.
        network: Preset.
        directory: Folder of its seeds, `<group>/<env>/<agent>-<network>-<arm>`.
        fresh_of: Arm of which it is a fresh copy, None for most.
        uses_task_boundary: Whether its methods act on announced switches.
        resets_optimizer: `no`, `entries` or `all`; entries with the policy in brackets, as in
            `entries (zero_moments)`, except in older data.
        context: What its networks are told about the world, such as `task` or `none`.
        context_is_oracle: Whether that is the truth.
        context_uses_boundaries: Whether it shows when the world changes.
        settings: What differs from the baseline: dotted name -> value as text.
        resets_replay: What becomes of transitions of earlier worlds at switches, see
            `analysis.compare.flags.resets_replay`; None in data that do not say.
    """

    name: str
    agent: str
    network: str
    directory: str
    fresh_of: str | None
    uses_task_boundary: bool
    resets_optimizer: str
    context: str
    context_is_oracle: bool
    context_uses_boundaries: bool
    settings: Mapping[str, str]
    resets_replay: bool | str | None = None

    @property
    def replay_rule(self) -> str:
        """The same for tables; empty where it is not known."""
        if isinstance(self.resets_replay, str):
            return self.resets_replay
        return {None: "", False: "no", True: "yes"}[self.resets_replay]


@dataclass(frozen=True)
class Run:
    """One run: how it ended and its numbers.

    Attributes:
        status: `finished`, `failed` or `unfinished`.
        env_steps: Environment steps done.
        gradient_steps: Of the policy; NaN where the agent's settings do not say.
        steps_per_second: Median; NaN where unknown.
        values: Quantity -> (points,) values, NaN where missing.
    """

    status: str
    env_steps: int
    gradient_steps: float
    steps_per_second: float
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Study:
    """A comparison before statistics.

    Attributes:
        about: Plain facts: baseline, total_steps, commands, machines, notes ...
        arms: The baseline first, fresh copies last.
        runs: Arm -> (world_seed, seed) -> run.
    """

    about: Mapping[str, Any]
    arms: tuple[ArmFacts, ...]
    runs: Mapping[str, Mapping[Key, Run]]

    @property
    def has_recovery_records(self) -> bool:
        """Whether it can say when runs would recover with other seeds of the oracle."""
        return int(self.about.get("format", 0)) >= FORMAT

    @property
    def num_draws(self) -> int:
        """Bootstrap draws of its intervals."""
        return int(self.about.get(DRAWS, NUM_RESAMPLES))

    @property
    def baseline(self) -> str:
        """Name of the arm that all others are compared with."""
        return str(self.about["baseline"])

    def matrix(self, arm: str, quantity: str) -> Array:
        """(runs, points) of one arm, ordered by seed; NaN where a run has no such quantity."""
        rows = [run.values.get(quantity, np.zeros(0)) for run in self.runs[arm].values()]
        matrix = np.full((len(rows), max(map(len, rows))), math.nan)
        for place, row in enumerate(rows):
            matrix[place, : len(row)] = row
        return matrix


def study_files(study: Study) -> dict[str, bytes]:
    """Contents of the data folder by file name."""
    about = {**study.about, "arms": [asdict(arm) for arm in study.arms]}
    members, values = [], []
    for arm, runs in study.runs.items():
        for (world_seed, seed), run in runs.items():
            place = (arm, world_seed, seed)
            members.append(
                (*place, run.status, run.env_steps, run.gradient_steps, run.steps_per_second)
            )
            for quantity, points in run.values.items():
                values += [(*place, quantity, i, v) for i, v in enumerate(points.tolist())]
    return {
        "about.json": canonical_json(about, indent=2) + b"\n",
        "members.csv": csv_bytes(MEMBER_COLUMNS, members),
        "runs.csv": csv_bytes(VALUE_COLUMNS, values),
    }


def after_failures(study: Study, arm: str, curves: Array, untrained: float) -> Array:
    """Return curves in which failed runs earn the untrained policy's return from their failure on.

    Args:
        study: The comparison.
        arm: Name of the arm.
        curves: (runs, bins) of equal bins over the steps compared.
        untrained: That return.
    """
    filled = curves.copy()
    ends = float(study.about["end"]) * np.arange(1, curves.shape[1] + 1) / curves.shape[1]
    for row, run in zip(filled, study.runs[arm].values(), strict=True):
        if run.status == "failed":
            row[ends > run.env_steps] = untrained
    return filled


def csv_bytes(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """A table whose numbers read back exactly; NaN is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return stream.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return value


def load_study(folder: Path) -> Study:
    """Read a data folder back.

    Raises:
        NotARun: The folder holds no data of a comparison, or they are damaged.
    """
    try:
        about = parse_json((folder / "about.json").read_bytes())
        arms = tuple(ArmFacts(**arm) for arm in about.pop("arms"))
        runs: dict[str, dict[Key, Run]] = {arm.name: {} for arm in arms}
        values: dict[tuple[str, Key], dict[str, list[float]]] = {}
        for arm, world_seed, seed, quantity, _, value in _rows(folder / "runs.csv", VALUE_COLUMNS):
            points = values.setdefault((arm, (int(world_seed), int(seed))), {})
            points.setdefault(quantity, []).append(number(value))
        for arm, world_seed, seed, status, *counts in _rows(folder / "members.csv", MEMBER_COLUMNS):
            key = (int(world_seed), int(seed))
            found = {name: np.array(v) for name, v in values.get((arm, key), {}).items()}
            steps, gradient_steps, speed = (number(count) for count in counts)
            runs[arm][key] = Run(status, int(steps), gradient_steps, speed, found)
        if not all(runs.values()):
            raise ValueError("an arm has no runs")
    except FileNotFoundError as error:
        raise NotARun(
            f"{folder} holds no data of a comparison (no {Path(error.filename).name}); name the "
            "folder `data` of an earlier report"
        ) from error
    except (OSError, JsonError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotARun(f"{folder} holds damaged data of a comparison: {error}") from error
    return Study(about, arms, runs)


def _rows(path: Path, expected: Sequence[str]) -> list[list[str]]:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    header, rows = read_cells(path)
    if header != list(expected):
        raise ValueError(f"{path.name} has columns {header}, not {list(expected)}")
    return rows
