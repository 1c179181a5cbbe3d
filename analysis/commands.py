"""Commands of `train.py` that do more than train one configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from analysis.planning import plan
from analysis.sequences.references import train_references
from analysis.tune import tune

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "plan": plan,
    "references": train_references,
    "tune": tune,
}
