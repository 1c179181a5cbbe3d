"""Contexts found where worlds change unannounced: change points, and worlds that are recognised.

The features of `residuals` are averaged over blocks. Cumulative sums say that something has
changed; after a wait, the features of some blocks are compared with the worlds met before, which
gives an old number or a new one. The context is that number, one-hot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts.change_points import Detector, threshold_for
from envs.contexts.inferred import check_model, make_residuals
from envs.contexts.layer import Step
from envs.contexts.prototypes import Worlds
from envs.contexts.residuals import ENERGY, NUM_FEATURES, SLIP, Residuals
from envs.contexts.running import nested, part_of
from envs.contexts.shown import Showing, Shown
from envs.schedules import at_least, one_of
from envs.snapshots import Snapshot, load_arrays, require_equal

is_oracle, uses_boundaries = False, False
SIGNALS = {"energy": (ENERGY,), "slip": (SLIP,), "features": tuple(range(NUM_FEATURES))}


@dataclass(frozen=True)
class Config(Showing):
    """How worlds are told apart.

    Attributes:
        kind: Name of this file.
        max_worlds: Length of the context; the best match is taken when all are given away.
        signals: What is watched for jumps: energy, slip, or features (all four, each with a
            threshold for a quarter of the false alarms); see `residuals.Residuals`.
        block_steps: Transitions of a block, at least; they are averaged.
        steps_between_false_alarms: Mean number of transitions, from which the threshold follows.
        baseline_blocks: Blocks before anything can be found, after the start and every alarm.
        horizon_blocks: Of the level that jumps are measured from, and of prototypes.
        settling_blocks: Blocks after an alarm that are compared with prototypes; until then the
            old context stays.
        pool: Blocks of all environments together, where they share one world. Otherwise every
            environment has blocks of its own.
        warmup_steps: Transitions before anything is watched.
        hidden: See `inferred.Config`; the same for all that follow.
        learning_rate: Of the model.
        reservoir: Transitions.
        fit_every: Transitions.
        minibatches: Per fit.
        minibatch_size: Transitions.
        velocities: Places of velocities.
    """

    kind: str = "detected"
    max_worlds: int = 16
    signals: str = "slip"
    block_steps: int = 100
    steps_between_false_alarms: int = 20_000_000
    baseline_blocks: int = 50
    horizon_blocks: int = 500
    settling_blocks: int = 20
    pool: bool = True
    warmup_steps: int = 10_240
    hidden: int = 64
    learning_rate: float = 1e-3
    reservoir: int = 20_000
    fit_every: int = 2_048
    minibatches: int = 16
    minibatch_size: int = 256
    velocities: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self)
        one_of("context.signals", self.signals, tuple(SIGNALS))
        for name in ("max_worlds", "block_steps", "horizon_blocks"):
            at_least(f"context.{name}", getattr(self, name), 1)
        at_least("context.baseline_blocks", self.baseline_blocks, 2)
        at_least("context.settling_blocks", self.settling_blocks, NUM_FEATURES + 1)
        at_least("context.steps_between_false_alarms", self.steps_between_false_alarms, 1)
        threshold_for(self.steps_between_false_alarms / self.block_steps)


class Detected(Shown):
    """One-hot number of the world that transitions look like; zeros before the first is known.

    Args:
        config: How.
        info: The environments.
        residuals: The features.
        seed: Of the control.

    Attributes:
        worlds: Prototypes, shared by all environments.
    """

    def __init__(self, config: Config, info: EnvInfo, residuals: Residuals, seed: int) -> None:
        super().__init__(config.max_worlds, True, config, info, seed)
        self._config, self._residuals, self._num_envs = config, residuals, info.num_envs
        self._watched = list(SIGNALS[config.signals])
        blocks = config.steps_between_false_alarms / config.block_steps
        threshold = threshold_for(blocks * len(self._watched))
        streams = 1 if config.pool else info.num_envs
        self._block_length = -(-config.block_steps // (info.num_envs if config.pool else 1))
        self.worlds = Worlds(config.max_worlds, NUM_FEATURES, config.horizon_blocks)
        self._detectors = [
            Detector(len(self._watched), threshold, config.baseline_blocks, config.horizon_blocks)
            for _ in range(streams)
        ]
        self._steps, self._frozen = 0, False
        self._arrays = {
            "sum": np.zeros((streams, NUM_FEATURES)),
            "length": np.zeros(1, dtype=np.int64),
            "gathered": np.zeros((streams, config.settling_blocks, NUM_FEATURES)),
            "num_gathered": np.zeros(streams, dtype=np.int64),
            "world": np.full(streams, -1, dtype=np.int64),
            "alarms": np.zeros(streams, dtype=np.int64),
        }

    @property
    def world(self) -> np.ndarray:
        """Number of the world of every stream, -1 before any is known, int64."""
        return self._arrays["world"].copy()

    @property
    def num_alarms(self) -> int:
        """Alarms so far, of all streams."""
        return int(self._arrays["alarms"].sum())

    def learn(self, step: Step) -> np.ndarray:
        """Take in a step; contexts of the true successors."""
        features = self._residuals.observe(step, learn=not self._frozen)
        self._steps += len(step.reward)
        if features is not None and self._steps > self._config.warmup_steps:
            state = self._arrays
            pooled = features.mean(axis=0, keepdims=True) if self._config.pool else features
            state["sum"] += pooled
            state["length"] += 1
            if state["length"][0] == self._block_length:
                blocks = state["sum"] / self._block_length
                state["sum"][:], state["length"][0] = 0.0, 0
                for stream, block in enumerate(blocks):
                    self._take_block(stream, block)
        return self._told()

    def _take_block(self, stream: int, block: np.ndarray) -> None:
        state, detector = self._arrays, self._detectors[stream]
        if detector.update(block[self._watched]):
            state["alarms"][stream] += 1
            state["num_gathered"][stream] = 0
            return
        place = int(state["num_gathered"][stream])
        if place < self._config.settling_blocks:
            state["gathered"][stream, place] = block
            state["num_gathered"][stream] += 1
            if place + 1 == self._config.settling_blocks:
                samples = state["gathered"][stream]
                state["world"][stream] = self.worlds.assign(samples, not self._frozen)
                self._merge()
        elif not detector.is_suspicious and not self._frozen:
            self.worlds.update(int(state["world"][stream]), block)

    def _merge(self) -> None:
        self.worlds.merge()
        known = self._arrays["world"]
        for stream in np.flatnonzero(known >= 0):
            known[stream] = self.worlds.resolve(int(known[stream]))

    def _told(self) -> np.ndarray:
        told = self.neutral(self._num_envs)
        world = np.broadcast_to(self._arrays["world"], self._num_envs)
        rows = np.flatnonzero(world >= 0)
        told[rows, world[rows]] = 1.0
        return told

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what was learnt, not what was felt last, and learn no more: to be measured.

        Raises:
            ValueError: It is of other settings.
        """
        self._residuals.restore(part_of(snapshot, "residuals"))
        self.worlds.restore(part_of(snapshot, "worlds"))
        self._steps, self._frozen = int(snapshot["steps"]), True
        self.forget()

    def forget(self) -> None:
        """Begin anew with what was felt, as in a world never seen; what was learnt stays."""
        for array in self._arrays.values():
            array[:] = 0
        self._arrays["world"][:] = -1
        for detector in self._detectors:
            detector.restart()
        self._known = self._told()

    def snapshot(self) -> Snapshot:
        """Everything that later contexts depend on."""
        state: Snapshot = {
            "label": self._label,
            "steps": self._steps,
            "frozen": int(self._frozen),
            **nested("stream", {key: value.copy() for key, value in self._arrays.items()}),
            **nested("control", self._control.snapshot()),
            **nested("residuals", self._residuals.snapshot()),
            **nested("worlds", self.worlds.snapshot()),
        }
        for index, detector in enumerate(self._detectors):
            state |= nested(f"detector{index}", detector.snapshot())
        return state

    def restore(self, snapshot: Snapshot, envs: Any) -> None:
        """Take over a state.

        Raises:
            ValueError: It is of other settings.
        """
        require_equal(snapshot, "label", self._label)
        self._arrays = load_arrays(part_of(snapshot, "stream"), self._arrays)
        self._control.restore(part_of(snapshot, "control"))
        self._residuals.restore(part_of(snapshot, "residuals"))
        self.worlds.restore(part_of(snapshot, "worlds"))
        for index, detector in enumerate(self._detectors):
            detector.restore(part_of(snapshot, f"detector{index}"))
        self._steps, self._frozen = int(snapshot["steps"]), bool(snapshot["frozen"])
        self._known = self._told()

    @property
    def _label(self) -> str:
        config = self._config
        return f"{config.kind}/{config.signals}/{config.pool}/{config.control}"


def provide(
    config: Config, envs: Any, info: EnvInfo, settings: Any, total_steps: int, seed: int
) -> Detected:
    """Build the provider of a run; see `given.provide`.

    Raises:
        ValueError: Nobody says where velocities are, or worlds may differ where
            environments are pooled.
    """
    return Detected(config, info, make_residuals(config, info, settings, seed), seed)
