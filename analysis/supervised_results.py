"""Tables and figures of the supervised streams, from run directories.

python -m analysis.supervised_results regression runs/bit_flipping --out results/bit_flipping
python -m analysis.supervised_results tasks runs/permuted_digits --out results/permuted_digits
python -m analysis.supervised_results activity runs/permuted_digits --out results/permuted_digits
python -m analysis.supervised_results regression --from results/bit_flipping

The last line makes tables and figures again from the numbers of the runs that lie beside them.
Runs of one arm are those below one folder, `<anything>/seed_<n>`. Intervals are percentile
bootstraps over whole runs; comparisons are paired by seed, which fixes the stream, and tested by
two-sided sign flips with Holm's correction over the arms. Unfinished and failed runs are left out;
a sentence below each table says how many.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from analysis.checkpoint import CheckpointError
from analysis.plots import COLOURS, STYLE, save_figure
from analysis.run_files import read_progress
from analysis.statistics import holm, sign_flip_p_value
from analysis.supervised_activity import activity, draw_activity
from analysis.supervised_runs import (
    FAILED,
    FINISHED,
    account,
    ending,
    finished_runs,
    place_once,
)
from analysis.supervised_tables import (
    mean_bounds,
    mean_text,
    read_number,
    read_rows,
    write_rows,
    write_table,
)

BIN = 20_000
Curves = dict[str, dict[int, np.ndarray]]


def run_dirs(root: Path, endings: Collection[str] = (FINISHED,)) -> dict[str, dict[int, Path]]:
    """Arm -> seed -> run directory, for all runs below a folder that ended so.

    Raises:
        ValueError: There is none, or two have the same settings and seed.
    """
    found: dict[str, dict[int, tuple[None, Path]]] = {}
    for path, _, arm in finished_runs(root, by_network=False, endings=endings):
        place_once(found.setdefault(arm, {}), path, None)
    if not found:
        raise ValueError(
            f"{root} holds no finished runs (<arm>/seed_<n>/done.json); train some first"
        )
    return {arm: {seed: path for seed, (_, path) in seeds.items()} for arm, seeds in found.items()}


# Regression --------------------------------------------------------------------------------


def error_curves(root: Path, width: int = BIN) -> Curves:
    """Arm -> seed -> (bins,) mean squared error in whole bins of `width` examples.

    Runs that failed have no bins: their seeds count, and nobody knows their errors.
    A row of progress.csv is the mean over the iterations since the row before, each of equally
    many examples, so bins weigh rows by the examples between them.
    """
    curves: Curves = {}
    for arm, seeds in run_dirs(root, (FINISHED, FAILED)).items():
        for seed, path in seeds.items():
            if ending(path) == FAILED:
                curves.setdefault(arm, {})[seed] = np.zeros(0)
                continue
            table = read_progress(path)
            steps, losses = table["env_steps"], table["loss"]
            weights = np.diff(steps, prepend=0.0)
            ends = np.cumsum(losses * weights)
            edges = np.arange(width, steps[-1] + 1, width)
            at = np.searchsorted(steps, edges)
            if not np.array_equal(steps[at], edges):
                raise ValueError(f"{path} has no rows at multiples of {width} examples")
            sums = np.diff(ends[at], prepend=0.0)
            curves.setdefault(arm, {})[seed] = sums / width
    return curves


def common(curves: Curves) -> tuple[list[int], int]:
    """Seeds that every arm has, and the bins that all of their runs which did not fail reached."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in curves.values())))
    lengths = [len(by_seed[s]) for by_seed in curves.values() for s in seeds]
    if not any(lengths):
        raise ValueError("no seed has been run with every arm; finish the sweep first")
    return seeds, min(length for length in lengths if length)


def regression(root: Path, out: Path) -> str:
    """Write curves.csv, table.csv and the figure; returns the table as Markdown."""
    curves = error_curves(root)
    seeds, num_bins = common(curves)
    used = [dirs[seed] for dirs in run_dirs(root).values() for seed in seeds if seed in dirs]
    unknown = np.full(num_bins, np.nan)
    stacked = {
        arm: np.array([by_seed[s][:num_bins] if len(by_seed[s]) else unknown for s in seeds])
        for arm, by_seed in curves.items()
    }
    write_rows(
        out / "curves.csv",
        ("arm", "seed", "examples", "squared_error"),
        [
            (arm, seed, BIN * (k + 1), f"{value:.6g}")
            for arm, rows in stacked.items()
            for seed, row in zip(seeds, rows, strict=True)
            for k, value in enumerate(row)
        ],
    )
    table = draw_regression(out, out)
    return f"{table}\n\n{account(root, used, 'of seeds that another arm lacks')}"


