"""Friction reaches the contacts, and a wrong edit cannot go unnoticed."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from envs.base import SimulatorError
from envs.locomotion import Config, make
from envs.modifiers.friction import contact_mismatch, write_friction
from envs.robots import ROBOTS, load_model

ANT = ROBOTS["ant", "published"]
ZERO = np.zeros((1, 8))


def stand(env, steps):
    """Step without control."""
    for _ in range(steps):
        env.step(np.zeros((env.num_envs, 8)))


def standing(friction):
    """An Ant that has stood without control for 40 steps, from the exact start pose."""
    env, _ = make(Config(num_envs=1, schedule="fixed", fixed_friction=friction), 10**6)
    env.reset()
    simulations = env.simulations
    simulations.reset(0, (simulations.start_qpos, simulations.start_qvel))
    stand(env, 40)
    return env


@pytest.mark.parametrize("friction", [0.02, 0.1, 1.0, 2.0])
def test_contacts_report_the_scheduled_friction(friction):
    env = standing(friction)
    data, model = env.simulations.data[0], env.simulations.models[0]
    assert data.ncon == 4
    if friction <= 0.1:  # on slippery ground the legs slide apart
        assert data.qpos[2] == pytest.approx(0.37, abs=0.02)
    for contact in data.contact:
        assert contact.friction.tolist() == [friction, friction, 0.5, 0.5, 0.5]
    assert (model.geom_friction[:, 1:] == 0.5).all()
    assert contact_mismatch(data, friction) is None


@pytest.mark.parametrize("geoms", [slice(0, 1), slice(1, None)], ids=["floor only", "body only"])
def test_editing_only_some_geoms_is_found_out(geoms):
    model = load_model(ANT)
    data = mujoco.MjData(model)
    model.geom_friction[geoms, 0] = 0.1
    mujoco.mj_step(model, data, 200)
    assert data.ncon == 4
    assert contact_mismatch(data, 0.1) is not None
    write_friction(model, 0.1)
    mujoco.mj_step(model, data)
    assert contact_mismatch(data, 0.1) is None

    env, _ = make(Config(num_envs=1, schedule="fixed", fixed_friction=0.1), 10**6)
    env.simulations.models[0].geom_friction[:, 0] = 1.0
    env.simulations.models[0].geom_friction[geoms, 0] = 0.1
    env.reset()
    with pytest.raises(SimulatorError, match=r"friction \[1.0, 1.0\], but the schedule says 0.1"):
        stand(env, 60)


def test_a_switch_that_does_not_reach_the_model_stops_the_run(monkeypatch):
    config = Config(num_envs=2, schedule="cyclic", switch_interval=100)
    env, _ = make(config, 1000)
    env.reset()
    stand(env, 49)
    monkeypatch.setattr("envs.modifiers.friction.write_friction", lambda model, friction: None)
    with pytest.raises(SimulatorError, match=r"the schedule says 0.1"):
        stand(env, 60)


@pytest.mark.parametrize("friction", [0.02, 0.1, 1.7])
def test_writing_in_place_equals_editing_the_file(friction):
    path = Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml"
    text = path.read_text().replace('friction="1 0.5 0.5"', f'friction="{friction!r} 0.5 0.5"')
    edited, written = mujoco.MjModel.from_xml_string(text), load_model(ANT)
    write_friction(written, friction)
    runs = [(model, mujoco.MjData(model)) for model in (edited, written)]
    for control in np.random.default_rng(0).uniform(-1, 1, size=(500, 8)):
        for model, data in runs:
            data.ctrl[:] = control
            mujoco.mj_step(model, data, 5)
        assert np.array_equal(runs[0][1].qpos, runs[1][1].qpos)


@pytest.mark.parametrize(
    ("friction", "after_20", "after_40"),
    [
        (0.02, 1.9308, 3.7234),
        (0.05, 1.8268, 3.3078),
        (0.1, 1.6539, 2.6157),
        (0.2, 1.3079, 1.4456),
        (0.5, 0.5795, 0.5795),
    ],
)
def test_sliding_distance(friction, after_20, after_40):
    env = standing(friction)
    data = env.simulations.data[0]
    data.qvel[0] = 2.0
    positions = []
    for _ in range(40):
        env.step(ZERO)
        positions.append(data.qpos[0])
    assert positions[19] == pytest.approx(after_20, abs=1e-3)
    assert positions[39] == pytest.approx(after_40, abs=1e-3)


def test_evaluation_worlds_are_set_by_hand_only_when_fixed():
    env, _ = make(Config(num_envs=2, schedule="fixed"), 10**6)
    env.set_friction(0.3)
    env.reset()
    info = {}
    for _ in range(20):
        info = env.step(np.zeros((2, 8)))[4]
    assert info["friction"].tolist() == [0.3, 0.3]
    assert env.simulations.data[0].contact.friction[0, 0] == 0.3
    with pytest.raises(ValueError, match="above 0"):
        env.set_friction(0.0)
    scheduled, _ = make(Config(num_envs=2), 10**6)
    with pytest.raises(ValueError, match="schedule=fixed"):
        scheduled.set_friction(0.3)
