"""A run as a chain of processes: started, watched, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.checkpoint_files import parse_step_name
from analysis.logs import ResumableCSV
from analysis.soak.memory import usage
from analysis.storage import atomic_write_text

LIFE_COLUMNS = ("run", "life", "first_step", "seconds", "ended")
SAMPLE_COLUMNS = (
    "run",
    "life",
    "run_seconds",
    "life_seconds",
    "env_steps",
    "resident_mib",
    "anonymous_mib",
    "descriptors",
    "threads",
)
_TAIL_BYTES = 2_000


class SoakFailed(RuntimeError):
    """A process of a run ended in a way that nobody asked for."""


@dataclass(frozen=True)
class Task:
    """One run of the soak.

    Attributes:
        name: `killed` or `undisturbed`.
        command: What starts it, and starts it again.
        run_dir: Its run directory.
        mean_kill_seconds: Mean of the exponentially distributed time until a process is killed;
            None never kills.
        seed: Of those times.
        sample_seconds: Between looks at the process.
    """

    name: str
    command: tuple[str, ...]
    run_dir: Path
    mean_kill_seconds: float | None
    seed: int
    sample_seconds: float


class Chain:
    """The processes of one run, one after another. Call `tend` often.

    What ended is kept in `<name>.lives.csv` beside the run directory and what was seen in
    `<name>.samples.csv`, so that another call of the program goes on where this one was stopped.

    Args:
        task: The run.
        root: Where the Python of the program is; the working directory of the processes.
    """

    def __init__(self, task: Task, root: Path) -> None:
        self.task, self._root = task, root
        folder = task.run_dir.parent
        folder.mkdir(parents=True, exist_ok=True)
        self.lives_path = folder / f"{task.name}.lives.csv"
        self.samples_path = folder / f"{task.name}.samples.csv"
        self._log_path = folder / f"{task.name}.log"
        self._open_path = folder / f"{task.name}.open.json"
        self._lives = ResumableCSV(self.lives_path, LIFE_COLUMNS)
        self._samples = ResumableCSV(self.samples_path, SAMPLE_COLUMNS)
        self._process: subprocess.Popen[bytes] | None = None
        self._life, self._first_step = self._lives.rows, 0
        self._started = self._sampled = 0.0
        self._kill_after: float | None = None
        self._run_seconds = _total_seconds(self.lives_path)
        self._end_orphan()

    @property
    def is_done(self) -> bool:
        """Whether the run has ended for good."""
        return self._process is None and (self.task.run_dir / "done.json").exists()

    def tend(self) -> None:
        """Start, sample, kill or bury the process, whatever is due.

        Raises:
            SoakFailed: The process ended by itself before the end of the run.
        """
        if self.is_done:
            return
        if self._process is None:
            self._start()
            return
        code, lived = self._process.poll(), time.monotonic() - self._started
        if code is not None:
            if code != 0:
                self._bury(lived, f"exit {code}")
                raise SoakFailed(f"{self.task.name} ended with exit code {code}:\n{self._tail()}")
            self._bury(lived, "finished")
        elif self._kill_after is not None and lived >= self._kill_after:
            self._end(signal.SIGKILL)
            self._bury(time.monotonic() - self._started, "killed")
        elif lived - self._sampled >= self.task.sample_seconds:
            self._sample(lived)

    def stop(self) -> None:
        """End the process because the program itself was stopped; the run can go on later."""
        if self._process is None:
            return
        gentle = self.task.mean_kill_seconds is None
        self._end(signal.SIGTERM if gentle else signal.SIGKILL)
        self._bury(time.monotonic() - self._started, "stopped" if gentle else "killed")

    def close(self) -> None:
        """Close the files."""
        self._lives.close()
        self._samples.close()

    def _start(self) -> None:
        self._life += 1
        self._first_step = newest_step(self.task.run_dir)
        self._kill_after = None
        if self.task.mean_kill_seconds is not None:
            draw = np.random.default_rng([self.task.seed, self._life])
            self._kill_after = float(draw.exponential(self.task.mean_kill_seconds))
        with self._log_path.open("ab") as log:
            # A session of its own: a Ctrl-C in the terminal is for this program to pass on.
            self._process = subprocess.Popen(
                self.task.command,
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started, self._sampled = time.monotonic(), 0.0
        born = {"pid": self._process.pid, "born": _birth(self._process.pid)}
        born |= {"life": self._life, "first_step": self._first_step}
        atomic_write_text(self._open_path, json.dumps(born))

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        _signal_group(self._process.pid, number)
        self._process.wait()

    def _bury(self, lived: float, how: str) -> None:
        self._write_life(lived, how)
        self._run_seconds += lived
        self._process = None
        self._open_path.unlink()

    def _write_life(self, lived: float, how: str) -> None:
        row = (self.task.name, self._life, self._first_step, lived, how)
        self._lives.write(dict(zip(LIFE_COLUMNS, row, strict=True)), {})

    def _sample(self, lived: float) -> None:
        assert self._process is not None
        self._sampled = lived
        seen = usage(self._process.pid)
        if seen is None:
            return
        row = (
            self.task.name,
            self._life,
            self._run_seconds + lived,
            lived,
            last_logged_step(self.task.run_dir),
            seen.resident_mib,
            seen.anonymous_mib,
            seen.descriptors,
            seen.threads,
        )
        self._samples.write(dict(zip(SAMPLE_COLUMNS, row, strict=True)), {})

    def _end_orphan(self) -> None:
        """End what an earlier program left running when it was killed itself."""
        if not self._open_path.exists():
            return
        left = json.loads(self._open_path.read_text(encoding="utf-8"))
        pid, self._life = int(left["pid"]), int(left["life"])
        self._first_step = int(left["first_step"])
        gentle = self.task.mean_kill_seconds is None
        how, number = ("stopped", signal.SIGTERM) if gentle else ("killed", signal.SIGKILL)
        if _birth(pid) == left["born"]:  # otherwise the number belongs to somebody else now
            _signal_group(pid, number)
            while _birth(pid) == left["born"]:
                time.sleep(0.05)
        finished = (self.task.run_dir / "done.json").exists()
        lived = _last_life_seconds(self.samples_path, self._life)
        self._bury(lived, "finished" if finished else how)

    def _tail(self) -> str:
        data = self._log_path.read_bytes()[-_TAIL_BYTES:]
        return data.decode(errors="replace")


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    folder = run_dir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    found = [parse_step_name(name) for name in names]
    return max((step[0] for step in found if step is not None), default=0)


def last_logged_step(run_dir: Path) -> int:
    """Step of the last whole row of timing.csv, 0 without one."""
    try:
        with (run_dir / "timing.csv").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 500))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    cell = lines[-1].split(b",")[0] if lines else b""
    return int(cell) if cell.isdigit() else 0


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # it has just ended by itself


def _birth(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it has ended."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _total_seconds(path: Path) -> float:
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return sum(float(line.split(",")[LIFE_COLUMNS.index("seconds")]) for line in lines)


def _last_life_seconds(path: Path, life: int) -> float:
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    place, column = SAMPLE_COLUMNS.index("life"), SAMPLE_COLUMNS.index("life_seconds")
    return max((float(row[column]) for row in rows if int(row[place]) == life), default=0.0)
