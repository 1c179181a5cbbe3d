"""Starts the processes of one measurement and lets their windows begin together."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerFailed(RuntimeError):
    """A process of a measurement ended without a result; the message holds its last words."""


def measure(
    workers: Sequence[Mapping[str, Any]], timeout_seconds: float = 300.0
) -> list[dict[str, float]]:
    """Run one measurement.

    Args:
        workers: Settings of every process: `kind`, `cores`, `num_threads`, and what the kind needs;
            `gpu`: whether it may see one (no).
        timeout_seconds: All processes together may take this long.

    Returns:
        One result per process, in order.

    Raises:
        WorkerFailed: One of them failed or took too long; the others are ended too.
    """
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_process(settings)) for settings in workers]
        overdue = threading.Timer(timeout_seconds, _end, [[p for p, _ in processes]])
        overdue.start()
        stack.callback(overdue.cancel)
        for process, errors in processes:
            if _answer(process, errors) != {"ready": True}:
                raise WorkerFailed("a worker gave a result before it was told to start")
        for process, _ in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [_answer(process, errors) for process, errors in processes]


@contextlib.contextmanager
def _process(settings: Mapping[str, Any]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    environment = dict(os.environ, PYTHONWARNINGS="ignore")
    if not settings.get("gpu", False):
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment |= dict.fromkeys(THREAD_VARIABLES, str(settings["num_threads"]))
    command = [sys.executable, "-m", "analysis.throughput.worker", json.dumps(settings)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield process, errors
        finally:
            _end([process])
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()


def _answer(process: subprocess.Popen[str], errors: IO[str]) -> dict[str, Any]:
    """The next line of a worker."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        errors.seek(0)
        last_words = " | ".join(errors.read().strip().splitlines()[-3:])
        raise WorkerFailed(f"a worker ended with code {process.returncode}: {last_words}")
    return json.loads(line)
