"""Rows that live in one process, and the bytes in which their states travel between processes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from envs.meta_world_block import Block
from envs.meta_world_reset_cache import ResetCache
from envs.meta_world_rows import Row, RowSpec
from envs.meta_world_tasks import observation_bounds
from envs.simulation import redirect_warnings
from envs.snapshots import Snapshot
from envs.stepping import flushes_denormals

Failure = tuple[str, dict[str, np.ndarray]]


class Rows(Protocol):
    """All rows of a batch, wherever they live."""

    block: Block
    resume: str
    """exact, or inexact where a loaded state begins new episodes."""

    def step(self) -> None:
        """Step every row with the block's actions."""
        ...

    def start(self, goals: Mapping[int, int | None]) -> None:
        """Begin episodes in some rows, to given goals or (None) to ones of their own choice."""
        ...

    def stop(self, indices: Iterable[int]) -> None:
        """Let some rows stand still until they are started."""
        ...

    def reseed(self, run_seed: int) -> None:
        """Begin all streams again, as a run with this seed would."""
        ...

    def snapshots(self) -> dict[int, Snapshot]:
        """The exact state of every row."""
        ...

    def load(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Continue from ``snapshots``."""
        ...

    def failure(self, index: int) -> Failure:
        """Reason and arrays of a row's last invalid step."""
        ...

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation over all rows, shape (39,) float64 each."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class RowGroup:
    """Rows in this process.

    Args:
        specs: Row index within the block -> what to build.
        block: Arrays of the whole batch.
    """

    resume = "exact"

    def __init__(self, specs: Mapping[int, RowSpec], block: Block) -> None:
        redirect_warnings()
        self.block = block
        self.cache = ResetCache()
        self.rows = {index: Row(spec, index, block, self.cache) for index, spec in specs.items()}

    def step(self) -> None:
        """Step every row.

        Raises:
            RuntimeError: If this thread flushes denormals, which would change the physics' bits.
        """
        if flushes_denormals():
            raise RuntimeError(
                "this thread flushes denormal numbers to zero, which changes simulation results; "
                "call torch.set_flush_denormal(False) before stepping."
            )
        for row in self.rows.values():
            row.step()

    def start(self, goals: Mapping[int, int | None]) -> None:
        for index, goal in goals.items():
            self.rows[index].start(goal)

    def stop(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.rows[index].stop()

    def reseed(self, run_seed: int) -> None:
        for row in self.rows.values():
            row.reseed(run_seed)

    def snapshots(self) -> dict[int, Snapshot]:
        return {index: row.snapshot() for index, row in self.rows.items()}

    def load(self, snapshots: Mapping[int, Snapshot]) -> None:
        for index, snapshot in snapshots.items():
            self.rows[index].load(snapshot)

    def failure(self, index: int) -> Failure:
        failure = self.rows[index].failure
        assert failure is not None
        return failure

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return union_of_bounds([observation_bounds(row.env) for row in self.rows.values()])

    def close(self) -> None:
        for row in self.rows.values():
            row.close()
        self.rows = {}


def union_of_bounds(
    bounds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest box that holds all boxes."""
    lows, highs = zip(*bounds, strict=True)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def pack(values: Snapshot) -> bytes:
    """A snapshot as bytes: JSON for numbers and text, safetensors for arrays."""
    arrays = {k: np.ascontiguousarray(v) for k, v in values.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
    text = json.dumps(plain).encode()
    return struct.pack("<Q", len(text)) + text + save_tensors(arrays)


def unpack(data: bytes) -> Snapshot:
    """The snapshot back."""
    (length,) = struct.unpack_from("<Q", data)
    values: Snapshot = dict(load_tensors(data[8 + length :]))
    values.update(json.loads(data[8 : 8 + length]))
    return values


def join(snapshots: Mapping[int, Snapshot]) -> Snapshot:
    """One flat snapshot of many rows; keys are ``row_<index>_<name>``."""
    return {
        f"row_{index}_{name}": value
        for index in sorted(snapshots)
        for name, value in snapshots[index].items()
    }


def split(snapshot: Snapshot, indices: Iterable[int]) -> dict[int, Snapshot]:
    """The snapshots of some rows out of a flat one; keys of other kinds are left out."""
    rows: dict[int, Snapshot] = {index: {} for index in indices}
    for key, value in snapshot.items():
        prefix, _, rest = key.partition("_")
        number, _, name = rest.partition("_")
        if prefix == "row" and number.isdecimal() and int(number) in rows:
            rows[int(number)][name] = value
    return rows
