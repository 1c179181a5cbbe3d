"""Look at runs: `python evaluate.py run runs/...`, `figures runs/...` or `inspect CHECKPOINT`.

Exit codes: 0 done, 2 a wrong path, checkpoint or option, 3 numerical failure, 4 storage.
"""

from __future__ import annotations

import os

# Before NumPy and torch start their own threads: small networks are faster on one.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from agents.base import Agent
    from analysis.checkpoint import LoadedCheckpoint
    from configs.run import RunConfig

EXIT_DONE, EXIT_CONFIGURATION, EXIT_NUMERICAL, EXIT_STORAGE = 0, 2, 3, 4


class UsageError(ValueError):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python {self.prog} --help")


# run: numbers and films of one run --------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Measure the newest intact checkpoint at fixed frictions; print a table, write JSON."""
    from analysis.evaluation import checked_frictions
    from analysis.run_files import read_config

    frictions = checked_frictions(arguments.frictions)
    run_dirs = _named_runs(arguments)
    for run_dir in run_dirs:
        read_config(run_dir)
    films = arguments.video and _opengl_works()
    for run_dir in run_dirs:
        _evaluate_run(run_dir, frictions, arguments, films)
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


def _opengl_works() -> bool:
    """Choose MuJoCo's OpenGL before MuJoCo is imported; without one, say what to install."""
    from analysis.video import RenderingUnavailable, find_backend

    try:
        os.environ["MUJOCO_GL"] = find_backend()
    except RenderingUnavailable as error:
        print(f"no video: {error}", file=sys.stderr)
        return False
    return True


def _evaluate_run(
    run_dir: Path, frictions: list[float], arguments: argparse.Namespace, films: bool
) -> None:
    import torch

    from analysis.evaluation import measure_returns, start_seed
    from analysis.run_files import read_config
    from configs.build import build_agent
    from configs.run import load_run

    torch.set_num_threads(1)
    config = load_run(read_config(run_dir))
    envs, info = _fixed_worlds(config, config.env.num_envs)
    agent = build_agent(config, info)
    try:
        loaded = _load_agent(agent, run_dir, arguments.checkpoint)
        print(f"evaluating {run_dir} at step {loaded.env_steps:,} ({loaded.path.name})", flush=True)
        results = []
        for friction in frictions:
            row: dict[str, Any] = {"friction": friction}
            for kind in ("deterministic", "stochastic"):
                row[kind] = measure_returns(
                    agent,
                    envs,
                    friction,
                    arguments.episodes,
                    arguments.seed,
                    deterministic=kind == "deterministic",
                )
            results.append(row)
        out = arguments.out or run_dir
        written = [_write_results(out, run_dir, loaded, arguments, results)]
        if films:
            film_envs, _ = _fixed_worlds(config, 1)
            seed = start_seed(arguments.seed)
            written += _film(agent, film_envs, out / "videos", frictions, seed)
            film_envs.close()
    finally:
        agent.close()
        envs.close()
    _print_table(results, arguments.episodes)
    print("\n".join(f"wrote {path}" for path in written))


def _fixed_worlds(config: RunConfig, num_envs: int) -> tuple[Any, Any]:
    """Environments like those of training, in one world, with start states of their own."""
    from configs.build import build_environment, resolve_threads

    if not hasattr(config.env, "fixed_friction"):
        raise UsageError(
            f"this run's environment is of kind {config.env.kind}, which has no friction; "
            "evaluate.py run measures walking robots"
        )
    fixed = replace(config.env, schedule="fixed", switch_rule="exact", num_envs=num_envs)
    return build_environment(replace(config, env=fixed), resolve_threads(config))


