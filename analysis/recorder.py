"""Writes what happens in a run: rows, events, episodes and diagnostics.

The only place that reads scalars off the device. Everything in progress.csv, episodes.csv and
events.jsonl is deterministic; speed and other wall-clock facts go to timing.csv.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from agents.base import Agent
from analysis import measure
from analysis.episodes import EPISODE_COLUMNS, EpisodeAccount
from analysis.learning_measures import LearningMeasures, feature_norms, norm_columns
from analysis.logs import EventLog, ResumableCSV, TensorBoardWriter
from analysis.trainability import TrainabilityMeasures
from networks.units import UnitGroup

WINDOW_SIZE = 1_000
TIMING_COLUMNS = ("env_steps", "active_seconds", "steps_per_second", "restarts")


class Periods(Protocol):
    """When what is written; see `configs.run.LogConfig`."""

    @property
    def log_every_iterations(self) -> int: ...
    @property
    def ranks_every_iterations(self) -> int: ...
    @property
    def all_ranks_every_iterations(self) -> int: ...
    @property
    def diagnostics(self) -> bool: ...
    @property
    def tensorboard(self) -> bool: ...
    @property
    def trainability_steps(self) -> int | None: ...


class Probe(Protocol):
    """Fixed samples, the same for all methods and seeds."""

    observations: np.ndarray
    actions: np.ndarray


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
    ) -> None:
        self._agent, self._periods, self._probe = agent, periods, probe
        self._restarts = restarts
        self._groups = self._unit_groups()
        self._learning, self._trainability = self._measures()
        self.columns = _continued(
            folder / "progress.csv", [*self._columns(), *evaluation_columns], start_steps
        )
        if not start_steps:
            _remove_uncommitted(folder)
        self.progress = ResumableCSV(folder / "progress.csv", self.columns)
        self.episodes = ResumableCSV(folder / "episodes.csv", EPISODE_COLUMNS)
        self.timing = ResumableCSV(folder / "timing.csv", TIMING_COLUMNS)
        self.events = EventLog(folder / "events.jsonl")
        formats: list[KVWriter] = [self.progress]
        if periods.tensorboard:
            formats.append(
                TensorBoardWriter(folder, purge_step=start_steps + 1 if start_steps else None)
            )
        self._logger = Logger(str(folder), formats)
        self._account = EpisodeAccount()
        self._statistics: dict[str, list[float]] = {}
        self._measured: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        self._failed_metrics: set[str] = set()
        self._env_steps = self._row_env_steps = start_steps
        self._place = (float("nan"), float("nan"))  # regime and its value
        self._active_seconds = active_seconds
        self._clock = time.monotonic()
        self._row_clock, self._row_steps = self._clock, start_steps

    def _unit_groups(self) -> dict[str, tuple[UnitGroup, ...]]:
        return {name: network.unit_groups() for name, network in self._agent.networks().items()}

    def _measures(self) -> tuple[LearningMeasures | None, TrainabilityMeasures | None]:
        """What measures learning, where diagnostics are on."""
        if not self._periods.diagnostics:
            return None, None
        inputs, period = None if self._probe is None else self._probe_inputs, None
        if inputs is not None:
            period = self._periods.trainability_steps
        trainability = None
        if inputs is not None and period is not None:
            trainability = TrainabilityMeasures(period, inputs)
        return LearningMeasures(self._agent, inputs), trainability

    def _columns(self) -> list[str]:
        """Declare every column before the first row, so that a resumed file never changes."""
        columns = ["env_steps", "iteration", "episodes", "episode_return", "episode_length"]
        columns += ["reward_per_step", "regime", "regime_value"]
        columns += [*self._agent.statistic_names(), *self._agent.log_values()]
        if not self._periods.diagnostics:
            return columns
        for name, network in self._agent.networks().items():
            groups = self._groups[name]
            columns += measure.weight_columns(name, network)
            for sample_set in ("window", *(["probe"] if self._probe is not None else [])):
                columns += measure.activity_columns(sample_set, name, groups)
                columns += measure.rank_columns(sample_set, name, groups)
                columns += norm_columns(sample_set, name, groups)
        if self._learning is not None:
            columns += self._learning.columns()
        if self._trainability is not None:
            columns += self._trainability.columns(self._agent.networks())
        return columns

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
        self._place = (float(np.mean(info["regime"])), float(np.mean(info["regime_value"])))
        for row in self._account.step(env_steps, reward, terminated, truncated, info):
            self.episodes.write(row, {})
        for event in info["events"]:
            self.events.append(event)
        for index in np.flatnonzero(info["unstable"]):
            event = {"event": "simulator_reset", "env_index": int(index)}
            self.events.append({"env_steps": env_steps, **event})

    def before_update(self, iteration: int) -> None:
        """Measure the networks before they change, if a row is due after this iteration."""
        self._follow_networks()
        if self._learning is None or not self._row_is_due(iteration):
            return
        self._measured = {}
        for name, network in self._agent.networks().items():
            groups = self._groups[name]
            inputs = self._agent.window_inputs(name, WINDOW_SIZE)
            if inputs is not None:
                self._measure("window", name, groups, inputs, iteration)
            if self._probe is not None and self._is_due("all_ranks_every_iterations", iteration):
                self._measure("probe", name, groups, self._probe_inputs(name), iteration)
            self._measured.update(measure.measure_weights(name, network))
        self._learning.begin()
        if self._trainability is not None and self._trainability.is_due(self._env_steps):
            networks = self._agent.networks()
            self._measured.update(self._trainability.measure(networks, self._reasons))

    def _follow_networks(self) -> None:
        """Look at the networks that the agent has now; an oracle begins anew with others."""
        if self._learning is not None and self._learning.follow():
            self._groups = self._unit_groups()

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
        self._place = (float(np.mean(regime)), float(np.mean(regime_value)))
        is_due = self._row_is_due(iteration)
        if is_due and self._learning is not None:
            self._measured.update(self._learning.finish(self._reasons))
        self._explain_gaps(env_steps)
        return self._write_row(env_steps, iteration) if is_due else None

    def finish(self, env_steps: int) -> None:
        """Write the last row of a finished run, unless it ends with one anyway.

        No update follows that could look at a window of new transitions, so those cells stay
        empty, like all that compares before and after an iteration. The newest checkpoint must
        have been saved before: a run that is made longer goes on without this row.
        """
        if env_steps <= self._row_env_steps:
            return
        self._follow_networks()
        self.write_events(env_steps)
        self._measured = {}
        if self._learning is not None:
            for name, network in self._agent.networks().items():
                if self._probe is not None:
                    self._measure("probe", name, self._groups[name], self._probe_inputs(name), 1)
                self._measured.update(measure.measure_weights(name, network))
            self._measured.update(self._learning.distances())
        self._explain_gaps(env_steps)
        self._write_row(env_steps, self._agent.iteration)

    def _explain_gaps(self, env_steps: int) -> None:
        """Note why metrics are NaN; said once, the cells say so every time."""
        for metric, reason in self._reasons.items():
            if metric not in self._failed_metrics:
                self._failed_metrics.add(metric)
                event = {"event": "metric_failed", "metric": metric, "reason": reason}
                self.events.append({"env_steps": env_steps, **event})
        self._reasons = {}

    def _write_row(self, env_steps: int, iteration: int) -> dict[str, float]:
        row: dict[str, float] = {
            "env_steps": env_steps,
            "iteration": iteration,
            "regime": self._place[0],
            "regime_value": self._place[1],
            **self._account.averages(),
            **{key: float(np.mean(values)) for key, values in self._statistics.items()},
            **self._agent.log_values(),
            **self._measured,
        }
        self._log(row)
        self._write_timing(env_steps)
        self._account.reset()
        self._statistics, self._measured = {}, {}
        self._row_env_steps = env_steps
        return row

    def write_events(self, env_steps: int) -> None:
        """Append what methods did since the last call; due before every checkpoint."""
        for event in self._agent.pop_events():
            self.events.append({"env_steps": env_steps, **event})

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

    # Measuring ------------------------------------------------------------------------------

    def _row_is_due(self, iteration: int) -> bool:
        return self._is_due("log_every_iterations", iteration)

    def _is_due(self, period: str, iteration: int) -> bool:
        """The first iteration is always due: it shows the network as initialised."""
        return iteration == 1 or iteration % getattr(self._periods, period) == 0

    def _measure(
        self,
        sample_set: str,
        name: str,
        groups: Sequence[UnitGroup],
        inputs: tuple[Tensor, Tensor | None],
        iteration: int,
    ) -> None:
        network = self._agent.networks()[name]
        features = measure.unit_features(network, *inputs, groups)
        row, reasons = self._measured, self._reasons
        row.update(measure.measure_activity(sample_set, name, groups, features, reasons))
        row.update(feature_norms(sample_set, name, groups, features, reasons))
        if self._is_due("all_ranks_every_iterations", iteration):
            ranked = groups
        elif self._is_due("ranks_every_iterations", iteration):
            ranked = groups[-1:]
        else:
            return
        row.update(measure.measure_ranks(sample_set, name, ranked, features, reasons))

    def _probe_inputs(self, name: str) -> tuple[Tensor, Tensor | None]:
        assert self._probe is not None
        context = getattr(self._probe, "contexts", None)
        if context is None:
            context = np.zeros((len(self._probe.observations), 0), dtype=np.float32)
        return self._agent.network_inputs(
            name, self._probe.observations, self._probe.actions, context
        )

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
            # Of an iteration under way; empty between two.
            "measured": dict(self._measured),
            "reasons": dict(self._reasons),
            "learning": {} if self._learning is None else self._learning.state_dict(),
            "trainability": {} if self._trainability is None else self._trainability.state_dict(),
            "row_env_steps": self._row_env_steps,
            "place": list(self._place),
            "progress": self.progress.state_dict(),
            "episodes": self.episodes.state_dict(),
            "events": self.events.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the files back to the checkpoint and go on from there."""
        self._account.load_state_dict(state["account"])
        self._statistics = {key: list(values) for key, values in state["statistics"].items()}
        self._failed_metrics = set(state["failed_metrics"])
        self._measured = {key: float(value) for key, value in state["measured"].items()}
        self._reasons = dict(state["reasons"])
        self._groups = self._unit_groups()
        if "row_env_steps" in state:  # checkpoints of earlier versions have nothing of what follows
            self._row_env_steps = int(state["row_env_steps"])
            self._place = (float(state["place"][0]), float(state["place"][1]))
            if self._learning is not None:
                self._learning.load_state_dict(state["learning"])
            if self._trainability is not None:
                self._trainability.load_state_dict(state["trainability"])
        self.progress.load_state_dict(state["progress"])
        self.episodes.load_state_dict(state["episodes"])
        self.events.load_state_dict(state["events"])

    def close(self) -> None:
        """Close all files."""
        self._logger.close()
        for log in (self.episodes, self.timing, self.events):
            log.close()


def _continued(path: Path, columns: list[str], start_steps: int) -> list[str]:
    """Columns of a file that goes on: one begun by an earlier version keeps those it has."""
    if not start_steps or not path.exists():
        return columns
    with path.open(newline="", encoding="utf-8") as stream:
        found = next(csv.reader(stream), columns)
    left_out = len(columns) - len(found)
    if left_out <= 0 or not set(found) <= set(columns):
        return columns
    print(
        f"{path} was begun by an earlier version; {left_out} diagnostics that came later are left "
        "out of it",
        file=sys.stderr,
    )
    return found


def _remove_uncommitted(folder: Path) -> None:
    """Remove logs of a process that died before its first checkpoint."""
    for name in ("progress.csv", "episodes.csv", "events.jsonl", "timing.csv"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
