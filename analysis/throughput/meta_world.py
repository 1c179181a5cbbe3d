"""Speed of Meta-World's MT10: stock vectors, this suite's layer, and EnvPool where it is installed.

`python -m analysis.throughput.meta_world --out DIR` measures, prints a table and writes Markdown
and JSON. Every repeat steps every world once over a window of whole episodes, one after the other,
so that slow changes of the machine hit all alike. CPU time counts what all processes of a world
have used; on a machine with other work it is the number to trust.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.provenance import describe_environment
from analysis.throughput.meta_world_worlds import (
    ACTION_DIM,
    NUM_TASKS,
    SYNC,
    World,
    build_worlds,
)
from analysis.throughput.summary import Spread, spread

EPISODE = 500
TITLE = "Meta-World MT10: simulation speed, one copy of every task"
HEADER = (
    "world",
    "CPU us per env step",
    "speed per core / stock",
    "env steps/s",
    "speed / stock",
)


@dataclass(frozen=True)
class Window:
    """What one window cost.

    Attributes:
        env_steps: Transitions.
        cpu_seconds: CPU time of all processes.
        wall_seconds: Time that passed.
        total_reward: Sum of all rewards, to see that equal worlds did equal work.
    """

    env_steps: int
    cpu_seconds: float
    wall_seconds: float
    total_reward: float


@dataclass(frozen=True)
class Row:
    """One line of the table; ratios are taken within each repeat.

    Attributes:
        name: What was measured.
        cpu_micros: CPU time per environment step, all processes together.
        per_core: CPU time of the stock sync vector over this one's.
        rate: Environment steps per second of wall time.
        speed: That rate over the stock sync vector's.
    """

    name: str
    cpu_micros: Spread
    per_core: Spread
    rate: Spread
    speed: Spread


def measure_meta_world(
    repeats: int = 5, steps: int = EPISODE, num_cores: int | None = None, seed: int = 0
) -> dict[str, list[Window]]:
    """Step all worlds in turn.

    Args:
        repeats: Windows per world; one more is stepped first and dropped.
        steps: Vector steps of a window, whole episodes by default.
        num_cores: Cores in use, None for all that this process may use.
        seed: Of goals and actions.

    Returns:
        Name of a world -> its windows.

    Raises:
        RuntimeError: If worlds that should give equal results do not.
    """
    count = len(os.sched_getaffinity(0)) if num_cores is None else num_cores
    worlds = build_worlds(count, seed)
    generator = np.random.default_rng(seed)
    results: dict[str, list[Window]] = {world.name: [] for world in worlds}
    try:
        for repeat in range(repeats + 1):
            actions = generator.uniform(-1, 1, (steps, NUM_TASKS, ACTION_DIM)).astype(np.float32)
            windows = {world.name: _window(world, actions) for world in worlds}
            _check_equal(worlds, windows)
            if repeat:
                for name, window in windows.items():
                    results[name].append(window)
    finally:
        for world in worlds:
            world.close()
    return results


def _window(world: World, actions: np.ndarray) -> Window:
    total = 0.0
    cpu, wall = world.cpu_seconds(), time.perf_counter()
    for action in actions:
        total += float(world.step(action)[1].sum())
    cpu, wall = world.cpu_seconds() - cpu, time.perf_counter() - wall
    return Window(actions.shape[0] * actions.shape[1], cpu, wall, total)


def _check_equal(worlds: Sequence[World], windows: Mapping[str, Window]) -> None:
    ours = [windows[world.name] for world in worlds if world.is_ours]
    rewards = [window.total_reward for window in ours]
    if not np.allclose(rewards, rewards[0], rtol=1e-6, atol=0.0):
        raise RuntimeError(
            f"worlds that should give equal results had the rewards {rewards}; the speeds cannot "
            "be compared"
        )


def rows(results: Mapping[str, Sequence[Window]]) -> list[Row]:
    """The table, every ratio against the stock sync vector in the same repeat."""
    stock = results[SYNC]
    table = []
    for name, windows in results.items():
        pairs = list(zip(stock, windows, strict=True))
        table.append(
            Row(
                name,
                spread([1e6 * w.cpu_seconds / w.env_steps for w in windows]),
                spread([s.cpu_seconds / w.cpu_seconds for s, w in pairs]),
                spread([w.env_steps / w.wall_seconds for w in windows]),
                spread([s.wall_seconds / w.wall_seconds for s, w in pairs]),
            )
        )
    return table


def tables(table: Sequence[Row]) -> list[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Title, header and cells, as the benchmark of training has them."""
    cells = [
        (
            row.name,
            _cell(row.cpu_micros, 0),
            _cell(row.per_core, 2),
            _cell(row.rate, 0),
            _cell(row.speed, 2),
        )
        for row in table
    ]
    return [(TITLE, HEADER, cells)]


def note(about: Mapping[str, Any]) -> str:
    """How the numbers came about."""
    return (
        f"{about['repeats']} interleaved windows of {about['steps']} vector steps of ten tasks, "
        f"random actions, resets included, after one window that is dropped; {about['num_cores']} "
        f"cores, {about['cpu']['model']}, load {about['load_before']:.2f} before the start. CPU "
        "time is that of all processes of a world. Medians; in brackets the 95 % bootstrap "
        "interval of the median. The reset cache is full, as that of a run is soon; all rows of "
        "ours had equal rewards. EnvPool draws other goals and has another MuJoCo: "
        "its row is another benchmark."
    )


def _cell(value: Spread, digits: int) -> str:
    text = f"{value.median:,.{digits}f}"
    if value.interval is None:
        return text
    low, high = value.interval
    return f"{text} ({low:,.{digits}f} to {high:,.{digits}f})"


def write(
    folder: Path,
    results: Mapping[str, Sequence[Window]],
    about: Mapping[str, Any],
    command: str,
) -> list[Path]:
    """Write `meta_world.md` and `meta_world.json`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table = rows(results)
    lines = ["# Simulation speed of Meta-World", "", f"Made by `{command}`.", "", note(about), ""]
    for title, header, cells in tables(table):
        lines += [f"## {title}", "", _markdown(header), _markdown(["---"] * len(header))]
        lines += [*map(_markdown, cells), ""]
    markdown, data = folder / "meta_world.md", folder / "meta_world.json"
    markdown.write_text("\n".join(lines))
    content = {
        "command": command,
        "about": about,
        "rows": [asdict(row) for row in table],
        "windows": {name: [asdict(w) for w in windows] for name, windows in results.items()},
    }
    data.write_text(json.dumps(content, indent=1) + "\n")
    return [markdown, data]


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.throughput.meta_world")
    parser.add_argument("--out", type=Path, help="folder for meta_world.md and meta_world.json")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (default 5)")
    parser.add_argument("--steps", type=int, default=EPISODE, help="vector steps of a window")
    chosen = parser.parse_args(arguments)
    for name in ("repeats", "steps"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} is {getattr(chosen, name)}; give at least 1")
    about = {
        **describe_environment(),
        "num_cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "repeats": chosen.repeats,
        "steps": chosen.steps,
    }
    results = measure_meta_world(chosen.repeats, chosen.steps)
    console = Console()
    for title, header, cells in tables(rows(results)):
        shown = Table(*header, title=title, title_justify="left")
        for row in cells:
            shown.add_row(*row)
        console.print(shown)
    console.print(note(about))
    if chosen.out is not None:
        command = shlex.join(["python", "-m", "analysis.throughput.meta_world", *arguments])
        for path in write(chosen.out, results, about, command):
            console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
