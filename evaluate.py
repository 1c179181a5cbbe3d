"""Look at runs: `python evaluate.py run runs/...`, `compare runs/GROUP --out results/NAME`,
`sequence runs/GROUP --out results/NAME`, `oracle runs/GROUP --out results/oracles`,
`figures runs/...` or `inspect CHECKPOINT`.

Exit codes: 0 done, 2 a wrong path, checkpoint or option, 3 numerical failure, 4 storage.
"""

from __future__ import annotations

import os

# Before NumPy and torch start their own threads: small networks are faster on one.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from configs.exit_codes import EXIT_CONFIGURATION, EXIT_DONE, EXIT_NUMERICAL, EXIT_STORAGE

if TYPE_CHECKING:
    from analysis.compare import Extras
    from analysis.restored import Restored

FILM_SECONDS = 20.0
DEFAULT_FRICTIONS, DEFAULT_EPISODES = "0.02,0.2,2", 20
_OPTIONS = ("frictions", "values", "episodes", "seed", "goals", "rows_per_task")


class UsageError(ValueError):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python {self.prog} --help")


def run(arguments: argparse.Namespace) -> int:
    """Measure the newest intact checkpoint: returns at fixed frictions, or success on tasks."""
    from analysis.chosen_checkpoint import run_and_checkpoint
    from analysis.evaluation import checked_frictions
    from analysis.video import choose_backend

    frictions = checked_frictions(arguments.frictions or DEFAULT_FRICTIONS)
    run_dirs = _named_runs(arguments)
    films = arguments.video and choose_backend()
    for run_dir in run_dirs:
        chosen = run_and_checkpoint(run_dir, arguments.checkpoint)
        _evaluate_run(*chosen, frictions, arguments, films)
    return EXIT_DONE


def _named_runs(arguments: argparse.Namespace) -> list[Path]:
    from analysis.runs import find_runs

    if (arguments.run_dir is None) == (arguments.experiment is None):
        raise UsageError("name either a run directory or --experiment NAME")
    if arguments.run_dir is not None:
        return [arguments.run_dir]
    found = find_runs(Path("runs") / arguments.experiment)
    if len(found) > 1 and (arguments.out or arguments.checkpoint):
        raise UsageError(
            f"--experiment {arguments.experiment} has {len(found)} runs; --out and --checkpoint "
            "go with one run directory"
        )
    return found


def _evaluate_run(
    run_dir: Path,
    checkpoint: Path | None,
    frictions: list[float],
    arguments: argparse.Namespace,
    films: bool,
) -> None:
    import torch

    from analysis.restored import has_tasks

    torch.set_num_threads(1)
    if has_tasks(run_dir):
        from analysis.multitask.command import evaluate_tasks

        _refuse_options(run_dir, arguments, ("frictions", "values", "episodes", "seed"))
        out, goals = _results_folder(run_dir, checkpoint, arguments), arguments.goals
        evaluate_tasks(run_dir, checkpoint, out, goals, arguments.rows_per_task, films)
    else:
        _refuse_options(run_dir, arguments, _not_of_worlds(run_dir))
        _evaluate_worlds(run_dir, checkpoint, frictions, arguments, films)


def _results_folder(run_dir: Path, checkpoint: Path | None, arguments: argparse.Namespace) -> Path:
    from analysis.chosen_checkpoint import results_folder

    folder = arguments.out or results_folder(run_dir, checkpoint)
    if checkpoint is not None and folder not in (run_dir, arguments.out):
        print(f"{checkpoint.name} is not the newest checkpoint: its results go to {folder}")
    return folder


def _not_of_worlds(run_dir: Path) -> tuple[str, ...]:
    """Options that say nothing of a walking robot, given the (first) quantity that changed."""
    from analysis.run_files import read_config

    env = read_config(run_dir)["env"]
    if "fixed_friction" not in env:
        return ()  # such a run cannot be measured at all, which is said where it is loaded
    changed = env.get("modifier", "friction")
    first = changed if isinstance(changed, str) else changed[0]
    return ("values" if first == "friction" else "frictions", "goals", "rows_per_task")


