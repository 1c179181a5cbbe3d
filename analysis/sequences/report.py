"""The report of sequences of tasks: scores, matrices and curves, as Markdown and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from analysis.canonical_json import canonical_json, plain
from analysis.compare.report import Block, Commands, Heading, Picture, Text, to_html, to_markdown
from analysis.compare.tables import DASH, Table, interval_text, number_text
from analysis.continual import default_window
from analysis.multitask.records import task_labels
from analysis.sequences.figures import KINDS, curves_figure, matrix_figure, rendered
from analysis.sequences.matrix import matrix_csv
from analysis.sequences.study import Arm, SequenceStudy
from analysis.statistics import Interval

SCORES = ("performance", "forgetting", "backward_transfer", "transfer")


def render(study: SequenceStudy, name: str, command: str = "") -> dict[str, bytes]:
    """Make all files of a report.

    Args:
        study: The arms.
        name: Title.
        command: Command line that makes it, printed in it.

    Returns:
        Path below the report's folder -> contents.
    """
    first = study.arms[0].matrices[0]
    m = first.evaluations_per_stage
    ends = {arm.name: arm.mean_success[m - 1 :: m] for arm in study.arms}
    figures = {
        "sequence_matrix": matrix_figure(ends, study.tasks),
        "sequence_curves": curves_figure({a.name: a.mean_success for a in study.arms}, first),
    }
    drawn = {f"{n}.{k}": rendered(figure, k) for n, figure in figures.items() for k in KINDS}
    blocks = _blocks(study, name, command)
    files = {f"figures/{file}": data for file, data in drawn.items()}
    files["results.csv"] = scores_csv(study).encode()
    files["tasks.csv"] = tasks_csv(study).encode()
    for arm in study.arms:
        for seed, matrix in zip(arm.runs, arm.matrices, strict=True):
            stem = arm.name.replace("/", "_")
            files[f"data/{stem}_seed_{seed}.csv"] = matrix_csv(matrix).encode()
    files["data/study.json"] = _study_json(study)
    files["report.md"] = to_markdown(blocks).encode()
    files["report.html"] = to_html(blocks, name, drawn).encode()
    return files


def _blocks(study: SequenceStudy, name: str, command: str) -> list[Block]:
    blocks: list[Block] = [Heading(name, level=1), Text(items=tuple(notes(study)))]
    blocks += [scores_table(study), Picture("sequence_matrix"), Picture("sequence_curves")]
    blocks += [tasks_table(study)]
    if command:
        blocks += [Heading("Made with"), Commands((command,))]
    return blocks


def notes(study: SequenceStudy) -> list[str]:
    """What a reader must know before any number."""
    fewest = min(len(arm.runs) for arm in study.arms)
    matrix = study.arms[0].matrices[0]
    found = [
        f"{len(study.tasks)} stages of {matrix.steps_per_task:,} steps, "
        f"{matrix.evaluations_per_stage} evaluations per stage on {matrix.goals} "
        f"goal{'' if matrix.goals == 1 else 's'} per task, deterministic policy, success at any "
        f"step of {study.facts['horizon']}; Meta-World v3 with reward "
        f"{study.facts['reward_version']}, so that no number compares with Continual World's"
    ]
    if fewest < 10:
        found.append(
            f"exploratory: {fewest} seed{'' if fewest == 1 else 's'} per arm; 10 are needed for a "
            "claim"
        )
    failed = [
        f"{'/'.join(path.parts[-2:])} ({matrix.num_missing} of {len(matrix.success)})"
        for arm in study.arms
        for path, matrix in zip(arm.runs.values(), arm.matrices, strict=True)
        if matrix.num_missing
    ]
    if failed:
        found.append(
            f"{len(failed)} failed run{'' if len(failed) == 1 else 's'} counted as no success in "
            f"the evaluations not made: {', '.join(failed)}"
        )
    if study.reference_areas is None:
        lacking = f" ({', '.join(study.missing)})" if study.missing else ""
        found.append(
            f"no forward transfer: single-task references are missing{lacking}; train them with: "
            "python train.py references and the words of the sequence"
        )
    else:
        found.append(
            "forward transfer is measured against single-task runs from scratch without methods, "
            f"seeds {', '.join(map(str, study.reference_seeds))}"
        )
        undefined = study.arms[0].transfer_by_task
        if undefined is not None and undefined.num_undefined:
            found.append(
                f"{undefined.num_undefined} task(s) left out of forward transfer: their references "
                "are perfect from the first evaluation"
            )
    return found


def scores_table(study: SequenceStudy) -> Table:
    """Performance, forgetting and transfer of every arm."""
    rows = tuple(
        (
            arm.name,
            str(len(arm.runs)),
            *(interval_text(_interval(arm, score)) for score in SCORES),
        )
        for arm in study.arms
    )
    header = ("arm", "seeds", "performance", "forgetting", "backward transfer", "forward transfer")
    caption = (
        f"Performance: success over tasks at the end, the mean of {_end_of_stage(study)}. "
        "Forgetting: success at the end of a task's own stage, likewise, minus at the end of the "
        "run, mean over all tasks. Forward transfer: area of a "
        "task's own stage against a run from scratch, as a share of what was left to gain. 90 % "
        "bootstrap over seeds; none for a single seed."
    )
    return Table("Scores", header, rows, caption)


def _end_of_stage(study: SequenceStudy) -> str:
    """What "at the end" means: with few evaluations it reaches far back."""
    m = study.arms[0].matrices[0].evaluations_per_stage
    window = default_window(m)
    text = f"the last {window} evaluations" if window > 1 else "the last evaluation"
    return f"{text}: all of its stage, first ones included" if 1 < window == m else text


def _interval(arm: Arm, score: str) -> Interval | None:
    return getattr(arm, score)


def tasks_table(study: SequenceStudy) -> Table:
    """Every task of every arm: area, end of its stage, end of the run."""
    header = ("task", "reference area")
    header += tuple(f"{arm.name}: area, own end, end" for arm in study.arms)
    rows = []
    for stage, task in enumerate(study.tasks):
        reference = study.reference_areas
        cells = [DASH if reference is None else number_text(float(reference[:, stage].mean()))]
        for arm in study.arms:
            ends = arm.mean_success[arm.matrices[0].evaluations_per_stage - 1 :: _m(arm)]
            numbers = (arm.areas[:, stage].mean(), ends[stage, stage], ends[-1, stage])
            cells.append(", ".join(number_text(float(number)) for number in numbers))
        rows.append((task, *cells))
    caption = "Means over seeds; ends are single evaluations, the last ones."
    return Table("Tasks", header, tuple(rows), caption)


def _m(arm: Arm) -> int:
    return arm.matrices[0].evaluations_per_stage


def scores_csv(study: SequenceStudy) -> str:
    """One row per arm and score."""
    rows: list[Sequence[object]] = [("arm", "score", "estimate", "low", "high", "seeds")]
    for arm in study.arms:
        for score in SCORES:
            found = _interval(arm, score)
            if found is not None:
                cells = (found.estimate, found.low, found.high)
                rows.append((arm.name, score, *map(_cell, cells), len(arm.runs)))
    return _csv(rows)


def tasks_csv(study: SequenceStudy) -> str:
    """One row per arm, seed and stage."""
    header = ("arm", "seed", "stage", "task", "area", "forgetting", "final", "reference_area")
    rows: list[Sequence[object]] = [header]
    means = None if study.reference_areas is None else study.reference_areas.mean(axis=0)
    for arm in study.arms:
        for seed, matrix in zip(arm.runs, arm.matrices, strict=True):
            scores, last = matrix.scores(), matrix.success[-1]
            for stage, task in enumerate(study.tasks):
                reference = float("nan") if means is None else float(means[stage])
                cells = (scores.areas[stage], scores.forgetting[stage], last[stage], reference)
                rows.append((arm.name, seed, stage, task, *map(_cell, map(float, cells))))
    return _csv(rows)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def _csv(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _study_json(study: SequenceStudy) -> bytes:
    areas = study.reference_areas
    record = {
        "format": "sequence study 1",
        "tasks": study.tasks,
        "labels": task_labels(study.tasks),
        "facts": dict(study.facts),
        "reference_seeds": study.reference_seeds,
        "reference_areas": None if areas is None else areas.tolist(),
        "arms": {
            arm.name: {
                "runs": {str(seed): "/".join(path.parts[-4:]) for seed, path in arm.runs.items()},
                **{s: None if (i := _interval(arm, s)) is None else asdict(i) for s in SCORES},
            }
            for arm in study.arms
        },
    }
    return canonical_json(plain(record, non_finite_as_null=True), indent=1) + b"\n"
