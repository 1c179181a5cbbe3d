"""The timed part of a measurement: warmed up, started together with the others, long enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Window:
    """Times whole laps (a rollout with its update, a tape, a batch of products).

    The first lap warms up and is dropped. Then all processes of the measurement wait for each
    other. The window ends with the first lap after `seconds`; where other processes still
    measure, one more lap is run so that they do not suddenly have the machine to themselves.

    Args:
        wait: Returns when all processes are warmed up.
        counters: What has been done so far; differences over the window are reported.
        seconds: Shortest duration of the window.
        min_laps: Fewest laps of the window.
        extra_lap: Whether to run the lap after the window.
    """

    def __init__(
        self,
        wait: Callable[[], None],
        counters: Callable[[], Mapping[str, float]],
        seconds: float,
        min_laps: int = 1,
        extra_lap: bool = False,
    ) -> None:
        self._wait, self._counters = wait, counters
        self._seconds, self._min_laps, self._extra_lap = seconds, min_laps, extra_lap
        self._begin: float | None = None
        self._before: dict[str, float] = {}
        self._laps = 0
        self._result: dict[str, float] | None = None

    def lap(self) -> bool:
        """Note the end of a lap; True once the worker should stop."""
        now = time.perf_counter()
        if self._result is not None:
            return True
        if self._begin is None:
            self._wait()
            self._before = dict(self._counters())
            self._begin = time.perf_counter()
            return False
        self._laps += 1
        elapsed = now - self._begin
        if elapsed < self._seconds or self._laps < self._min_laps:
            return False
        after = self._counters()
        self._result = {
            "seconds": elapsed,
            "laps": self._laps,
            **{name: after[name] - before for name, before in self._before.items()},
        }
        return not self._extra_lap

    def result(self) -> dict[str, float]:
        """Seconds, laps and the differences of all counters.

        Raises:
            RuntimeError: The window has not ended.
        """
        if self._result is None:
            raise RuntimeError("the worker stopped before its window had ended")
        return self._result
