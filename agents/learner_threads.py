"""Runs two independent learners side by side; the arithmetic of each is the same either way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

First = TypeVar("First")
Second = TypeVar("Second")


def _flushes_denormals(smallest: float = sys.float_info.min) -> bool:
    return smallest * 0.5 == 0.0  # an argument, so that no compiler knows the answer beforehand


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero in this thread; afterwards it does what it did before."""
    before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class LearnerThreads:
    """One helper thread beside the calling one.

    Denormal numbers are flushed to zero while learners run: late in a run the second moments of
    Adam become denormal and slow every optimizer step. The flag belongs to a thread and is put
    back afterwards in the calling thread, which also steps the simulator.

    Args:
        num_threads: 1 runs both in the calling thread, one after the other.
    """

    def __init__(self, num_threads: int) -> None:
        self._pool = (
            ThreadPoolExecutor(1, "learner", torch.set_flush_denormal, (True,))
            if num_threads > 1
            else None
        )

    def run(self, first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
        """Run both and return both results; the first exception of either is raised."""
        future = None if self._pool is None else self._pool.submit(second)
        try:
            with flushed_denormals():
                result = first()
                return result, second() if future is None else future.result()
        finally:
            if future is not None:
                wait([future])  # when the first has failed, nothing may change any more

    def close(self) -> None:
        """End the helper thread."""
        if self._pool is not None:
            self._pool.shutdown()
