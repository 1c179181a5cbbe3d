"""Schedules: golden worlds, definitions at worked-out points, refusals."""

import dataclasses
import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.clock import WorldClock
from envs.laws import Law
from envs.locomotion import Config, make
from envs.schedules import ScheduleConfig, ScheduleExhausted, make_schedule, schedule_hash
from envs.worlds import TABLE_PATH, GeneratedWorlds, friction_table

LAW_OF_TEST = Law(low=0.1, high=3.0, nominal=1.0, scale="log")
GOLDEN = {
    0: [1.5378185717, 0.0858428841, 0.5568204449, 0.0356645022, 0.1402757892, 0.3954633043,
        0.0259647700, 0.8686884925, 0.0689324059, 0.4565882273],
    1: [0.4522970026, 0.0612355316, 0.3346243868, 0.1403555710, 0.8871917376, 0.6953195840,
        0.2632832389, 0.4542465808, 0.1480595708, 1.5635628286],
    99: [0.2874775206, 0.0675796081, 1.0535247691, 1.0404637540, 1.2541894969, 0.0914174970,
         0.0742508630, 1.3765168146, 0.0385224524, 1.4921275015],
}  # fmt: skip


def values(count, **settings):
    schedule = make_schedule(ScheduleConfig(**settings))
    return [schedule.value(k) for k in range(count)]


@pytest.mark.parametrize("row", GOLDEN)
@pytest.mark.parametrize("source", ["generated", "table"])
def test_golden_worlds(row, source):
    worlds = values(10, world_seed=row, source=source)
    # Golden values have ten decimals; within their rounding is within 1e-9 wherever that can hold.
    assert worlds == pytest.approx(GOLDEN[row], rel=0.0, abs=5.1e-11)


def test_generator_by_the_definition():
    """The same numbers straight from numpy's raw stream, and a prefix that never changes."""
    raw = np.random.PCG64(np.random.SeedSequence(5, spawn_key=(7,))).random_raw(50)
    expected = [0.1 * (3.0 / 0.1) ** (int(r >> np.uint64(11)) / 2**53) for r in raw]
    worlds = GeneratedWorlds(row=7, table_seed=5, law=LAW_OF_TEST)
    late_first = worlds.value(49)
    assert [worlds.value(k) for k in range(50)] == pytest.approx(expected, rel=1e-12)
    assert late_first == worlds.value(49)
    fresh = GeneratedWorlds(row=7, table_seed=5, law=LAW_OF_TEST)
    assert [fresh.value(k) for k in range(10)] == [worlds.value(k) for k in range(10)]


def test_table_statistics_and_identity_with_the_generator():
    table = friction_table()
    logs = np.log(table)
    assert table.shape == (100, 50)
    assert table.min() == pytest.approx(0.0200168, abs=1e-7)
    assert table.max() == pytest.approx(1.9909957, abs=1e-7)
    assert np.median(table) == pytest.approx(0.2026260, abs=1e-7)
    assert table.mean() == pytest.approx(0.4309594, abs=1e-7)
    assert table.sum() == pytest.approx(2154.796881, abs=1e-6)
    assert (logs.mean(), logs.std()) == pytest.approx((-1.600601, 1.323207), abs=1e-6)
    assert (table < 1).mean() == pytest.approx(0.848)
    for row in (0, 42, 99):
        generated = values(50, world_seed=row)
        assert generated == pytest.approx(table[row].tolist(), rel=1e-14)


def test_a_changed_table_is_refused(tmp_path):
    copy = tmp_path / "table.csv"
    copy.write_text(TABLE_PATH.read_text().replace("1.5378", "1.5379", 1))
    with pytest.raises(ValueError, match="SHA-256"):
        friction_table(copy)


def test_table_has_an_end_in_both_directions():
    with pytest.raises(ValueError, match="rows 0-99"):
        ScheduleConfig(source="table", world_seed=100)
    assert len(values(50, source="table")) == 50
    with pytest.raises(ScheduleExhausted, match="world 50"):
        values(51, source="table")


