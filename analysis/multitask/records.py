"""One evaluation with everything that makes it comparable, as JSON and CSV, and read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.canonical_json import JsonError, canonical_json, parse_json, plain
from analysis.multitask.evaluation import Outcomes
from analysis.storage import StorageError, atomic_write_text

FORMAT = "multitask evaluation 1"
FILE = "evaluation.json"
PARTIAL_FILE = "evaluation_partial.json"
CSV_COLUMNS: tuple[str, ...] = (
    "task",
    "goal",
    "success",
    "final_success",
    "first_success_step",
    "episode_return",
    "episode_length",
    "unstable",
)
MUST_AGREE = (
    "benchmark",
    "tasks",
    "reward_version",
    "horizon",
    "success",
    "goal_generator",
    "num_goals",
    "goal_policy",
    "backend",
)
"""Entries of the manifest without which success rates cannot be compared."""
RUN_SEED = "run seed"
"""The goal policy under which every run draws goals of its own."""
_REQUIRED = (*MUST_AGREE, "goal_seed", "goal_sha256")
_REQUIRED_ABOUT = ("run", "seed", "env_steps")
_ARRAYS: Mapping[str, type] = {
    "success": np.bool_,
    "final_success": np.bool_,
    "first_success_step": np.int64,
    "episode_return": np.float64,
    "episode_length": np.int64,
    "unstable": np.bool_,
}


class NotAnEvaluation(ValueError):
    """A path without an evaluation of several tasks, or with a damaged one."""


@dataclass(frozen=True)
class Evaluation:
    """The outcomes of one agent on every task.

    Attributes:
        tasks: Task names in the order of the context; a name may occur twice.
        outcomes: What happened.
        kind: `full` (every goal, whole episodes), `partial` (fewer goals) or `quick` (episodes end
            at their first success). Only full ones belong in result tables.
        manifest: What makes results comparable: versions, back-end, reward version, horizon,
            success definition, goals.
        about: What was measured: run, checkpoint, env_steps, seed and the like.
    """

    tasks: tuple[str, ...]
    outcomes: Outcomes
    kind: str
    manifest: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the tasks, each once."""
        return task_labels(self.tasks)

    @property
    def num_goals(self) -> int:
        """Episodes per task."""
        return len(self.outcomes.goals)


def kind_of(outcomes: Outcomes, num_goals: int) -> str:
    """`quick`, `partial` or `full`; see `Evaluation`.

    Args:
        outcomes: What happened.
        num_goals: Goals that the run trains on.
    """
    if outcomes.cut_at_success:
        return "quick"
    return "full" if len(outcomes.goals) == num_goals else "partial"


def task_labels(tasks: Sequence[str]) -> tuple[str, ...]:
    """Task names, with the number of the visit where a name occurs again: a, b, a#2."""
    seen: dict[str, int] = {}
    labels = []
    for task in tasks:
        seen[task] = seen.get(task, 0) + 1
        labels.append(task if seen[task] == 1 else f"{task}#{seen[task]}")
    return tuple(labels)


def file_name(kind: str) -> str:
    """Name of the JSON file; one with fewer goals never replaces a full one."""
    return FILE if kind == "full" else PARTIAL_FILE


def write_evaluation(
    folder: Path, evaluation: Evaluation, summary: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write JSON and CSV; older files are replaced.

    Args:
        folder: Created if missing.
        evaluation: What to write.
        summary: Plain values for people who read the file; not read back.

    Returns:
        Both files. The CSV has one row per task and goal; an unknown cell is empty.

    Raises:
        StorageError: A file cannot be written.
    """
    path = folder / file_name(evaluation.kind)
    outcomes = evaluation.outcomes
    record = {
        "format": FORMAT,
        "kind": evaluation.kind,
        "manifest": evaluation.manifest,
        "about": evaluation.about,
        "summary": summary,
        "tasks": evaluation.tasks,
        "goals": outcomes.goals,
        "cut_at_success": outcomes.cut_at_success,
        "episodes": {name: getattr(outcomes, name).tolist() for name in _ARRAYS},
    }
    text = canonical_json(plain(record, non_finite_as_null=True), indent=1).decode() + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    table = path.with_suffix(".csv")
    atomic_write_text(table, _csv_text(evaluation))
    atomic_write_text(path, text)
    return path, table


def _csv_text(evaluation: Evaluation) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    outcomes = evaluation.outcomes
    arrays = {name: getattr(outcomes, name) for name in _ARRAYS}
    for index, label in enumerate(evaluation.labels):
        for column, goal in enumerate(outcomes.goals):
            cells = {name: array[index, column].item() for name, array in arrays.items()}
            cells = {k: int(v) if isinstance(v, bool) else v for k, v in cells.items()}
            unknown = () if cells["success"] else ("first_success_step",)
            if outcomes.cut_at_success:
                unknown += ("final_success", "episode_return")
            cells |= dict.fromkeys(unknown, "")
            writer.writerow({"task": label, "goal": goal, **cells})
    return stream.getvalue()


def load_evaluations(paths: Iterable[Path | str] | Path | str) -> tuple[Evaluation, ...]:
    """Read stored evaluations.

    Args:
        paths: Run directories (their full evaluation) or JSON files.

    Raises:
        NotAnEvaluation: A path holds none, or a damaged one.
        ValueError: No path, or one is named twice.
    """
    listed = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not listed:
        raise ValueError("no evaluations are named; name run directories or their evaluation.json")
    files = [path / FILE if path.is_dir() else path for path in listed]
    resolved = [file.resolve() for file in files]
    for file, place in zip(files, resolved, strict=True):
        if resolved.count(place) > 1:
            raise ValueError(f"{file} is named twice; name each run once")
    return tuple(_read(file) for file in files)


def _read(file: Path) -> Evaluation:
    try:
        record = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        raise NotAnEvaluation(
            f"{file} does not exist; make it with: python evaluate.py run {file.parent}"
        ) from error
    except OSError as error:
        raise NotAnEvaluation(f"{file} cannot be read: {error.strerror or error}") from error
    except JsonError as error:
        raise NotAnEvaluation(f"{file} {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise NotAnEvaluation(f"{file} holds no evaluation of several tasks")
    try:
        return _parse(record)
    except (KeyError, TypeError, ValueError) as error:
        raise NotAnEvaluation(f"{file} is damaged: {error!r}") from error


def _parse(record: Mapping[str, Any]) -> Evaluation:
    tasks = tuple(str(task) for task in record["tasks"])
    goals = tuple(int(goal) for goal in record["goals"])
    arrays = {}
    for name, dtype in _ARRAYS.items():
        array = np.array(record["episodes"][name], dtype=dtype)
        if array.shape != (len(tasks), len(goals)):
            raise ValueError(f"{name} has shape {array.shape}")
        arrays[name] = array
    manifest, about = dict(record["manifest"]), dict(record["about"])
    missing = [key for key in _REQUIRED if key not in manifest]
    missing += [key for key in _REQUIRED_ABOUT if key not in about]
    if missing:
        raise ValueError(f"it does not say its {missing[0]}")
    if [*tasks] != manifest["tasks"]:
        raise ValueError("tasks and manifest differ")
    cut = record["cut_at_success"] is True
    outcomes = Outcomes(goals=goals, cut_at_success=cut, **arrays)
    kind = kind_of(outcomes, int(manifest["num_goals"]))
    if kind != record["kind"]:
        raise ValueError(f"it says kind {record['kind']!r} but is {kind}")
    return Evaluation(tasks, outcomes, kind, manifest, about)
