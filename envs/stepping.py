"""Stepping many MuJoCo simulations on a fixed set of threads.

``mj_step`` releases the interpreter lock, so plain threads scale. Which thread steps which
simulation is decided once; simulations share nothing that is written, so the results do not
depend on the number of threads.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Sequence
from queue import SimpleQueue

import mujoco
import numpy as np

SMALLEST_NORMAL = 2.2250738585072014e-308

Simulation = tuple[mujoco.MjModel, mujoco.MjData, np.ndarray, np.ndarray]
"""Model, data, the data's control vector, and the row of the batch it is copied from."""


def flushes_denormals(smallest: float = SMALLEST_NORMAL) -> bool:
    """Whether this thread rounds denormal numbers to zero (a per-thread processor flag)."""
    return smallest * 0.5 == 0.0


def step_chunk(chunk: Sequence[Simulation], num_substeps: int, contact_forces: bool) -> None:
    """Copy controls and advance every simulation of ``chunk`` by one environment step.

    Raises:
        RuntimeError: If the thread flushes denormals, which would change the physics' bits.
    """
    if flushes_denormals():
        raise RuntimeError(
            "this thread flushes denormal numbers to zero, which changes simulation results; call "
            "torch.set_flush_denormal(False) before stepping and build environments before "
            "switching it on (new threads inherit the flag)."
        )
    for model, data, control, row in chunk:
        control[:] = row
        mujoco.mj_step(model, data, num_substeps)
        if contact_forces:
            mujoco.mj_rnePostConstraint(model, data)


def _work(
    chunk: Sequence[Simulation],
    num_substeps: int,
    contact_forces: bool,
    tasks: SimpleQueue[bool],
    results: SimpleQueue[BaseException | None],
) -> None:
    """Thread body: step the chunk for every True, stop at False, hand failures back."""
    while tasks.get():
        failure: BaseException | None = None
        try:
            step_chunk(chunk, num_substeps, contact_forces)
        except Exception as error:  # handed to the caller of step(), which raises it
            failure = error
        results.put(failure)


def _stop(queues: Sequence[SimpleQueue[bool]]) -> None:
    for tasks in queues:
        tasks.put(False)


class Stepper:
    """Advances a batch of simulations; the calling thread does the first share itself.

    Args:
        simulations: What to step, in order.
        num_substeps: Physics steps per environment step.
        contact_forces: Whether ``cfrc_ext`` must be computed after the last physics step. It feeds
            nothing back into the dynamics, so it is skipped where nobody reads it.
        num_threads: Threads in all, at least 1; more than there are simulations is no use.
    """

    def __init__(
        self,
        simulations: Sequence[Simulation],
        num_substeps: int,
        contact_forces: bool,
        num_threads: int,
    ) -> None:
        count = min(num_threads, len(simulations))
        bounds = [round(len(simulations) * k / count) for k in range(count + 1)]
        chunks = [tuple(simulations[a:b]) for a, b in itertools.pairwise(bounds)]
        self._own, others = chunks[0], chunks[1:]
        self._num_substeps, self._contact_forces = num_substeps, contact_forces
        self._results: SimpleQueue[BaseException | None] = SimpleQueue()
        self._tasks: list[SimpleQueue[bool]] = [SimpleQueue() for _ in others]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(chunk, num_substeps, contact_forces, tasks, self._results),
                name=f"physics-{k + 1}",
                daemon=True,
            )
            for k, (chunk, tasks) in enumerate(zip(others, self._tasks, strict=True))
        ]
        for thread in self._threads:
            thread.start()
        # Threads also end when nobody holds the stepper any more, closed or not.
        self._stop = weakref.finalize(self, _stop, tuple(self._tasks))

    def step(self) -> None:
        """Advance every simulation by one environment step and wait for all of them."""
        for tasks in self._tasks:
            tasks.put(True)
        failure: BaseException | None = None
        try:
            step_chunk(self._own, self._num_substeps, self._contact_forces)
        finally:  # also after an interrupt: no thread may still be writing when this returns
            for _ in self._tasks:
                failure = self._results.get() or failure
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Stop the threads; stepping afterwards is an error."""
        self._stop()
        for thread in self._threads:
            thread.join()
        self._tasks, self._threads = [], []
