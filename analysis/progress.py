"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Progress:
    """Shows steps, speed, time left, return, the state of the world and dormant units.

    Args:
        total_steps: Where the run ends.
        start_steps: Where this process starts (above 0 after a resume).
        plain_seconds: Seconds between lines where the output is not a terminal.
        stream: Where to write; None means standard output.
        enabled: False writes nothing.
    """

    def __init__(
        self,
        total_steps: int,
        start_steps: int = 0,
        plain_seconds: float = 30.0,
        stream: TextIO | None = None,
        enabled: bool = True,
    ) -> None:
        self._total, self._start = total_steps, start_steps
        self._period = plain_seconds
        self._began = self._last = time.monotonic()
        self._values: dict[str, float] = {}
        self._stream = stream or sys.stdout
        self._enabled = enabled
        self._live: Live | None = None
        if enabled and self._stream.isatty():
            console = Console(file=self._stream)
            self._live = Live(console=console, refresh_per_second=4, transient=True)
            self._live.start()

    def note(self, values: Mapping[str, float]) -> None:
        """Remember the latest values to show; keys that are missing keep their old value."""
        self._values.update(values)

    def step(self, env_steps: int) -> None:
        """Redraw if it is time."""
        if not self._enabled:
            return
        now = time.monotonic()
        period = 0.25 if self._live is not None else self._period
        if now - self._last < period:
            return
        self._last = now
        line = self.line(env_steps, now)
        if self._live is not None:
            self._live.update(Text(line))
        else:
            print(line, file=self._stream, flush=True)

    def line(self, env_steps: int, now: float) -> str:
        """Compose the line."""
        seconds = max(now - self._began, 1e-9)
        speed = max((env_steps - self._start) / seconds, 0.0)
        left = (self._total - env_steps) / speed if speed > 0 else float("inf")
        words = [
            f"{env_steps:,}/{self._total:,} steps ({100 * env_steps / self._total:.1f}%)",
            f"{speed:,.0f} steps/s",
            f"{_duration(left)} left",
        ]
        words += [f"{name} {value:.4g}" for name, value in self._values.items()]
        return "  ".join(words)

    def close(self) -> None:
        """Remove the live line."""
        if self._live is not None:
            self._live.stop()


def summary_of(
    row: Mapping[str, float], network: str, regime_label: str, num_tasks: int
) -> dict[str, float]:
    """What the line shows of a row of progress.csv; what the row lacks is left out.

    Args:
        row: Names of columns -> values.
        network: Whose dormant units are shown.
        regime_label: What changes between worlds. Not shown where tasks are learnt side by side,
            whose numbers have no mean.
        num_tasks: Of the environments, side by side.
    """
    found = {
        "return": row.get("episode_return"),
        regime_label: row.get("regime_value") if num_tasks == 1 else None,
    }
    shares = {
        "success %": "episode_success",
        "dormant %": f"window/{network}/all/dormant_fraction",
    }
    found |= {name: 100.0 * row[column] for name, column in shares.items() if column in row}
    return {name: value for name, value in found.items() if value is not None}


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}h{minute:02d}m" if hours else f"{minute}m{second:02d}s"