def draw_regression(stored: Path, out: Path) -> str:
    """Write table.csv and the figure from a stored curves.csv; returns the table as Markdown.

    Raises:
        ValueError: There is no such file, it is damaged, or runs are of different lengths.
    """
    path, curves = stored / "curves.csv", {}
    for row in read_rows(path, ("arm", "seed", "examples", "squared_error")):
        errors = curves.setdefault(row["arm"], {}).setdefault(row["seed"], [])
        errors.append(read_number(path, row["squared_error"]))
    lengths = {len(errors) for seeds in curves.values() for errors in seeds.values()}
    if len(lengths) != 1 or len({tuple(seeds) for seeds in curves.values()}) != 1:
        raise ValueError(f"{path} holds arms with different seeds or numbers of bins")
    stacked = {arm: np.array(list(seeds.values())) for arm, seeds in curves.items()}
    table = write_table(out / "table.csv", regression_lines(stacked))
    centres = BIN * (np.arange(lengths.pop()) + 0.5)
    lived = {arm: rows[~_failed(rows)] for arm, rows in stacked.items()}
    drawn = {arm: (centres, rows) for arm, rows in lived.items() if len(rows)}
    _draw(out, drawn, "examples", "squared error")
    return table


def _failed(rows: np.ndarray) -> np.ndarray:
    """Which runs failed, (seeds,) bool: they have no errors."""
    return np.asarray(np.isnan(rows).any(axis=1))


