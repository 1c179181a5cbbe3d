"""What is made of the truth before networks see it: nothing, or the control arms.

A control that removes information must keep everything else: how often each context occurs and
how long it lasts. A fixed relabelling of tasks is therefore no control, it says just as much.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np

from envs.snapshots import Snapshot, Stored, load_arrays, load_generators, save_generators

CONTROLS = ("none", "zero", "constant", "shuffled", "delayed")
MEMORY = 32
REMEMBERED = ("memory", "memory_length", "num_remembered")


class Control(Protocol):
    """Turns the true contexts (N, dim) of a batch of environments into those that are shown."""

    def start(self, rows: np.ndarray, truth: np.ndarray) -> None:
        """Episodes begin in some rows (indices); `truth` (N, dim) holds at their start."""
        ...

    def advance(self, truth: np.ndarray) -> None:
        """All episodes have gone on by one step; `truth` (N, dim) is that of the successors."""
        ...

    def show(self, truth: np.ndarray) -> np.ndarray:
        """What is shown where `truth` (N, dim) holds, (N, dim) float32; changes nothing."""
        ...

    def forget(self) -> None:
        """The world is another one that was chosen from outside: its past is not what was lived."""
        ...

    def snapshot(self) -> Snapshot:
        """State as plain arrays, integers and text."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state."""
        ...

    def adopt(self, snapshot: Snapshot) -> None:
        """Show what one in this state would, without going on to remember: to be measured."""
        ...


class Truth:
    """The truth."""

    def start(self, rows: np.ndarray, truth: np.ndarray) -> None:
        """Nothing to keep."""

    def advance(self, truth: np.ndarray) -> None:
        """Nothing to keep."""

    def show(self, truth: np.ndarray) -> np.ndarray:
        """The truth itself."""
        return truth

    def forget(self) -> None:
        """Nothing to keep."""

    def snapshot(self) -> Snapshot:
        """There is no state."""
        return {}

    def restore(self, snapshot: Snapshot) -> None:
        """There is no state."""

    def adopt(self, snapshot: Snapshot) -> None:
        """Nothing is remembered."""


class Zero(Truth):
    """Zeros, the constant included: every gate stands at half its scale."""

    def show(self, truth: np.ndarray) -> np.ndarray:
        """Zeros."""
        return np.zeros_like(truth)


class Constant(Truth):
    """0, ..., 0, 1 for ever: gates are learnt, but cannot depend on the world."""

    def show(self, truth: np.ndarray) -> np.ndarray:
        """The last unit vector."""
        shown = np.zeros_like(truth)
        shown[:, -1] = 1.0
        return shown


