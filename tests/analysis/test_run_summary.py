"""Final return, lifetime average and the table of worlds, against numbers worked out by hand."""

import math

import pytest
from synthetic_runs import (
    add_checkpoint,
    add_episodes,
    add_progress,
    add_switches,
    long_run,
    make_run,
)

from analysis.summary import final_return, lifetime_average, outcome, summary_table


def test_lifetime_average_weights_episodes_by_their_length(tmp_path):
    run = make_run(tmp_path / "run")
    short = [(1000 + 100 * k, 50.0, 100, 0, False) for k in range(1, 11)]
    add_episodes(run, (1000, 1000.0, 1000, 0, False), *short)
    assert lifetime_average(run) == 525.0  # the mean over episodes is 136.4


def test_an_episode_cut_by_a_switch_enters_the_lifetime_average_only(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, (990, 4.0, 30, 0, False), (1000, 10.0, 10, 0, True))
    assert lifetime_average(run) == pytest.approx((4.0 * 30 + 10.0 * 10) / 40)
    assert final_return(run) == 4.0


def test_final_return_looks_at_the_last_eighth_of_the_last_regime(tmp_path):
    run = make_run(tmp_path / "run")
    add_switches(run, (1000, 1, 0.1))
    add_checkpoint(run, 1800)  # the last regime is 800 long, its last eighth begins after 1,700
    add_episodes(
        run,
        (999, 1e6, 10, 0, False),
        (1700, 1e6, 10, 1, False),
        (1701, 10.0, 10, 1, False),
        (1800, 30.0, 10, 1, False),
        (1800, 1e6, 10, 0, False),  # began in the world before
    )
    assert final_return(run) == 20.0


def test_no_episode_is_nan_and_never_zero(tmp_path):
    run = make_run(tmp_path / "run")
    assert math.isnan(final_return(run))
    assert math.isnan(lifetime_average(run))
    add_episodes(run, (10, 5.0, 10, 0, False))
    add_checkpoint(run, 1000)
    assert math.isnan(final_return(run))


def test_the_table_has_a_line_per_regime(tmp_path):
    run = make_run(tmp_path / "run", hidden_sizes=(10, 20))
    add_switches(run, (1000, 1, 0.086))
    add_checkpoint(run, 2000)
    add_episodes(run, (500, 100.0, 30, 0, False), (990, 200.0, 10, 0, False))
    names = {
        "dormant": "window/policy/all/dormant_fraction",
        "rank": "window/policy/layers.1/stable_rank",
        "weights": "weights/policy/all/weight_magnitude",
    }
    first = dict(zip(names.values(), (0.125, 15, 0.0541), strict=True))
    add_progress(
        run,
        [
            {"env_steps": 500, "regime_value": 1.5, "regime": 0, names["dormant"]: 0.9},
            {"env_steps": 1000, "regime_value": 1.5, "regime": 0, **first},
            {"env_steps": 1500, "regime_value": 0.086, "regime": 1, names["dormant"]: "nan"},
        ],
    )
    lines = summary_table(run).splitlines()
    assert lines[0].split()[:4] == ["regime", "friction", "steps", "mean"]
    assert lines[1].split() == ["0", "1.5", "1,000", "125.0", "200.0", "12.5", "75.0", "0.0541"]
    assert lines[2].split() == ["1", "0.086", "1,000", "-", "-", "-", "-", "-"]
    assert "lifetime average return 125.0" in lines[3]


@pytest.mark.parametrize("num_regimes", [1, 8, 9, 50])
def test_the_table_stays_small(tmp_path, num_regimes):
    run = long_run(tmp_path / "run", num_regimes)
    lines = summary_table(run).splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)  # nothing is cut
    shown = [line.split()[0] for line in lines[1:-1]]
    assert str(num_regimes - 1) in shown
    assert ("..." in shown) == (num_regimes > 8)


def test_a_run_without_diagnostics_or_rows_still_has_a_table(tmp_path):
    bare = make_run(tmp_path / "bare")
    assert len(summary_table(bare).splitlines()) == 3
    run = make_run(tmp_path / "run")
    add_progress(run, [{"env_steps": 100, "regime": 0, "regime_value": 2.0}], columns=["entropy"])
    assert summary_table(run).splitlines()[1].split()[1] == "2"


def test_ranks_are_counts_where_the_number_of_units_is_unknown(tmp_path):
    run = long_run(tmp_path / "run", 1, network={"kind": "other"})
    header, first = summary_table(run).splitlines()[:2]
    assert "stable rank %" not in header
    assert float(first.split()[6]) == pytest.approx(12 * 0.55, abs=0.05)


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_runs_that_learn_from_answers_show_what_they_logged(tmp_path, name):
    run = make_run(tmp_path / "run")
    rows = [(100, 0.25), (300, 0.75), (500, "nan")]
    add_progress(
        run,
        [
            {"env_steps": step, "regime": 0, "regime_value": 2.0, "loss": 1.0, name: value}
            for step, value in rows
        ],
        columns=["loss", "accuracy"] if name == "accuracy" else ["loss"],
    )
    header, first = summary_table(run).splitlines()[:2]
    assert f"mean {name}  last {name}" in header
    assert first.split()[3:5] == ["0.5", "0.75"]
    assert "return" not in summary_table(run)
    assert outcome(run) == f"last {name} 0.75"
    earned = make_run(tmp_path / "earned")
    add_episodes(earned, (90, 3.0, 30, 0, False))
    row = {"env_steps": 100, "regime": 0, "episode_return": 3.0, "loss": 1.0}
    add_progress(earned, [row], columns=["loss"])
    assert "return" in outcome(earned)
