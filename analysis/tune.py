"""`python train.py tune arm=standard,redo ...`: equal tuning of every arm on the first k percent.

Each arm gets the same number of configurations, each configuration the same seeds on worlds that
no evaluation uses, and only the first k percent of the lifetime is trained at all. The best
becomes a preset `arm=<name>_tuned`. Trials are ordinary runs, so the same command continues.

Source: Mesbahi et al. (2024), arXiv 2404.02113.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import joblib

from analysis.continual import zero_shot_return
from analysis.run_files import read_episodes
from analysis.runs import describe_run
from analysis.tuning import Selection, TuningRow, select_configurations
from analysis.tuning_plan import Study, Trial, prepare
from analysis.tuning_results import Conditions, Found, table, write_presets, write_report
from analysis.tuning_space import DEFAULT
from configs.compose import CONFIG_FOLDER
from configs.exit_codes import EXIT_CONFIGURATION, EXIT_DONE, EXIT_NUMERICAL
from configs.schema import ConfigurationError
from configs.sweep import run_member
from configs.sweep_signals import leave_without, stop_with

ENDED = (EXIT_DONE, EXIT_NUMERICAL)  # finished and failed trials are both results


def tune(arguments: Sequence[str]) -> int:
    """Tune the arms, print the table, write the presets, and return the exit code."""
    command = shlex.join(["python", "train.py", "tune", *arguments])
    try:
        study = prepare(arguments)
        rows = _run(study, command)
        codes = [row["code"] for row in rows.values()]
        if worst := max((code for code in codes if code not in ENDED), default=0):
            unfinished = sum(code not in ENDED for code in codes)
            print(
                f"{unfinished} of {len(codes)} trials have not ended (exit code {worst}); "
                "nothing is chosen; the same command goes on",
                file=sys.stderr,
            )
            return worst
        directories = {trial: study.root / row["directory"] for trial, row in rows.items()}
        options = study.config
        conditions = Conditions(
            command, options.k, study.early_steps, options.seeds, options.first_world
        )
        found = [
            Found(arm, chosen, study.plan[arm][chosen.configuration])
            for arm, chosen in choose(study, directories).items()
        ]
        print(table(found, conditions))
        print(f"wrote {write_report(study.folder, found, conditions)}")
        folder = Path(options.presets) if options.presets else CONFIG_FOLDER / "arm"
        is_found = folder.resolve() == (CONFIG_FOLDER / "arm").resolve()
        use = "to be used" if is_found else "to be copied to configs/arm and used"
        for file in write_presets(folder, options.suffix, found, conditions):
            print(f"wrote {file}, {use} as arm={file.stem}")
    except (ConfigurationError, ValueError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return EXIT_DONE


# Running -------------------------------------------------------------------------------------


def _run(study: Study, command: str) -> dict[Trial, dict[str, Any]]:
    """Train what is not trained yet; how every trial ended, see `run_member`."""
    workers = study.config.workers or len(os.sched_getaffinity(0))
    total, rows = len(study.trials), {}
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
    jobs = (joblib.delayed(_train)(trial, command, os.getpid()) for trial in study.trials)
    for trial, row in cast(Iterable[tuple[Trial, dict[str, Any]]], parallel(jobs)):
        rows[trial] = row
        print(
            f"{len(rows)}/{total} {row['status']:<12} {trial.arm} {trial.configuration} "
            f"seed {trial.seed}, {row['seconds']:,.0f} s",
            flush=True,
        )
    return rows


def _train(trial: Trial, command: str, launcher: int) -> tuple[Trial, dict[str, Any]]:
    if os.getpid() != launcher:
        stop_with(launcher)
    row = run_member(trial.words, command)
    leave_without(launcher)
    return trial, row


# Choosing ------------------------------------------------------------------------------------


def choose(study: Study, directories: Mapping[Trial, Path]) -> dict[str, Selection]:
    """Select one configuration per arm from what the finished trials have earned.

    A failed trial keeps its place: what it did not live to earn is the untrained policy's return.

    Args:
        study: What was asked for.
        directories: Trial -> its run directory.

    Raises:
        ValueError: No episode ended in time, or a run is on an evaluation world.
    """
    episodes = {trial: read_episodes(place) for trial, place in directories.items()}
    first = [zero_shot_return(found, 0) for found in episodes.values()]
    untrained = [value for value in first if math.isfinite(value)]
    if not untrained:
        raise ValueError(
            f"no episode ended within the first {study.early_steps:,} steps; raise tune.k or lower "
            "env.max_episode_steps"
        )
    rows: dict[str, list[TuningRow]] = {arm: [] for arm in study.arms}
    for trial, found in episodes.items():
        steps, scores = found.end_steps.tolist(), found.returns.tolist()
        earned = list(zip(map(int, steps), scores, found.lengths.tolist(), strict=True))
        missing = study.early_steps - _steps_done(directories[trial])
        if missing > 0 or not earned:
            average = sum(untrained) / len(untrained)
            earned.append((study.early_steps, average, float(max(missing, 1))))
        world = describe_run(directories[trial])["world_seed"]
        rows[trial.arm] += [
            TuningRow(trial.configuration, world, trial.seed, step, score, length)
            for step, score, length in earned
        ]
    defaults = dict.fromkeys(study.arms, DEFAULT)
    return select_configurations(rows, defaults, study.total_steps, study.config.k)


def _steps_done(directory: Path) -> int:
    done = json.loads((directory / "done.json").read_text(encoding="utf-8"))
    return int(done["summary"]["env_steps"])
