"""When the next checkpoint is due."""

from __future__ import annotations

import time
from collections.abc import Callable

RETRY_SECONDS = 120.0


class SaveClock:
    """Counts from the last attempt to save: a full disk rarely empties between two rollouts.

    Args:
        minutes: Between checkpoints.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period, self._clock = minutes * 60, clock
        self._last, self._failed = clock(), False

    def is_due(self, switched: bool) -> bool:
        """Whether to save now.

        Args:
            switched: The world has changed since the last checkpoint, or a milestone was passed: it
                is due at once then, or, after a save that failed, in two minutes if the period is
                not shorter.
        """
        wait = self._period
        if switched:
            wait = min(wait, RETRY_SECONDS) if self._failed else 0.0
        return self._clock() - self._last >= wait

    def attempted(self, failed: bool) -> None:
        """Note that a save has ended just now."""
        self._last, self._failed = self._clock(), failed


class Milestones:
    """Which checkpoints are kept because so many steps are done.

    Args:
        every: Environment steps between them, None for none.
        env_steps: Of the checkpoint that is continued, 0 at the start.
    """

    def __init__(self, every: int | None, env_steps: int) -> None:
        self._every, self._saved = every, env_steps

    def is_passed(self, env_steps: int) -> bool:
        """Whether a multiple lies between the last checkpoint and here."""
        return self._every is not None and env_steps // self._every > self._saved // self._every

    def saved(self, env_steps: int) -> None:
        """Note a checkpoint."""
        self._saved = env_steps
