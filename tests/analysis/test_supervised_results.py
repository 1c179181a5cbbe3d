"""Tables of supervised streams, against numbers made by hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from analysis import supervised_results
from analysis.statistics import interval
from analysis.supervised_tables import mean_text


def run_dir(root, network, arm, seed, rows=(), events=(), num_tasks=2, method=()):
    path = root / "env" / f"supervised-{network}-{arm}" / f"seed_{seed}"
    path.mkdir(parents=True)
    config = {"agent": {}, "network": {}, "env": {"num_tasks": num_tasks}}
    (path / "config.yaml").write_text(json.dumps(config | {"method": {k: {} for k in method}}))
    lines = ["env_steps,loss", *(f"{step},{loss}" for step, loss in rows)]
    (path / "progress.csv").write_text("\n".join(lines) + "\n")
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (path / "done.json").write_text("{}")
    return path


def test_bins_weigh_rows_by_the_examples_between_them(tmp_path):
    # The first row stands for 100 examples, the second for 9,900.
    rows = [(100, 3.0), (10_000, 1.0), (20_000, 2.0), (30_000, 5.0), (40_000, 7.0)]
    run_dir(tmp_path, "mlp", "backprop", 0, rows)
    curves = supervised_results.error_curves(tmp_path)
    expected = [(3.0 * 100 + 9900 + 2.0 * 10_000) / 20_000, 6.0]
    np.testing.assert_allclose(curves["backprop"][0], expected)


def test_regression_table_compares_with_the_linear_baseline_over_common_seeds(tmp_path):
    for seed in range(4):
        noise = 0.01 * seed
        for arm, end in (("backprop", 2.0), ("continual", 0.5), ("linear", 1.0)):
            rows = [(20_000 * k, (1.0 if k < 10 else end) + noise) for k in range(1, 21)]
            run_dir(tmp_path / "runs", "mlp", arm, seed, rows)
    run_dir(tmp_path / "runs", "mlp", "backprop", 9, [(20_000, 100.0)])
    table = supervised_results.regression(tmp_path / "runs", tmp_path / "out")
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    assert "| 4 |" in lines["backprop"]
    assert table.endswith(
        "Left out: 1 of 13 runs, 1 of seeds that another arm lacks "
        "(supervised-mlp-backprop/seed_9)."
    )
    assert "1.000 [1.000, 1.000]" in lines["backprop"]  # last - linear
    assert "-0.500 [-0.500, -0.500]" in lines["continual"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "curves.csv",
        "table.csv",
        "figure.png",
        "figure.svg",
    }


def test_p_values_are_of_two_sided_sign_flips_and_adjusted_over_the_arms():
    rng = np.random.default_rng(0)
    stacked = {
        arm: 1.0 + level * np.linspace(0.0, 1.0, 20) + rng.normal(0.0, 0.05, (6, 20))
        for arm, level in (("worse", 1.0), ("better", -0.3), ("linear", 0.0))
    }
    lines = {line["arm"]: line for line in supervised_results.regression_lines(stacked)}
    signs = np.array(list(itertools.product((-1, 1), repeat=6)))
    ends = {arm: rows[:, -2:].mean(1) for arm, rows in stacked.items()}

    def p_of(differences):
        sums = np.abs(signs @ differences)
        return (sums >= abs(differences.sum()) - 1e-9).mean()

    to_linear = sorted((p_of(ends[arm] - ends["linear"]), arm) for arm in ("worse", "better"))
    (least, first), (most, second) = to_linear
    assert lines[first]["p (last - linear)"] == f"{2 * least:.2g}"
    assert lines[second]["p (last - linear)"] == f"{max(2 * least, most):.2g}"
    assert p_of(ends["better"] - ends["linear"]) == 2 / 64  # better counts as much as worse
    since = sorted(p_of(ends[a] - stacked[a][:, :2].mean(1)) for a in stacked)
    assert lines["worse"]["p (last - first)"] == f"{3 * since[0]:.2g}"


def test_unfinished_and_failed_runs_are_left_out_and_named(tmp_path):
    rows = [(20_000 * k, 1.0) for k in range(1, 21)]
    for seed in range(4):
        for arm in ("backprop", "linear"):
            run_dir(tmp_path / "runs", "mlp", arm, seed, rows)
    place = tmp_path / "runs" / "env"
    (place / "supervised-mlp-linear" / "seed_2" / "done.json").unlink()
    failed = place / "supervised-mlp-backprop" / "seed_3" / "done.json"
    failed.write_text(json.dumps({"status": "failed"}))
    table = supervised_results.regression(tmp_path / "runs", tmp_path / "out")
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    # Two runs lived and one failed; what is left of this arm is compared with nothing.
    assert lines["backprop"].startswith("| backprop | 2 | 1 | 1.000 [1.000, 1.000] |")
    assert lines["backprop"].endswith("| - |")
    assert "last - linear" not in table
    assert lines["linear"].startswith("| linear | 3 | 0 |")
    again = supervised_results.draw_regression(tmp_path / "out", tmp_path / "again")
    assert table.startswith(again)
    sentence = table.splitlines()[-1]
    assert sentence.startswith("Left out: 3 of 8 runs, ")
    assert "1 failed (supervised-mlp-backprop/seed_3)" in sentence
    assert "1 unfinished (supervised-mlp-linear/seed_2)" in sentence
    assert "1 of seeds that another arm lacks" in sentence
    found = supervised_results.account(place / "supervised-mlp-linear", [], "x")
    assert "3 x (" in found
    with pytest.raises(ValueError, match="holds no finished runs"):
        supervised_results.run_dirs(failed.parent.parent / "seed_3")


RESULTS = Path(supervised_results.__file__).parents[1] / "results"
STORED = {
    "regression": ("bit_flipping", "curves.csv", "table.csv", "figure.svg"),
    "tasks": ("permuted_digits", "accuracies.csv", "table.csv", "figure.svg"),
    "activity": ("permuted_digits", "overlap.csv", "overlap_table.csv", "activity.svg"),
}


@pytest.mark.parametrize("kind", STORED)
def test_tables_and_figures_in_the_repository_are_made_of_the_numbers_beside_them(kind, tmp_path):
    name, _, table, figure = STORED[kind]
    words = [kind, "--from", str(RESULTS / name), "--out", str(tmp_path)]
    assert supervised_results.main(words) == 0
    assert (tmp_path / table).read_text() == (RESULTS / name / table).read_text()
    assert (tmp_path / figure).stat().st_size > 5_000
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".png", ".svg"}


@pytest.mark.parametrize("kind", STORED)
def test_stored_numbers_that_are_missing_or_damaged_are_refused(kind, tmp_path, capsys):
    name, raw, *_ = STORED[kind]
    words = [kind, "--from", str(tmp_path)]
    assert supervised_results.main(words) == 2
    assert f"{raw} cannot be read" in capsys.readouterr().err
    text = (RESULTS / name / raw).read_text()
    header, first, *_ = text.splitlines()
    (tmp_path / raw).write_text(f"{header}\n{first.rsplit(',', 1)[0]},wrong\n")
    assert supervised_results.main(words) == 2
    assert "'wrong' is no number" in capsys.readouterr().err
    (tmp_path / raw).write_text(text.replace(header, header.replace("seed", "sed")[:-3]))
    assert supervised_results.main(words) == 2
    assert "has no rows with the columns" in capsys.readouterr().err


def test_arms_of_unequal_length_have_no_table(tmp_path, capsys):
    lines = (RESULTS / "bit_flipping" / "curves.csv").read_text().splitlines()
    (tmp_path / "curves.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert supervised_results.main(["regression", "--from", str(tmp_path)]) == 2
    assert "different seeds or numbers of bins" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["runs"], ["runs", "--from", "results", "--out", "x"]])
def test_either_runs_or_stored_results_are_named(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        supervised_results.main(["tasks", *words])
    assert stopped.value.code == 2
    assert "--from" in capsys.readouterr().err


def test_final_accuracy_is_the_mean_over_tasks_after_the_last_one(tmp_path):
    def examination(regime, on_task, accuracy):
        where = {"event": "examination", "split": "test", "regime": regime}
        return {**where, "on_task": on_task, "accuracy": accuracy}

    early, late = examination(0, 0, 1.0), [examination(1, 0, 0.2), examination(1, 1, 0.6)]
    run_dir(tmp_path, "dendrites", "x", 3, events=[early, *late], method=["si"])
    run_dir(tmp_path, "mlp", "x", 3, events=[early, late[0]])  # not over yet
    found = supervised_results.final_accuracies(tmp_path)
    assert found == {("dendrites_si", 2): {3: pytest.approx(0.4)}}


def test_arms_that_share_a_network_have_rows_of_their_own(tmp_path):
    def add(place, arm, seed, num_tasks=2, **settings):
        where = {"event": "examination", "split": "test", "regime": num_tasks - 1}
        events = [{**where, "on_task": task, "accuracy": 0.5} for task in range(num_tasks)]
        path = run_dir(tmp_path / place, "dendrites", arm, seed, (), events, num_tasks)
        config = json.loads((path / "config.yaml").read_text())
        config["env"]["seed"] = seed  # as the presets of streams say
        (path / "config.yaml").write_text(json.dumps(config | {"seed": seed, **settings}))
        return path

    network = {"network": {"kind": "dendritic"}}
    add("a", "adam-00000000", 0, **network)
    add("a", "adam-00000000", 1, **network)
    add("a", "adam-11111111", 0, 3, **network, optimizer={"learning_rate": 0.1})
    names = supervised_results.final_accuracies(tmp_path)
    assert set(names) == {("dendrites", 2), ("dendrites", 3)}  # one arm, tuned for both
    add("a", "adam.l2_init-22222222", 0, method={"l2_init": {}})
    add("a", "zero-33333333", 1, context={"control": "zero"})
    found = supervised_results.final_accuracies(tmp_path)
    arms = ("adam", "adam.l2_init", "zero")
    assert set(found) == {*((f"dendrites-{arm}", 2) for arm in arms), ("dendrites-adam", 3)}
    assert supervised_results.tasks(tmp_path, tmp_path / "out").endswith(
        "All 5 runs are in the table."
    )
    add("a", "zero-44444444", 1, context={"control": "zero", "input": "source"})
    names = {name for name, _ in supervised_results.final_accuracies(tmp_path)}
    assert names >= {"dendrites-zero-33333333", "dendrites-zero-44444444", "dendrites-adam"}
    first, second = (add(place, "constant", 5, context={"control": "c"}) for place in "ab")
    with pytest.raises(ValueError, match="the same settings and seed") as refusal:
        supervised_results.final_accuracies(tmp_path)
    assert str(first) in str(refusal.value)
    assert str(second) in str(refusal.value)


def test_regression_keeps_arms_of_several_networks_apart(tmp_path):
    for network in ("mlp", "linear"):
        path = run_dir(tmp_path, network, "sgd", 0)
        config = json.loads((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(json.dumps(config | {"network": {"kind": network}}))
    assert set(supervised_results.run_dirs(tmp_path)) == {"mlp-sgd", "linear-sgd"}


def test_streams_without_tasks_have_no_table_of_tasks(tmp_path, capsys):
    path = run_dir(tmp_path, "mlp", "backprop", 0)
    config = json.loads((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(json.dumps(config | {"env": {"kind": "bit_flipping"}}))
    assert supervised_results.main(["tasks", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no finished runs with a number of tasks" in capsys.readouterr().err


def test_intervals_and_refusals(tmp_path):
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = interval(values, "mean")
    assert 1.0 <= found.low < 2.5 < found.high <= 4.0
    assert mean_text(values) == f"2.500 [{found.low:.3f}, {found.high:.3f}]"
    assert mean_text(values[:1]) == "1.000 [nan, nan]"
    assert mean_text(np.array([1.0, np.nan])) == "nan [nan, nan]"  # a layer of silent units
    for kind in ("regression", "tasks"):
        arguments = [kind, str(tmp_path), "--out", str(tmp_path / "out")]
        assert supervised_results.main(arguments) == 2
