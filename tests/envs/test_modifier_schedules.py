"""Values over time for every law; settings that nothing reads are refused."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import modifiers
from envs.clock import WorldClock
from envs.locomotion import Config, make
from envs.reading import READERS
from envs.schedules import ScheduleConfig, fixed_settings, make_schedule, make_schedules

LINEAR, LOG, WHOLE = "target_velocity", "mass", "observation_permutation"
LIST = {"schedule": "list", "values": (1.0, 2.0)}


def schedule(**settings):
    return make_schedule(ScheduleConfig(**settings))


@pytest.mark.parametrize("name", modifiers.names())
def test_draws_fill_the_range_evenly_on_their_own_scale(name):
    found = make_schedules(ScheduleConfig(modifier=name, world_seed=3), num_actuators=8)[name]
    law = modifiers.get(name).LAW
    high = 8 if law.high is None else law.high
    drawn = np.array([found.value(k) for k in range(4000)])
    assert drawn.min() >= law.low
    assert drawn.max() <= high
    low, values = law.low, drawn
    if law.scale == "log":
        low, high, values = math.log(low), math.log(high), np.log(drawn)
    shares = (values - low) / (high - low)
    error = math.sqrt(1 / 12 / 4000)
    assert abs(shares.mean() - 0.5) < 5 * error
    assert shares.std() == pytest.approx(math.sqrt(1 / 12), rel=0.2)
    if law.scale == "whole":
        assert (drawn == drawn.round()).all()
        assert (np.diff(drawn) != 0).all()  # a world that follows itself is no change
    if name == "joint_paralysis":
        assert set(drawn) == set(range(1, 9))


def test_quantities_draw_from_streams_of_their_own():
    together = make_schedules(ScheduleConfig(modifier=("mass", "gravity", "friction")))
    shares = {
        name: [math.log(found.value(k)) for k in range(500)] for name, found in together.items()
    }
    matrix = np.corrcoef(list(shares.values()))
    assert np.abs(matrix[np.triu_indices(3, 1)]).max() < 0.15
    alone = schedule(modifier="gravity")
    assert together["gravity"].value(7) == alone.value(7)
    assert together["friction"].value(7) == schedule().value(7)
    assert alone.value(0) != schedule(modifier="gravity", world_seed=1).value(0)


def test_geometric_lengths():
    """Multiples of the block with the right mean; a block ends a world with probability p."""
    settings = {"intervals": "geometric", "switch_interval": 100_000, "update_every": 10_000}
    found = schedule(**settings)
    starts = np.array([found.start(k) for k in range(5001)])
    lengths = np.diff(starts)
    assert (lengths >= 10_000).all()
    assert (lengths % 10_000 == 0).all()
    spread = 100_000 * math.sqrt(0.9)
    assert lengths.std() == pytest.approx(spread, rel=0.1)
    assert abs(lengths.mean() - 100_000) < 4 * spread / math.sqrt(5000)
    for blocks in (1, 5):  # no memory: the same share ends wherever one looks
        alive = lengths >= blocks * 10_000
        share = (lengths[alive] == blocks * 10_000).mean()
        assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / alive.sum()))
    for t in (0, 9_999, 10_000, 123_456, 1_000_000):
        index = found.regime_at(t)
        assert found.start(index) <= t < found.start(index + 1)
    assert found.value(3) == schedule().value(3)  # lengths take nothing from the values' stream
    every = schedule(intervals="geometric", switch_interval=500, update_every=500)
    assert [every.start(k) for k in range(4)] == [0, 500, 1000, 1500]
    other = schedule(**settings, world_seed=1)
    assert other.start(3) != found.start(3)


@given(st.integers(1, 12), st.integers(12, 40), st.integers(1, 6), st.integers(0, 30))
def test_geometric_switches_against_their_definition(num_envs, block, factor, world_seed):
    config = ScheduleConfig(
        intervals="geometric",
        switch_interval=block * factor,
        update_every=block,
        world_seed=world_seed,
        modifier=LOG,
    )
    clock = WorldClock(config, num_envs, 600)
    nobody, regimes = np.zeros(num_envs, dtype=bool), [0]
    while clock.env_steps < 600:
        cut = clock.tick()
        events = clock.switch(nobody)
        due = clock.schedule.regime_at(clock.env_steps) > regimes[-1] and clock.env_steps < 600
        assert cut == due == bool(events)
        regimes += [event["regime"] for event in events]
    assert regimes == list(range(len(regimes)))  # a block is no shorter than a step: none skipped


def test_shapes_on_linear_and_logarithmic_scales():
    pair = {"source": "list", "switch_interval": 100, "update_every": 10}
    linear = schedule(modifier=LINEAR, schedule="gradual", values=(1.0, 3.0, 1.0), **pair)
    assert linear.value_at(50) == pytest.approx(2.0)
    log = schedule(modifier=LOG, schedule="gradual", values=(0.5, 2.0, 1.0), **pair)
    assert log.value_at(50) == pytest.approx(1.0)

    swing = {"schedule": "sinusoidal", "sinusoid_period": 400, "update_every": 100}
    linear = schedule(modifier=LINEAR, low=1.0, high=2.0, **swing)
    assert [linear.value_at(t) for t in (0, 100, 200, 300)] == pytest.approx([1.5, 2.0, 1.5, 1.0])
    log = schedule(modifier=LOG, low=0.25, high=4.0, **swing)
    assert [log.value_at(t) for t in (0, 100, 200, 300)] == pytest.approx([1.0, 4.0, 1.0, 0.25])

    def first(count, **settings):
        found = schedule(**settings)
        return [found.value(k) for k in range(count)]

    assert first(3, modifier=LOG, schedule="cyclic") == [0.5, 2.0, 0.5]
    assert first(3, modifier=LINEAR, schedule="cyclic", values=(1.0, 2.0, 0.0)) == [1.0, 2.0, 0.0]
    assert first(3, modifier="joint_paralysis", schedule="cyclic") == [0.0, 1.0, 0.0]
    assert first(2, modifier=LOG, schedule="fixed") == [1.0, 1.0]
    assert first(1, modifier="gravity", schedule="fixed") == [9.81]
    assert first(1, modifier=LINEAR, schedule="fixed", fixed_value=0.0) == [0.0]
    assert first(3, modifier=LOG, **LIST, on_exhausted="cycle") == [1.0, 2.0, 1.0]


# Setting -> a value away from the default, settings that read it, settings that do not.
CASES = {
    "source": ("table", {}, {"schedule": "cyclic"}),
    "friction_low": (0.1, {}, {"schedule": "cyclic"}),
    "friction_high": (1.5, {"schedule": "gradual"}, {"modifier": LOG}),
    "friction_values": ([0.2, 0.4], {"schedule": "list"}, {"schedule": "cyclic"}),
    "on_exhausted": ("cycle", {**LIST, "modifier": LOG}, {}),
    "fixed_friction": (0.4, {"schedule": "fixed"}, {"schedule": "fixed", "modifier": LOG}),
    "cyclic_values": ([0.1, 0.2], {"schedule": "cyclic"}, {}),
    "ramp": (20_000, {"schedule": "gradual"}, {}),
    "update_every": (500, {"intervals": "geometric"}, {}),
    "sinusoid_center": (
        0.5,
        {"schedule": "sinusoidal"},
        {"schedule": "sinusoidal", "modifier": LOG},
    ),
    "sinusoid_factor": (2.0, {"schedule": "sinusoidal"}, {}),
    "sinusoid_period": (50_000, {"schedule": "sinusoidal"}, {"schedule": "gradual"}),
    "sinusoid_phase": (1.0, {"schedule": "sinusoidal"}, {"schedule": "fixed"}),
    "intervals": ("geometric", {"schedule": "cyclic"}, {"schedule": "gradual"}),
    "low": (0.8, {"modifier": LOG}, {}),
    "high": (1.5, {"modifier": (LOG, "friction")}, {"modifier": (LOG, "gravity")}),
    "values": ((0.7, 0.8), {"schedule": "list", "modifier": LOG}, {"modifier": LOG}),
    "fixed_value": (0.7, {"schedule": "fixed", "modifier": LOG}, {"schedule": "fixed"}),
}


@pytest.mark.parametrize("name", READERS)
def test_settings_that_nothing_reads_are_refused(name):
    value, reading, ignoring = CASES[name]
    ScheduleConfig(**{name: value}, **reading)
    with pytest.raises(ValueError, match=rf"{name}=.* is not read by .*; it is read by schedule="):
        ScheduleConfig(**{name: value}, **ignoring)


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ({"values": (0.7, 0.8), "source": "list"}, "friction_values=[0.7, 0.8]"),
        ({"values": (0.7, 0.8), "schedule": "list"}, "friction_values=[0.7, 0.8]"),
        ({"values": (0.7, 0.8), "schedule": "cyclic"}, "cyclic_values=[0.7, 0.8]"),
        ({"high": 1.5}, "friction_high=1.5"),
        ({"fixed_value": 0.7, "schedule": "fixed"}, "fixed_friction=0.7"),
    ],
)
def test_who_lists_values_for_friction_is_told_its_own_name_for_them(settings, own):
    with pytest.raises(ValueError, match=f"friction is told by {re.escape(own)}"):
        ScheduleConfig(**settings)


@pytest.mark.parametrize("modifier", ["joint_paralysis", "observation_permutation"])
def test_worlds_that_are_only_numbered_alternate_between_0_and_low(modifier):
    cyclic = {"modifier": modifier, "schedule": "cyclic"}
    found = schedule(**cyclic, low=2.0)
    assert [found.value(k) for k in range(4)] == [0.0, 2.0, 0.0, 2.0]
    with pytest.raises(ValueError, match=r"high=5.0 is not read by .*between 0 and low"):
        ScheduleConfig(**cyclic, high=5.0)
    with pytest.raises(ValueError, match="low=0 is the unchanged world"):
        ScheduleConfig(**cyclic, low=0.0)
    ScheduleConfig(modifier=modifier, low=0.0, high=5.0)
    ScheduleConfig(modifier=LOG, schedule="cyclic", low=0.8, high=1.5)


def test_one_joint_may_stay_paralysed_while_something_else_changes():
    ScheduleConfig(modifier=("friction", "joint_paralysis"), low=3.0, high=3.0)


def test_every_setting_is_in_the_table_or_read_by_all():
    always = {"schedule", "modifier", "switch_interval", "switch_rule", "world_seed", "table_seed"}
    assert set(READERS) == {field.name for field in dataclasses.fields(ScheduleConfig)} - always


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modifier": "gravitiy"}, "did you mean 'gravity'"),
        ({"modifier": ()}, "modifier is empty"),
        ({"modifier": (LOG, LOG)}, "twice"),
        ({"modifier": WHOLE, "schedule": "gradual"}, "choose abrupt, list or cyclic"),
        ({"modifier": LOG, "source": "table"}, "holds frictions"),
        ({"modifier": LOG, "low": 3.0}, "below"),
        ({"modifier": WHOLE, "low": 3.0, "high": 3.0}, "schedule=fixed fixed_value=3"),
        ({"modifier": LOG, "low": -1.0}, "above 0"),
        ({"modifier": LOG, "schedule": "list", "values": (1.0, 0.0)}, r"values\[1\] is 0.0"),
        ({"modifier": LOG, "schedule": "list"}, "values is empty"),
        ({"modifier": WHOLE, "schedule": "list", "values": (1.5,)}, "whole number"),
        ({"modifier": LINEAR, "schedule": "fixed", "fixed_value": math.inf}, "finite number"),
        ({"intervals": "sometimes"}, "choose one of fixed"),
        ({"intervals": "geometric", "switch_interval": 500}, "lower update_every"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**settings)


def test_short_lists_and_short_blocks_are_refused_at_the_start():
    with pytest.raises(ValueError, match=r"needs 3 worlds.*give more values"):
        make(Config(modifier=LOG, **LIST, switch_interval=1000), total_steps=2001)
    with pytest.raises(ValueError, match="intervals=geometric can be as short"):
        make(Config(intervals="geometric", update_every=8), total_steps=2001)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "list", "friction_values": [0.3, 0.2], "on_exhausted": "cycle"},
        {"schedule": "gradual", "ramp": 50, "update_every": 10, "friction_low": 0.1},
        {"modifier": LOG, "low": 0.8, "intervals": "geometric"},
        {"modifier": LINEAR, "schedule": "fixed", "fixed_value": 0.3},
        {"switch_rule": "episode_end"},
    ],
)
def test_every_run_has_a_fixed_world_of_its_quantity(settings):
    config = Config(**settings)
    fixed = dataclasses.replace(config, **fixed_settings(config))
    assert fixed.schedule == "fixed"
    assert fixed.modifiers == config.modifiers
    assert fixed.fixed_value == config.fixed_value
