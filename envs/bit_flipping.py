"""Slowly changing (bit-flipping) regression: a tiny network tracks a target that moves.

Twenty input bits, of which five are drawn for every example and fifteen keep still within a task.
The target is a fixed network of threshold units, too large for the learner to represent, so that
the best approximation changes with the fifteen slow bits. A learner that keeps its plasticity
tracks it; backprop on a small non-linear network gets worse from task to task.

Source: Dohare, Sutton and Mahmood 2021, arXiv 2108.06325; Dohare et al., Nature 632:768-774
(2024), slowly-changing regression, and its public code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.base import EnvInfo
from envs.problems import Block, ProblemEnv
from envs.schedules import at_least, one_of
from envs.snapshots import Snapshot, load_arrays, load_generators, require, save_generators

THRESHOLD_SHARE = 0.7
CHANGES = ("all_bits", "one_bit")
RULES = ("code", "paper")

GIVES_ANSWERS = True


@dataclass(frozen=True)
class Config:
    """Settings of the stream.

    Attributes:
        kind: Name of this file.
        num_envs: Examples per step of the loop; online learners still take them one by one.
        num_slow_bits: Input bits that keep still within a task.
        num_fast_bits: Input bits drawn for every example.
        target_units: Threshold units of the target network.
        switch_interval: Examples per task, a multiple of num_envs.
        change: all_bits draws all slow bits anew at a switch, one_bit inverts one of them.
        threshold_rule: code (of the public program) or paper; they differ by half a bias.
        seed: Seed of the target network and of all inputs.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "bit_flipping"
    num_envs: int = 100
    num_slow_bits: int = 15
    num_fast_bits: int = 5
    target_units: int = 100
    switch_interval: int = 10_000
    change: str = "all_bits"
    threshold_rule: str = "code"
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("num_envs", "num_slow_bits", "num_fast_bits", "target_units", "switch_interval")
        for name in names:
            at_least(f"env.{name}", getattr(self, name), 1)
        at_least("env.seed", self.seed, 0)
        one_of("env.change", self.change, CHANGES)
        one_of("env.threshold_rule", self.threshold_rule, RULES)
        if self.switch_interval % self.num_envs:
            raise ValueError(
                f"env.switch_interval={self.switch_interval} must be a multiple of "
                f"env.num_envs={self.num_envs}: tasks change between steps of the loop."
            )

    @property
    def num_bits(self) -> int:
        """Input bits."""
        return self.num_slow_bits + self.num_fast_bits


class TargetNetwork:
    """Fixed network of linear threshold units whose weights and biases are all +1 or -1.

    y = v . [W x + b > tau] + c with tau_i = 0.7 (m + 1) - S_i for m inputs; S_i is the number of
    -1 among the weights of unit i (paper), or that number plus b_i / 2 (public code).

    Args:
        config: Settings of the stream.
        generator: Source of the weights.
    """

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        units, bits = config.target_units, config.num_bits
        self.weights = _signs(generator, (units, bits))
        self.biases = _signs(generator, (units,))
        self.output_weights = _signs(generator, (units,))
        self.output_bias = float(_signs(generator, (1,))[0])
        negative = (bits - self.weights.sum(1)) / 2.0
        if config.threshold_rule == "code":
            negative = negative + self.biases / 2.0
        self.thresholds = THRESHOLD_SHARE * (bits + 1) - negative

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Map bits (N, m) to whole numbers (N,)."""
        active = inputs @ self.weights.T + self.biases > self.thresholds
        return active @ self.output_weights + self.output_bias


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 2.0 * generator.integers(0, 2, size=shape) - 1.0


class BitFlipping:
    """The stream."""

    name = "bit_flipping"
    num_outputs = 1
    context_dim = 0
    context_discrete = True
    is_classification = False
    num_rows = None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.num_inputs = config.num_bits
        weights, bits = np.random.SeedSequence(config.seed).spawn(2)
        self.target = TargetNetwork(config, np.random.Generator(np.random.PCG64(weights)))
        self._generator = np.random.Generator(np.random.PCG64(bits))
        self._slow = self._bits(config.num_slow_bits)
        self._drawn = 0

    def _bits(self, *shape: int) -> np.ndarray:
        return self._generator.integers(0, 2, size=shape).astype(np.float64)

    def next_block(self) -> Block:
        """The next examples, all of one task."""
        config, num_rows = self.config, self.config.num_envs
        task, position = divmod(self._drawn, config.switch_interval)
        if position == 0 and task > 0:
            self._change()
        fast = self._bits(num_rows, config.num_fast_bits)
        inputs = np.concatenate((np.tile(self._slow, (num_rows, 1)), fast), axis=1)
        self._drawn += num_rows
        return Block(
            inputs.astype(np.float32),
            self.target(inputs).astype(np.float32)[:, None],
            np.zeros((num_rows, 0), dtype=np.float32),
            task,
        )

    def _change(self) -> None:
        if self.config.change == "all_bits":
            self._slow = self._bits(self.config.num_slow_bits)
            return
        chosen = self._generator.integers(self.config.num_slow_bits)
        self._slow[chosen] = 1.0 - self._slow[chosen]

    def snapshot(self) -> Snapshot:
        """Slow bits, position and generator."""
        state: Snapshot = {"slow": self._slow.copy(), "drawn": self._drawn}
        save_generators([self._generator], state)
        return state

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        self._slow = load_arrays(snapshot, {"slow": self._slow})["slow"]
        self._drawn = int(require(snapshot, "drawn"))
        self._generator = load_generators(snapshot, 1)[0]


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[ProblemEnv, EnvInfo]:
    """Build the stream; it needs no threads."""
    envs = ProblemEnv(BitFlipping(config), config.num_envs, total_steps)
    return envs, envs.info