def _load_agent(agent: Agent, run_dir: Path, checkpoint: Path | None) -> LoadedCheckpoint:
    """Restore the agent of a checkpoint, by default of the newest one that is intact."""
    from analysis.checkpoint import CheckpointError, CheckpointStore, load_checkpoint

    store = CheckpointStore(run_dir / "checkpoints")
    loaded = store.load_latest() if checkpoint is None else load_checkpoint(checkpoint)
    for problem in store.problems:
        print(f"checkpoint passed over: {problem}", file=sys.stderr)
    if loaded is None:
        raise CheckpointError(f"{run_dir} has no checkpoint yet; train it first")
    try:
        agent.load_state_dict(loaded.state["agent"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint {loaded.path} does not fit the configuration of {run_dir}: {reason}"
        ) from error
    return loaded


def _write_results(
    out: Path,
    run_dir: Path,
    loaded: LoadedCheckpoint,
    arguments: argparse.Namespace,
    results: list[dict[str, Any]],
) -> Path:
    from analysis.canonical_json import canonical_json
    from analysis.storage import StorageError, atomic_write_text

    record = {
        "run": str(run_dir),
        "checkpoint": loaded.path.name,
        "env_steps": loaded.env_steps,
        "seed": arguments.seed,
        "num_episodes": arguments.episodes,
        "confidence": 0.95,
        "worlds": [
            {key: value if key == "friction" else value.plain() for key, value in row.items()}
            for row in results
        ],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {out}: {error.strerror}", out) from error
    atomic_write_text(out / "evaluation.json", canonical_json(record, indent=2).decode() + "\n")
    return out / "evaluation.json"


def _film(agent: Agent, envs: Any, folder: Path, frictions: list[float], seed: int) -> list[Path]:
    from analysis.video import record_episode

    paths = [folder / f"friction_{friction:g}.mp4" for friction in frictions]
    for path, friction in zip(paths, frictions, strict=True):
        record_episode(agent, envs, path, friction, seed)
    return paths


def _print_table(results: list[dict[str, Any]], num_episodes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"return over {num_episodes} episodes: mean [95 % interval]"
    table = Table(box=None, title=title, title_justify="left", header_style="")
    for name in ("friction", "deterministic", "steps", "stochastic", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results:
        cells = [f"{row['friction']:g}"]
        for kind in ("deterministic", "stochastic"):
            found = row[kind]
            cells.append(rf"{found.mean:.1f} \[{found.low:.1f}, {found.high:.1f}]")
            cells.append(f"{found.mean_length:.0f}")
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


# figures and inspect ----------------------------------------------------------------------------


def figures(arguments: argparse.Namespace) -> int:
    """Draw the figures of a run again, finished or not."""
    from analysis.plots import draw_run
    from analysis.run_files import read_config

    read_config(arguments.run_dir)
    for path in draw_run(arguments.run_dir):
        print(f"wrote {path}")
    return EXIT_DONE


def inspect(arguments: argparse.Namespace) -> int:
    """Print the manifest of a checkpoint; nothing is built and no other file is opened."""
    from analysis.canonical_json import canonical_json
    from analysis.checkpoint import inspect_checkpoint

    print(canonical_json(inspect_checkpoint(arguments.checkpoint), indent=2).decode())
    return EXIT_DONE


# The command line -------------------------------------------------------------------------------


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function: Any) -> argparse.ArgumentParser:
        help_text = function.__doc__
        added = commands.add_parser(
            function.__name__, help=help_text, description=help_text, allow_abbrev=False
        )
        added.set_defaults(command=function)
        return added

    added = command(run)
    added.add_argument("run_dir", type=Path, nargs="?", metavar="RUN_DIR")
    added.add_argument("--experiment", metavar="NAME", help="all runs in runs/NAME instead")
    added.add_argument("--checkpoint", type=Path, help="instead of the newest intact one")
    added.add_argument("--frictions", default="0.02,0.2,2", help="default: %(default)s")
    added.add_argument("--episodes", type=_positive, default=20, help="default: %(default)s")
    added.add_argument("--seed", type=_seed, default=0, help="of the start states")
    added.add_argument("--video", action="store_true", help="film one episode per friction")
    added.add_argument("--out", type=Path, help="folder of the results instead of RUN_DIR")
    command(figures).add_argument("run_dir", type=Path, metavar="RUN_DIR")
    command(inspect).add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    from analysis.checkpoint import CheckpointError, StorageError
    from envs.base import SimulatorError

    try:
        parsed = _parser().parse_args(arguments)
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