def _refuse_options(run_dir: Path, arguments: argparse.Namespace, names: Sequence[str]) -> None:
    given = [name for name in names if getattr(arguments, name) is not None]
    if given:
        allowed = [name for name in _OPTIONS if name not in names]
        raise UsageError(
            f"--{given[0].replace('_', '-')} has no meaning for {run_dir}; its kind of environment "
            f"takes {', '.join('--' + name.replace('_', '-') for name in allowed)}"
        )


def _evaluate_worlds(
    run_dir: Path,
    checkpoint: Path | None,
    frictions: list[float],
    arguments: argparse.Namespace,
    films: bool,
) -> None:
    from rich.console import Console

    from analysis.evaluation import evaluate, results_table, write_results
    from analysis.restored import restore

    out, seed = _results_folder(run_dir, checkpoint, arguments), arguments.seed or 0
    episodes = arguments.episodes or DEFAULT_EPISODES
    restored = restore(run_dir, checkpoint)
    try:
        for problem in restored.problems:
            print(f"checkpoint passed over: {problem}", file=sys.stderr)
        print(f"evaluating {run_dir} at step {restored.env_steps:,}", flush=True)
        quantity, values = _worlds_to_visit(run_dir, restored, frictions, arguments)
        worlds = evaluate(restored.agent, restored.envs, values, episodes, seed, quantity)
        Console(width=None if sys.stdout.isatty() else 100).print(results_table(worlds))
        about = {"run": str(run_dir), "seed": seed, **restored.about}
        print(f"wrote {write_results(out / 'evaluation.json', worlds, about)}", flush=True)
        if films:
            _film(restored, out / "videos", quantity, values, seed)
    finally:
        restored.close()


def _worlds_to_visit(
    run_dir: Path, restored: Restored, frictions: list[float], arguments: argparse.Namespace
) -> tuple[str, list[float]]:
    """Name and values of the (first) quantity that changed in training."""
    from analysis.evaluation import checked_values

    quantity, law = next(iter(restored.config.env.laws.items()))
    if quantity == "friction":
        return quantity, frictions
    if law.high is None:  # it numbers the actuators
        law = law.narrowed(None, None, restored.envs.info.action_dim)
    return quantity, checked_values(arguments.values, quantity, law)


def _film(restored: Restored, folder: Path, quantity: str, values: list[float], seed: int) -> None:
    from analysis.evaluation import start_seed
    from analysis.restored import fixed_worlds
    from analysis.video import RenderingUnavailable, record_episode
    from envs.contexts.layer import ContextLayer

    envs, info = fixed_worlds(restored.config, 1)
    if isinstance(envs, ContextLayer):
        envs.adopt(restored.envs.snapshot())
    max_steps = round(FILM_SECONDS / info.step_seconds)
    try:
        for value in values:
            path = folder / f"{quantity}_{value:g}.mp4"
            record_episode(restored.agent, envs, path, value, start_seed(seed), max_steps)
            print(f"wrote {path}", flush=True)
    except RenderingUnavailable as error:
        print(f"no video: {error}", file=sys.stderr)
    finally:
        envs.close()


def figures(arguments: argparse.Namespace) -> int:
    """Draw the figures of a run again, finished or not."""
    from analysis.context_figures import draw_contexts_if_any
    from analysis.plots import draw_run
    from analysis.run_files import NotARun, read_config, read_episodes, read_progress

    read_config(arguments.run_dir)
    progress = read_progress(arguments.run_dir).get("env_steps", ())
    if not len(progress) and not len(read_episodes(arguments.run_dir).returns):
        raise NotARun(f"{arguments.run_dir} has no row yet; train it first")
    for path in [*draw_run(arguments.run_dir), *draw_contexts_if_any(arguments.run_dir)]:
        print(f"wrote {path}")
    return EXIT_DONE


