"""Problems made of labelled images: phases, each one pass over some images, one after another."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.problems import NO_TASK, Block
from envs.snapshots import Snapshot, require


@dataclass(frozen=True)
class Phase:
    """One pass over some images.

    Attributes:
        task: Number of the task that it belongs to.
        split: train, validation or test.
        on_task: In examinations, the task whose images these are.
    """

    task: int
    split: str = "train"
    on_task: int = NO_TASK


class Curriculum(Protocol):
    """What is taught and examined, in which order; every method is a pure function.

    Attributes: see `envs.problems.Problem`; `lengths` holds the images of every phase.
    """

    @property
    def name(self) -> str: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def context_dim(self) -> int: ...
    @property
    def context_discrete(self) -> bool: ...
    @property
    def lengths(self) -> np.ndarray: ...

    def phase(self, index: int) -> Phase:
        """Task and split of a phase."""
        ...

    def order(self, index: int) -> np.ndarray:
        """Which images a phase shows, in this order: numbers into their split, int64."""
        ...

    def examples(
        self, index: int, rows: np.ndarray, position: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some images of a phase.

        Args:
            index: The phase.
            rows: Numbers of the images, (n,).
            position: How many of the phase came before them.

        Returns:
            Inputs (n, inputs), answers (n, outputs) and contexts (n, C), all float32.
        """
        ...


class Lessons:
    """A curriculum as a stream of blocks; a phase that ends within a block leaves it padded.

    Args:
        curriculum: What is taught.
        num_rows: Rows of a block.
    """

    is_classification = True

    def __init__(self, curriculum: Curriculum, num_rows: int) -> None:
        self.curriculum = curriculum
        self.name = curriculum.name
        self.num_inputs, self.num_outputs = curriculum.num_inputs, curriculum.num_outputs
        self.context_dim = curriculum.context_dim
        self.context_discrete = curriculum.context_discrete
        self._size = num_rows
        self._lengths = curriculum.lengths
        blocks = -(-self._lengths // num_rows)
        self.num_rows: int | None = int(blocks.sum()) * num_rows
        self._phase = self._position = 0
        self._order = curriculum.order(0)

    def next_block(self) -> Block:
        """The next examples; after the last phase the first comes again."""
        index, start = self._phase, self._position
        rows = self._order[start : start + self._size]
        self._position += self._size
        ends = self._position >= self._lengths[index]
        inputs, answers, context = self.curriculum.examples(index, rows, start)
        missing = self._size - len(rows)
        if missing:
            inputs, context = (np.pad(a, ((0, missing), (0, 0))) for a in (inputs, context))
            answers = np.pad(answers, ((0, missing), (0, 0)), constant_values=np.nan)
        if ends:
            self._begin((index + 1) % len(self._lengths), 0)
        phase = self.curriculum.phase(index)
        return Block(
            inputs, answers, context, phase.task, phase.split, phase.on_task, ends_phase=ends
        )

    def _begin(self, phase: int, position: int) -> None:
        self._phase, self._position = phase, position
        self._order = self.curriculum.order(phase)

    def snapshot(self) -> Snapshot:
        """The place; everything else follows from the settings."""
        return {"phase": self._phase, "position": self._position}

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        self._begin(int(require(snapshot, "phase")), int(require(snapshot, "position")))


def stream(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """A generator that depends on the seed, a name and some numbers, and on nothing else."""
    key = (zlib.crc32(name.encode()), *numbers)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def one_hot(labels: np.ndarray, num_classes: int, num_existing: int | None = None) -> np.ndarray:
    """Answers (n, classes) float32; NaN in the columns of classes that do not exist yet."""
    answers = np.zeros((len(labels), num_classes), dtype=np.float32)
    answers[np.arange(len(labels)), labels] = 1.0
    if num_existing is not None:
        answers[:, num_existing:] = np.nan
    return answers
