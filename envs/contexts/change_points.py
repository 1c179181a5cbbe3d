"""When a stream of numbers changes: two-sided cumulative sums, with a threshold that is derived.

Source: Page 1954 (cumulative sums); Siegmund 1985 (run lengths).
"""

from __future__ import annotations

import math

import numpy as np

from envs.snapshots import Snapshot, Stored, load_arrays

ALLOWANCE = 0.5  # half of the shift, in standard deviations, that is looked for
LARGEST = 3.0  # what a single value may say, in standard deviations
_OVERSHOOT = 1.166  # 2 x 0.583: what a sum exceeds its threshold by, on average


def run_length(threshold: float) -> float:
    """Mean number of standard normal values until a false alarm of two-sided sums.

    e^b - b - 1 with b = threshold + 1.166; half of a one-sided sum's.
    """
    b = threshold + _OVERSHOOT
    return math.exp(b) - b - 1.0


def delay(threshold: float) -> float:
    """Mean number of values until a shift of one standard deviation is found, about 2 (b - 1)."""
    return 2.0 * (threshold + _OVERSHOOT - 1.0)


def threshold_for(length: float) -> float:
    """The threshold whose mean run length without a change is `length`.

    Args:
        length: Values between false alarms, at least 2.

    Raises:
        ValueError: No such threshold.
    """
    if not length >= 2.0:
        raise ValueError(
            f"false alarms every {length:g} values leave nothing to detect; give at least 2"
        )
    low, high = 0.0, math.log(length) + 10.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (low, middle) if run_length(middle) > length else (middle, high)
    return high


class CumulativeSums:
    """p <- max(0, p + x - 1/2), m <- max(0, m - x - 1/2) per signal; alarm above the threshold.

    Args:
        num_signals: Standardised signals that are watched together.
        threshold: Of every one of them.
    """

    def __init__(self, num_signals: int, threshold: float) -> None:
        self._threshold = threshold
        self._sums = np.zeros((2, num_signals))

    @property
    def highest(self) -> float:
        """The largest sum."""
        return float(self._sums.max())

    def update(self, values: np.ndarray) -> bool:
        """Take in a value per signal, (num_signals,); whether any sum is above the threshold."""
        signed = np.stack((values, -values))
        self._sums = np.maximum(0.0, self._sums + signed - ALLOWANCE)
        return self.highest > self._threshold

    def restart(self) -> None:
        """Begin anew."""
        self._sums[:] = 0.0

    def snapshot(self) -> Snapshot:
        """The sums."""
        return {"sums": self._sums.copy()}

    def restore(self, snapshot: Snapshot) -> None:
        """Take over sums."""
        self._sums = load_arrays(snapshot, {"sums": self._sums})["sums"]


class Detector(Stored):
    """Watches signals of unknown and slowly drifting level for jumps.

    Signals are standardised by a level and a variance: means over the first `baseline` values,
    then averages of horizon `horizon`, which stand still while a sum is above half its threshold
    (else they would follow the change). A standardised value counts as 3 at most: blocks in which a
    robot falls are far out, and one of them is no new world. After an alarm everything begins anew.

    Args:
        num_signals: Signals.
        threshold: Of the sums.
        baseline: Values before anything can be found, at least 2.
        horizon: Of level and variance, in values.
    """

    def __init__(self, num_signals: int, threshold: float, baseline: int, horizon: int) -> None:
        self._cumulative = CumulativeSums(num_signals, threshold)
        self._threshold, self._baseline, self._horizon = threshold, baseline, horizon
        self._arrays = {
            "level": np.zeros(num_signals),
            "variance": np.zeros(num_signals),
            "count": np.zeros(1, dtype=np.int64),
        }

    @property
    def is_suspicious(self) -> bool:
        """Whether a sum is above half its threshold."""
        return self._cumulative.highest > self._threshold / 2.0

    def update(self, values: np.ndarray) -> bool:
        """Take in a value per signal, (num_signals,); whether this is an alarm."""
        state = self._arrays
        if state["count"][0] >= self._baseline:
            deviation = np.sqrt(np.maximum(state["variance"], 1e-12))
            standard = (values - state["level"]) / deviation
            if self._cumulative.update(np.clip(standard, -LARGEST, LARGEST)):
                self.restart()
                return True
            if self.is_suspicious:
                return False
        state["count"] += 1
        count = int(state["count"][0])
        share = 1.0 / count if count <= self._baseline else 1.0 / self._horizon
        difference = values - state["level"]
        state["level"] += share * difference
        state["variance"] += share * ((1.0 - share) * difference**2 - state["variance"])
        return False

    def restart(self) -> None:
        """Forget everything."""
        self._cumulative.restart()
        for array in self._arrays.values():
            array[:] = 0

    def snapshot(self) -> Snapshot:
        """The state."""
        return super().snapshot() | self._cumulative.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state."""
        super().restore(snapshot)
        self._cumulative.restore(snapshot)