def regression_lines(stacked: Mapping[str, np.ndarray]) -> list[dict[str, str]]:
    """Lines of the table: how far the end is from the beginning, and from the linear learner.

    Means are over the runs that did not fail. An arm with failed runs has no test and no
    difference: the seeds that it survived would be compared with the same easy seeds of others.

    Args:
        stacked: Arm -> (seeds, bins) errors, seeds in the same order; NaN for runs that failed.
    """
    tenth = max(1, min(rows.shape[1] for rows in stacked.values()) // 10)
    num_failed = {arm: int(_failed(rows).sum()) for arm, rows in stacked.items()}
    whole = [arm for arm in stacked if not num_failed[arm]]
    lived = {arm: rows[~_failed(rows)] for arm, rows in stacked.items()}
    first = {arm: rows[:, :tenth].mean(1) for arm, rows in lived.items()}
    last = {arm: rows[:, -tenth:].mean(1) for arm, rows in lived.items()}
    since_first = {arm: last[arm] - first[arm] for arm in stacked}
    baseline = next((arm for arm in stacked if "linear" in arm), None)
    others = [arm for arm in whole if arm != baseline and baseline in whole]
    to_linear = {arm: last[arm] - last[str(baseline)] for arm in others}
    p_first = _p_values({arm: since_first[arm] for arm in whole})
    p_linear = _p_values(to_linear)
    lines = []
    for arm, rows in lived.items():
        line = {"arm": arm, "runs": str(len(rows))}
        if len(whole) < len(stacked):
            line["failed"] = str(num_failed[arm])
        if len(rows):
            line |= {"first tenth": mean_text(first[arm]), "last tenth": mean_text(last[arm])}
            line["last - first"] = mean_text(since_first[arm])
        line["p (last - first)"] = p_first.get(arm, "-")
        if arm in to_linear:
            line["last - linear"] = mean_text(to_linear[arm])
            line["p (last - linear)"] = p_linear[arm]
        lines.append(line)
    return lines


# Tasks with examinations -------------------------------------------------------------------


def final_accuracies(root: Path) -> dict[tuple[str, int], dict[int, float]]:
    """(Arm, number of tasks) -> seed -> mean test accuracy over all tasks after the last one.

    Runs that failed or whose last examination is not over are left out.

    Raises:
        ValueError: None is left, or two have the same settings and seed.
    """
    return {
        key: {seed: accuracy for seed, (accuracy, _) in seeds.items()}
        for key, seeds in _examined(root).items()
    }


def _examined(root: Path) -> dict[tuple[str, int], dict[int, tuple[float, Path]]]:
    """The same with the directory of every run."""
    found: dict[tuple[str, int], dict[int, tuple[float, Path]]] = {}
    for path, config, name in finished_runs(root):
        if "num_tasks" not in config["env"]:
            continue
        scores: dict[int, float] = {}
        for line in (path / "events.jsonl").read_text(encoding="utf-8").splitlines():
            if '"examination"' not in line:
                continue
            event = json.loads(line)
            if event["regime"] == config["env"]["num_tasks"] - 1 and event["split"] == "test":
                scores[event["on_task"]] = event["accuracy"]
        if len(scores) == config["env"]["num_tasks"]:
            accuracy = float(np.mean(list(scores.values())))
            place_once(found.setdefault((name, len(scores)), {}), path, accuracy)
    if not found:
        raise ValueError(
            f"{root} holds no finished runs with a number of tasks and all their examinations; "
            "train some first"
        )
    return found


def tasks(root: Path, out: Path) -> str:
    """Write accuracies.csv, table.csv and the figure; returns the table as Markdown."""
    examined = _examined(root)
    used = [path for seeds in examined.values() for _, path in seeds.values()]
    found = {key: {s: a for s, (a, _) in seeds.items()} for key, seeds in examined.items()}
    write_rows(
        out / "accuracies.csv",
        ("network", "num_tasks", "seed", "accuracy"),
        [(*key, s, f"{v:.6g}") for key, seeds in found.items() for s, v in seeds.items()],
    )
    table = draw_tasks(out, out)
    return f"{table}\n\n{account(root, used, 'without all examinations')}"


def draw_tasks(stored: Path, out: Path) -> str:
    """Write table.csv and the figure from a stored accuracies.csv; returns the table as Markdown.

    Raises:
        ValueError: There is no such file, or it is damaged.
    """
    path = stored / "accuracies.csv"
    found: dict[tuple[str, int], dict[int, float]] = {}
    for row in read_rows(path, ("network", "num_tasks", "seed", "accuracy")):
        key = row["network"], int(read_number(path, row["num_tasks"]))
        accuracy = read_number(path, row["accuracy"])
        found.setdefault(key, {})[int(read_number(path, row["seed"]))] = accuracy
    names = sorted({name for name, _ in found})
    counts = sorted({count for _, count in found})
    lines = []
    for name in names:
        line = {"network": name}
        for count in counts:
            values = np.array(list(found.get((name, count), {}).values()))
            line[f"{count} tasks"] = mean_text(values) + f" n={len(values)}" if len(values) else "-"
        lines.append(line)
    table = write_table(out / "table.csv", lines)
    curves = {}
    for name in names:
        at = [count for count in counts if (name, count) in found]
        seeds = set.intersection(*(set(found[name, count]) for count in at))
        rows = np.array([[found[name, count][s] for count in at] for s in sorted(seeds)])
        if len(rows):
            curves[name] = (np.array(at, dtype=float), rows)
    _draw(out, curves, "tasks learnt", "mean test accuracy over all tasks")
    return table


# Output ------------------------------------------------------------------------------------


def _p_values(differences: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Two-sided sign-flip tests of paired differences, Holm-adjusted over the arms of a column."""
    if not differences or min(map(len, differences.values())) < 2:
        return dict.fromkeys(differences, "-")
    adjusted = holm([sign_flip_p_value(values) for values in differences.values()])
    return {arm: f"{p:.2g}" for arm, p in zip(differences, adjusted, strict=True)}


def _draw(
    out: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], x_label: str, y_label: str
) -> None:
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, (x, rows)), colour in zip(curves.items(), cycle(COLOURS), strict=False):
            bounds = np.array([mean_bounds(column) for column in rows.T])
            axes.plot(x, rows.mean(0), color=colour, label=f"{name} (n={len(rows)})")
            axes.fill_between(x, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.2, linewidth=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(f"{y_label} (mean, 95 %)")
        axes.legend()
        for kind in ("png", "svg"):
            save_figure(figure, out / f"figure.{kind}")


@dataclass(frozen=True)
class Kind:
    """One kind of results.

    Attributes:
        measure: (folder of runs, folder of results) -> table; writes everything.
        draw: (folder of stored results, folder of results) -> table; writes tables and figures.
    """

    measure: Callable[[Path, Path], str]
    draw: Callable[[Path, Path], str]


KINDS = {
    "regression": Kind(regression, draw_regression),
    "tasks": Kind(tasks, draw_tasks),
    "activity": Kind(activity, draw_activity),
}


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("runs", type=Path, nargs="?", help="folder of runs")
    parser.add_argument(
        "--from", type=Path, dest="stored", metavar="RESULTS", help="stored results"
    )
    parser.add_argument("--out", type=Path, help="folder of the results; default: that of --from")
    given = parser.parse_args(arguments)
    out = given.out or given.stored
    if (given.runs is None) == (given.stored is None) or out is None:
        parser.error("name a folder of runs and --out, or stored results with --from")
    kind = KINDS[given.kind]
    try:
        made = kind.draw(given.stored, out) if given.stored else kind.measure(given.runs, out)
    except (ValueError, CheckpointError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
