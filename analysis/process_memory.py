"""How much memory a run has needed, over all processes that worked on it one after another."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # Linux 4.0 and later: the peak begins again at what is resident now


class PeakMemory:
    """Largest resident set of this process from now on, and of the lives of a run before it.

    Processes that environments start for themselves are not counted. A worker of a sweep that has
    done other runs before begins with what they left resident.

    Args:
        before_mib: Peak of earlier lives, in MiB.
    """

    def __init__(self, before_mib: float = 0.0) -> None:
        self._before = before_mib
        with contextlib.suppress(OSError):  # then the peak is the whole process's, no less
            _CLEAR.write_text(_RESET_PEAK)

    @property
    def mib(self) -> float:
        """Peak so far in MiB."""
        return max(self._before, _peak_mib())


def _peak_mib() -> float:
    try:
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # no such file on this system
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
