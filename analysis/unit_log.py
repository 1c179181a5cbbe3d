"""The file of unit histories of a run, read without the library that trained it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.run_files import NotARun

FILE = "unit_histories.npz"
METRICS = ("utility", "age", "gradient", "saturation", "moved_after")


@dataclass(frozen=True)
class UnitLog:
    """Contents of a file of unit histories.

    Attributes:
        groups: `<network>/<layer>` of every group.
        num_units: Units of every group.
        env_steps: (snapshots,) when they were taken.
        values: Metric -> (snapshots, units of all groups).
        moved_bins: (groups, bins) lives by floor(log2(steps until outgoing weights had moved)).
        ended_before: (groups,) lives that ended before that.
    """

    groups: tuple[str, ...]
    num_units: tuple[int, ...]
    env_steps: np.ndarray
    values: dict[str, np.ndarray]
    moved_bins: np.ndarray
    ended_before: np.ndarray

    def of(self, metric: str, group: int) -> np.ndarray:
        """(snapshots, units) of one group."""
        start = sum(self.num_units[:group])
        return self.values[metric][:, start : start + self.num_units[group]]


def read_unit_log(run_dir: Path) -> UnitLog | None:
    """Unit histories of a run, None where it keeps none.

    Raises:
        NotARun: The file is damaged.
    """
    path = run_dir / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return UnitLog(
                tuple(str(name) for name in arrays["groups"]),
                tuple(int(count) for count in arrays["num_units"]),
                arrays["env_steps"],
                {metric: arrays[metric] for metric in METRICS},
                arrays["moved_bins"],
                arrays["ended_before"],
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise NotARun(f"{path} is damaged: {error}") from error
