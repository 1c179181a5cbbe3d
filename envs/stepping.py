"""Stepping many MuJoCo simulations on a fixed set of threads.

``mj_step`` releases the interpreter lock, so plain threads scale. Every thread has its share, whose
memory stays in its core's cache, and helps the others when it is done, so that a core that is busy
with something else holds nobody up. Simulations share nothing that is written, so the results
depend neither on the number of threads nor on who steps what.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import mujoco
import numpy as np

LOST_RING_SECONDS = 1.0  # an interrupt may swallow a ring
SMALLEST_NORMAL = 2.2250738585072014e-308

Simulation = tuple[mujoco.MjModel, mujoco.MjData, np.ndarray, np.ndarray, np.ndarray]
"""Model, data, the data's control vector, the row of the batch it is copied from, and where the
simulated time goes, shape (1,)."""

Shares = Sequence[deque[Simulation]]
"""What is still to be stepped, one queue per thread."""


def flushes_denormals(smallest: float = SMALLEST_NORMAL) -> bool:
    """Whether this thread rounds denormal numbers to zero (a per-thread processor flag)."""
    return smallest * 0.5 == 0.0


def claim(shares: Shares, own: int) -> Iterator[Simulation]:
    """Take simulations until none is left: the own share from its front, others from their ends.

    Safe from several threads, because taking from a deque is atomic.
    """
    for k in range(len(shares)):
        share = shares[(own + k) % len(shares)]
        take = share.pop if k else share.popleft
        while True:
            try:
                simulation = take()
            except IndexError:  # somebody may have taken the last one since any other check
                break
            yield simulation


def step_all(simulations: Iterable[Simulation], num_substeps: int, contact_forces: bool) -> None:
    """Copy controls, advance every simulation by one environment step, note the simulated time.

    Raises:
        RuntimeError: If the thread flushes denormals, which would change the physics' bits.
    """
    if flushes_denormals():
        raise RuntimeError(
            "this thread flushes denormal numbers to zero, which changes simulation results; call "
            "torch.set_flush_denormal(False) before stepping and build environments before "
            "switching it on (new threads inherit the flag)."
        )
    for model, data, control, row, clock in simulations:
        control[:] = row
        mujoco.mj_step(model, data, num_substeps)
        if contact_forces:
            mujoco.mj_rnePostConstraint(model, data)
        clock[0] = data.time


@dataclass
class Outcome:
    """What became of one thread's part of one step."""

    failure: BaseException | None = None
    is_done: bool = False


@dataclass(frozen=True)
class Task:
    """One step for one thread: what is left for everybody, and where to say how it went."""

    shares: Shares
    outcome: Outcome


def _work(
    own: int,
    num_substeps: int,
    contact_forces: bool,
    tasks: SimpleQueue[Task | None],
    bell: SimpleQueue[None],
) -> None:
    """Thread body: help with every set of shares, stop at None, hand failures back."""
    while (task := tasks.get()) is not None:
        try:
            step_all(claim(task.shares, own), num_substeps, contact_forces)
        except Exception as error:  # handed to the caller of step(), which raises it
            task.outcome.failure = error
        task.outcome.is_done = True
        bell.put(None)


def _stop(queues: Sequence[SimpleQueue[Task | None]]) -> None:
    for tasks in queues:
        tasks.put(None)


class Stepper:
    """Advances a batch of simulations; the first share is that of the calling thread.

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
        self._shares = [tuple(simulations[a:b]) for a, b in itertools.pairwise(bounds)]
        self._num_substeps, self._contact_forces = num_substeps, contact_forces
        self._bell: SimpleQueue[None] = SimpleQueue()  # rung by every thread that is done
        self._tasks: list[SimpleQueue[Task | None]] = [SimpleQueue() for _ in range(count - 1)]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(k, num_substeps, contact_forces, tasks, self._bell),
                name=f"physics-{k}",
                daemon=True,
            )
            for k, tasks in enumerate(self._tasks, start=1)
        ]
        for thread in self._threads:
            thread.start()
        # Threads also end when nobody holds the stepper any more, closed or not.
        self._stop = weakref.finalize(self, _stop, tuple(self._tasks))

    def step(self) -> None:
        """Advance every simulation by one environment step and wait for all of them."""
        shares = [deque(share) for share in self._shares]
        outcomes = [Outcome() for _ in self._tasks]
        while not self._bell.empty():  # rung after everybody was seen to be done
            self._bell.get_nowait()
        for tasks, outcome in zip(self._tasks, outcomes, strict=True):
            tasks.put(Task(shares, outcome))
        try:
            step_all(claim(shares, 0), self._num_substeps, self._contact_forces)
        finally:  # also after an interrupt: no thread may still be writing when this returns
            self._wait(outcomes)
        for outcome in outcomes:
            if outcome.failure is not None:
                raise outcome.failure

    def _wait(self, outcomes: Sequence[Outcome]) -> None:
        """Wait for every thread; an interrupt meanwhile is raised again when all are done."""
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                while not all(outcome.is_done for outcome in outcomes):
                    with contextlib.suppress(Empty):
                        self._bell.get(timeout=LOST_RING_SECONDS)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def close(self) -> None:
        """Stop the threads; stepping afterwards is an error."""
        self._stop()
        for thread in self._threads:
            thread.join()
        self._tasks, self._threads = [], []
