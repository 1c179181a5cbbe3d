"""Performance, forgetting and transfer of several arms over the same sequence of tasks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.compare.arms import learning_settings
from analysis.continual import ForwardTransfer, forward_transfer, forward_transfer_interval
from analysis.continual.episodes import Array
from analysis.multitask.measuring import goal_policy
from analysis.run_files import NotARun, read_config
from analysis.sequences.matrix import SuccessMatrix, is_sequence, read_matrix
from analysis.sequences.references import GROUP, find_references
from analysis.statistics import Interval, interval
from configs.run import RunConfig, load_run
from configs.schema import to_plain

ArmKey = tuple[Path, str]  # folder and settings

NUM_RESAMPLES, CONFIDENCE = 4_000, 0.90
_SAME_ENV = (
    "steps_per_task",
    "copies",
    "context_id",
    "reward_version",
    "horizon",
    "num_goals",
    "goal_order",
)


class UnlikeSequences(ValueError):
    """Runs whose matrices mean different things."""


@dataclass(frozen=True)
class Arm:
    """All runs that differ in their seed only.

    Attributes:
        name: What is printed.
        runs: Seed -> run directory.
        matrices: In the order of the seeds.
        performance: Mean success over tasks at the end.
        forgetting: Mean over all tasks.
        backward_transfer: Minus the mean over all tasks but the last.
        transfer: Mean forward transfer; None without references.
        transfer_by_task: The same by task; None without references.
    """

    name: str
    runs: Mapping[int, Path]
    matrices: tuple[SuccessMatrix, ...]
    performance: Interval
    forgetting: Interval
    backward_transfer: Interval
    transfer: Interval | None = None
    transfer_by_task: ForwardTransfer | None = None

    @property
    def mean_success(self) -> Array:
        """(evaluations, stages) mean over seeds."""
        return np.mean([matrix.success for matrix in self.matrices], axis=0)

    @property
    def areas(self) -> Array:
        """(seeds, stages)."""
        return np.stack([matrix.scores().areas for matrix in self.matrices])


@dataclass(frozen=True)
class SequenceStudy:
    """Several arms.

    Attributes:
        arms: In the order of their names.
        tasks: Task of every stage.
        facts: What all runs have in common.
        reference_seeds: Seeds for which every task has a reference.
        reference_areas: (reference seeds, stages), None where a task has none.
        missing: Tasks without a reference.
        references: Task -> seed -> run directory of all references found.
    """

    arms: tuple[Arm, ...]
    tasks: tuple[str, ...]
    facts: Mapping[str, Any]
    reference_seeds: tuple[int, ...] = ()
    reference_areas: Array | None = None
    missing: tuple[str, ...] = field(default_factory=tuple)
    references: Mapping[str, Mapping[int, Path]] = field(default_factory=dict)


def study(
    run_dirs: Iterable[Path], references_root: Path | None = None, source: str | None = None
) -> SequenceStudy:
    """Compare finished runs on one sequence.

    Args:
        run_dirs: Run directories; references among them are left out.
        references_root: Folder of all runs in which references are looked for; None for the one
            that the runs themselves were written to.
        source: See `read_matrix`.

    Runs of one arm lie in one folder and have the same settings.

    Raises:
        NotARun: A run is no sequence, or has not ended.
        UnlikeSequences: The runs are on different sequences, or evaluated differently, or two of
            one arm have the same seed.
        ValueError: No runs.
    """
    found: dict[ArmKey, dict[int, tuple[Path, RunConfig]]] = {}
    for path in {path.resolve(): path for path in run_dirs}.values():
        config = load_run(read_config(path))
        if getattr(config.env, "only_task", None) is not None or GROUP in path.parts:
            continue
        if not is_sequence(config):
            raise NotARun(f"{path} is no run on a sequence of tasks with evaluations")
        settings = json.dumps(learning_settings(to_plain(config)), sort_keys=True)
        seeds = found.setdefault((path.resolve().parent, settings), {})
        if config.seed in seeds:
            raise UnlikeSequences(
                f"{seeds[config.seed][0]} and {path} have the same settings and seed; name only "
                "one of them"
            )
        seeds[config.seed] = (path, config)
    if not found:
        raise ValueError("no runs on sequences are named; name run directories or their group")
    members = [member for seeds in found.values() for member in seeds.values()]
    facts = _check_alike(members)
    references = _references(members, references_root)
    tasks = tuple(stage.name for stage in members[0][1].env.plan.stages)
    seeds, areas, missing = _reference_areas(references, tasks, source)
    names = _short_names(found)
    arms = tuple(
        _arm(names[key], found[key], areas, source)
        for key in sorted(found, key=lambda key: names[key])
    )
    labels = arms[0].matrices[0].tasks
    return SequenceStudy(arms, labels, facts, seeds, areas, missing, references)


def _short_names(
    found: Mapping[ArmKey, Mapping[int, tuple[Path, RunConfig]]],
) -> dict[ArmKey, str]:
    """Names of the arms' folders, with their group in front where two are called the same.

    Where several arms lie in one folder, the first run of each stands behind its name.
    """
    folders = Counter(folder for folder, _ in found)
    last = Counter(folder.name for folder in folders)
    names = {}
    for key, runs in found.items():
        folder = key[0]
        name = folder.name if last[folder.name] == 1 else "/".join(folder.parts[-3:])
        first = runs[min(runs)][0].resolve().name
        names[key] = name if folders[folder] == 1 else f"{name}/{first}"
    return names


def _check_alike(members: Sequence[tuple[Path, RunConfig]]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for path, config in members:
        env, log = config.env, config.log
        mine = {
            "stages": [stage.name for stage in env.plan.stages],
            **{name: getattr(env, name) for name in _SAME_ENV},
            "goal_policy": goal_policy(env),
            "quick_evaluation_steps": log.quick_evaluation_steps,
            "quick_evaluation_goals": list(log.quick_evaluation_goals),
            "stage_evaluation": log.stage_evaluation,
        }
        facts = facts or mine
        different = [name for name in mine if mine[name] != facts[name]]
        if different:
            name = different[0]
            raise UnlikeSequences(
                f"{path} has {name}={mine[name]}, {members[0][0]} has {facts[name]}; their success "
                "cannot be compared"
            )
    return facts


def _arm(
    name: str,
    runs: Mapping[int, tuple[Path, RunConfig]],
    reference_areas: Array | None,
    source: str | None,
) -> Arm:
    seeds = sorted(runs)
    matrices = tuple(read_matrix(runs[seed][0], source) for seed in seeds)
    scores = [matrix.scores() for matrix in matrices]
    areas = np.stack([score.areas for score in scores])
    by_task = None if reference_areas is None else forward_transfer(areas, reference_areas)
    transfer = None
    if reference_areas is not None and by_task is not None and by_task.num_undefined < len(areas.T):
        transfer = forward_transfer_interval(areas, reference_areas, NUM_RESAMPLES, 0, CONFIDENCE)

    def over_seeds(values: list[float]) -> Interval:
        if np.isnan(values).any():  # a single task has no backward transfer
            return Interval(float("nan"), float("nan"), float("nan"), len(values), CONFIDENCE)
        return interval(values, "mean", NUM_RESAMPLES, confidence=CONFIDENCE)

    return Arm(
        name,
        {seed: runs[seed][0] for seed in seeds},
        matrices,
        over_seeds([score.performance for score in scores]),
        over_seeds([score.mean_forgetting for score in scores]),
        over_seeds([score.backward_transfer for score in scores]),
        transfer,
        by_task,
    )


# References ----------------------------------------------------------------------------------


def _references(
    members: Sequence[tuple[Path, RunConfig]], root: Path | None
) -> Mapping[str, Mapping[int, Path]]:
    """The references that the first run has; all others must have the same."""
    path, config = members[0]
    root = path.resolve().parents[3] if root is None and len(path.resolve().parts) > 4 else root
    if root is None:
        return {}
    found = find_references(config, root)
    for other, its_config in members[1:]:
        if find_references(its_config, root) != found:
            raise UnlikeSequences(
                f"{other} and {path} differ in more than methods and seeds, so that they have "
                "different single-task references; compare them one at a time"
            )
    return found


def _reference_areas(
    references: Mapping[str, Mapping[int, Path]], tasks: Sequence[str], source: str | None
) -> tuple[tuple[int, ...], Array | None, tuple[str, ...]]:
    """Seeds that all tasks have, (seeds, stages) areas, and the tasks that have none."""
    missing = tuple(task for task in dict.fromkeys(tasks) if task not in references)
    if missing or source not in (None, "eval_quick"):
        return (), None, missing
    seeds = sorted(set.intersection(*(set(references[task]) for task in tasks)))
    if not seeds:
        return (), None, ()
    area = {
        (task, seed): float(read_matrix(references[task][seed]).scores().areas[0])
        for task in dict.fromkeys(tasks)
        for seed in seeds
    }
    return tuple(seeds), np.array([[area[task, seed] for task in tasks] for seed in seeds]), ()
