"""From raw windows to rates, shares of the floor, ratios and overheads; pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.throughput.plan import GRADIENT_STEPS_PER_ENV_STEP

Windows = Sequence[Mapping[str, float]]
"""Results of the processes of one measurement in one repeat."""
Results = Mapping[str, Sequence[Windows]]
"""Name of a measurement -> its repeats."""


@dataclass(frozen=True)
class Spread:
    """A quantity over the repeats.

    Attributes:
        median: Median.
        low: Smallest value.
        high: Largest value.
        interval: 95 % bootstrap interval of the median, None for fewer than three repeats.
    """

    median: float
    low: float
    high: float
    interval: tuple[float, float] | None = None


def spread(values: Sequence[float]) -> Spread:
    """Summarise the repeats of a quantity."""
    array = np.asarray(values, dtype=np.float64)
    interval = None
    if len(array) >= 3:
        bounds = stats.bootstrap(
            (array,),
            np.median,
            n_resamples=2_000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        interval = (float(bounds.low), float(bounds.high))
    return Spread(float(np.median(array)), float(array.min()), float(array.max()), interval)


def rate(windows: Windows) -> float:
    """Environment steps per second of all processes together."""
    return sum(window["env_steps"] / window["seconds"] for window in windows)


def floor_seconds(
    physics: Windows, products: Windows, gradient_steps: float = GRADIENT_STEPS_PER_ENV_STEP
) -> float:
    """Floor time per environment step and core: t_physics + u t_products, means over the cores.

    Args:
        physics: What the bare physics took.
        products: What the bare matrix products of gradient steps took.
        gradient_steps: Per environment step.
    """
    t_physics = np.mean([window["seconds"] / window["env_steps"] for window in physics])
    t_products = np.mean([window["seconds"] / window["gradient_steps"] for window in products])
    return float(t_physics + gradient_steps * t_products)


def share_of_floor(floor: float, env_steps_per_second: float, num_cores: int) -> float:
    """Floor time over measured time per environment step and core, 1 is the machine's limit."""
    return floor * env_steps_per_second / num_cores


def check_equal_work(results: Results) -> None:
    """Make sure that every training run made as many gradient steps per environment step.

    Raises:
        ValueError: One of them did not.
    """
    for name, repeats in results.items():
        for window in (window for windows in repeats for window in windows):
            if "env_steps" not in window or "gradient_steps" not in window:
                continue
            expected = window["env_steps"] * GRADIENT_STEPS_PER_ENV_STEP
            if window["gradient_steps"] != expected:
                raise ValueError(
                    f"{name!r} made {window['gradient_steps']:.0f} gradient steps in "
                    f"{window['env_steps']:.0f} environment steps, not {expected:.0f}; the "
                    "speeds cannot be compared"
                )


@dataclass(frozen=True)
class Row:
    """One line of the main table.

    Attributes:
        name: What was measured.
        suite: Environment steps per second of this suite.
        share: Share of the floor, by the tape of an untrained policy.
        trained_share: The same by the tape of a trained policy, None without one.
        sb3: Environment steps per second of SB3, None where it has no such row.
        ratio: Suite over SB3 in the same repeat.
        memory: Peak resident memory of one process, MiB: the suite's, and SB3's.
    """

    name: str
    suite: Spread
    share: Spread
    trained_share: Spread | None
    sb3: Spread | None
    ratio: Spread | None
    memory: tuple[float, float | None]


def rows(results: Results, num_cores: int) -> list[Row]:
    """The main table: one run on all cores, then one run on each."""
    pairs = [
        ("one run, 8 x 256", "suite, 8 envs", _single("8 envs", results)),
        ("one run, 1 x 2048", "suite, 1 env", _single("1 env", results)),
        ("one run, 16 x 128 (default)", "suite, 16 envs", []),
        *(
            (f"{num_cores} runs, {shape}", f"{num_cores} x suite, {envs}", side_by_side)
            for shape, envs in (("8 x 256", "8 envs"), ("1 x 2048", "1 env"))
            for side_by_side in [[f"{num_cores} x SB3, {envs}"]]
        ),
    ]
    return [
        _row(name, results, suite, [sb3 for sb3 in rivals if sb3 in results], num_cores)
        for name, suite, rivals in pairs
        if suite in results
    ]


def _single(envs: str, results: Results) -> list[str]:
    return [f"SB3, {envs}, {threads}" for threads in ("1 thread", "2 threads")]


