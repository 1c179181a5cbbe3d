"""A value that a schedule brings about has the effect of a world that was built with it.

What each value does to the physics is measured in test_modifier_physics.py, in worlds that never
change. Here the physics of a changing world is compared, step by step and bit by bit, with that of
a world built with the value in force, started from the same state.
"""

import numpy as np
import pytest

from envs import modifiers
from envs.locomotion import Config, make
from envs.robots import ROBOT_NAMES

VALUES = {
    "friction": (1.3, 0.05),
    "gravity": (15.0, 5.0),
    "mass": (0.6, 1.9),
    "actuator_gain": (0.5, 2.0),
    "joint_paralysis": (0.0, 2.0),
    "observation_offset": (0.3, -0.8),
    "observation_permutation": (0.0, 17.0),
    "target_velocity": (0.2, 2.5),
}
SMOOTH = [name for name in VALUES if modifiers.get(name).LAW.scale != "whole"]


def unchanging(config, value):
    """A world built with this value."""
    kept = {"robot": config.robot, "num_envs": config.num_envs, "modifier": config.modifier}
    key = "fixed_friction" if config.modifier == "friction" else "fixed_value"
    twin, _ = make(Config(schedule="fixed", **{key: value}, **kept), 10**6)
    twin.reset()
    return twin


def outcome(row):
    """What one step brings, wherever the episode goes on; as bytes."""
    return row[4]["next_observation"].tobytes(), row[1].tobytes(), row[2].tobytes()


def play_beside_unchanging_worlds(config, vector_steps):
    """Step the changing world beside the twin of the value in force and that of the last one.

    Returns:
        Values in force, (vector_steps,), and how often the last value would have made a difference.
    """
    env, info = make(config, 10**6)
    env.reset()
    twins, taken, differed, last = {}, [], 0, None
    tape = np.random.default_rng(0).uniform(-1, 1, (vector_steps, config.num_envs, info.action_dim))
    for actions in tape:
        value = float(env.regime_value[0])
        if value not in twins:
            twins[value] = unchanging(config, value)
        if taken and taken[-1] != value:
            last = taken[-1]
        taken.append(value)
        state, stale = env.simulations.states(), env.simulations.stale_arrays()
        found, expected = outcome(env.step(actions)), {}
        for known in {value, last} - {None}:
            twins[known].simulations.restore(state, stale)
            expected[known] = outcome(twins[known].step(actions))
        assert found == expected[value]
        differed += found != expected.get(last, found)
    return taken, differed


@pytest.mark.parametrize("robot", ROBOT_NAMES)
@pytest.mark.parametrize("modifier", VALUES)
def test_abrupt_changes_and_returns(modifier, robot):
    """A, B and A again, ten steps each."""
    first, second = VALUES[modifier]
    config = Config(
        robot=robot,
        num_envs=2,
        modifier=modifier,
        schedule="cyclic",
        **{"cyclic_values" if modifier == "friction" else "values": (first, second)},
        switch_interval=20,
    )
    taken, differed = play_beside_unchanging_worlds(config, 30)
    assert taken == [first] * 10 + [second] * 10 + [first] * 10
    assert differed > 0


@pytest.mark.parametrize("schedule", ["gradual", "sinusoidal"])
@pytest.mark.parametrize("modifier", SMOOTH)
def test_drifting_values_under_running_episodes(modifier, schedule):
    settings = {"sinusoid_period": 80} if schedule == "sinusoidal" else {"switch_interval": 40}
    config = Config(num_envs=2, modifier=modifier, schedule=schedule, update_every=10, **settings)
    taken, differed = play_beside_unchanging_worlds(config, 40)
    assert len(set(taken)) >= 5
    assert all(len(set(taken[start : start + 5])) == 1 for start in range(0, 40, 5))
    assert differed > 0


def test_every_modifier_is_here():
    assert set(VALUES) == set(modifiers.names())