def test_sinusoid_at_quarter_periods_and_inside_one_update():
    schedule = make_schedule(ScheduleConfig(schedule="sinusoidal"))
    at = [schedule.value_at(t) for t in (0, 1_000_000, 2_000_000, 3_000_000, 4_000_000)]
    assert at == pytest.approx([0.2, 2.0, 0.2, 0.02, 0.2], rel=1e-12)
    assert schedule.value_at(10_000) == schedule.value_at(19_999) != schedule.value_at(20_000)
    assert schedule.regime_at(3_999_999) == 0
    assert schedule.regime_at(4_000_000) == 1


def test_gradual_is_log_linear():
    config = ScheduleConfig(
        schedule="gradual",
        source="list",
        friction_values=[2.0, 0.02, 0.5],
        switch_interval=1_000_000,
        ramp=400_000,
    )
    schedule = make_schedule(config)
    assert schedule.value_at(0) == pytest.approx(2.0)
    assert schedule.value_at(200_000) == pytest.approx(0.2)
    assert schedule.value_at(209_999) == schedule.value_at(200_000)
    assert schedule.value_at(400_000) == pytest.approx(0.02)
    assert schedule.value_at(999_999) == pytest.approx(0.02)
    assert schedule.value_at(1_200_000) == pytest.approx(math.sqrt(0.02 * 0.5))
    whole = make_schedule(dataclasses.replace(config, ramp=None))
    assert whole.value_at(500_000) == pytest.approx(0.2)


def test_cyclic_list_and_fixed():
    assert values(4, schedule="cyclic") == [1.0, 0.1, 1.0, 0.1]
    assert values(3, schedule="list", friction_values=[0.3, 2.0, 1.0]) == [0.3, 2.0, 1.0]
    with pytest.raises(ScheduleExhausted, match="on_exhausted=cycle"):
        values(3, schedule="list", friction_values=[0.3, 2.0])
    cycled = values(3, schedule="list", friction_values=[0.3, 2.0], on_exhausted="cycle")
    assert cycled == [0.3, 2.0, 0.3]
    fixed = make_schedule(ScheduleConfig(schedule="fixed", fixed_friction=0.7))
    assert fixed.value_at(0) == fixed.value_at(10**9) == 0.7


