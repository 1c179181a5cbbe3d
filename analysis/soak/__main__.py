"""Command line of the soak: `python -m analysis.soak --out DIR [options] [-- settings of the run]`.

The same command goes on after a stop. Exit codes: 0 everything holds, 1 something does not, 2 bad
command, 75 stopped, and the same command goes on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import analysis
from analysis.checkpoint import CheckpointError
from analysis.interruption import Interruption
from analysis.soak.equality import compare_runs
from analysis.soak.lives import LIFE_COLUMNS, SAMPLE_COLUMNS, Chain, SoakFailed, Task
from analysis.soak.report import KILLED, UNDISTURBED, Findings, read_rows, write_report
from analysis.storage import StorageError
from configs.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_SIGNAL

ROOT = Path(analysis.__file__).resolve().parent.parent
WORLD = ("env=slippery_ant", "agent=ppo", "arm=continual_backprop", "group=soak")
NUM_WORLDS = 12
ROLLOUT = 2_048
POLL_SECONDS = 0.1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.soak",
        description="Kill a run at random moments and compare it with the same run undisturbed.",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("results/soak"), help="folder of the report")
    add("--runs", type=Path, default=Path("runs/soak"), help="folder of both runs")
    add("--total-steps", type=int, default=20_000_000, help="environment steps of each run")
    add("--switch-interval", type=int, help="steps between frictions; default: 12 frictions")
    add("--seed", type=int, default=0, help="of the runs and of the moments of the kills")
    add("--minutes", type=float, default=120.0, help="the killed run must last at least this long")
    add("--kill-minutes", type=float, default=5.0, help="mean life of a process")
    add("--checkpoint-minutes", type=float, default=1.0, help="between checkpoints")
    add("--sample-seconds", type=float, default=15.0, help="between looks at the memory")
    add("--warm-up-seconds", type=float, default=120.0, help="of each process, not measured")
    add("--limit-minutes", type=float, help="stop this call after so long; a later one goes on")
    add(
        "--twin",
        choices=("beside", "alone", "none"),
        default="beside",
        help="run the undisturbed run beside the killed one, alone, or not in this call",
    )
    add("--undisturbed", type=Path, help="run directory of an undisturbed run made elsewhere")
    add("settings", nargs="*", help=f"instead of {' '.join(WORLD)}")
    found = parser.parse_args(arguments)
    for name in ("total_steps", "kill_minutes", "sample_seconds"):
        if getattr(found, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(found, name)}; give more than 0")
    if found.undisturbed is not None and found.twin == "alone":
        parser.error("--twin alone makes the undisturbed run, --undisturbed names one: choose")
    return found


def tasks(options: argparse.Namespace) -> list[Task]:
    """The runs of this call."""
    interval = options.switch_interval
    if interval is None:  # whole rollouts, so that a switch is a quiet point
        interval = max(ROLLOUT, options.total_steps // NUM_WORLDS // ROLLOUT * ROLLOUT)
    shared = (
        *(options.settings or WORLD),
        f"seed={options.seed}",
        f"total_steps={options.total_steps}",
        f"env.switch_interval={interval}",
        f"log.checkpoint_minutes={options.checkpoint_minutes:g}",
        "num_threads=1",
        "log.figures=false",
        "progress=false",
    )

    def task(name: str, kill_minutes: float | None) -> Task:
        run_dir = (options.runs / name).resolve()
        return Task(
            name,
            (sys.executable, "train.py", *shared, f"run_dir={run_dir}"),
            run_dir,
            None if kill_minutes is None else kill_minutes * 60,
            options.seed,
            options.sample_seconds,
        )

    killed, twin = task(KILLED, options.kill_minutes), task(UNDISTURBED, None)
    if options.twin == "alone":
        return [twin]
    return [killed] if options.twin == "none" or options.undisturbed is not None else [killed, twin]


def drive(chains: Sequence[Chain], limit_minutes: float | None) -> bool:
    """Tend the runs until all have ended; False if a signal or the limit came first.

    Raises:
        SoakFailed: A process ended in a way that nobody asked for.
    """
    start = time.monotonic()
    with Interruption() as interruption:
        try:
            while not all(chain.is_done for chain in chains):
                minutes = (time.monotonic() - start) / 60
                late = limit_minutes is not None and minutes >= limit_minutes
                if late or interruption.is_requested():
                    return False
                for chain in chains:
                    chain.tend()
                time.sleep(POLL_SECONDS)
            return True
        finally:
            for chain in chains:
                chain.stop()
                chain.close()


def report(options: argparse.Namespace, command: str) -> int:
    """Compare the runs if both have ended, write the page and say what holds."""
    directories = [options.runs / KILLED, options.undisturbed or options.runs / UNDISTURBED]
    for directory in directories:
        if not (directory / "done.json").exists():
            print(f"{directory} has not ended; the comparison waits for it")
            return EXIT_SIGNAL
    names = (KILLED, UNDISTURBED)
    findings = Findings(
        read_rows([options.runs / f"{name}.lives.csv" for name in names], LIFE_COLUMNS),
        read_rows([options.runs / f"{name}.samples.csv" for name in names], SAMPLE_COLUMNS),
        compare_runs(*directories),
        options.minutes,
        options.warm_up_seconds,
        options.total_steps,
        options.checkpoint_minutes,
        f"`{' '.join(options.settings or WORLD)}`",
    )
    verdict = write_report(options.out, findings, command)
    for check in verdict:
        print(f"{'holds' if check.holds else 'FAILS'}: {check.what}: {check.found}")
    print(f"see {options.out / 'README.md'}")
    return EXIT_DONE if all(check.holds for check in verdict) else EXIT_FAILED


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    options = parse(arguments)
    chains = [Chain(task, ROOT) for task in tasks(options)]
    try:
        if not drive(chains, options.limit_minutes):
            print("stopped; the same command goes on")
            return EXIT_SIGNAL
        return report(options, shlex.join(["python", "-m", "analysis.soak", *arguments]))
    except (SoakFailed, StorageError, CheckpointError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
