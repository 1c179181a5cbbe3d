"""Tables of supervised streams, against numbers made by hand."""

import json

import numpy as np
import pytest

from analysis import supervised_results


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
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert "| 4 |" in lines["backprop"]
    assert "1.000 [1.000, 1.000]" in lines["backprop"]  # last - linear
    assert "-0.500 [-0.500, -0.500]" in lines["continual"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "curves.csv",
        "table.csv",
        "figure.png",
        "figure.svg",
    }


def test_final_accuracy_is_the_mean_over_tasks_after_the_last_one(tmp_path):
    def examination(regime, on_task, accuracy):
        where = {"event": "examination", "split": "test", "regime": regime}
        return {**where, "on_task": on_task, "accuracy": accuracy}

    early, late = examination(0, 0, 1.0), [examination(1, 0, 0.2), examination(1, 1, 0.6)]
    run_dir(tmp_path, "dendrites", "x", 3, events=[early, *late], method=["si"])
    run_dir(tmp_path, "mlp", "x", 3, events=[early, late[0]])  # not over yet
    found = supervised_results.final_accuracies(tmp_path)
    assert found == {("dendrites_si", 2): {3: pytest.approx(0.4)}}


def test_intervals_and_refusals(tmp_path):
    low, high = supervised_results.interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert 1.0 <= low < 2.5 < high <= 4.0
    assert np.isnan(supervised_results.interval(np.array([1.0]))).all()
    for kind in ("regression", "tasks"):
        arguments = [kind, str(tmp_path), "--out", str(tmp_path / "out")]
        assert supervised_results.main(arguments) == 2
