"""The long-form table of several runs."""

import csv
import math

import numpy as np
import pytest
from synthetic_runs import add_progress, make_run

import analysis
from analysis.runs import NotARun, find_runs, load_runs

METRICS = ["alpha", "beta"]


@pytest.fixture
def runs(tmp_path):
    place = tmp_path / "runs" / "study" / "slippery_ant"
    paths = []
    for arm, seed in (("standard", 0), ("standard", 1), ("l2-0a1b2c3d", 0)):
        run = make_run(
            place / f"ppo-mlp-{arm}" / f"seed_{seed}",
            group="study",
            seed=seed,
            env={"world_seed": 10 + seed},
        )
        rows = [
            {"env_steps": 100, "alpha": 1.5 + seed, "beta": "nan"},
            {"env_steps": 200, "alpha": 0.1, "regime": 1},
        ]
        add_progress(run, rows, columns=METRICS)
        paths.append(run)
    return paths


def test_a_table_shows_its_size_and_columns(runs):
    table = load_runs(runs)
    shown = repr(table)
    assert shown.startswith(f"LongTable({len(table)} rows of {len(runs)} runs and 3 metrics; ")
    assert all(name in shown for name in table.columns)
    assert repr(table.where(metric="nothing")).startswith("LongTable(0 rows of 0 runs and 0 ")


def test_rows_are_long_form_and_named_by_their_place(runs):
    table = load_runs(runs[:1])
    rows = list(table.rows())
    assert table.columns == (
        *("run", "group", "env", "agent", "network", "arm"),
        *("seed", "world_seed", "env_steps", "metric", "value"),
    )
    expected = {
        "run": str(runs[0]),
        "group": "study",
        "env": "slippery_ant",
        "agent": "ppo",
        "network": "mlp",
        "arm": "standard",
        "seed": 0,
        "world_seed": 10,
    }
    assert rows[0] == {**expected, "env_steps": 200, "metric": "regime", "value": 1.0}
    assert rows[1] == {**expected, "env_steps": 100, "metric": "alpha", "value": 1.5}
    assert rows[2] == {**expected, "env_steps": 200, "metric": "alpha", "value": 0.1}
    # A metric that failed is NaN; one that was not due has no row.
    assert rows[3]["metric"] == "beta"
    assert math.isnan(rows[3]["value"])
    assert len(rows) == len(table) == 4


def test_where_selects_by_text_and_number(runs):
    table = analysis.load_runs(runs)
    chosen = table.where(metric="alpha", seed=1)
    assert chosen.column("value").tolist() == [2.5, 0.1]
    assert chosen.distinct("arm") == ["standard"]
    assert table.where(arm="l2-0a1b2c3d", env_steps=100, metric="alpha").column("run").tolist() == [
        str(runs[2])
    ]
    assert len(table.where(metric="gamma")) == 0
    assert len(table) == 12


def test_metrics_can_be_chosen(runs):
    assert load_runs(runs, metrics=["beta"]).distinct("metric") == ["beta"]
    with pytest.raises(ValueError, match="no run has written 'gamma'"):
        load_runs(runs, metrics=["gamma", "alpha"])


def test_the_table_never_changes(runs):
    table = load_runs(runs)
    for name in table.columns:
        with pytest.raises(ValueError, match="read-only"):
            table.column(name)[0] = table.column(name)[1]


def test_csv_reads_back_exactly(runs, tmp_path):
    table = load_runs(runs)
    path = table.to_csv(tmp_path / "table.csv")
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["metric"] for row in rows] == table.column("metric").tolist()
    np.testing.assert_array_equal([float(r["value"]) for r in rows], table.column("value"))
    assert rows[0]["arm"] == "standard"
    table.where(seed=1).to_csv(path)
    assert len(path.read_text().splitlines()) == 1 + 4
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["table.csv"]


def test_unknown_columns_are_refused(runs):
    table = load_runs(runs)
    with pytest.raises(ValueError, match="no column 'step'; choose one of run, group"):
        table.column("step")
    with pytest.raises(ValueError, match="no column 'step'"):
        table.where(step=1)


def test_what_is_no_run_is_refused_by_name(runs, tmp_path):
    with pytest.raises(NotARun, match="slippery_ant is not a run directory"):
        load_runs([runs[0], runs[0].parents[1]])
    with pytest.raises(ValueError, match="named twice"):
        load_runs([runs[0], runs[0].parent / "." / runs[0].name])
    (runs[0] / "progress.csv").write_text("env_steps,alpha\n1,x\n")
    with pytest.raises(NotARun, match=r"progress\.csv is damaged"):
        load_runs(runs)


def test_runs_without_rows_and_no_runs_give_an_empty_table(tmp_path):
    run = make_run(tmp_path / "run")
    for table in (load_runs(run), load_runs([])):
        assert len(table) == 0
        assert list(table.rows()) == []
        assert table.column("value").dtype == np.float64
        assert table.column("arm").tolist() == []


def test_a_run_in_another_place_is_named_by_its_kinds(tmp_path):
    method = {"redo": {"kind": "redo"}, "l2_init": {"kind": "l2_init"}}
    run = make_run(tmp_path / "my-own-name" / "seed_9", method=method)
    add_progress(run, [{"env_steps": 1, "alpha": 1.0}], columns=METRICS)
    (row,) = load_runs(run).rows()
    assert (row["env"], row["arm"], row["seed"]) == ("locomotion", "redo+l2_init", 3)


def test_all_runs_below_a_folder_are_found(runs, tmp_path):
    make_run(runs[0].with_name("seed_0.old-1"))
    make_run(tmp_path / "runs" / ".sweeps" / "x")
    assert find_runs(tmp_path / "runs") == sorted(runs)
    assert find_runs(runs[0]) == [runs[0]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARun, match="holds no run"):
        find_runs(tmp_path / "empty")