def compare(arguments: argparse.Namespace) -> int:
    """Compare the arms of one or several groups of runs: tables, figures and their data."""
    from rich.console import Console

    from analysis.compare import compare_runs, report_again
    from analysis.compare.report import warnings
    from analysis.compare.tables import console_table

    if arguments.data is not None:
        others = (arguments.runs, arguments.baseline, arguments.partial, arguments.export_data)
        extras = arguments.oracle_table, arguments.overheads, arguments.switching_verified
        if any(others) or any(extras) or arguments.draws:
            raise UsageError("--from draws stored data again; it takes no runs and only --out")
        out = arguments.out or arguments.data.resolve().parent
        study = report_again(arguments.data, out)
    else:
        if arguments.out is None:
            raise UsageError("name the folder of the report: --out results/NAME")
        out, words = arguments.out, shlex.join(["evaluate.py", *arguments.words])
        options = arguments.baseline, arguments.partial, f"python {words}", arguments.export_data
        study = compare_runs(arguments.runs, out, *options, _extras(arguments))
    for warning in warnings(study):
        print(f"warning: {warning}", file=sys.stderr)
    Console(width=None if sys.stdout.isatty() else 100).print(console_table(out / "results.csv"))
    print(f"wrote {out / 'report.md'} and {out / 'report.html'}")
    if arguments.export_data is not None:
        print(f"wrote small copies of the runs to {arguments.export_data}")
    return EXIT_DONE


def sequence(arguments: argparse.Namespace) -> int:
    """Success matrices, forgetting and transfer of runs on tasks one after another."""
    from analysis.sequences.command import report_sequences

    command = f"python {shlex.join(['evaluate.py', *arguments.words])}"
    places = arguments.runs, arguments.out, arguments.references
    report_sequences(*places, command, arguments.export_data)
    return EXIT_DONE


def _extras(arguments: argparse.Namespace) -> Extras:
    """Tables of fresh networks, and the benchmark where there is one."""
    from analysis.compare import Extras
    from analysis.compare.oracle_table import read_tables
    from analysis.compare.overheads import DEFAULT_FILES, read_overheads
    from analysis.statistics.bootstrap import NUM_RESAMPLES

    files = arguments.overheads or [file for file in DEFAULT_FILES if file.is_file()]
    overheads = read_overheads(*files) if files else None
    tables = tuple(read_tables(arguments.oracle_table or ()))
    draws = arguments.draws or NUM_RESAMPLES
    return Extras(tables, overheads, arguments.switching_verified, draws)


def oracle(arguments: argparse.Namespace) -> int:
    """Make tables of fresh networks from runs in single worlds (experiment=oracle_grid)."""
    from analysis.compare import build_oracles
    from analysis.compare.yardsticks import error_text

    words = shlex.join(["python", "evaluate.py", *arguments.words])
    for path, table in build_oracles(arguments.runs, arguments.out, words):
        grid = table.grid
        print(f"wrote {path}: {len(grid.values)} values x {len(table.seeds)} seeds")
        print(f"  {error_text(grid)}")
        if not grid.is_accepted:
            print("  refused (above 10 %): train at more values around there, then again")
    return EXIT_DONE