def _row(name: str, results: Results, suite: str, rivals: list[str], num_cores: int) -> Row:
    rates = [rate(windows) for windows in results[suite]]

    def share(tape: str) -> Spread | None:
        if tape not in results:
            return None
        repeats = zip(rates, results[tape], results["matrix products"], strict=True)
        return spread(
            [share_of_floor(floor_seconds(p, m), speed, num_cores) for speed, p, m in repeats]
        )

    untrained = share("physics, untrained")
    assert untrained is not None
    memory = _memory(results[suite])
    trained = share("physics, trained")
    if not rivals:
        return Row(name, spread(rates), untrained, trained, None, None, (memory, None))
    # The better of one and two threads, repeat by repeat.
    best = [max(map(rate, repeat)) for repeat in zip(*(results[r] for r in rivals), strict=True)]
    ratios = [ours / theirs for ours, theirs in zip(rates, best, strict=True)]
    return Row(
        name,
        spread(rates),
        untrained,
        trained,
        spread(best),
        spread(ratios),
        (memory, max(_memory(results[rival]) for rival in rivals)),
    )


def _memory(repeats: Sequence[Windows]) -> float:
    return max(window["peak_memory_mib"] for windows in repeats for window in windows)


def side_by_side(results: Results, num_cores: int) -> dict[str, Spread]:
    """One run on each core: their sum over as many times one that has its core and no neighbour."""
    found = {}
    for envs in ("8 envs", "1 env"):
        together, alone = f"{num_cores} x suite, {envs}", f"1 x suite, {envs}"
        if together in results and alone in results:
            pairs = zip(results[together], results[alone], strict=True)
            shares = [rate(both) / (num_cores * rate(one)) for both, one in pairs]
            found[f"{num_cores} runs, {envs}"] = spread(shares)
    return found


@dataclass(frozen=True)
class Overhead:
    """What a feature costs, as a fraction of environment steps per second.

    Attributes:
        name: The feature.
        fraction: Time with the feature over time without it, less 1.
        limit: What it should stay below, None for no target.
    """

    name: str
    fraction: Spread
    limit: float | None


def overheads(results: Results, methods: Sequence[str]) -> list[Overhead]:
    """Costs of methods against the same run without, and of the rest within profiled runs."""
    found = []
    for method in methods:
        name = f"suite, 16 envs, {method}"
        if name not in results:
            continue
        without = results["suite, 16 envs"]
        pairs = zip(results[name], without, strict=True)
        values = [rate(plain) / rate(with_method) - 1.0 for with_method, plain in pairs]
        limit = 0.05 if method == "continual_backprop" else None
        found.append(Overhead(method, spread(values), limit))
    profiles = [windows[0] for windows in results.get("profile", [])]
    for name, parts, limit in (
        ("diagnostics", ("diagnostics",), 0.02),
        ("event and episode logging", ("events",), 0.01),
        ("rows of progress.csv and TensorBoard", ("log",), None),
    ):
        costs = [sum(profile[part] for part in parts) for profile in profiles]
        values = [c / (p["seconds"] - c) for c, p in zip(costs, profiles, strict=True)]
        if values:
            found.append(Overhead(name, spread(values), limit))
    if profiles:
        values = [profile["checkpoint"] / profile["checkpoint_period"] for profile in profiles]
        found.append(Overhead("checkpoints, one per period", spread(values), 0.01))
    return found


PARTS = ("simulate", "act", "store", "learn", "events", "diagnostics", "log")


def budget(results: Results) -> dict[str, float]:
    """Share of wall time of each part of the loop, median over the profiles; `rest` is the loop."""
    profiles = [windows[0] for windows in results.get("profile", [])]
    if not profiles:
        return {}
    shares = {
        part: float(np.median([profile[part] / profile["seconds"] for profile in profiles]))
        for part in PARTS
    }
    return {**shares, "rest": 1.0 - sum(shares.values())}


def floors(results: Results) -> dict[str, Spread]:
    """The measured floor: per-core rates in steps/s, and the parts in microseconds."""
    table = {}
    products = results["matrix products"]
    for tape in ("physics, untrained", "physics, trained"):
        if tape not in results:
            continue
        pairs = list(zip(results[tape], products, strict=True))
        micros = [1e6 * floor_seconds(physics, mm) for physics, mm in pairs]
        per_step = [
            1e6 * float(np.mean([w["seconds"] / w["env_steps"] for w in physics]))
            for physics in results[tape]
        ]
        table[f"{tape}, us per env step and core"] = spread(per_step)
        table[f"floor with {tape}, us per env step and core"] = spread(micros)
        table[f"floor with {tape}, env steps/s per core"] = spread([1e6 / m for m in micros])
    per_update = [
        1e6 * float(np.mean([w["seconds"] / w["gradient_steps"] for w in windows]))
        for windows in products
    ]
    table["matrix products, us per gradient step"] = spread(per_update)
    return table
