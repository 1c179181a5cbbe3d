"""What contexts that nobody announces share: features of surprise, and the state of who reads them.

A model of transitions is learnt over the whole life (`residuals`); what a kind of context makes of
its features is in a file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from envs.base import EnvInfo
from envs.contexts.controls import own_stream
from envs.contexts.layer import Step
from envs.contexts.residuals import Residuals, velocity_places
from envs.contexts.running import nested, part_of
from envs.contexts.shown import Showing, Shown
from envs.contexts.transition_model import Settings
from envs.schedules import at_least
from envs.snapshots import Snapshot, Stored, require_equal


@dataclass(frozen=True)
class Feeling(Settings, Showing):
    """How the world is felt; part of the settings of every kind that reads features.

    The settings of the model are those of `transition_model.Settings`.

    Attributes:
        pool: Average over all environments together, where they share one world. Otherwise every
            environment is a stream of its own.
        warmup_steps: Transitions before features are read; the model is not worth it earlier. A
            run that ends before anything can be told is refused.
        velocities: Where the observation holds the forward, sideways and turning velocity; null
            knows it for the walking robots.
    """

    pool: bool = False
    warmup_steps: int = 10_240
    velocities: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "reservoir", "fit_every", "minibatches", "minibatch_size"):
            at_least(f"context.{name}", getattr(self, name), 1)
        at_least("context.warmup_steps", self.warmup_steps, 0)
        if not 0.0 < self.learning_rate < 1.0:
            raise ValueError(
                f"context.learning_rate is {self.learning_rate}; give a number between 0 and 1"
            )


def make_residuals(config: Any, info: EnvInfo, settings: Any, seed: int) -> Residuals:
    """The features of a run, with a stream of their own.

    Args:
        config: A `Feeling` with the `kind` of its file.
        info: The environments.
        settings: Their configuration.
        seed: Of the stream.

    Raises:
        ValueError: Nobody says where velocities are, their places change, or worlds may differ
            where environments are pooled.
    """
    if "observation_permutation" in getattr(settings, "modifiers", ()):
        raise ValueError(
            f"context={config.kind} reads velocities at fixed places of the observation, and "
            "modifier=observation_permutation moves them; choose context=window, which reads all "
            "of it, or a context that is given, such as context=regime"
        )
    fixed = getattr(settings, "schedule", None) == "fixed"
    rule = "exact" if fixed else getattr(settings, "switch_rule", "exact")
    if config.pool and getattr(settings, "kind", "") == "sequences":
        raise ValueError(
            "context.pool=true averages over environments that are in the same world; those of "
            "training are, but evaluations of a sequence step all its tasks side by side; set "
            "context.pool=false"
        )
    if config.pool and (info.num_tasks > 1 or rule != "exact"):
        raise ValueError(
            "context.pool=true averages over environments that may be in different worlds "
            f"(switch_rule={rule}, {info.num_tasks} tasks); set context.pool=false"
        )
    velocities = velocity_places(config.velocities, info, settings)
    return Residuals(info, velocities, config, own_stream(seed, config.kind))


class Part(Protocol):
    """A piece of a provider's state."""

    def snapshot(self) -> Snapshot: ...
    def restore(self, snapshot: Snapshot) -> None: ...


class Felt(Stored, Shown):
    """The part of a provider that does not depend on what it makes of the features.

    Args:
        dim: Length of a context.
        discrete: Whether it is one of `dim` one-hot vectors (or zeros).
        config: How the world is felt.
        info: The environments.
        residuals: The features.
        seed: Of the control.
    """

    learnt: tuple[str, ...] = ()  # parts beside the model that are worth measuring elsewhere
    waits_for: tuple[str, ...] = ("warmup_steps", "fit_every")

    def __init__(
        self,
        dim: int,
        discrete: bool,
        config: Feeling,
        info: EnvInfo,
        residuals: Residuals,
        seed: int,
    ) -> None:
        super().__init__(dim, discrete, config, info, seed)
        self._residuals, self._pool, self._warmup = residuals, config.pool, config.warmup_steps
        self._num_streams = 1 if config.pool else info.num_envs
        self._steps, self._frozen = 0, False
        self._arrays: dict[str, np.ndarray] = {}
        self._parts: dict[str, Part] = {"control": self._control, "residuals": residuals}

    def learn(self, step: Step) -> np.ndarray:
        """Take in a step; contexts of the true successors."""
        features = self._residuals.observe(step, learn=not self._frozen)
        self._steps += len(step.reward)
        if features is not None and self._steps > self._warmup:
            self._take(features.mean(axis=0, keepdims=True) if self._pool else features)
        return self._told()

    def _take(self, features: np.ndarray) -> None:
        """Take in the features of every stream, (streams, NUM_FEATURES)."""
        raise NotImplementedError

    def _told(self) -> np.ndarray:
        """What is known by now, (N, dim) float32, a fresh array."""
        raise NotImplementedError

    def _silent_vector_steps(self) -> int:
        """Features need a fitted model and, whatever that is worth, the end of the warm-up."""
        left = self._warmup - self._steps
        warming_up = left // self._num_envs if left >= 0 else 0
        return max(self._residuals.silent_vector_steps(), warming_up) + 1

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what was learnt, not what was felt last, and learn no more: to be measured.

        Raises:
            ValueError: It is of other settings.
        """
        self.take_over(snapshot)
        self._frozen = True
        self._control.adopt(part_of(snapshot, "control"))

    def take_over(self, snapshot: Snapshot) -> None:
        """Take over what was learnt, not what was felt last, and go on as that one would.

        Raises:
            ValueError: It is of other settings.
        """
        self._require_form(snapshot)
        self._residuals.take_over(part_of(snapshot, "residuals"))
        for name in self.learnt:
            self._parts[name].restore(part_of(snapshot, name))
        self._steps, self._frozen = int(snapshot["steps"]), bool(snapshot["frozen"])
        self.forget()

    def snapshot(self) -> Snapshot:
        """Everything that later contexts depend on."""
        state: Snapshot = {
            "label": self._label,
            "steps": self._steps,
            "frozen": int(self._frozen),
            **nested("stream", super().snapshot()),
        }
        for name, part in self._parts.items():
            state |= nested(name, part.snapshot())
        return state

    def restore(self, snapshot: Snapshot, envs: Any) -> None:
        """Take over a state.

        Raises:
            ValueError: It is of other settings.
        """
        require_equal(snapshot, "label", self._label)
        super().restore(part_of(snapshot, "stream"))
        for name, part in self._parts.items():
            part.restore(part_of(snapshot, name))
        self._steps, self._frozen = int(snapshot["steps"]), bool(snapshot["frozen"])
        self._known = self._told()
