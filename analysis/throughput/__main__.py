"""Command line of the benchmark: `python -m analysis.throughput [--quick] [--out DIR]`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.provenance import describe_environment
from analysis.throughput.plan import Measurement, plan
from analysis.throughput.processes import WorkerFailed, measure
from analysis.throughput.report import Report
from analysis.throughput.summary import rate

METHODS = ("continual_backprop", "redo")
EXIT_DONE, EXIT_FAILED, EXIT_CONFIGURATION = 0, 1, 2
QUICK_SECONDS, FULL_SECONDS = 1.0, 3.0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m analysis.throughput", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short repeat of the main rows")
    parser.add_argument("--out", type=Path, help="folder for throughput.md and throughput.json")
    parser.add_argument("--repeats", type=int, help="interleaved repeats (default 5, quick 1)")
    parser.add_argument("--seconds", type=float, help="shortest window of one measurement")
    parser.add_argument(
        "--minutes", type=float, default=12.0, help="start no repeat that would not fit in"
    )
    parser.add_argument("--cores", type=int, default=2, help="cores to use (default 2)")
    parser.add_argument("--trained-run", type=Path, help="run whose policy gives a second tape")
    chosen = parser.parse_args(arguments)
    for name, value in (("repeats", chosen.repeats), ("cores", chosen.cores)):
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    return chosen


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
            windows = measure(measurement.workers)
            results.setdefault(measurement.name, []).append(windows)
            shown = f"{rate(windows):,.0f} env steps/s" if "env_steps" in windows[0] else "done"
            console.print(f"{repeat + 1}/{repeats}  {measurement.name}: {shown}", highlight=False)
        now = time.monotonic()
        longest, last = now - last, now
        if now - begin + longest > 60 * minutes and repeat + 1 < repeats:
            console.print(f"stopping after {repeat + 1} repeats to stay within {minutes:g} minutes")
            break
    return results


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return the exit code."""
    chosen, console = parse(arguments), Console()
    cores = sorted(os.sched_getaffinity(0))[: chosen.cores]
    if len(cores) < chosen.cores:
        console.print(f"only {len(cores)} cores are usable; {chosen.cores} were asked for")
        return EXIT_CONFIGURATION
    repeats = chosen.repeats or (1 if chosen.quick else 5)
    seconds = chosen.seconds or (QUICK_SECONDS if chosen.quick else FULL_SECONDS)
    run_dir = None if chosen.trained_run is None else str(chosen.trained_run.resolve())
    measurements = plan(cores, seconds, METHODS, run_dir)
    if chosen.quick:
        measurements = [m for m in measurements if m.in_quick]
    about: dict[str, Any] = {
        **describe_environment(),
        "cores": cores,
        "load_before": os.getloadavg()[0],
        "seconds": seconds,
    }
    begin = time.monotonic()
    try:
        results = run(measurements, repeats, chosen.minutes, console)
    except WorkerFailed as error:
        console.print(f"the benchmark failed: {error}")
        return EXIT_FAILED
    about |= {
        "repeats": min(len(r) for name, r in results.items() if name != "profile"),
        "load_after": os.getloadavg()[0],
        "total_seconds": time.monotonic() - begin,
    }
    report = Report(results, cores, METHODS, about)
    report.show(console)
    if chosen.out is not None:
        command = shlex.join(["python", "-m", "analysis.throughput", *arguments])
        for path in report.write(chosen.out, command):
            console.print(f"wrote {path}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
