"""Whole training runs on the Ant: the suite against stable-baselines3 and the machine's floor."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from analysis.throughput.plan import Measurement, plan
from analysis.throughput.processes import measure as run_processes
from analysis.throughput.report import Report
from analysis.throughput.section import Options, Section
from analysis.throughput.summary import rate

METHODS = ("continual_backprop",)


def run(
    measurements: Sequence[Measurement], repeats: int, minutes: float, console: Console
) -> dict[str, list[list[dict[str, float]]]]:
    """Measure everything, repeat by repeat, so that slow changes of the machine hit all alike.

    Returns:
        Name -> repeats -> results of the processes.
    """
    results: dict[str, list[list[dict[str, float]]]] = {}
    begin = last = time.monotonic()
    for repeat in range(repeats):
        for measurement in measurements:
            if measurement.max_repeats is not None and repeat >= measurement.max_repeats:
                continue
            windows = run_processes(measurement.workers)
            results.setdefault(measurement.name, []).append(windows)
            shown = f"{rate(windows):,.0f} env steps/s" if "env_steps" in windows[0] else "done"
            console.print(f"{repeat + 1}/{repeats}  {measurement.name}: {shown}", highlight=False)
        now = time.monotonic()
        longest, last = now - last, now
        if now - begin + longest > 60 * minutes and repeat + 1 < repeats:
            console.print(f"stopping after {repeat + 1} repeats to stay within {minutes:g} minutes")
            break
    return results


def measure(options: Options, console: Console) -> Section:
    """Run the section.

    Raises:
        WorkerFailed: A process ended without a result.
    """
    measurements = plan(options.cores, options.seconds, METHODS, options.run_dir)
    if options.quick:
        measurements = [each for each in measurements if each.in_quick]
    results = run(measurements, options.repeats, options.minutes, console)
    about = {
        "repeats": min(len(r) for name, r in results.items() if name != "profile"),
        "seconds": options.seconds,
        "cores": list(options.cores),
    }
    return Report(results, options.cores, METHODS, about).section()
