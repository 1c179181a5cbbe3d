"""Continual backprop: after every gradient step, renew a tiny share of mature, useless units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from networks.units import UnitGroup
from plasticity.context_statistics import ContextStatistics
from plasticity.method import Target
from plasticity.propagated_utility import PropagatedUtility
from plasticity.recycling import Recycler, check_shared_settings
from plasticity.replacement_count import (
    COUNT_MODES,
    ReplacementCounter,
    expected_replacements,
)
from plasticity.settings import check_choice, check_number
from plasticity.stacked_contribution import StackedContribution
from plasticity.unit_statistics import UnitStatistics
from plasticity.utilities import UTILITIES

OVER_CONTEXTS = ("pooled", "max")


@dataclass(frozen=True)
class Config:
    """Settings of continual backprop. The clock is the network's own gradient steps.

    Attributes:
        kind: Name of this file.
        replacement_rate: Share of the eligible units renewed per step, in [0, 1]; useful 1e-6 to
            1e-3. 0 switches the method off without a trace. `auto` keeps the published meaning
            in environment steps whatever number of gradient steps an agent makes for each of
            them, see `converted_rates`: 1e-4 for the published PPO.
        maturity_threshold: A unit is eligible when its age exceeds this many steps, >= 0. `auto`
            likewise: 10,000 for the published PPO.
        utility_decay: Decay of the running utility, in [0, 1); 0 uses the last minibatch alone.
        utility: One of `plasticity.utilities.UTILITIES`. `fisher` and `fisher_contribution` need
            the gradients at the units' outputs, which the hand-written learning pass of plain
            perceptrons does not keep: PPO then uses autograd and is slower. `propagated` hands
            utility on from the outputs through all layers (`plasticity.propagated_utility`).
        utility_over_contexts: `pooled` judges units by their mean over a minibatch. `max` keeps one
            utility per context that hidden layers are shown, and a unit is worth what it is worth
            in its best one, so that units of contexts that are away at the moment stay
            (`plasticity.context_statistics`): for contexts that return. Needs a finite number of
            contexts and `utility=contribution`; PPO uses autograd.
        rank_key: `corrected` divides the running utility by 1 - decay^age; `raw` does not, and so
            penalises units that have just matured.
        count_mode: `accumulate`, `accumulate_strict` or `bernoulli`.
        optimizer_state: `keep`, `zero_moments` or `per_unit_step`.
        mean_transfer: Move a unit's mean contribution into the biases of its readers.
        out_aggregate: `mean` or `sum` of outgoing weight magnitudes; ranks are the same.
        networks: `all`, or the networks to act on.
        target_edit: `copy` gives target networks the same edit, `drift` leaves them to averaging.

    Raises:
        ValueError: A value is out of range.

    Source: Dohare et al. 2024, Algorithm 1; defaults of the reinforcement-learning experiments.
    Deviation: counts are accumulated where the published runs drew them (`count_mode=bernoulli`),
    and the ranking key is the corrected utility, as in the public code.
    """

    kind: str = "continual_backprop"
    replacement_rate: float | Literal["auto"] = 1e-4
    maturity_threshold: int | Literal["auto"] = 10_000
    utility_decay: float = 0.99
    utility: str = "contribution"
    # Came after the first runs: left out of config.yaml at its default, so that those can go on.
    utility_over_contexts: str = field(default="pooled", metadata={"later": True})
    rank_key: str = "corrected"
    count_mode: str = "accumulate"
    optimizer_state: str = "keep"
    mean_transfer: bool = False
    out_aggregate: str = "mean"
    networks: str | list[str] = "all"
    target_edit: str = "copy"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        if self.replacement_rate != "auto":
            check_number(f"{where}.replacement_rate", self.replacement_rate, 0.0, 1.0)
        if self.maturity_threshold != "auto":
            check_number(f"{where}.maturity_threshold", self.maturity_threshold, 0)
        check_number(f"{where}.utility_decay", self.utility_decay, 0.0, 1.0, open_high=True)
        check_choice(f"{where}.utility", self.utility, tuple(UTILITIES))
        check_choice(f"{where}.utility_over_contexts", self.utility_over_contexts, OVER_CONTEXTS)
        if self.utility_over_contexts == "max" and self.utility != "contribution":
            raise ValueError(
                f"{where}.utility_over_contexts=max keeps a contribution utility per context, but "
                f"{where}.utility is {self.utility!r}; choose contribution, or "
                "utility_over_contexts=pooled"
            )
        check_choice(f"{where}.rank_key", self.rank_key, ("corrected", "raw"))
        check_choice(f"{where}.count_mode", self.count_mode, COUNT_MODES)
        check_choice(f"{where}.out_aggregate", self.out_aggregate, ("mean", "sum"))
        object.__setattr__(self, "networks", check_shared_settings(self))


def converted_rates(updates_per_env_step: float) -> tuple[int, float]:
    """Translate the published PPO settings to another number of gradient steps per env step.

    Args:
        updates_per_env_step: Gradient steps per environment step, > 0; the published PPO makes
            0.078125.

    Returns:
        `maturity_threshold` and `replacement_rate` with the same meaning in environment steps:
        128,000 steps to maturity, and a product of 1.

    Raises:
        ValueError: The ratio is not positive, or so small that the rate would exceed 1.
    """
    if not updates_per_env_step >= 7.8125e-6:
        raise ValueError(
            f"updates_per_env_step is {updates_per_env_step}; it must be at least 7.8125e-6 for "
            "the replacement rate to stay within 1"
        )
    return round(128_000 * updates_per_env_step), 7.8125e-6 / updates_per_env_step


def resolved(config: Config, target: Target) -> tuple[float, int]:
    """Rate and maturity in gradient steps of one network.

    Raises:
        ValueError: One of them is `auto`, and nobody says how many gradient steps there are.
    """
    rate, threshold = config.replacement_rate, config.maturity_threshold
    if rate != "auto" and threshold != "auto":
        return rate, threshold
    ratio = target.gradient_steps_per_env_step
    if ratio is None:
        raise ValueError(
            f"method.{config.kind}.replacement_rate={rate} and maturity_threshold={threshold}, but "
            f"nobody says how many gradient steps {target.name!r} makes per environment step; "
            "give numbers"
        )
    maturity, share = converted_rates(ratio)
    return share if rate == "auto" else rate, maturity if threshold == "auto" else threshold


class ContinualBackprop(Recycler):
    """Continual backprop on one network.

    `after_step` does two things. `update_utilities` has a fixed shape and never waits for the
    device (with `utility=contribution`, the default, nothing in it depends on the number of the
    call), so that a captured gradient step holds it. `replace_due` counts on the host and is
    eager: beside a replay of that step it is called by itself.

    Attributes:
        rate: `replacement_rate` in gradient steps of this network.
        threshold: `maturity_threshold` likewise.
        statistics: Utilities and births by unit-group name.
        counters: Numbers of eligible and due units by unit-group name.

    Raises:
        ValueError: The method could never act in a run of the planned length, or
            `mean_transfer` meets a reader without a bias, or with one that is not trained.
    """

    def __init__(self, config: Config, target: Target) -> None:
        self.rate, self.threshold = resolved(config, target)
        super().__init__(config, target, enabled=self.rate > 0.0)
        self.config = config
        self.statistics: dict[str, UnitStatistics] = {}
        self.counters: dict[str, ReplacementCounter] = {}
        if not self.active:
            return
        self._check_feasible()
        self._uses_gradients = UTILITIES[config.utility].uses_fisher
        self._gradients: Mapping[str, Tensor] = {}
        if self._uses_gradients:
            self.needs |= {"gradients"}
        self._by_context = config.utility_over_contexts == "max"
        self._contexts: Tensor | None = None
        if self._by_context:
            self.needs |= {"contexts"}
        for group in target.unit_groups:
            self.statistics[group.name] = self._statistics_of(group)
            self.counters[group.name] = ReplacementCounter(
                group.num_units,
                self.rate,
                self.threshold,
                config.count_mode,
            )
        whole = UTILITIES[config.utility].uses_network
        self._propagated = PropagatedUtility(target.unit_groups) if whole else None
        every = list(self.statistics.values())
        stacks = not self._by_context and StackedContribution.supports(every)
        self._stacked = StackedContribution(every) if stacks else None

    def _statistics_of(self, group: UnitGroup) -> UnitStatistics:
        config = self.config
        shared = (config.rank_key, config.out_aggregate, config.mean_transfer)
        if not self._by_context:
            return UnitStatistics(group, config.utility, config.utility_decay, *shared)
        return ContextStatistics(group, self.target.num_contexts, config.utility_decay, *shared)

    def _check_feasible(self) -> None:
        threshold, planned = self.threshold, self.target.planned_gradient_steps
        if planned is not None and planned <= threshold:
            raise ValueError(
                f"continual_backprop could never fire on {self.target.name!r}: the run plans "
                f"{planned:,} gradient steps and a unit is eligible after {threshold:,}; train "
                f"longer, set method.{self.kind}.maturity_threshold below {planned:,}, or switch "
                "the method off with replacement_rate=0"
            )
        if self.config.utility_over_contexts == "max" and not self.target.num_contexts:
            raise ValueError(
                f"method.{self.kind}.utility_over_contexts=max needs one of a finite number of "
                f"contexts, which {self.target.name!r} is not shown; choose an environment with "
                "tasks, or context=regime on walking robots, or utility_over_contexts=pooled"
            )
        if not self.config.mean_transfer:
            return
        groups = self.target.unit_groups
        biases = [reader.layer.bias for group in groups for reader in group.readers]
        if any(bias is None for bias in biases):
            raise ValueError(
                f"method.{self.kind}.mean_transfer needs biases in all layers that read hidden "
                f"units; a layer of {self.target.name!r} has none, so set mean_transfer=false"
            )
        if not all(bias is not None and bias.requires_grad for bias in biases):
            raise ValueError(
                f"method.{self.kind}.mean_transfer moves means into the biases of the layers that "
                f"read hidden units, but some of {self.target.name!r} are not trained: nap holds "
                "the biases in front of LayerNorm at 0; set mean_transfer=false, or leave nap out"
            )

    def see_output_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Keep the gradients at the units' outputs until `update_utilities`."""
        self._gradients = gradients

    def see_contexts(self, contexts: Tensor) -> None:
        """Keep which context every sample was shown until `update_utilities`."""
        self._contexts = contexts

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Update utilities and renew the units that are due."""
        if self.active:
            self.update_utilities(activations)
            self._replace_due(optimizer)

    def update_utilities(self, activations: Mapping[str, Tensor]) -> None:
        """Fold the activations of this step and the stepped weights into the statistics."""
        # No no_grad block here, which costs as much as a small operation: nothing has a graph.
        if self._stacked is None or not self._stacked.update(activations):
            self._update_one_by_one(activations)

    @torch.no_grad()
    def replace_due(self, optimizer: torch.optim.Optimizer) -> None:
        """Count this call and renew what is due: all groups select before any is edited."""
        self._replace_due(optimizer)

    @property
    def has_fixed_shape(self) -> bool:
        """Whether a step in which no unit is due may be captured, see `is_due_next`."""
        return self._stacked is not None and self.config.count_mode != "bernoulli"

    def is_due_next(self) -> bool:
        """Whether the next step will renew a unit; known without looking at the device."""
        return any(counter.is_due_next() for counter in self.counters.values())

    @torch.no_grad()
    def _update_one_by_one(self, activations: Mapping[str, Tensor]) -> None:
        groups = {name: statistics.group for name, statistics in self.statistics.items()}
        values = {name: self.activation_of(group, activations) for name, group in groups.items()}
        if self._by_context:
            self._update_by_context(values)
            return
        given = {} if self._propagated is None else self._propagated(values)
        for name, statistics in self.statistics.items():
            gradient = self._gradient_of(groups[name]) if self._uses_gradients else None
            statistics.update(values[name], self.calls + 1, gradient, given.get(name))
        self._gradients = {}

    def _update_by_context(self, values: Mapping[str, Tensor]) -> None:
        if self._contexts is None:
            raise ValueError(
                f"{self.kind} with utility_over_contexts=max was not told the contexts of the "
                "minibatch; pass recording.contexts of a Recording with a torso to see_contexts"
            )
        for name, statistics in self.statistics.items():
            assert isinstance(statistics, ContextStatistics)
            statistics.update_by_context(values[name], self._contexts)
        self._contexts = None

    def _gradient_of(self, group: UnitGroup) -> Tensor:
        gradient = self._gradients.get(group.name)
        if gradient is None:
            raise ValueError(
                f"{self.kind} with utility={self.config.utility} got no gradient at the outputs of "
                f"unit group {group.name!r}; pass recording.gradients of a Recording with "
                "gradients=True to see_output_gradients after the backward pass"
            )
        return group.unit_values(gradient)

    def _replace_due(self, optimizer: torch.optim.Optimizer) -> None:
        self.begin_call(optimizer)
        generator, threshold = self.target.generator, self.threshold
        selections = []
        for name, counter in self.counters.items():
            due = counter.advance(generator)
            if due:
                statistics = self.statistics[name]
                selections.append(statistics.select(due, self.calls, threshold, generator))
        if selections:
            self.recycle(selections, optimizer)
            for selection in selections:
                self.statistics[selection.group.name].clear(selection.units, self.calls)

    def log_values(self) -> dict[str, float]:
        """Counters and quantiles of every group, named `<group>/<value>`."""
        values: dict[str, float] = {}
        for name, counter in self.counters.items():
            values[f"{name}/eligible"] = counter.eligible
            values[f"{name}/accumulator"] = counter.accumulator
            values[f"{name}/replaced_total"] = counter.replaced_total
            for key, value in self.statistics[name].log_values(self.calls).items():
                values[f"{name}/{key}"] = value
        return values

    def announcement(self) -> str:
        """Say when the first unit is eligible and how many will be renewed."""
        if not self.active:
            return f"{self.kind} is off on {self.target.name}"
        planned = self.target.planned_gradient_steps
        text = (
            f"{self.kind} on {self.target.name}: units are eligible from gradient step "
            f"{self.threshold + 1:,}"
        )
        if planned is None:
            return f"{text}; the planned number of steps is unknown {self.edits_described}"
        expected = sum(
            expected_replacements(group.num_units, self.rate, self.threshold, planned)
            for group in self.target.unit_groups
        )
        return (
            f"{text} of {planned:,}; expect {expected:,} replacements in "
            f"{len(self.statistics)} unit groups {self.edits_described}"
        )

    def restart_units(self, name: str, units: Tensor) -> None:
        """Restart ages and utilities of some units, and count anew who is eligible."""
        self.statistics[name].clear(units, self.calls)
        self.counters[name].recount(self.statistics[name].born.tolist())

    def group_states(self) -> dict[str, dict[str, Any]]:
        """Return statistics and counters of every group, cloned."""
        return {
            name: {**statistics.state_dict(), "counter": self.counters[name].state_dict()}
            for name, statistics in self.statistics.items()
        }

    def load_group_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore statistics and counters of every group."""
        for name, statistics in self.statistics.items():
            statistics.load_state_dict(states[name])
            counter, saved = self.counters[name], states[name]["counter"]
            counter.load_state_dict(saved)
            if saved["maturity_threshold"] != counter.maturity_threshold:
                counter.recount(statistics.born.tolist())


def build(config: Config, target: Target) -> ContinualBackprop:
    """Attach continual backprop to one network."""
    return ContinualBackprop(config, target)
