"""Measures a frozen agent in fixed worlds: returns with intervals, by friction or the like."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.table import Table

from analysis.canonical_json import canonical_json, plain
from analysis.statistics import interval
from analysis.storage import StorageError, atomic_write_text
from envs.laws import Law

CONFIDENCE = 0.95
_KINDS = ("deterministic", "stochastic")
_STREAM = 0x6576616C  # "eval": keeps these start states apart from training's


class Actor(Protocol):
    """What is measured: any agent; see `agents.base.Agent`."""

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray: ...

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray: ...

    def begin_sampling(self) -> None: ...


class FixedWorlds(Protocol):
    """Vector environments whose friction, mass ... is chosen from outside."""

    num_envs: int

    @property
    def context(self) -> np.ndarray: ...

    def set_value(self, value: float) -> None: ...

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


@dataclass(frozen=True)
class World:
    """Returns in one world, with mean actions and with sampled ones.

    Attributes:
        value: Of the quantity that changes in training.
        deterministic: With mean actions.
        stochastic: With sampled ones.
        quantity: What the value is of.
    """

    value: float
    deterministic: Returns
    stochastic: Returns
    quantity: str = "friction"


def evaluate(
    agent: Actor,
    envs: FixedWorlds,
    values: Sequence[float],
    num_episodes: int,
    seed: int,
    quantity: str = "friction",
) -> list[World]:
    """Measure an agent in several worlds, both ways; see `measure_returns`."""

    def measured(value: float, mean: bool) -> Returns:
        return measure_returns(agent, envs, value, num_episodes, seed, deterministic=mean)

    return [
        World(value, measured(value, True), measured(value, False), quantity) for value in values
    ]


def measure_returns(
    agent: Actor,
    envs: FixedWorlds,
    value: float,
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
        value: Of the quantity that changes in training, in all of them.
        num_episodes: At least 1.
        seed: Of the start states, which are the same for every value and kind of action.
        deterministic: Mean actions instead of sampled ones.

    Raises:
        ValueError: The number of episodes is below 1, or the value is not possible.
        SimulatorError: The simulation broke down.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}; at least one episode must be measured")
    envs.set_value(value)
    observation, _ = envs.reset(seed=start_seed(seed))
    quota = np.full(envs.num_envs, num_episodes // envs.num_envs)
    quota[: num_episodes % envs.num_envs] += 1
    returns: list[float] = []
    lengths: list[int] = []
    choose = _chooser(agent, explore=not deterministic)
    while quota.any():
        observation, _, terminated, truncated, info = envs.step(choose(observation, envs.context))
        for index in np.flatnonzero((terminated | truncated) & (quota > 0)):
            quota[index] -= 1
            returns.append(float(info["episode_return"][index]))
            lengths.append(int(info["episode_length"][index]))
    found = interval(returns, "mean", seed=seed, confidence=CONFIDENCE)
    bounds = (found.estimate, found.low, found.high)
    return Returns(tuple(returns), tuple(lengths), *bounds, float(np.mean(lengths)))


def start_seed(seed: int) -> int:
    """Seed of the environments' start states; equal seeds meet equal starts."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(_STREAM,))
    return int(sequence.generate_state(1)[0])


def _chooser(agent: Actor, explore: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of observation and context that changes nothing which training depends on.

    Exploration is that of the policy, also where training still acts at random to warm up, and
    every world meets the same noise.
    """
    if not explore:
        return functools.partial(agent.act, explore=False)
    agent.begin_sampling()
    return agent.sample


def write_results(path: Path, worlds: Sequence[World], about: Mapping[str, Any]) -> Path:
    """Write all returns as JSON; an unknown bound is null. An older file is replaced.

    Args:
        path: The file; its folder is created if missing.
        worlds: The results.
        about: Plain values that say what was measured.

    Raises:
        StorageError: The file cannot be written.
    """
    rows = [
        {world.quantity: world.value, **{name: asdict(getattr(world, name)) for name in _KINDS}}
        for world in worlds
    ]
    record = {**about, "confidence": CONFIDENCE, "worlds": rows}
    text = canonical_json(plain(record, non_finite_as_null=True), indent=2).decode() + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    atomic_write_text(path, text)
    return path


def results_table(worlds: Sequence[World]) -> Table:
    """One line per world: mean return [95 % interval] and mean length."""
    title = f"return over {len(worlds[0].deterministic.returns)} episodes: mean [95 % interval]"
    table = Table(box=None, title=title, title_justify="left", header_style="")
    for name in (worlds[0].quantity, "deterministic", "steps", "stochastic", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for world in worlds:
        cells = [f"{world.value:g}"]
        for found in (world.deterministic, world.stochastic):
            bounds = "" if math.isnan(found.low) else rf" \[{found.low:.1f}, {found.high:.1f}]"
            cells += [f"{found.mean:.1f}{bounds}", f"{found.mean_length:.0f}"]
        table.add_row(*cells)
    return table


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


def checked_values(text: str | None, quantity: str, law: Law) -> list[float]:
    """Read values of a quantity such as `0.5,1,2`.

    Args:
        text: None for the ends of the range of training and the unchanged world.
        quantity: What they are of.
        law: What values are possible.

    Raises:
        ValueError: A word is no possible value, or given twice.
    """
    if text is None:
        return sorted({law.low, law.nominal, law.top})
    values = []
    for word in text.split(","):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        values.append(law.check(number, f"{quantity} {word.strip()!r}"))
    _refuse_repeats(values, quantity)
    return values


def _refuse_repeats(values: Sequence[float], quantity: str = "friction") -> None:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"{quantity} {repeated[0]:g} is given twice; name each {quantity} once")