class ShuffledIds(Truth):
    """One of the contexts, drawn evenly at the start of every episode and held to its end.

    Args:
        num_envs: Environments.
        dim: Number of contexts.
        generator: A stream of its own.
    """

    def __init__(self, num_envs: int, dim: int, generator: np.random.Generator) -> None:
        self._dim, self._generator = dim, generator
        self._ids = np.zeros(num_envs, dtype=np.int64)

    def start(self, rows: np.ndarray, truth: np.ndarray) -> None:
        """Draw for the new episodes."""
        self._ids[rows] = self._generator.integers(self._dim, size=len(rows))

    def show(self, truth: np.ndarray) -> np.ndarray:
        """What was drawn."""
        return np.eye(self._dim, dtype=np.float32)[self._ids]

    def snapshot(self) -> Snapshot:
        """What was drawn, and the stream."""
        state: Snapshot = {"ids": self._ids.copy()}
        save_generators([self._generator], state)
        return state

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state."""
        self._ids = load_arrays(snapshot, {"ids": self._ids})["ids"]
        (self._generator,) = load_generators(snapshot, 1)


class PlayedBack(Stored):
    """The contexts of an earlier episode, drawn anew at every start, step by step.

    Its last context is held when the present episode lasts longer. Episodes are remembered by
    reservoir sampling: each one of the past is in memory with equal probability, however long the
    run, so contexts of the present world are no more frequent than those of the others. Before
    any episode has ended, the first context of the present one is held.

    Args:
        num_envs: Environments.
        dim: Length of a context.
        max_steps: Length of the longest episode.
        generator: A stream of its own.
    """

    def __init__(
        self, num_envs: int, dim: int, max_steps: int, generator: np.random.Generator
    ) -> None:
        self._generator = generator
        self._adopted: Snapshot | None = None  # the stream's state then; nothing is remembered now
        self._arrays = {
            "memory": np.zeros((MEMORY, max_steps + 1, dim), dtype=np.float32),
            "memory_length": np.zeros(MEMORY, dtype=np.int64),
            "lived": np.zeros((num_envs, max_steps + 1, dim), dtype=np.float32),
            "lived_length": np.zeros(num_envs, dtype=np.int64),
            "played": np.zeros((num_envs, max_steps + 1, dim), dtype=np.float32),
            "played_length": np.ones(num_envs, dtype=np.int64),
            "position": np.zeros(num_envs, dtype=np.int64),
            "num_remembered": np.zeros(1, dtype=np.int64),
        }

    def start(self, rows: np.ndarray, truth: np.ndarray) -> None:
        """Remember what has ended, then draw for the new episodes."""
        state = self._arrays
        for row in rows.tolist() if self._adopted is None else ():
            if state["lived_length"][row] > 1:  # one step at least
                self._remember(row)
        for row in rows.tolist():
            self._draw(row, truth[row])
            state["position"][row] = 0
            state["lived"][row, 0], state["lived_length"][row] = truth[row], 1

    def _remember(self, row: int) -> None:
        """Algorithm R: the n-th episode takes one of the places with probability MEMORY / n."""
        state = self._arrays
        state["num_remembered"] += 1
        count = int(state["num_remembered"][0])
        place = count - 1 if count <= MEMORY else int(self._generator.integers(count))
        if place < MEMORY:
            state["memory"][place] = state["lived"][row]
            state["memory_length"][place] = state["lived_length"][row]

    def _draw(self, row: int, truth: np.ndarray) -> None:
        state = self._arrays
        known = min(int(state["num_remembered"][0]), MEMORY)
        if not known:
            state["played"][row, 0], state["played_length"][row] = truth, 1
            return
        place = int(self._generator.integers(known))
        state["played"][row] = state["memory"][place]
        state["played_length"][row] = state["memory_length"][place]

    def advance(self, truth: np.ndarray) -> None:
        """Note the truth and play on."""
        state = self._arrays
        every = np.arange(len(truth))
        last = state["lived"].shape[1] - 1
        at = np.minimum(state["lived_length"], last)
        state["lived"][every, at] = truth
        state["lived_length"][:] = at + 1
        state["position"] += 1

    def show(self, truth: np.ndarray) -> np.ndarray:
        """The context of the episode that is played."""
        state = self._arrays
        at = np.minimum(state["position"], state["played_length"] - 1)
        return state["played"][np.arange(len(truth)), at]

    def forget(self) -> None:
        """Earlier episodes stay: what is played says nothing about the world anyway.

        Where somebody measures, every world meets the same draws.
        """
        if self._adopted is not None:
            (self._generator,) = load_generators(self._adopted, 1)

    def adopt(self, snapshot: Snapshot) -> None:
        """Play the episodes that another one remembers; one without any leaves none."""
        if "memory" in snapshot:  # of another control otherwise
            self._arrays |= load_arrays(snapshot, {name: self._arrays[name] for name in REMEMBERED})
        self._adopted = {}
        save_generators([self._generator], self._adopted)

    def snapshot(self) -> Snapshot:
        """Memory, what is lived and played, and the stream."""
        state = super().snapshot()
        save_generators([self._generator], state)
        return state

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state."""
        super().restore(snapshot)
        (self._generator,) = load_generators(snapshot, 1)


class Delayed:
    """The truth of some steps ago; of a row that has not lived so long, its first context.

    Episodes come and go in between, because the world outlives them: one that switches where
    episodes are cut would otherwise never be told late.

    Args:
        num_envs: Environments.
        dim: Length of a context.
        delay: Steps of one environment, at least 1.
    """

    def __init__(self, num_envs: int, dim: int, delay: int) -> None:
        # NaN is what nobody has lived yet.
        self._past = np.full((num_envs, delay + 1, dim), np.nan, dtype=np.float32)

    def start(self, rows: np.ndarray, truth: np.ndarray) -> None:
        """The new episode takes the place of the final observation; the past stays."""
        new = rows[np.isnan(self._past[rows, 0]).any(axis=1)]
        self._past[new] = truth[new][:, None]
        self._past[rows, -1] = truth[rows]

    def advance(self, truth: np.ndarray) -> None:
        """Take in the newest, forget the oldest."""
        self._past = np.concatenate((self._past[:, 1:], truth[:, None]), axis=1)

    def show(self, truth: np.ndarray) -> np.ndarray:
        """The oldest context in memory; the truth where nothing has begun."""
        oldest = self._past[:, 0]
        return np.where(np.isnan(oldest), truth, oldest).astype(np.float32)

    def forget(self) -> None:
        """Begin the life of every row anew."""
        self._past[:] = np.nan

    def snapshot(self) -> Snapshot:
        """The memory."""
        return {"past": self._past.copy()}

    def adopt(self, snapshot: Snapshot) -> None:
        """Nothing is remembered of other lives."""

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a memory."""
        self._past = load_arrays(snapshot, {"past": self._past})["past"]


def own_stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of contexts: no draw of agent or world depends on it."""
    key = zlib.crc32(f"context/{name}".encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(key,))))
