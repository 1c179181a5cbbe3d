"""Everything that watches runs: records, checkpoints, statistics, figures and films."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.runs import load_runs

__all__ = ["load_runs"]


def __getattr__(name: str) -> Any:
    # Not at the top: entry points choose thread limits and OpenGL before NumPy and MuJoCo load.
    if name == "load_runs":
        from analysis.runs import load_runs

        return load_runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