def test_index_at_the_switch():
    schedule = make_schedule(ScheduleConfig())
    indices = [schedule.regime_at(t) for t in (1_999_999, 2_000_000, 19_999_999)]
    assert indices == [0, 1, 9]
    assert schedule.value_at(2_000_000) == pytest.approx(GOLDEN[0][1], rel=1e-9)


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("inf")])
def test_impossible_frictions_are_refused_with_a_sentence(bad):
    for settings in (
        {"schedule": "list", "friction_values": [1.0, bad]},
        {"schedule": "cyclic", "cyclic_values": [bad, 1.0]},
        {"schedule": "fixed", "fixed_friction": bad},
        {"friction_low": bad},
        {"schedule": "sinusoidal", "sinusoid_center": bad},
    ):
        with pytest.raises(ValueError, match="must be a finite number above 0"):
            ScheduleConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "random"}, "choose one of abrupt"),
        ({"switch_rule": "sometimes"}, "choose one of exact"),
        ({"source": "web"}, "choose one of generated"),
        ({"on_exhausted": "stop"}, "choose one of error"),
        ({"switch_interval": 0}, "switch_interval=0"),
        ({"switch_interval": 2.5}, "switch_interval=2.5"),
        ({"world_seed": -1}, "world_seed=-1"),
        ({"ramp": 0}, "ramp=0"),
        ({"friction_low": 3.0}, "below"),
        ({"sinusoid_factor": 1.0}, "sinusoid_factor"),
        ({"schedule": "list"}, "friction_values is empty"),
        ({"schedule": "gradual", "switch_rule": "episode_end"}, "leave switch_rule at exact"),
        ({"schedule": "gradual", "source": "list", "friction_values": [1.0]}, "at least 2"),
        ({"schedule": "sinusoidal", "sinusoid_period": 10_000}, "would not follow the sinusoid"),
        ({"schedule": "gradual", "switch_interval": 5_000}, "written less often than it takes"),
        ({"schedule": "gradual", "ramp": 9_999}, "update_every=10000 <= ramp=9999"),
        ({"schedule": "gradual", "switch_interval": 20_000, "ramp": 40_000}, "ends in a jump"),
        ({"schedule": "fixed", "fixed_friction": 1e-6}, "the simulator takes nothing below 1e-05"),
        ({"schedule": "cyclic", "cyclic_values": [1.0, 1e-6]}, "nothing below 1e-05"),
        ({"friction_low": 1e-6}, "nothing below 1e-05"),
        ({"schedule": "sinusoidal", "sinusoid_factor": 1e5}, "sinusoid_center / sinusoid_factor"),
        ({"robot": "dog"}, "choose one of ant"),
        ({"semantics": "v4"}, "choose one of published"),
        ({"num_envs": 0}, "num_envs=0"),
        ({"max_episode_steps": True}, "max_episode_steps=True"),
        ({"obs_pad_to_111": True, "semantics": "v5"}, "obs_pad_to_111"),
        ({"on_simulator_reset": "ignore"}, "choose one of fail"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_runs_that_outlast_their_worlds_are_refused_at_the_start():
    config = Config(schedule="list", friction_values=[1.0, 0.1], switch_interval=1000)
    WorldClock(config, num_envs=16, total_steps=2000)
    with pytest.raises(ValueError, match="needs 3 worlds"):
        make(config, total_steps=2001)
    with pytest.raises(ValueError, match="shorter than one vector step"):
        make(Config(switch_interval=15), total_steps=1000)


def test_hash_identifies_the_worlds():
    def of(**settings):
        config = ScheduleConfig(**settings)
        return schedule_hash(make_schedule(config), config.switch_rule)

    variants = [
        {},
        {"world_seed": 1},
        {"table_seed": 1},
        {"switch_interval": 1_000_000},
        {"switch_rule": "episode_end"},
        {"friction_high": 1.9},
        {"source": "table"},
        {"schedule": "cyclic"},
        {"schedule": "gradual"},
        {"schedule": "gradual", "ramp": 400_000},
        {"schedule": "sinusoidal"},
        {"schedule": "fixed"},
        {"schedule": "fixed", "fixed_friction": 0.5},
    ]
    hashes = [of(**settings) for settings in variants]
    assert len(set(hashes)) == len(variants)
    assert [of(**settings) for settings in variants] == hashes
    assert all(len(h) == len(hashlib.sha256().hexdigest()) for h in hashes)


def test_worlds_and_start_states_ignore_every_other_random_stream():
    """Neither numpy's global state nor a sibling's draws move a world or a start state."""
    starts = []
    for disturbance in (1, 2):
        np.random.seed(disturbance)  # noqa: NPY002 (the state that must not matter)
        env, _ = make(Config(num_envs=2, world_seed=4), total_steps=10**6)
        np.random.random(disturbance)  # noqa: NPY002
        starts.append((env.reset()[0], env.friction))
    assert np.array_equal(starts[0][0], starts[1][0])
    assert np.array_equal(starts[0][1], starts[1][1])
    wide, _ = make(Config(num_envs=5, world_seed=4), total_steps=10**6)
    assert np.array_equal(wide.reset()[0][:2], starts[0][0])
    other, _ = make(Config(num_envs=2, world_seed=5), total_steps=10**6)
    assert not np.array_equal(other.reset()[0], starts[0][0])


@given(st.integers(1, 20), st.integers(20, 200), st.integers(1, 3000), st.integers(0, 50))
def test_exact_rule_against_its_definition(num_envs, interval, total_steps, world_seed):
    config = ScheduleConfig(switch_interval=interval, world_seed=world_seed)
    clock = WorldClock(config, num_envs, total_steps)
    nobody = np.zeros(num_envs, dtype=bool)
    switches, env_steps = [], 0
    while env_steps < total_steps:
        before, env_steps = env_steps, env_steps + num_envs
        crossed = env_steps // interval > before // interval and env_steps < total_steps
        assert clock.tick() == crossed
        events = clock.switch(nobody)
        assert [e["regime"] for e in events] == ([env_steps // interval] if crossed else [])
        switches += events
    assert [e["regime"] for e in switches] == list(range(1, len(switches) + 1))
    assert clock.env_steps == env_steps


def test_the_smallest_friction_is_the_one_that_contacts_have():
    env, _ = make(Config(num_envs=1, schedule="fixed", fixed_friction=1e-5), total_steps=10**6)
    env.reset()
    for _ in range(30):  # every contact is compared with the schedule
        env.step(np.zeros((1, 8), dtype=np.float32))
    env.close()
