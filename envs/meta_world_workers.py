"""Rows in worker processes: shared memory for numbers, one message to wake, one when done.

A worker is a fresh interpreter that imports neither torch nor the caller's script. It gets two file
descriptors: its end of a connection, and the anonymous memory that holds the block. It ends when
the connection closes, hence with its parent. Objects are never sent, only JSON and plain arrays.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from envs.base import WorkerError
from envs.meta_world_block import Block
from envs.meta_world_group import Failure, RowGroup, join, pack, split, union_of_bounds, unpack
from envs.meta_world_rows import RowSpec
from envs.meta_world_tasks import COSTLY_TASKS
from envs.snapshots import Snapshot

STEP, START, STOP, RESEED, SAVE, LOAD, FAILURE = (bytes([code]) for code in b"saordlf")
DONE, REFUSED, BROKEN = b"+", b"?", b"!"
REPLY_SECONDS = 60.0
BUILD_SECONDS_PER_ROW = 10.0
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def balance(specs: Sequence[RowSpec], num_workers: int) -> list[list[int]]:
    """Deal rows out so that all workers have about the same to do; costly rows go first."""
    costs = [1.5 if spec.task in COSTLY_TASKS else 1.0 for spec in specs]
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    loads = [0.0] * num_workers
    for index in sorted(range(len(specs)), key=lambda k: (-costs[k], k)):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += costs[index]
    return [sorted(share) for share in shares]


class _Worker:
    """The parent's side of one worker."""

    def __init__(self, indices: list[int], memory: int, num_rows: int) -> None:
        self.indices = indices
        self._connection, other = Pipe()
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(other.fileno()), str(memory), str(num_rows)],
            env={
                **os.environ,
                **dict.fromkeys(ONE_THREAD, "1"),
                "PYTHONPATH": os.pathsep.join(paths),
            },
            pass_fds=(other.fileno(), memory),
            stdin=subprocess.DEVNULL,
        )
        other.close()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def send(self, message: bytes) -> None:
        try:
            self._connection.send_bytes(message)
        except OSError as error:
            raise self._dead() from error

    def reply(self, seconds: float = REPLY_SECONDS) -> bytes:
        """The rest of the worker's answer.

        Raises:
            WorkerError: If it raised (with its traceback), died or does not answer.
            ValueError: If it refused what it was given.
        """
        try:
            if not self._connection.poll(seconds):
                raise WorkerError(f"a worker did not answer for {seconds:g} s; it hangs.")
            message = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._dead() from error
        if message[:1] == DONE:
            return message[1:]
        text = message[1:].decode(errors="replace")
        if message[:1] == REFUSED:
            raise ValueError(text)
        raise WorkerError(f"a worker failed:\n{text}")

    def _dead(self) -> WorkerError:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        return WorkerError(
            f"the worker with rows {self.indices} is gone (exit code {code}; a negative one is the "
            "signal that ended it); start again to continue from the last checkpoint."
        )

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class WorkerPool:
    """Rows spread over worker processes; the same interface and results as ``RowGroup``.

    Args:
        specs: What to build, one per row.
        num_workers: Processes, at least 1; more than there are rows is no use.

    Raises:
        ValueError: If a row cannot be built as asked.
        WorkerError: If a worker does not start.
    """

    resume = "exact"

    def __init__(self, specs: Sequence[RowSpec], num_workers: int) -> None:
        num_rows = len(specs)
        size = Block.num_bytes(num_rows)
        memory = _anonymous_memory(size)
        try:
            self._memory = mmap.mmap(memory, size)
            self.block = Block.over(self._memory, num_rows)
            shares = balance(specs, min(num_workers, num_rows))
            self._workers = [_Worker(share, memory, num_rows) for share in shares]
        finally:
            os.close(memory)
        try:
            for worker in self._workers:
                plain = [[index, dataclasses.asdict(specs[index])] for index in worker.indices]
                worker.send(json.dumps(plain).encode())
            seconds = REPLY_SECONDS + BUILD_SECONDS_PER_ROW * num_rows
            bounds = [unpack(worker.reply(seconds)) for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self._bounds = union_of_bounds(
            [(np.asarray(each["low"]), np.asarray(each["high"])) for each in bounds]
        )

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of all workers."""
        return tuple(worker.pid for worker in self._workers)

    def _call(self, messages: Mapping[int, bytes]) -> list[bytes]:
        """Send to some workers (by position) and wait for all of them, also if one fails."""
        for position, message in messages.items():
            self._workers[position].send(message)
        replies, failure = [], None
        for position in messages:
            try:
                replies.append(self._workers[position].reply())
            except (WorkerError, ValueError) as error:
                failure = failure or error
            except (
                BaseException
            ):  # an interrupt: replies still in the pipes would be read as others
                self.close()
                raise
        if failure is not None:
            raise failure
        return replies

    def _everyone(self, message: bytes) -> list[bytes]:
        return self._call(dict.fromkeys(range(len(self._workers)), message))

    def _owners(self, indices: Iterable[int]) -> dict[int, list[int]]:
        """Which of the rows each worker has, by the worker's position."""
        wanted = set(indices)
        shares = {k: [i for i in w.indices if i in wanted] for k, w in enumerate(self._workers)}
        return {position: share for position, share in shares.items() if share}

    def step(self) -> None:
        """Step every row.

        Raises:
            WorkerError: If a worker raised, died or hangs.
        """
        self._everyone(STEP)

    def start(self, goals: Mapping[int, int | None]) -> None:
        self._call(
            {
                position: START + json.dumps([[index, goals[index]] for index in share]).encode()
                for position, share in self._owners(goals).items()
            }
        )

    def stop(self, indices: Iterable[int]) -> None:
        shares = self._owners(indices)
        self._call(
            {position: STOP + json.dumps(share).encode() for position, share in shares.items()}
        )

    def reseed(self, run_seed: int) -> None:
        self._everyone(RESEED + json.dumps(run_seed).encode())

    def snapshots(self) -> dict[int, Snapshot]:
        result: dict[int, Snapshot] = {}
        for worker, reply in zip(self._workers, self._everyone(SAVE), strict=True):
            result.update(split(unpack(reply), worker.indices))
        return result

    def load(self, snapshots: Mapping[int, Snapshot]) -> None:
        self._call(
            {
                position: LOAD + pack(join({index: snapshots[index] for index in share}))
                for position, share in self._owners(snapshots).items()
            }
        )

    def failure(self, index: int) -> Failure:
        ((position, _),) = self._owners([index]).items()
        values = unpack(self._call({position: FAILURE + json.dumps(index).encode()})[0])
        reason = str(values.pop("reason"))
        return reason, {key: np.asarray(value) for key, value in values.items()}

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self._bounds

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


def _anonymous_memory(size: int) -> int:
    """A file descriptor of memory without a name, so that nothing stays behind after a crash."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("meta_world_block")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _serve(connection: Connection, block: Block) -> None:
    """Build the rows that the first message asks for and do as told until the parent is gone."""
    specs = {}
    for index, values in json.loads(connection.recv_bytes()):
        specs[index] = RowSpec(**{**values, "stream": tuple(values["stream"])})
    try:
        group = RowGroup(specs, block)
        low, high = group.bounds()
    except ValueError as error:
        connection.send_bytes(REFUSED + str(error).encode())
        return
    connection.send_bytes(DONE + pack({"low": low, "high": high}))
    while True:
        message = connection.recv_bytes()
        command, content = message[:1], message[1:]
        try:
            answer = DONE + _obey(group, command, content)
        except ValueError as error:
            if command != LOAD:  # everywhere else it is a defect, and needs its traceback
                raise
            answer = REFUSED + str(error).encode()
        connection.send_bytes(answer)


def _obey(group: RowGroup, command: bytes, content: bytes) -> bytes:
    if command == STEP:
        group.step()
    elif command == START:
        group.start(dict(json.loads(content)))
    elif command == STOP:
        group.stop(json.loads(content))
    elif command == RESEED:
        group.reseed(json.loads(content))
    elif command == SAVE:
        return pack(join(group.snapshots()))
    elif command == LOAD:
        group.load(split(unpack(content), group.rows))
    elif command == FAILURE:
        reason, arrays = group.failure(json.loads(content))
        return pack({**arrays, "reason": reason})
    return b""


def main(arguments: Sequence[str]) -> None:
    """Entry point of a worker process."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        # Meant for the run: its parent saves with our help, and then the connection closes.
        signal.signal(name, signal.SIG_IGN)
    descriptor, memory, num_rows = (int(argument) for argument in arguments)
    connection = Connection(descriptor)
    block = Block.over(mmap.mmap(memory, Block.num_bytes(num_rows)), num_rows)
    try:
        _serve(connection, block)
    except (EOFError, ConnectionError):
        return  # the parent closed the connection or is gone
    except Exception:
        connection.send_bytes(BROKEN + traceback.format_exc().encode())


if __name__ == "__main__":
    main(sys.argv[1:])
