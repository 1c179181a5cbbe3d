"""What a process holds, and whether that grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

BLOCK_HOURS = 1 / 6  # samples of one process within ten minutes count as dependent
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Usage:
    """What a process holds now.

    Attributes:
        resident_mib: Memory in use, in MiB.
        anonymous_mib: The part of it that belongs to no file, in MiB: here leaks show.
        descriptors: Open file descriptors.
        threads: Threads.
    """

    resident_mib: float
    anonymous_mib: float
    descriptors: int
    threads: int


def usage(pid: int) -> Usage | None:
    """Look at a process of this user; None once it has ended."""
    folder = Path("/proc") / str(pid)
    try:
        text = (folder / "status").read_text(encoding="utf-8", errors="replace")
        descriptors = len(os.listdir(folder / "fd"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # it has ended, or is being taken down and belongs to nobody any more
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "VmRSS" not in fields:  # a zombie
        return None
    resident, anonymous = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
    return Usage(resident, anonymous, descriptors, int(fields["Threads"]))


@dataclass(frozen=True)
class Slope:
    """Growth per hour.

    Attributes:
        per_hour: Estimate.
        low: Lower end of the 95% interval; NaN where too few samples carry one.
        high: Its upper end.
        samples: Samples after warm-up.
        blocks: Groups of samples that count as independent.
    """

    per_hour: float
    low: float
    high: float
    samples: int
    blocks: int

    @property
    def shows_none(self) -> bool:
        """Whether the samples show no growth; how much they leave room for is what `high` says.

        False without an interval, which shows nothing at all.
        """
        return bool(self.low <= 0.0)


def slope(
    lives: Sequence[int],
    hours: Sequence[float],
    values: Sequence[float],
    warm_up_hours: float,
    block_hours: float = BLOCK_HOURS,
) -> Slope:
    """Common slope of a value over the time within each process, each with a level of its own.

    Least squares with one intercept per process; the interval is robust to dependence within
    blocks of time (clustered errors, Student's t with one degree less than blocks).

    Args:
        lives: (samples,) which process.
        hours: (samples,) since the start of that process.
        values: (samples,) what may grow.
        warm_up_hours: Samples before this are left out.
        block_hours: Length of a block.

    Source: Cameron and Miller, "A practitioner's guide to cluster-robust inference", Journal of
        Human Resources 50 (2015), equations 11 and 12.
    """
    life, time, value = (np.asarray(column, dtype=np.float64) for column in (lives, hours, values))
    warm = time >= warm_up_hours
    life, time, value = life[warm], time[warm], value[warm]
    block = np.floor((time - warm_up_hours) / block_hours)
    keys, owner = np.unique(np.stack([life, block]), axis=1, return_inverse=True)
    nothing = Slope(float("nan"), float("nan"), float("nan"), len(time), keys.shape[1])
    x, y = time.copy(), value.copy()
    for each in np.unique(life):
        mine = life == each
        x[mine] -= x[mine].mean()
        y[mine] -= y[mine].mean()
    spread = float(x @ x)
    if spread <= 0.0:
        return nothing
    estimate = float(x @ y) / spread
    scores = np.bincount(owner.ravel(), weights=x * (y - estimate * x))
    blocks = len(scores)
    if blocks < 2:
        return Slope(estimate, float("nan"), float("nan"), len(time), blocks)
    error = np.sqrt(blocks / (blocks - 1) * float(scores @ scores)) / spread
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, blocks - 1)) * error
    return Slope(estimate, estimate - half, estimate + half, len(time), blocks)
