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
from collections.abc import Callable, Mapping
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
from analysis.supervised_runs import account, finished_runs, place_once
from analysis.supervised_tables import (
    interval,
    mean_text,
    read_number,
    read_rows,
    write_rows,
    write_table,
)

BIN = 20_000
Curves = dict[str, dict[int, np.ndarray]]


def run_dirs(root: Path) -> dict[str, dict[int, Path]]:
    """Arm -> seed -> run directory, for all finished runs below a folder.

    Raises:
        ValueError: There is none, or two have the same settings and seed.
    """
    found: dict[str, dict[int, tuple[None, Path]]] = {}
    for path, _, arm in finished_runs(root, by_network=False):
        place_once(found.setdefault(arm, {}), path, None)
    if not found:
        raise ValueError(
            f"{root} holds no finished runs (<arm>/seed_<n>/done.json); train some first"
        )
    return {arm: {seed: path for seed, (_, path) in seeds.items()} for arm, seeds in found.items()}


# Regression --------------------------------------------------------------------------------


def error_curves(root: Path, width: int = BIN) -> Curves:
    """Arm -> seed -> (bins,) mean squared error in whole bins of `width` examples.

    A row of progress.csv is the mean over the iterations since the row before, each of equally
    many examples, so bins weigh rows by the examples between them.
    """
    curves: Curves = {}
    for arm, seeds in run_dirs(root).items():
        for seed, path in seeds.items():
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
    """Seeds that every arm has, and the bins that all of these have reached."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in curves.values())))
    if not seeds:
        raise ValueError("no seed has been run with every arm; finish the sweep first")
    return seeds, min(len(by_seed[s]) for by_seed in curves.values() for s in seeds)


def regression(root: Path, out: Path) -> str:
    """Write curves.csv, table.csv and the figure; returns the table as Markdown."""
    curves = error_curves(root)
    seeds, num_bins = common(curves)
    used = [dirs[seed] for dirs in run_dirs(root).values() for seed in seeds]
    stacked = {a: np.array([c[s][:num_bins] for s in seeds]) for a, c in curves.items()}
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
    _draw(out, {a: (centres, rows) for a, rows in stacked.items()}, "examples", "squared error")
    return table


def regression_lines(stacked: Mapping[str, np.ndarray]) -> list[dict[str, str]]:
    """Lines of the table: how far the end is from the beginning, and from the linear learner.

    Args:
        stacked: Arm -> (seeds, bins) errors, seeds in the same order.
    """
    tenth = max(1, min(rows.shape[1] for rows in stacked.values()) // 10)
    first = {arm: rows[:, :tenth].mean(1) for arm, rows in stacked.items()}
    last = {arm: rows[:, -tenth:].mean(1) for arm, rows in stacked.items()}
    since_first = {arm: last[arm] - first[arm] for arm in stacked}
    baseline = next((arm for arm in stacked if "linear" in arm), None)
    others = [arm for arm in stacked if arm != baseline and baseline is not None]
    to_linear = {arm: last[arm] - last[str(baseline)] for arm in others}
    p_first, p_linear = _p_values(since_first), _p_values(to_linear)
    lines = []
    for arm, rows in stacked.items():
        line = {"arm": arm, "runs": str(len(rows)), "first tenth": mean_text(first[arm])}
        line |= {"last tenth": mean_text(last[arm]), "last - first": mean_text(since_first[arm])}
        line["p (last - first)"] = p_first[arm]
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
            bounds = np.array([interval(column) for column in rows.T])
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