def inspect(arguments: argparse.Namespace) -> int:
    """Print the manifest of a checkpoint; nothing is built and no other file is opened."""
    from analysis.canonical_json import canonical_json
    from analysis.checkpoint import inspect_checkpoint

    print(canonical_json(inspect_checkpoint(arguments.checkpoint), indent=2).decode())
    return EXIT_DONE


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _draws(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1000 or more")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function: Any) -> argparse.ArgumentParser:
        about = {"help": function.__doc__, "description": function.__doc__}
        added = commands.add_parser(function.__name__, allow_abbrev=False, **about)
        added.set_defaults(command=function)
        return added

    added = command(run)
    added.add_argument("run_dir", type=Path, nargs="?", metavar="RUN_DIR", help="or a checkpoint")
    added.add_argument("--experiment", metavar="NAME", help="all runs in runs/NAME instead")
    added.add_argument("--checkpoint", type=Path, help="name or path; default: newest intact")
    added.add_argument("--video", action="store_true", help="film every world, or all tasks")
    added.add_argument("--out", type=Path, help="folder of the results; default: RUN_DIR")
    walking = added.add_argument_group("walking robots")
    walking.add_argument("--frictions", help=f"default: {DEFAULT_FRICTIONS}")
    other = "where another quantity than friction changed, such as 0.5,1,2"
    walking.add_argument("--values", help=other)
    walking.add_argument("--episodes", type=_positive, help=f"default: {DEFAULT_EPISODES}")
    walking.add_argument("--seed", type=_seed, help="of the start states")
    tasks = added.add_argument_group("Meta-World")
    goals = "visit the first N goals of every task only; not for result tables"
    tasks.add_argument("--goals", "--num-goals", type=_positive, metavar="N", help=goals)
    rows = "episodes of a task at a time; default: as configured"
    tasks.add_argument("--rows-per-task", type=_positive, metavar="N", help=rows)
    added = command(compare)
    added.add_argument("runs", type=Path, nargs="*", metavar="RUN_OR_GROUP")
    added.add_argument("--out", type=Path, help="folder of the report, such as results/NAME")
    added.add_argument(
        "--baseline", metavar="ARM", help="default: standard; of transplants, what was kept"
    )
    added.add_argument("--partial", action="store_true", help="cut to what all runs have done")
    small = "also write small copies of the runs that give the same report"
    added.add_argument("--export-data", type=Path, metavar="DIR", help=small)
    added.add_argument("--from", type=Path, dest="data", metavar="DATA", help="stored data again")
    fresh = "interpolated fresh networks instead of arm=fresh_oracle: file or folder, repeatable"
    added.add_argument("--oracle-table", type=Path, action="append", metavar="PATH", help=fresh)
    paired = "section on methods of the benchmark, one per agent; default: results/throughput"
    added.add_argument("--overheads", type=Path, action="append", metavar="FILE", help=paired)
    how = "for the validity gate on a world of yours: how its switches were verified, in words"
    added.add_argument("--switching-verified", metavar="WORDS", help=how)
    many = "bootstrap draws of the intervals, at least 1000; default: 10000, for headline 50000"
    added.add_argument("--draws", type=_draws, metavar="N", help=many)
    added = command(oracle)
    added.add_argument("runs", type=Path, nargs="+", metavar="RUN_OR_GROUP")
    added.add_argument("--out", type=Path, required=True, help="folder, such as results/oracles")
    added = command(sequence)
    added.add_argument("runs", type=Path, nargs="+", metavar="RUN_OR_GROUP")
    added.add_argument("--out", type=Path, required=True, help="folder of the report")
    where = "folder of all runs with single-task references; default: that of the runs"
    added.add_argument("--references", type=Path, metavar="RUNS", help=where)
    where = "folder for small copies of the runs and references that give the same report"
    added.add_argument("--export-data", type=Path, metavar="DIR", help=where)
    command(figures).add_argument("run_dir", type=Path, metavar="RUN_DIR")
    command(inspect).add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    from analysis.checkpoint import CheckpointError, StorageError
    from envs.base import SimulatorError

    try:
        parsed = _parser().parse_args(arguments)
        parsed.words = arguments
        return parsed.command(parsed)
    except (CheckpointError, ValueError) as error:
        return _refuse("error", error, EXIT_CONFIGURATION)
    except SimulatorError as error:
        return _refuse("numerical failure", error, EXIT_NUMERICAL)
    except StorageError as error:
        return _refuse("storage", error, EXIT_STORAGE)


def _refuse(kind: str, error: Exception, code: int) -> int:
    print(f"{kind}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
