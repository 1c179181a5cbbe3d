"""`python evaluate.py sequence`, and what is written when a run on a sequence has ended."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from analysis.compare.command import write_files
from analysis.plots import save_figure
from analysis.run_files import NotARun
from analysis.runs import find_runs
from analysis.sequences.copies import copies_of
from analysis.sequences.figures import KINDS, matrix_figure
from analysis.sequences.matrix import is_sequence, read_matrix, sources_of, write_matrix
from analysis.sequences.report import notes, render, scores_table
from analysis.sequences.study import study
from configs.run import RunConfig


def report_sequences(
    paths: Iterable[Path],
    out: Path,
    references: Path | None = None,
    command: str = "",
    export: Path | None = None,
) -> None:
    """Compare runs on a sequence of tasks and write the report.

    Args:
        paths: Run directories, or folders of them.
        out: Folder of the report, created if missing.
        references: Folder of all runs in whose `sequence_references` single tasks are looked for;
            None for the one of the runs themselves.
        command: Command line, printed in the report.
        export: Folder for small copies of runs and references that give the same report.

    Raises:
        NotARun: A folder holds no run, or a run is no finished sequence.
        UnlikeSequences: The runs are on different sequences.
        ValueError: A copy would replace its run.
        StorageError: A file cannot be written.
    """
    runs = [run for path in paths for run in find_runs(path)]
    found = study(dict.fromkeys(runs), references)
    if export is not None:
        write_files(export, copies_of(found, export))
    write_files(out, render(found, out.resolve().name, command))
    for note in notes(found):
        print(f"note: {note}", file=sys.stderr)
    table = scores_table(found)
    shown = Shown(box=None, title_justify="left", header_style="")
    for name in table.header:
        shown.add_column(name)
    for row in table.rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
    print(f"wrote {out / 'report.md'} and {out / 'report.html'}")
    if export is not None:
        print(f"wrote small copies of the runs and their references to {export}")


def incomplete_sequence(config: RunConfig) -> Sequence[str]:
    """What to say of a run that ends before the last stage of its sequence.

    Short trials are legitimate, so it is a warning, and no refusal.

    Args:
        config: Of the run.

    Returns:
        Lines to print: one about where it ends and the `total_steps` to set, or none.
    """
    env = config.env
    if not hasattr(env, "steps_per_task") or config.total_steps >= env.planned_steps:
        return ()
    stages, steps = env.plan.stages, env.steps_per_task
    last = (config.total_steps - 1) // steps
    return (
        f"warning: total_steps={config.total_steps} ends the run in stage {last + 1} of "
        f"{len(stages)} ({stages[last].name}) and leaves it without a success matrix; set "
        f"total_steps={env.planned_steps} for all stages of {steps} steps",
    )


def has_matrix(config: RunConfig) -> bool:
    """Whether a finished run with these settings has a success matrix."""
    return is_sequence(config) and config.total_steps >= config.env.planned_steps


def conclude_sequence(run_dir: Path, config: RunConfig) -> Sequence[str]:
    """Write the success matrices of a finished run beside its other results.

    Args:
        run_dir: Its directory.
        config: Of the run; nothing is written if it is no sequence, or ended before its last
            stage.

    Returns:
        Lines to print.

    Raises:
        StorageError: A file cannot be written.
    """
    if not has_matrix(config):
        return incomplete_sequence(config)
    lines = []
    for source in sources_of(config):
        try:
            matrix = read_matrix(run_dir, source)
        except NotARun as error:  # evaluations that were switched on later: the run is done anyway
            lines.append(f"no success matrix: {error}")
            continue
        path, _ = write_matrix(run_dir, matrix)
        if config.log.figures:
            figure = matrix_figure({"success": matrix.stage_ends}, matrix.tasks)
            for kind in KINDS:
                save_figure(figure, run_dir / "figures" / f"{path.stem}.{kind}")
        scores = matrix.scores()
        if len(matrix.tasks) == 1:
            lines.append(
                f"success {scores.performance:.3f}, mean of all evaluations {scores.areas[0]:.3f}; "
                f"see {path.name}"
            )
            continue
        lines.append(
            f"performance {scores.performance:.3f}, forgetting {scores.mean_forgetting:.3f}, "
            f"backward transfer {scores.backward_transfer:.3f} on {matrix.goals} goal(s) per task; "
            f"see {path.name}"
        )
    return lines
