"""Reading what a run has written, while it runs and when it is damaged."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_runs import (
    add_checkpoint,
    add_episodes,
    add_progress,
    add_switches,
    make_run,
)

from analysis.compare import copies
from analysis.run_files import (
    NotARun,
    last_step,
    read_config,
    read_episodes,
    read_regimes,
    read_table,
)
from analysis.summary import final_return, summary_table


def test_the_configuration_is_read_back(tmp_path):
    run = make_run(tmp_path / "run", seed=11)
    assert read_config(run)["seed"] == 11


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no config.yaml"),
        ("agent: [", "cannot be read"),
        ("- 1\n- 2\n", "holds no configuration"),
        ("agent: ppo\nenv: {}\nnetwork: {}\n", "holds no configuration"),
        ("!!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("x: " + "y" * 2**20, "holds no configuration"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(NotARun, match=words) as refusal:
        read_config(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert "runs/<group>" in str(refusal.value)


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(NotARun, match="is not a directory"):
        read_config(tmp_path / "nowhere")


def test_cells_are_numbers_booleans_or_missing(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,True,\nnan,False,2.5e-3\n")
    table = read_table(tmp_path / "t.csv")
    np.testing.assert_array_equal(table["a"], [1.0, math.nan])
    np.testing.assert_array_equal(table["b"], [1.0, 0.0])
    np.testing.assert_array_equal(table["c"], [math.nan, 0.0025])


def test_a_row_that_is_still_being_written_is_left_out(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4")
    assert read_table(tmp_path / "t.csv")["a"].tolist() == [1.0]
    (tmp_path / "t.csv").write_text("a,b")
    assert read_table(tmp_path / "t.csv") == {}
    assert read_table(tmp_path / "absent.csv") == {}


@pytest.mark.parametrize("line", ["1", "1,2,3", "1,two"])
def test_a_damaged_row_is_named(tmp_path, line):
    (tmp_path / "t.csv").write_text(f"a,b\n1,2\n{line}\n")
    with pytest.raises(NotARun, match=r"t\.csv.* is damaged"):
        read_table(tmp_path / "t.csv")


def test_episodes_keep_their_marks(tmp_path):
    run = make_run(tmp_path / "run", env={"num_envs": 2})
    add_episodes(run, (100, 5.0, 100, 0, False), (150, -2.0, 50, 0, True))
    episodes = read_episodes(run)
    assert episodes.returns.tolist() == [5.0, -2.0]
    assert episodes.cut.tolist() == [False, True]
    assert episodes.start_steps.tolist() == [-100.0, 50.0]  # two environments step together
    assert read_episodes(make_run(tmp_path / "empty")).returns.size == 0


def test_damaged_episodes_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, (100, 5.0, 0, 0, False))
    with pytest.raises(NotARun, match=r"episodes\.csv is damaged: lengths must be positive"):
        read_episodes(run)
    (run / "episodes.csv").write_text("env_steps,episode_return\n1,2.0\n")
    with pytest.raises(NotARun, match=r"episodes\.csv is damaged: 'episode_length'"):
        read_episodes(run)


def test_regimes_begin_at_switches_and_the_last_ends_now(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, (90, 1.0, 90, 0, False), (240, 1.0, 40, 2, False))
    add_switches(run, (100, 1, 0.1), (200, 2, 1.5))
    regimes = read_regimes(run)
    assert [(r.index, r.start, r.end) for r in regimes] == [
        (0, 0, 100),
        (1, 100, 200),
        (2, 200, 240),
    ]
    assert [r.low for r in regimes] == [0.5, 0.1, 1.5]
    assert [r.label for r in regimes] == ["0.5", "0.1", "1.5"]
    add_checkpoint(run, 300)  # rows lag behind
    assert read_regimes(run)[-1].end == last_step(run) == 300


def test_a_switch_that_no_agent_hears_of_begins_a_regime_too(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, (95, 1.0, 5, 0, False), (190, 2.0, 5, 1, False), (200, 4.0, 5, 1, False))
    add_switches(run, (100, 1, 0.1), event="hidden_switch")
    assert [(r.start, r.end) for r in read_regimes(run)] == [(0, 100), (100, 200)]
    assert final_return(run) == 3.0
    line = (run / "events.jsonl").read_bytes().splitlines(keepends=True)[1]
    assert copies._events(SimpleNamespace(path=run)) == line


def test_a_world_entered_at_the_last_step_is_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, (95, 1.0, 5, 0, False), (199, 3.0, 5, 1, False), (200, 5.0, 1, 1, True))
    add_switches(run, (100, 1, 0.1), (200, 2, 1.5))
    assert [(r.index, r.start, r.end) for r in read_regimes(run)] == [(0, 0, 100), (1, 100, 200)]
    assert final_return(run) == 3.0
    assert "final return 3.0" in summary_table(run)
    add_checkpoint(run, 208)
    assert read_regimes(run)[-1].end == 208
    assert read_regimes(run)[-1].index == 2


def test_environments_that_switch_one_by_one_share_a_regime(tmp_path):
    run = make_run(tmp_path / "run")
    add_switches(run, (100, 1, 0.1), (120, 1, 0.1), (220, 2, 1.5), (230, 2, 1.5))
    add_checkpoint(run, 300)
    assert [(r.start, r.end) for r in read_regimes(run)] == [(0, 100), (100, 220), (220, 300)]


def test_a_drifting_value_is_shown_as_a_range(tmp_path):
    run = make_run(tmp_path / "run")
    add_progress(run, [{"env_steps": 10, "regime": 0, "regime_value": 2.0}])
    drift = [(20, 0, 1.0), (40, 0, 0.02), (60, 1, 0.02), (80, 1, 0.4)]
    add_switches(run, *drift, event="drift")
    add_checkpoint(run, 100)
    regimes = read_regimes(run)
    assert [(r.start, r.end, r.label) for r in regimes] == [
        (0, 60, "0.02–2"),
        (60, 100, "0.02–0.4"),
    ]


def test_a_run_that_has_just_begun_has_one_unknown_world(tmp_path):
    (regime,) = read_regimes(make_run(tmp_path / "run"))
    assert (regime.index, regime.start, regime.end, regime.label) == (0, 0, 0, "?")


def test_damaged_events_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "events.jsonl").write_text('{"event": "switch", "env_steps": 5}\n')
    with pytest.raises(NotARun, match=r"events\.jsonl, line 1, is damaged"):
        read_regimes(run)
