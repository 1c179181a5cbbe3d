"""Everything that is measured on the networks of a run, gathered into one row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from agents.base import Agent
from analysis import context_measures, measure
from analysis.extended_measures import ExtendedMeasures
from analysis.learning_measures import LearningMeasures, feature_norms, norm_columns
from analysis.trainability import TrainabilityMeasures
from analysis.unit_histories import UnitHistories
from networks.units import UnitGroup

WINDOW_SIZE = 1_000


class Choices(Protocol):
    """What is measured, and how often; see `configs.run.LogConfig`."""

    @property
    def log_every_iterations(self) -> int: ...
    @property
    def ranks_every_iterations(self) -> int: ...
    @property
    def all_ranks_every_iterations(self) -> int: ...
    @property
    def trainability_steps(self) -> int | None: ...
    @property
    def unit_histories(self) -> bool: ...
    @property
    def extended(self) -> bool: ...


class Probe(Protocol):
    """Fixed samples, the same for all methods and seeds."""

    observations: np.ndarray
    actions: np.ndarray


def is_due(period: int, iteration: int) -> bool:
    """Whether an iteration is due; the first always is: it shows the network as initialised."""
    return iteration == 1 or iteration % period == 0


class NetworkMeasures:
    """Measures the networks around the iterations whose row is due.

    Args:
        folder: Run directory.
        agent: The agent, as newly built.
        choices: What is measured, and how often.
        probe: Fixed sample set, or None to measure on-policy windows only.

    Attributes:
        reasons: Metric -> why it is NaN; whoever reads it empties it.
    """

    def __init__(self, folder: Path, agent: Agent, choices: Choices, probe: Probe | None) -> None:
        self._agent, self._choices, self._probe = agent, choices, probe
        inputs = None if probe is None else self._probe_inputs
        self._learning = LearningMeasures(agent, inputs)
        period, self._trainability = choices.trainability_steps, None
        if inputs is not None and period is not None:
            rows_every = choices.log_every_iterations
            self._trainability = TrainabilityMeasures(period, rows_every, inputs)
        self._histories = UnitHistories(folder, agent) if choices.unit_histories else None
        self._extended = ExtendedMeasures(inputs) if choices.extended else None
        self._groups = self._unit_groups()
        self._row: dict[str, float] = {}
        self.reasons: dict[str, str] = {}

    def _unit_groups(self) -> dict[str, tuple[UnitGroup, ...]]:
        return {name: network.unit_groups() for name, network in self._agent.networks().items()}

    def columns(self) -> list[str]:
        """Names of everything that a row may hold."""
        columns: list[str] = []
        for name, network in self._agent.networks().items():
            groups = self._groups[name]
            columns += measure.weight_columns(name, network)
            for sample_set in ("window", *(["probe"] if self._probe is not None else [])):
                columns += measure.activity_columns(sample_set, name, groups)
                columns += measure.rank_columns(sample_set, name, groups)
                columns += context_measures.columns(sample_set, name, network, groups)
                columns += norm_columns(sample_set, name, groups)
        columns += self._learning.columns()
        if self._trainability is not None:
            columns += self._trainability.columns(self._agent.networks())
        if self._extended is not None:
            columns += self._extended.columns(self._agent.networks())
        return columns

    # Measuring -------------------------------------------------------------------------------

    def follow(self) -> None:
        """Look at the networks that the agent has now; an oracle begins anew with others."""
        if self._learning.follow():
            self._groups = self._unit_groups()
            if self._histories is not None:
                self._histories.follow()

    def before_iteration(self, env_steps: int, iteration: int) -> None:
        """Measure the networks before they change."""
        self._row = {}
        networks = self._agent.networks()
        for name, network in networks.items():
            inputs = self._agent.window_inputs(name, WINDOW_SIZE)
            if inputs is not None:
                self._measure("window", name, inputs, iteration)
            if self._probe is not None and is_due(
                self._choices.all_ranks_every_iterations, iteration
            ):
                self._measure("probe", name, self._probe_inputs(name), iteration)
            self._row.update(measure.measure_weights(name, network))
        self._learning.begin()
        if self._trainability is not None and self._trainability.is_due(env_steps, iteration):
            self._row.update(self._trainability.measure(networks, self.reasons))
        if self._extended is not None and is_due(
            self._choices.all_ranks_every_iterations, iteration
        ):
            self._row.update(self._extended.measure(networks, self.reasons))

    def see(self, event: Mapping[str, Any]) -> None:
        """Hear of an event of a method."""
        if self._histories is not None:
            self._histories.see(event)

    def after_iteration(self, env_steps: int, row_is_due: bool) -> None:
        """Measure how the networks have changed; follows `before_iteration` where a row is due."""
        if self._histories is not None:
            self._histories.after_iteration()
        if not row_is_due:
            return
        self._row.update(self._learning.finish(self.reasons))
        self._judge_by_gradient()
        if self._histories is not None:
            self._histories.snapshot(env_steps, self._learning.watches)

    def at_end(self) -> None:
        """Measure what needs no update: weights, and the fixed sample set."""
        self.follow()
        if self._histories is not None:
            self._histories.write()
        self._row = {}
        for name, network in self._agent.networks().items():
            if self._probe is not None:
                self._measure("probe", name, self._probe_inputs(name), 1)
            self._row.update(measure.measure_weights(name, network))
        if self._extended is not None:
            self._row.update(self._extended.measure(self._agent.networks(), self.reasons))
        self._row.update(self._learning.distances())
        self._judge_by_gradient()

    def _judge_by_gradient(self) -> None:
        for name, groups in self._groups.items():
            watch = self._learning.watches.get(name)
            if watch is not None:
                scores = watch.grama_dormant
                measure.judge_by_gradient(self._row, name, groups, scores, self.reasons)

    def take_row(self) -> dict[str, float]:
        """What has been measured since the last call."""
        row, self._row = self._row, {}
        return row

    def _measure(
        self,
        sample_set: str,
        name: str,
        inputs: tuple[Tensor, Tensor | None],
        iteration: int,
    ) -> None:
        network, groups = self._agent.networks()[name], self._groups[name]
        features = measure.unit_features(network, *inputs, groups)
        row, reasons, choices = self._row, self.reasons, self._choices
        ids = context_measures.context_ids(network, inputs[1])
        row.update(measure.measure_activity(sample_set, name, groups, features, reasons, ids))
        row.update(feature_norms(sample_set, name, groups, features, reasons))
        if self._histories is not None and sample_set == "window":
            self._histories.see_window(name, features)
        if is_due(choices.all_ranks_every_iterations, iteration):
            ranked = groups
        elif is_due(choices.ranks_every_iterations, iteration):
            ranked = groups[-1:]
        else:
            return
        row.update(measure.measure_ranks(sample_set, name, ranked, features, reasons))
        row.update(
            context_measures.measure(
                sample_set, name, network, ranked, features, inputs[1], reasons
            )
        )

    def _probe_inputs(self, name: str) -> tuple[Tensor, Tensor | None]:
        assert self._probe is not None
        context = getattr(self._probe, "contexts", None)
        if context is None:
            context = np.zeros((len(self._probe.observations), 0), dtype=np.float32)
        return self._agent.network_inputs(
            name, self._probe.observations, self._probe.actions, context
        )

    # State -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """References, and what an iteration under way has gathered."""
        self.follow()
        return {
            "row": dict(self._row),
            "reasons": dict(self.reasons),
            "learning": self._learning.state_dict(),
            "trainability": {} if self._trainability is None else self._trainability.state_dict(),
            "histories": {} if self._histories is None else self._histories.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, for the networks that the agent has now."""
        self._groups = self._unit_groups()
        self._row = {key: float(value) for key, value in state["row"].items()}
        self.reasons = dict(state["reasons"])
        self._learning.load_state_dict(state["learning"])
        if self._trainability is not None:
            self._trainability.load_state_dict(state["trainability"])
        if self._histories is not None:
            self._histories.load_state_dict(state["histories"])
