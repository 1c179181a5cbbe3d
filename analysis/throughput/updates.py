"""Gradient steps of SAC per second, beside SB3's at equal sizes, on one core and on two."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.throughput.section import Options, Section, Table, number
from analysis.throughput.summary import spread

SIZES = {"3 x 400, batch 1,280": ([400, 400, 400], 1280), "2 x 256, batch 256": ([256, 256], 256)}
LIMIT = 1.2
SETTLE_SECONDS = 0.25


def measure_in_worker(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, Any]:
    """Time both learners at all sizes; runs in a process of its own.

    Args:
        settings: `sizes` (name -> widths and batch), `num_threads_each`, `repeats`, `seconds`.
        wait: See `window.Window`.

    Returns:
        `pairs`: name -> (SB3, ours) seconds per gradient step, one per repeat.
    """
    import torch

    from analysis.throughput.interleave import interleaved
    from analysis.throughput.learners import SACLearner, SB3Learner

    torch.set_num_threads(1)
    threads = settings["num_threads_each"]
    learners = {
        name: (SB3Learner(widths, batch, threads), SACLearner(widths, batch, threads))
        for name, (widths, batch) in settings["sizes"].items()
    }
    wait()
    pairs = {}
    for name, (theirs, ours) in learners.items():
        found = interleaved(
            theirs.lap,
            {name: ours.lap},
            settings["repeats"],
            settings["seconds"],
            time.thread_time if threads == 1 else time.perf_counter,
            # Threads of torch go on spinning for a while and would take a core from the next one.
            between=lambda: time.sleep(SETTLE_SECONDS if threads > 1 else 0.0),
        )
        pairs[name] = [(pair.base, pair.other) for pair in found[name]]
    return {"pairs": pairs}


def section(found: Mapping[int, Mapping[str, Any]], options: Options) -> Section:
    """Tables from what the workers returned, by number of threads."""
    cells = []
    for threads, result in found.items():
        for name, pairs in result["pairs"].items():
            ours = spread([1.0 / other for _, other in pairs])
            theirs = spread([1.0 / base for base, _ in pairs])
            ratio = spread([base / other for base, other in pairs])
            label = f"{name}, {threads} thread{'s' * (threads > 1)}"
            cells.append([label, number(ours, 1), number(theirs, 1), number(ratio, 2)])
    return Section(
        "sac",
        "SAC: gradient steps per second",
        f"{options.repeats} interleaved pairs per row, windows of at least {options.seconds} s, "
        "CPU time with one thread and wall time with two; one gradient step of both critics, their "
        "targets, the actor and the temperature, minibatch drawn from a full replay; observations "
        "of 39 numbers, 4 actions. With two threads SB3's products are split by torch, ours step "
        f"the two critics side by side. The target is {LIMIT} on the CPU. Medians; in brackets the "
        "95 % bootstrap interval.",
        [
            Table(
                "SAC against stable-baselines3",
                ("size", "suite, updates/s", "SB3, updates/s", "suite / SB3"),
                cells,
            )
        ],
        {str(threads): dict(result) for threads, result in found.items()},
    )


def measure(options: Options, console: Any) -> Section:
    """Run the section."""
    from analysis.throughput.processes import measure as run_processes

    sizes = dict(list(SIZES.items())[1:]) if options.quick else SIZES
    found = {}
    for threads in sorted({1, min(2, len(options.cores))}):
        console.print(f"sac: {threads} thread{'s' * (threads > 1)}", highlight=False)
        worker = _worker(options.cores[:threads], threads, sizes, options)
        found[threads] = run_processes([worker], timeout_seconds=900.0)[0]
    return section(found, options)


def _worker(
    cores: Sequence[int], threads: int, sizes: Mapping[str, Any], options: Options
) -> dict[str, Any]:
    return {
        "kind": "updates",
        "num_threads": threads,
        "num_threads_each": threads,
        "cores": list(cores),
        "sizes": dict(sizes),
        "repeats": options.repeats,
        "seconds": min(1.0, options.seconds),
    }
