"""How cost grows: environments, widths, segments, tasks, and seeds in one batched product.

`python -m analysis.throughput.scaling --out DIR` measures, prints and writes tables and a figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.throughput.interleave import Pair, Work, interleaved
from analysis.throughput.plan import HIDDEN_SIZES, MINIBATCH_SIZE, OBSERVATION_DIM
from analysis.throughput.section import Options, Section, Table, number
from analysis.throughput.summary import spread

FIGURE = "scaling.png"
ENVIRONMENTS = (1, 2, 4, 8, 16, 32, 64, 128)
WIDTHS = (64, 128, 256, 512, 1024, 2800)
SEGMENTS = (1, 2, 5, 10, 20, 50)
TASKS = (1, 5, 10, 25, 50)
SEEDS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Axis:
    """One table and one panel of the figure.

    Attributes:
        title: Heading.
        unit: What the seconds are per.
        variable: What grows.
        base: Value that all others are compared with.
        values: All values.
        arithmetic: Value -> multiply-adds of the matrix products relative to the base; None where
            products do not say anything.
        note: What to know.
    """

    title: str
    unit: str
    variable: str
    base: int
    values: Sequence[int]
    arithmetic: Mapping[int, float] | None = None
    note: str = ""


def _width_arithmetic() -> dict[int, float]:
    def products(width: int) -> float:
        return float(sum(_multiply_adds(width, outputs) for outputs in (8, 1)))

    return {width: products(width) / products(256) for width in WIDTHS}


def _multiply_adds(width: int, outputs: int) -> int:
    """Of forward and backward pass per sample; the first layer needs no input gradient."""
    return 3 * (OBSERVATION_DIM * width + width * width + width * outputs) - OBSERVATION_DIM * width


AXES = {
    "environments": Axis(
        "Environments: simulating and acting, one thread",
        "environment step",
        "environments",
        16,
        ENVIRONMENTS,
        note="What is shared by a vector step (one pass of the policy, some array operations) is "
        "spread over more environments.",
    ),
    "widths": Axis(
        "Widths: gradient step of PPO, two hidden layers",
        "gradient step",
        "units per layer",
        256,
        WIDTHS,
        _width_arithmetic(),
    ),
    "segments": Axis(
        "Segments: gradient step of PPO, dendritic network, ten tasks",
        "gradient step",
        "segments per unit",
        1,
        SEGMENTS,
        note="With one-hot contexts the gates of all tasks are computed once per pass.",
    ),
    "tasks": Axis(
        "Tasks: gradient step of PPO, one head per task",
        "gradient step",
        "tasks",
        1,
        TASKS,
        note="All heads are one matrix product; each sample takes the outputs of its own.",
    ),
    "gated_tasks": Axis(
        "Tasks: gradient step of PPO, dendritic network, ten segments",
        "gradient step",
        "tasks",
        1,
        TASKS,
    ),
    "seeds": Axis(
        "Seeds in one batched product: the products of a gradient step, per seed, one thread",
        "gradient step and seed",
        "seeds",
        1,
        SEEDS,
        dict.fromkeys(SEEDS, 1.0),
        "The arithmetic per seed is the same. Only a ratio below 1 would speak for stacking the "
        "seeds of a process on a CPU.",
    ),
}


def work_of(axis: str, value: int, small: bool = False) -> Work:
    """A lap of one point of an axis.

    Args:
        axis: A name of `AXES`.
        value: The point.
        small: Networks of 16 units, for tests.
    """
    from analysis.throughput.learners import PPOLearner

    if axis == "environments":
        return _environment_steps(value)
    if axis == "seeds":
        return _batched_products(value, [16, 16] if small else HIDDEN_SIZES)
    width = 16 if small else 256
    if axis == "widths":
        # Two gradient steps of the widest network take a second; a small one needs more of them.
        epochs = 1 if value > 512 or small else 8
        return PPOLearner([f"network.hidden_sizes=[{value},{value}]"], epochs, 0, 16).lap
    if axis == "segments":
        network, tasks = ["network=dendritic", f"network.num_segments={value}"], 10
    elif axis == "gated_tasks":
        network, tasks = ["network=dendritic", "network.num_segments=10"], value
    else:
        network, tasks = ["network=multi_head"], value
    sizes = f"network.hidden_sizes=[{width},{width}]"
    return PPOLearner([*network, sizes], 1 if small else 4, tasks, 16).lap


def _environment_steps(num_envs: int) -> Work:
    from analysis.throughput.learners import PPOLearner
    from envs.locomotion import Config, make

    envs, _ = make(Config(num_envs=num_envs, schedule="fixed"), total_steps=10**9)
    agent = PPOLearner(vector_steps=16).agent
    observation, _ = envs.reset()
    for _ in range(50):  # until the robots stand on the ground
        observation = envs.step(np.zeros((num_envs, 8)))[0]
    context = np.zeros((num_envs, 0), dtype=np.float32)
    vector_steps = max(1, 64 // num_envs)

    def lap() -> float:
        nonlocal observation
        for _ in range(vector_steps):
            action = agent.act(observation, context, explore=False)
            observation = envs.step(action)[0]
        return vector_steps * num_envs

    return lap


def _batched_products(num_seeds: int, hidden_sizes: Sequence[int]) -> Work:
    """The products of one gradient step of both networks, for stacked parameters of all seeds."""
    import torch

    from analysis.throughput.floors import minibatch_products

    products = [
        tuple(torch.stack([operand] * num_seeds) for operand in product)
        for outputs in (8, 1)
        for product in minibatch_products([OBSERVATION_DIM, *hidden_sizes, outputs], MINIBATCH_SIZE)
    ]
    multiply: Any = torch.mm if num_seeds == 1 else torch.bmm
    if num_seeds == 1:
        products = [tuple(operand[0] for operand in product) for product in products]

    def lap() -> float:
        with torch.inference_mode():
            for first, second, output in products:
                multiply(first, second, out=output)
        return num_seeds

    return lap


def measure_in_worker(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, Any]:
    """Time every point of every axis beside the base of the axis; in a process of its own.

    Args:
        settings: `axes` (names), `repeats`, `seconds`, `small`.
        wait: See `window.Window`.

    Returns:
        Axis -> value -> (base, other) seconds per unit, one per repeat.
    """
    import torch

    torch.set_num_threads(1)
    wait()
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in settings["axes"]:
        axis, pairs = AXES[name], dict[str, list[Pair]]()
        base = work_of(name, axis.base, settings["small"])
        for value in axis.values:
            other = work_of(name, value, settings["small"])
            measured = interleaved(
                base, {"": other}, settings["repeats"], settings["seconds"], time.thread_time
            )
            pairs[str(value)] = measured[""]
        found[name] = {
            value: [(pair.base, pair.other) for pair in each] for value, each in pairs.items()
        }
    return found


def section(found: Mapping[str, Any], options: Options) -> Section:
    """Tables from what `measure_in_worker` returned."""
    tables = []
    for name, points in found.items():
        axis = AXES[name]
        cells = []
        for value, pairs in points.items():
            micros = spread([1e6 * other for _, other in pairs])
            ratio = spread([other / base for base, other in pairs])
            row = [value, number(micros, 0 if micros.median >= 100 else 1), number(ratio, 2)]
            if axis.arithmetic is not None:
                row.append(f"{axis.arithmetic[int(value)]:.2f}")
            cells.append(row)
        header = [axis.variable, f"us per {axis.unit}", f"time / {axis.base} {axis.variable}"]
        if axis.arithmetic is not None:
            header.append("multiply-adds, ratio")
        tables.append(Table(axis.title, header, cells))
    notes = " ".join(AXES[name].note for name in found if AXES[name].note)
    return Section(
        "scaling",
        "How cost grows",
        f"{options.repeats} interleaved pairs per point on one core, in CPU time of the one "
        "thread, each point beside the base of its table; minibatches of 128. What methods add is "
        f"in their own section. {notes} Medians; in brackets the 95 % bootstrap interval.",
        tables,
        dict(found),
        [FIGURE],
    )


def draw(section: Section, path: Path) -> Path:
    """Draw one panel per axis: time over that of the base, and what arithmetic alone would say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(section.data)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel, name in zip(panels, names, strict=False):
        axis, points = AXES[name], section.data[name]
        values = [int(value) for value in points]
        ratios = [spread([other / base for base, other in pairs]) for pairs in points.values()]
        panel.plot(values, [ratio.median for ratio in ratios], "o-", label="measured")
        bounds = [ratio.interval or (ratio.low, ratio.high) for ratio in ratios]
        panel.fill_between(values, *zip(*bounds, strict=True), alpha=0.25, linewidth=0)
        if axis.arithmetic is not None:
            expected = [axis.arithmetic[value] for value in values]
            panel.plot(values, expected, "--", color="grey", label="multiply-adds")
            panel.legend(frameon=False)
        panel.set_xscale("log")
        if name == "widths":
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0.0)
        panel.set_xticks(values, [str(value) for value in values])
        panel.minorticks_off()
        panel.set_xlabel(axis.variable)
        panel.set_ylabel(f"time / {axis.base} {axis.variable}")
        panel.set_title(axis.title.split(":")[0] if ":" in axis.title else axis.title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.savefig(path, dpi=120)
    return path


def measure(options: Options, console: Any) -> Section:
    """Run the section."""
    from analysis.throughput.processes import measure as run_processes

    worker = {
        "kind": "scaling",
        "num_threads": 1,
        "cores": list(options.cores[:1]),
        "axes": list(AXES)[:1] if options.quick else list(AXES),
        "repeats": options.repeats,
        "seconds": min(0.15, options.seconds),
        "small": options.quick,
    }
    console.print(f"scaling: {', '.join(worker['axes'])}", highlight=False)
    result = run_processes([worker], timeout_seconds=900.0)[0]
    return section({name: result[name] for name in worker["axes"]}, options)


def main(arguments: Sequence[str]) -> int:
    """Run this section alone, as `python -m analysis.throughput --only scaling` does."""
    from analysis.throughput.__main__ import main as benchmark

    parser = argparse.ArgumentParser(prog="python -m analysis.throughput.scaling")
    parser.add_argument("--out", type=Path, help="folder for tables, JSON and the figure")
    parser.add_argument("--repeats", type=int, help="interleaved repeats (default 5)")
    chosen = parser.parse_args(arguments)
    given = ["--only", "scaling"]
    if chosen.out is not None:
        given += ["--out", str(chosen.out)]
    if chosen.repeats is not None:
        given += ["--repeats", str(chosen.repeats)]
    Console().print(shlex.join(["python", "-m", "analysis.throughput", *given]), highlight=False)
    return benchmark(given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
