"""Whether two runs are the same in every bit that counts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from analysis.checkpoint import CheckpointStore, inspect_checkpoint, load_checkpoint
from analysis.state_files import state_hash

FILES = ("progress.csv", "events.jsonl", "episodes.csv")
MISSING = "missing"


@dataclass(frozen=True)
class Comparison:
    """One thing that both runs have.

    Attributes:
        what: `state at step 4096` or the name of a file.
        killed: SHA-256 in the killed run.
        undisturbed: SHA-256 in the other.
    """

    what: str
    killed: str
    undisturbed: str

    @property
    def is_equal(self) -> bool:
        """Whether both are there and equal."""
        return self.killed == self.undisturbed != MISSING


def compare_runs(killed: Path, undisturbed: Path) -> list[Comparison]:
    """Compare the states at the end and at every switch, and the bytes of all metric rows.

    Other checkpoints were taken when the clock said so, at other steps in each run.

    Raises:
        CheckpointError: A checkpoint is damaged.
    """
    states = [_states(path) for path in (killed, undisturbed)]
    found = [
        Comparison(f"state at step {step}", *(state.get(step, MISSING) for state in states))
        for step in sorted(set(states[0]) | set(states[1]))
    ]
    return found + [
        Comparison(name, _file_hash(killed / name), _file_hash(undisturbed / name))
        for name in FILES
    ]


def _states(run_dir: Path) -> dict[int, str]:
    """Step -> hash of the state, computed from the arrays as they are read back."""
    paths = CheckpointStore(run_dir / "checkpoints").paths()
    kept = [path for path in paths if path == paths[0] or inspect_checkpoint(path)["pinned"]]
    loaded = [load_checkpoint(path) for path in reversed(kept)]
    return {one.env_steps: state_hash(one.state) for one in loaded}


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else MISSING
