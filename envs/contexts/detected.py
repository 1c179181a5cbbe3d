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
from envs.contexts.felt import Feeling, Felt, make_residuals
from envs.contexts.prototypes import Worlds
from envs.contexts.residuals import ENERGY, NUM_FEATURES, SLIP, Residuals
from envs.schedules import at_least, one_of

is_oracle, uses_boundaries = False, False
SIGNALS = {"energy": (ENERGY,), "slip": (SLIP,), "features": tuple(range(NUM_FEATURES))}


@dataclass(frozen=True)
class Config(Feeling):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("context.signals", self.signals, tuple(SIGNALS))
        for name in ("max_worlds", "block_steps", "horizon_blocks"):
            at_least(f"context.{name}", getattr(self, name), 1)
        at_least("context.baseline_blocks", self.baseline_blocks, 2)
        at_least("context.settling_blocks", self.settling_blocks, NUM_FEATURES + 1)
        at_least("context.steps_between_false_alarms", self.steps_between_false_alarms, 1)
        threshold_for(self.steps_between_false_alarms / self.block_steps)


class Detected(Felt):
    """One-hot number of the world that transitions look like; zeros before the first is known.

    Args:
        config: How.
        info: The environments.
        residuals: The features.
        seed: Of the control.

    Attributes:
        worlds: Prototypes, shared by all environments.
    """

    learnt = ("worlds",)
    waits_for = (*Felt.waits_for, "block_steps", "settling_blocks")

    def __init__(self, config: Config, info: EnvInfo, residuals: Residuals, seed: int) -> None:
        super().__init__(config.max_worlds, True, config, info, residuals, seed)
        self._config, streams = config, self._num_streams
        self._watched = list(SIGNALS[config.signals])
        blocks = config.steps_between_false_alarms / config.block_steps
        threshold = threshold_for(blocks * len(self._watched))
        self._block_length = -(-config.block_steps // (info.num_envs if config.pool else 1))
        self.worlds = Worlds(config.max_worlds, NUM_FEATURES, config.horizon_blocks)
        self._detectors = [
            Detector(len(self._watched), threshold, config.baseline_blocks, config.horizon_blocks)
            for _ in range(streams)
        ]
        self._parts["worlds"] = self.worlds
        for index, detector in enumerate(self._detectors):
            self._parts[f"detector{index}"] = detector
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

    def _take(self, features: np.ndarray) -> None:
        state = self._arrays
        state["sum"] += features
        state["length"] += 1
        if state["length"][0] == self._block_length:
            blocks = state["sum"] / self._block_length
            state["sum"][:], state["length"][0] = 0.0, 0
            for stream, block in enumerate(blocks):
                self._take_block(stream, block)

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

    def forget(self) -> None:
        """Begin anew with what was felt, as in a world never seen; what was learnt stays."""
        super().forget()
        for array in self._arrays.values():
            array[:] = 0
        self._arrays["world"][:] = -1
        for detector in self._detectors:
            detector.restart()
        self._known = self._told()

    def _silent_vector_steps(self) -> int:
        """Enough blocks to tell the first world by, if none of them raises an alarm."""
        blocks = self._block_length * self._config.settling_blocks
        return super()._silent_vector_steps() + blocks - 1

    @property
    def _form(self) -> str:
        config = self._config
        return f"{config.kind}/{config.signals}/{config.pool}"


def provide(
    config: Config, envs: Any, info: EnvInfo, settings: Any, total_steps: int, seed: int
) -> Detected:
    """Build the provider of a run; see `given.provide`.

    Raises:
        ValueError: Nobody says where velocities are, their places change, or worlds may differ
            where environments are pooled.
    """
    return Detected(config, info, make_residuals(config, info, settings, seed), seed)
