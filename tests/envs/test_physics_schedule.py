"""The wrapper for single Gymnasium environments."""

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs.base import SimulatorError
from envs.locomotion import Config, LocomotionVectorEnv, make
from envs.physics import PhysicsSchedule, make_slippery
from envs.schedules import ScheduleConfig

IDS = ["SlipperyAnt-v0", "SlipperyHopper-v0", "SlipperyWalker2d-v0"]


@pytest.mark.parametrize("name", IDS)
def test_registered_ids_pass_both_checkers(name):
    env = gymnasium.make(f"envs:Neoteny/{name}", world_seed=3, switch_interval=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about wrappers and infinite bounds, as for Gymnasium's
        check_env(env, skip_render_check=True)
        sb3_check_env(env)
    assert env.get_wrapper_attr("friction") == ScheduleFriction.first(world_seed=3)


class ScheduleFriction:
    @staticmethod
    def first(**settings):
        env, _ = make(Config(num_envs=1, **settings), 10)
        return env.friction[0]


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {"switch_interval": 130},
        {"switch_interval": 130, "switch_rule": "episode_end"},
        {"schedule": "gradual", "switch_interval": 130, "update_every": 13},
        {"switch_interval": 130, "semantics": "v5"},
        {"switch_interval": 130, "robot": "hopper"},
        {"switch_interval": 130, "robot": "walker2d", "semantics": "v5"},
    ],
    ids=["exact", "episode_end", "gradual", "v5", "hopper", "walker2d"],
)
def test_equals_the_batched_environment_bit_for_bit(settings, seed):
    config = Config(num_envs=1, world_seed=6, max_episode_steps=45, **settings)
    batch, info = make(config, total_steps=500)
    single = make_slippery(
        **{"robot": "ant", "world_seed": 6, "episode_steps": 45, "total_steps": 500, **settings}
    )
    assert single.schedule_hash == batch.schedule_hash
    observation, _ = single.reset(seed=seed)
    assert np.array_equal(batch.reset(seed=seed)[0][0], observation)
    events = 0
    tape = np.random.default_rng(0).uniform(-1, 1, size=(500, info.action_dim)).astype(np.float32)
    for action in tape:
        row = batch.step(action[None])
        successor, reward, terminated, truncated, step_info = single.step(action)
        assert np.array_equal(row[4]["next_observation"][0], successor)
        assert (row[1][0], row[2][0], row[3][0]) == (reward, terminated, truncated)
        for key in ("friction", "regime", "switch_truncated", "unstable"):
            assert row[4][key][0] == step_info[key]
        assert len(row[4]["events"]) == len(step_info["events"])
        for ours, theirs in zip(row[4]["events"], step_info["events"], strict=True):
            assert {**ours, "env_index": None} == {**theirs, "env_index": None}
        events += len(step_info["events"])
        if terminated or truncated:
            assert np.array_equal(single.reset()[0], row[0][0])
    assert events >= 3


def test_works_on_any_mujoco_environment():
    env = PhysicsSchedule(
        gymnasium.make("HalfCheetah-v5", max_episode_steps=1000),
        schedule="list",
        friction_values=[0.4, 0.05, 1.1],
        switch_interval=60,
    )
    env.reset(seed=0)
    rng, seen = np.random.default_rng(0), set()
    for step in range(1, 170):
        _, _, terminated, truncated, info = env.step(env.action_space.sample() * rng.random())
        assert truncated == info["switch_truncated"] == (step % 60 == 0)
        data = env.unwrapped.data
        if data.ncon:
            assert (data.contact.friction[:, :2] == info["friction"]).all()
            seen.add(info["friction"])
        if terminated or truncated:
            env.reset()
    assert seen == {0.4, 0.05, 1.1}
    assert env.env_steps == 169


def test_explicit_seed_gives_gymnasiums_stream():
    env = gymnasium.make("envs:Neoteny/SlipperyAnt-v0", schedule="fixed")
    reference = gymnasium.make("Ant-v4")
    assert np.array_equal(env.reset(seed=17)[0], reference.reset(seed=17)[0])
    assert np.array_equal(env.reset()[0], reference.reset()[0])


def test_a_time_limit_outside_counts_as_an_episode_end():
    env = gymnasium.make(
        "envs:Neoteny/SlipperyAnt-v0",
        max_episode_steps=20,
        switch_interval=50,
        switch_rule="episode_end",
    )
    env.reset()
    events = []
    for _ in range(130):
        *_, terminated, truncated, info = env.step(np.zeros(8, dtype=np.float32))
        assert not info["events"]
        if terminated or truncated:
            events += env.reset()[1]["events"]
    assert [event["env_steps"] for event in events] == [60, 120]


