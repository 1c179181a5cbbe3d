"""A fixed set of observation-action pairs on which diagnostics are compared between runs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from envs import modifiers
from envs.schedules import fixed_settings
from envs.vector import LocomotionVectorEnv

if TYPE_CHECKING:
    from envs.locomotion import Config

NUM_WORLDS = 10
NUM_ENVS = 10
STEPS_BETWEEN_SAMPLES = 5


@dataclass(frozen=True)
class Probe:
    """Pairs as an agent would meet them.

    Attributes:
        observations: Shape (num_samples, obs), float32.
        actions: The actions taken there, shape (num_samples, act), float32.
        sha256: Hash of both arrays; equal for all methods and seeds.
    """

    observations: np.ndarray
    actions: np.ndarray
    sha256: str


def probe_frictions() -> list[float]:
    """Ten frictions at the log-quantiles 5 %, 15 %, ..., 95 % of [0.02, 2.0]."""
    return probe_values("friction")


def probe_values(modifier: str, num_actuators: int | None = None) -> list[float]:
    """Ten values of a quantity, equally likely under its own law, whatever the run draws.

    Args:
        modifier: Name of the quantity.
        num_actuators: Of the robot, where the quantity numbers its actuators.
    """
    law = modifiers.get(modifier).LAW.narrowed(None, None, num_actuators)
    return law.spread(NUM_WORLDS)


def probe_set(config: Config, num_samples: int = 1000, seed: int = 0) -> Probe:
    """Collect pairs with uniform random actions, equally many from each of ten worlds.

    Depends only on the robot, its semantics, its padding, which (first) quantity changes,
    ``num_samples`` and ``seed``; never on
    the worlds, the agent or the number of environments of a run.

    Args:
        config: The run's environments.
        num_samples: Pairs in all, a multiple of 100.
        seed: Seed of actions and start states.

    Raises:
        ValueError: If ``num_samples`` is not a positive multiple of 100.
    """
    per_round = NUM_WORLDS * NUM_ENVS
    if num_samples < per_round or num_samples % per_round:
        raise ValueError(
            f"num_samples={num_samples} must be a positive multiple of {per_round} "
            f"({NUM_WORLDS} worlds x {NUM_ENVS} environments); use 1000."
        )
    own = replace(
        config,
        **{
            **fixed_settings(config),
            "modifier": config.modifiers[0],
            "fixed_friction": 1.0,
            "fixed_value": None,
            "num_envs": NUM_ENVS,
            "world_seed": 0,
            "table_seed": seed,
            "max_episode_steps": 1000,
            "clip_action_in_env": False,
            "on_simulator_reset": "fail",
            "switch_interval": 2_000_000,
        },
    )
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    env = LocomotionVectorEnv(own, total_steps=num_samples * STEPS_BETWEEN_SAMPLES)
    pairs = [
        pair
        for value in probe_values(own.modifiers[0], env.info.action_dim)
        for pair in _pairs(env, value, num_samples // per_round, generator)
    ]
    env.close()
    observations, actions = (
        np.concatenate(rows).astype(np.float32) for rows in zip(*pairs, strict=True)
    )
    digest = hashlib.sha256()
    for array in (observations, actions):
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return Probe(observations, actions, digest.hexdigest())


def _pairs(
    env: LocomotionVectorEnv, value: float, rounds: int, generator: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every fifth observation and action of fresh episodes in one world, starts excluded."""
    env.set_value(value)
    low, high = (bound.astype(np.float64) for bound in (env.info.action_low, env.info.action_high))
    observation, _ = env.reset()
    pairs = []
    for step in range(1, rounds * STEPS_BETWEEN_SAMPLES + 1):
        actions = generator.uniform(low, high, size=(env.num_envs, env.info.action_dim))
        if step % STEPS_BETWEEN_SAMPLES == 0:
            pairs.append((observation, actions))
        observation = env.step(actions)[0]
    return pairs
