"""Command line of the benchmark: `python -m analysis.throughput [--only NAMES] [--out DIR]`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.provenance import describe_environment
from analysis.throughput import methods, ppo, scaling, updates
from analysis.throughput import section as sections
from analysis.throughput.processes import WorkerFailed
from analysis.throughput.section import Options, Section, Table
from configs.exit_codes import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILED

QUICK_SECONDS, FULL_SECONDS = 0.5, 2.0
WORLD_STEPS, QUICK_WORLD_STEPS = 500, 50


def meta_world(options: Options, console: Console) -> Section:
    """Simulation of Meta-World's MT10."""
    from analysis.throughput import meta_world as worlds

    steps = QUICK_WORLD_STEPS if options.quick else WORLD_STEPS
    console.print(f"meta_world: windows of {steps} vector steps", highlight=False)
    found = worlds.measure_meta_world(options.repeats, steps, len(options.cores))
    about = {
        **describe_environment(),
        "num_cores": len(options.cores),
        "load_before": os.getloadavg()[0],
        "repeats": options.repeats,
        "steps": steps,
    }
    tables = [
        Table(title, list(header), [list(row) for row in cells])
        for title, header, cells in worlds.tables(worlds.rows(found))
    ]
    data = {name: [dataclasses.asdict(window) for window in each] for name, each in found.items()}
    return Section("meta_world", "Meta-World", worlds.note(about), tables, data)


SECTIONS: dict[str, Callable[[Options, Console], Section]] = {
    "ppo": ppo.measure,
    "methods": methods.measure,
    "methods_sac": methods.measure_sac,
    "sac": updates.measure,
    "meta_world": meta_world,
    "scaling": scaling.measure,
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m analysis.throughput", description=__doc__)
    parser.add_argument("--only", help=f"some of {','.join(SECTIONS)} (default all)")
    parser.add_argument("--quick", action="store_true", help="one short repeat of the main rows")
    parser.add_argument("--out", type=Path, help="folder for throughput.md, JSON and figures")
    parser.add_argument("--repeats", type=int, help="interleaved repeats (default 5, quick 1)")
    parser.add_argument("--seconds", type=float, help="shortest window of one measurement")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of whole training runs; no repeat beyond that"
    )
    parser.add_argument("--cores", type=int, default=2, help="cores to use (default 2)")
    parser.add_argument("--trained-run", type=Path, help="run whose policy gives a second tape")
    chosen = parser.parse_args(arguments)
    for name, value in (("repeats", chosen.repeats), ("cores", chosen.cores)):
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    chosen.only = list(SECTIONS) if chosen.only is None else chosen.only.split(",")
    if unknown := [name for name in chosen.only if name not in SECTIONS]:
        parser.error(f"--only names {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return the exit code."""
    chosen, console = parse(arguments), Console()
    cores = sorted(os.sched_getaffinity(0))[: chosen.cores]
    if len(cores) < chosen.cores:
        console.print(f"only {len(cores)} cores are usable; {chosen.cores} were asked for")
        return EXIT_CONFIGURATION
    options = Options(
        cores,
        chosen.repeats or (1 if chosen.quick else 5),
        chosen.seconds or (QUICK_SECONDS if chosen.quick else FULL_SECONDS),
        chosen.quick,
        chosen.minutes,
        None if chosen.trained_run is None else str(chosen.trained_run.resolve()),
    )
    command = shlex.join(["python", "-m", "analysis.throughput", *arguments])
    machine: dict[str, Any] = {**describe_environment(), "command": command, "cores": cores}
    begin = time.monotonic()
    for name in (name for name in SECTIONS if name in chosen.only):
        about = {**machine, "load_before": os.getloadavg()[0]}
        start = time.monotonic()
        try:
            section = SECTIONS[name](options, console)
        except WorkerFailed as error:
            console.print(f"the benchmark failed: {error}")
            return EXIT_FAILED
        about |= {"load_after": os.getloadavg()[0], "seconds": time.monotonic() - start}
        section = dataclasses.replace(section, about=about)
        section.show(console)
        if chosen.out is not None:
            _write(chosen.out, section, console)
    console.print(f"{(time.monotonic() - begin) / 60:.1f} minutes in all", highlight=False)
    return EXIT_DONE


def _write(folder: Path, section: Section, console: Console) -> None:
    """Write every section as soon as it is there, so that an interruption loses one at most."""
    written = sections.write(folder, [section], list(SECTIONS))
    if section.name == "scaling":
        written.append(scaling.draw(section, folder / scaling.FIGURE))
    for path in written:
        console.print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