@pytest.mark.parametrize("limit", [50, 1500])
def test_the_time_limit_is_that_of_the_batch(limit):
    """Also beyond Gymnasium's 1,000, and at the step of a switch."""
    settings = {"switch_interval": 50, "total_steps": 10_000, "world_seed": 3}
    env = gymnasium.make("envs:Neoteny/SlipperyHalfCheetah-v0", episode_steps=limit, **settings)
    config = Config(robot="half_cheetah", num_envs=1, max_episode_steps=limit, world_seed=3)
    batch, _ = make(dataclasses.replace(config, switch_interval=50), total_steps=10_000)
    env.reset(), batch.reset()
    for _ in range(50):
        *_, told = batch.step(np.zeros((1, 6), dtype=np.float32))
        *_, truncated, info = env.step(np.zeros(6, dtype=np.float32))
    assert truncated
    assert info["switch_truncated"] == told["switch_truncated"][0] == (limit > 50)
    batch.close()


def test_a_time_limit_beyond_a_thousand_is_reached():
    env = gymnasium.make(
        "envs:Neoteny/SlipperyHalfCheetah-v0", episode_steps=1100, schedule="fixed"
    )
    env.reset()
    length = 0
    while True:
        length += 1
        if any(env.step(np.zeros(6, dtype=np.float32))[2:4]):
            break
    assert length == 1100


def test_copies_are_the_rows_of_the_batch():
    batch, _ = make(Config(num_envs=3, world_seed=2), total_steps=1_000)
    rows = batch.reset()[0]
    for index, row in enumerate(rows):
        env = gymnasium.make("envs:Neoteny/SlipperyAnt-v0", world_seed=2, env_index=index)
        np.testing.assert_array_equal(env.reset()[0], row)
    with pytest.raises(ValueError, match="env_index=-1"):
        make_slippery("ant", env_index=-1)
    batch.close()


def test_instability_is_reported():
    env = make_slippery("ant", schedule="fixed")
    env.reset()
    with pytest.raises(SimulatorError, match="not finite"):
        env.step(np.full(8, np.nan))
    env.unwrapped.data.qvel[0] = 1e11
    with pytest.raises(SimulatorError, match="BADQVEL"):
        env.step(np.zeros(8))

    env = make_slippery("ant", schedule="fixed", on_simulator_reset="count")
    last, _ = env.reset()
    env.unwrapped.data.qvel[0] = 1e11
    observation, reward, terminated, truncated, info = env.step(np.zeros(8))
    assert (reward, terminated, truncated, info["unstable"]) == (0.0, True, False, True)
    assert np.array_equal(observation, last)
    assert env.num_simulator_resets == 1
    env.reset()
    assert not env.step(np.zeros(8))[4]["unstable"]


def test_floor_only_edit_is_found_out():
    env = make_slippery("ant", schedule="fixed", fixed_friction=0.1)
    env.unwrapped.model.geom_friction[1:, 0] = 1.0
    env.reset()

    def stand():
        for _ in range(60):
            env.step(np.zeros(8))

    with pytest.raises(SimulatorError, match=r"the schedule says 0\.1"):
        stand()


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="needs a Gymnasium MuJoCo environment"):
        PhysicsSchedule(gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="switch_intervall unknown"):
        make_slippery("ant", switch_intervall=5)
    with pytest.raises(ValueError, match="not both"):
        PhysicsSchedule(gymnasium.make("Ant-v5"), ScheduleConfig(), world_seed=1)
    with pytest.raises(ValueError, match="choose one of published"):
        make_slippery("ant", semantics="v3")


def test_make_vec_gives_the_batched_environment():
    env = gymnasium.make_vec(
        "envs:Neoteny/SlipperyAnt-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        total_steps=1000,
        world_seed=2,
    )
    assert isinstance(env, LocomotionVectorEnv)
    env.reset()
    observation, _, _, _, info = env.step(env.action_space.sample())
    assert observation.shape == (3, 27)
    assert info["friction"].tolist() == [ScheduleFriction.first(world_seed=2)] * 3


def test_make_vec_needs_no_end_of_the_run():
    settings: Any = {"switch_interval": 12, "max_episode_steps": 5, "world_seed": 2}
    name = "envs:Neoteny/SlipperyAnt-v0"
    env, copy = (gymnasium.make_vec(name, num_envs=2, **settings) for _ in range(2))
    observation, _ = env.reset(seed=3)
    singles = [gymnasium.make(name, **settings).reset(seed=3 + i)[0] for i in range(2)]
    np.testing.assert_array_equal(observation, singles)
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 2, 8)).astype(np.float32)
    switches = []
    for action in actions[:7]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert [a.shape for a in (reward, terminated, truncated)] == [(2,)] * 3
        switches += [event["env_steps"] for event in info["events"]]
    assert switches == [12]
    assert isinstance(env, LocomotionVectorEnv)
    assert isinstance(copy, LocomotionVectorEnv)
    copy.restore(env.snapshot())
    np.testing.assert_array_equal(env.step(actions[7])[0], copy.step(actions[7])[0])
    env.close()
    copy.close()
