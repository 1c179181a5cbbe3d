"""Contexts that are given: the truth about the world, or a control made of it.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, for one-hot tasks; the friction
features and all controls are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts import controls, sources
from envs.contexts.controls import Control
from envs.contexts.layer import Step
from envs.contexts.shown import Showing, make_control
from envs.contexts.sources import Source
from envs.schedules import at_least, count_cycle, make_schedule, one_of, visited_range
from envs.snapshots import Snapshot, require_equal

SOURCES = ("auto", "task", "friction", "regime", "none")


@dataclass(frozen=True)
class Config(Showing):
    """What is told about the world.

    Attributes:
        kind: Name of this file.
        source: task (what the environment announces by itself; nothing where it announces
            nothing), friction, regime (one-hot number of the world), none, or auto: the task where
            one is announced, the friction otherwise.
        features: Of the friction: rbf (eight bumps and a 1) or log (its standardised logarithm
            and a 1).
        num_regimes: Columns of the regime, at least as many as the run meets worlds; null counts
            them. With schedule=cyclic, null or the length of the cycle lets worlds return.
    """

    kind: str = "given"
    source: str = "task"
    features: str = "rbf"
    num_regimes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("context.source", self.source, SOURCES)
        one_of("context.features", self.features, sources.FEATURES)
        if self.num_regimes is not None:
            at_least("context.num_regimes", self.num_regimes, 1)
        if self.control != "none" and self.source == "none":
            raise ValueError(
                f"context.control={self.control} has nothing to act on with context.source=none; "
                "choose source=auto, task, friction or regime"
            )


class Given:
    """Provider of the truth, or of what a control makes of it.

    Args:
        source: What is true.
        control: What is made of it.
        truth_to_input: Show the truth first, for the input, and the control behind it, for gates.
        label: Identity of the settings, part of every snapshot.
    """

    def __init__(
        self, source: Source, control: Control, truth_to_input: bool, label: str, num_envs: int
    ) -> None:
        self._source, self._control, self._label = source, control, label
        self.dim, self.discrete = source.dim, source.discrete
        self.gate_dim = source.dim if truth_to_input else 0
        self.gate_discrete = source.discrete
        self._truth = np.zeros((num_envs, source.dim), dtype=np.float32)

    def observe(self, step: Step) -> None:
        """Go on to the successors."""
        self._truth = self._source.successor(step.envs, step.info, step.ended)
        self._control.advance(self._truth)

    def start(self, rows: np.ndarray, envs: Any) -> None:
        """Begin episodes in the worlds that hold now."""
        truth = self._truth.copy()
        truth[rows] = self._source.current(envs)[rows]
        self._truth = truth
        self._control.start(rows, truth)

    def forget(self) -> None:
        """Begin anew in a world that was chosen from outside."""
        self._control.forget()

    def context(self, envs: Any) -> np.ndarray:
        """The truth, the control, or both side by side, (N, dim + gate_dim) float32."""
        shown = self._control.show(self._truth)
        parts = (self._truth, shown) if self.gate_dim else (shown,)
        return np.concatenate(parts, axis=1)

    def probe_contexts(self, probe: Any) -> np.ndarray:
        """Contexts of a fixed sample set; see `Provider`.

        Shuffled contexts are those of the set in another order. A delay does not exist there.
        """
        truth = self._source.probed(probe)
        shown = truth
        if isinstance(self._control, controls.ShuffledIds | controls.PlayedBack):
            shown = np.random.Generator(np.random.PCG64(0)).permutation(truth)
        elif isinstance(self._control, controls.Zero | controls.Constant):
            shown = self._control.show(truth)
        return np.concatenate((truth, shown), axis=1) if self.gate_dim else shown

    def snapshot(self) -> Snapshot:
        """State of the control; the truth follows from the environments."""
        return {"label": self._label, **self._control.snapshot()}

    def restore(self, snapshot: Snapshot, envs: Any) -> None:
        """Take over a state.

        Raises:
            ValueError: It is of other settings.
        """
        require_equal(snapshot, "label", self._label)
        self._truth = self._source.current(envs)
        self._control.restore(snapshot)

    def adopt(self, snapshot: Snapshot) -> None:
        """Show what this state's control would; the truth is that of other environments.

        Raises:
            ValueError: It is of other settings.
        """
        require_equal(snapshot, "label", self._label)
        self._control.adopt(snapshot)


def provide(
    config: Config, envs: Any, info: EnvInfo, settings: Any, total_steps: int, seed: int
) -> Given | None:
    """Build the provider of a run.

    Args:
        config: What is told.
        envs: The environments.
        info: Their description.
        settings: Their configuration.
        total_steps: Length of the run.
        seed: Seed of the controls' own stream.

    Returns:
        The provider, or None where the environments announce the right context by themselves.

    Raises:
        ValueError: These environments have no such truth, or no truth that a control could act on.
    """
    name = resolved_source(config, info, settings)
    if name == "none" and config.control != "none":
        raise ValueError(
            f"context.control={config.control} needs a context to act on, but {info.name} "
            "announces none; choose context.source=friction or regime where there are frictions, "
            "or an environment with several tasks"
        )
    if config.control == "none" and (name == "task" or (info.context_dim == 0 and name == "none")):
        return None
    source = _source(name, config, info, settings, total_steps)
    control = make_control(config.control, config.delay, source.dim, source.discrete, info, seed)
    label = f"{name}/{config.features if name == 'friction' else ''}/{config.control}"
    return Given(source, control, config.input == "source", label, envs.num_envs)


def resolved_source(config: Config, info: EnvInfo, settings: Any) -> str:
    """The source in force: task, friction, regime or none.

    Raises:
        ValueError: These environments have no such truth.
    """
    has_friction = hasattr(settings, "friction_low")
    announced = "task" if info.context_dim else "none"
    if config.source == "auto":
        return "friction" if announced == "none" and has_friction else announced
    if config.source in ("friction", "regime") and not has_friction:
        raise ValueError(
            f"context.source={config.source} is of walking robots whose friction changes, but "
            f"{info.name} has none; choose context=task or context=none"
        )
    return announced if config.source == "task" else config.source


def _source(name: str, config: Config, info: EnvInfo, settings: Any, total_steps: int) -> Source:
    if name == "friction":
        quantity, law = next(iter(settings.laws.items()))
        low, high = visited_range(settings, quantity)
        return sources.Friction(low, high, config.features, law.scale, quantity)
    if name == "regime":
        return _regime(config.num_regimes, settings, total_steps)
    if name == "none":
        return sources.Nothing()
    return sources.Announced(info.context_dim, info.context_discrete)


def _regime(num_regimes: int | None, settings: Any, total_steps: int) -> sources.Regime:
    """One column for every world that a run of this length meets, or that a cycle has.

    Raises:
        ValueError: Fewer columns are asked for.
    """
    cycle = count_cycle(settings) if settings.schedule == "cyclic" else None
    if cycle is not None and num_regimes in (None, cycle):
        return sources.Regime(cycle, cyclic=True)
    met = make_schedule(settings).regime_at(max(1, total_steps) - 1) + 1
    if num_regimes is not None and num_regimes < met:
        returning = "" if cycle is None else f", or to {cycle}, which then return"
        raise ValueError(
            f"context.num_regimes is {num_regimes}, but this run meets {met} worlds in "
            f"{total_steps:,} steps; set it to null or to {met} at least{returning}"
        )
    if num_regimes is None and settings.schedule in ("gradual", "sinusoidal"):
        # Networks of earlier runs have a column per interval, also where fewer worlds are met.
        met = max(met, math.ceil(total_steps / settings.switch_interval))
    return sources.Regime(num_regimes or met, cyclic=False)
