"""Measures a frozen agent in fixed worlds: returns with intervals, by friction."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agents.base import Agent
from analysis.statistics import interval

_STREAM = 0x6576616C  # "eval": keeps these start states apart from training's


class FixedWorlds(Protocol):
    """Vector environments whose friction is chosen from outside."""

    num_envs: int

    @property
    def context(self) -> np.ndarray: ...

    def set_friction(self, value: float) -> None: ...

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]: ...

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]: ...


@dataclass(frozen=True)
class Returns:
    """Returns of one agent in one world, and the mean with its 95 % bootstrap interval.

    Attributes:
        returns: Undiscounted return of every episode.
        lengths: Steps of every episode.
        mean: Mean return.
        low: Lower bound over episodes; NaN for a single episode.
        high: Upper bound.
        mean_length: Mean number of steps.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    mean: float
    low: float
    high: float
    mean_length: float

    def plain(self) -> dict[str, Any]:
        """The same as JSON values; an unknown bound is null."""
        bounds = {"low": self.low, "high": self.high}
        return {
            "mean": self.mean,
            **{name: None if math.isnan(value) else value for name, value in bounds.items()},
            "num_episodes": len(self.returns),
            "mean_length": self.mean_length,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }


def measure_returns(
    agent: Agent,
    envs: FixedWorlds,
    friction: float,
    num_episodes: int,
    seed: int,
    *,
    deterministic: bool,
) -> Returns:
    """Let an agent act, without learning, in one world.

    How many episodes an environment contributes is fixed beforehand. The first `num_episodes` to
    end would be the short ones, that is, the failures.

    Args:
        agent: The agent; afterwards it is as it was.
        envs: Environments with schedule=fixed.
        friction: Of all of them.
        num_episodes: At least 1.
        seed: Of the start states, which are the same for every friction and kind of action.
        deterministic: Mean actions instead of sampled ones.

    Raises:
        ValueError: The number of episodes is below 1, or the friction not above 0.
        SimulatorError: The simulation broke down.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}; at least one episode must be measured")
    envs.set_friction(friction)
    observation, _ = envs.reset(seed=start_seed(seed))
    quota = np.full(envs.num_envs, num_episodes // envs.num_envs)
    quota[: num_episodes % envs.num_envs] += 1
    returns: list[float] = []
    lengths: list[int] = []
    with _without_learning(agent, explore=not deterministic) as act:
        while quota.any():
            action = act(observation, envs.context)
            observation, _, terminated, truncated, info = envs.step(action)
            for index in np.flatnonzero((terminated | truncated) & (quota > 0)):
                quota[index] -= 1
                returns.append(float(info["episode_return"][index]))
                lengths.append(int(info["episode_length"][index]))
    found = interval(returns, "mean", seed=seed)
    bounds = (found.estimate, found.low, found.high)
    return Returns(tuple(returns), tuple(lengths), *bounds, float(np.mean(lengths)))


def start_seed(seed: int) -> int:
    """Seed of the environments' start states; equal seeds meet equal starts."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(_STREAM,))
    return int(sequence.generate_state(1)[0])


@contextmanager
def _without_learning(agent: Agent, explore: bool) -> Iterator[Callable[..., np.ndarray]]:
    """Yield a function of observation and context; what acting changes is put back.

    A running normaliser is put back after every action, so that it stays that of the checkpoint;
    the random streams at the end, so that every world meets the same exploration noise.
    """
    if not explore:
        yield functools.partial(agent.act, explore=False)
        return
    before = agent.state_dict()
    normalizer = getattr(agent, "normalizer", None)
    statistics = None if normalizer is None else normalizer.state_dict()

    def act(observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        action = agent.act(observation, context, explore=True)
        if normalizer is not None:
            normalizer.load_state_dict(statistics)
        return action

    try:
        yield act
    finally:
        agent.load_state_dict(before)


def checked_frictions(text: str) -> list[float]:
    """Read `0.02,0.2,2`.

    Raises:
        ValueError: A word is no number, not above 0, not finite, or given twice.
    """
    frictions = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0.0 < value < math.inf:
            raise ValueError(
                f"friction {word.strip()!r} is not a number above 0; give for example "
                "--frictions 0.02,0.2,2"
            )
        frictions.append(value)
    _refuse_repeats(frictions)
    return frictions


def _refuse_repeats(frictions: Sequence[float]) -> None:
    repeated = [value for value in frictions if frictions.count(value) > 1]
    if repeated:
        raise ValueError(f"friction {repeated[0]:g} is given twice; name each friction once")
