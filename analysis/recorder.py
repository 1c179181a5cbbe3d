"""Writes what happens in a run: rows, events, episodes and diagnostics.

The only place that reads scalars off the device. Everything in progress.csv, episodes.csv and
events.jsonl is deterministic; speed and other wall-clock facts go to timing.csv.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from agents.base import Agent
from analysis.episodes import EpisodeAccount
from analysis.log_files import continued_columns, remove_uncommitted
from analysis.logs import EventLog, ResumableCSV, TensorBoardWriter
from analysis.network_measures import Choices, NetworkMeasures, Probe, is_due

TIMING_COLUMNS = ("env_steps", "active_seconds", "steps_per_second", "restarts")


class Periods(Choices, Protocol):
    """When what is written; see `configs.run.LogConfig`."""

    @property
    def diagnostics(self) -> bool: ...
    @property
    def tensorboard(self) -> bool: ...


class Recorder:
    """Recorder of one run.

    Args:
        folder: Run directory.
        agent: The agent, for its networks and the names of what it logs.
        periods: When what is written.
        probe: Fixed sample set, or None to measure on-policy windows only.
        start_steps: Environment steps of the checkpoint that is continued; 0 starts the files
            anew, because whatever they hold was never committed.
        restarts: How often this run was continued.
        active_seconds: Seconds that earlier processes spent on the run.
        evaluation_columns: Names of everything that `evaluated` will be given.
        task_names: See `EpisodeAccount`, as for the next one.
        tells_success: Whether the environments say which episodes succeeded.
    """

    def __init__(
        self,
        folder: Path,
        agent: Agent,
        periods: Periods,
        probe: Probe | None,
        start_steps: int = 0,
        restarts: int = 0,
        active_seconds: float = 0.0,
        evaluation_columns: Sequence[str] = (),
        task_names: Sequence[str] = (),
        tells_success: bool = False,
    ) -> None:
        self._agent, self._periods, self._restarts = agent, periods, restarts
        self._account = EpisodeAccount(task_names, tells_success)
        self._measures = (
            NetworkMeasures(folder, agent, periods, probe) if periods.diagnostics else None
        )
        self.columns = continued_columns(
            folder / "progress.csv", [*self._columns(), *evaluation_columns], start_steps
        )
        episode_columns = continued_columns(
            folder / "episodes.csv", list(self._account.episode_columns), start_steps
        )
        if not start_steps:
            remove_uncommitted(folder)
        self.progress = ResumableCSV(folder / "progress.csv", self.columns)
        self.episodes = ResumableCSV(folder / "episodes.csv", episode_columns)
        self.timing = ResumableCSV(folder / "timing.csv", TIMING_COLUMNS)
        self.events = EventLog(folder / "events.jsonl")
        formats: list[KVWriter] = [self.progress]
        if periods.tensorboard:
            formats.append(
                TensorBoardWriter(folder, purge_step=start_steps + 1 if start_steps else None)
            )
        self._logger = Logger(str(folder), formats)
        self._statistics: dict[str, list[float]] = {}
        self._failed_metrics: set[str] = set()
        self._env_steps = self._row_env_steps = start_steps
        self._place: tuple[Any, Any] = (float("nan"), float("nan"))  # regimes and their values
        self._active_seconds = active_seconds
        self._clock = time.monotonic()
        self._row_clock, self._row_steps = self._clock, start_steps

    def _columns(self) -> list[str]:
        """Declare every column before the first row, so that a resumed file never changes."""
        columns = ["env_steps", "iteration", *self._account.columns, "regime", "regime_value"]
        columns += [*self._agent.statistic_names(), *self._agent.log_values()]
        return columns if self._measures is None else columns + self._measures.columns()

    # Called by the loop ---------------------------------------------------------------------

    def step(
        self,
        env_steps: int,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: Mapping[str, Any],
    ) -> None:
        """Take in one vector step; `env_steps` counts it."""
        self._env_steps = env_steps
        self._place = (info["regime"], info["regime_value"])
        for row in self._account.step(env_steps, reward, terminated, truncated, info):
            self.episodes.write({name: row[name] for name in self.episodes.columns}, {})
        for event in info["events"]:
            self.events.append(event)
        for index in np.flatnonzero(info["unstable"]):
            event = {"event": "simulator_reset", "env_index": int(index)}
            self.events.append({"env_steps": env_steps, **event})

    def before_update(self, iteration: int) -> None:
        """Measure the networks before they change, if a row is due after this iteration."""
        if self._measures is None:
            return
        self._measures.follow()
        if self._row_is_due(iteration):
            self._measures.before_iteration(self._env_steps, iteration)

    def after_update(
        self,
        env_steps: int,
        iteration: int,
        statistics: Mapping[str, Tensor],
        regime: np.ndarray,
        regime_value: np.ndarray,
    ) -> dict[str, float] | None:
        """Take in what an update returned; write a row if one is due and return it."""
        for key, value in statistics.items():
            self._statistics.setdefault(key, []).append(float(value))
        self.write_events(env_steps)
        self._place = (regime, regime_value)
        row_is_due = self._row_is_due(iteration)
        if self._measures is not None:
            self._measures.after_iteration(env_steps, row_is_due)
        self._explain_gaps(env_steps)
        return self._write_row(env_steps, iteration) if row_is_due else None

    def finish(self, env_steps: int) -> None:
        """Write the last row of a finished run, unless it ends with one anyway.

        No update follows that could look at a window of new transitions, so those cells stay
        empty, like all that compares before and after an iteration. The newest checkpoint must
        have been saved before: a run that is made longer goes on without this row.
        """
        if self._measures is not None:
            self._measures.at_end()
        if env_steps <= self._row_env_steps:
            return
        self.write_events(env_steps)
        self._explain_gaps(env_steps)
        self._write_row(env_steps, self._agent.iteration)

    def _explain_gaps(self, env_steps: int) -> None:
        """Note why metrics are NaN; said once, the cells say so every time."""
        if self._measures is None:
            return
        for metric, reason in self._measures.reasons.items():
            if metric not in self._failed_metrics:
                self._failed_metrics.add(metric)
                event = {"event": "metric_failed", "metric": metric, "reason": reason}
                self.events.append({"env_steps": env_steps, **event})
        self._measures.reasons = {}

    def _write_row(self, env_steps: int, iteration: int) -> dict[str, float]:
        row: dict[str, float] = {
            "env_steps": env_steps,
            "iteration": iteration,
            "regime": float(np.mean(self._place[0])),
            "regime_value": float(np.mean(self._place[1])),
            **self._account.averages(),
            **{key: float(np.mean(values)) for key, values in self._statistics.items()},
            **self._agent.log_values(),
            **({} if self._measures is None else self._measures.take_row()),
        }
        self._log(row)
        self._write_timing(env_steps)
        self._account.reset()
        self._statistics = {}
        self._row_env_steps = env_steps
        return row

    def write_events(self, env_steps: int) -> None:
        """Append what methods did since the last call; due before every checkpoint."""
        for event in self._agent.pop_events():
            self.events.append({"env_steps": env_steps, **event})
            if self._measures is not None:
                self._measures.see(event)

    def evaluated(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Write a row of its own for an evaluation; what training has measured is left alone."""
        self._log({"env_steps": env_steps, "iteration": self._agent.iteration, **values})

    def _log(self, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            self._logger.record(key, value, exclude=None if key in self.columns else "csv")
        self._logger.dump(int(row["env_steps"]))

    def note(self, event: Mapping[str, Any]) -> None:
        """Append one event; no wall-clock values in it."""
        self.events.append(dict(event))

    def _row_is_due(self, iteration: int) -> bool:
        return is_due(self._periods.log_every_iterations, iteration)

    def commit(self) -> None:
        """Bring all rows to the disk; due before done.json, which says that they are there.

        Raises:
            StorageError: The disk refused.
        """
        for log in (self.progress, self.episodes, self.events):
            log.offset()

    # Time -----------------------------------------------------------------------------------

    @property
    def active_seconds(self) -> float:
        """Seconds spent running, summed over restarts; a monotonic clock."""
        return self._active_seconds + time.monotonic() - self._clock

    def _write_timing(self, env_steps: int) -> None:
        now = time.monotonic()
        speed = (env_steps - self._row_steps) / max(now - self._row_clock, 1e-9)
        self._row_clock, self._row_steps = now, env_steps
        values = (env_steps, self.active_seconds, speed, self._restarts)
        self.timing.write(dict(zip(TIMING_COLUMNS, values, strict=True)), {})

    # State ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Unfinished sums and the committed size of every deterministic file."""
        return {
            "account": self._account.state_dict(),
            "statistics": {key: list(values) for key, values in self._statistics.items()},
            "failed_metrics": sorted(self._failed_metrics),
            "measures": {} if self._measures is None else self._measures.state_dict(),
            "row_env_steps": self._row_env_steps,
            "place": [float(np.mean(values)) for values in self._place],
            "progress": self.progress.state_dict(),
            "episodes": self.episodes.state_dict(),
            "events": self.events.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the files back to the checkpoint and go on from there."""
        self._account.load_state_dict(state["account"])
        self._statistics = {key: list(values) for key, values in state["statistics"].items()}
        self._failed_metrics = set(state["failed_metrics"])
        if "row_env_steps" in state:  # checkpoints of earlier versions have nothing of what follows
            self._row_env_steps = int(state["row_env_steps"])
            self._place = (float(state["place"][0]), float(state["place"][1]))
            if self._measures is not None:
                self._measures.load_state_dict(state["measures"])
        self.progress.load_state_dict(state["progress"])
        self.episodes.load_state_dict(state["episodes"])
        self.events.load_state_dict(state["events"])

    def close(self) -> None:
        """Close all files."""
        self._logger.close()
        for log in (self.episodes, self.timing, self.events):
            log.close()
