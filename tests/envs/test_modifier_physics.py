"""Every modifier seen from the physics: distances, accelerations, torques, readings, rewards."""

import gymnasium
import mujoco
import numpy as np
import pytest

from envs import modifiers
from envs.locomotion import Config, make
from envs.modifiers.base import Subject
from envs.modifiers.mass import Mass
from envs.robots import ROBOT_NAMES, ROBOTS, load_model

ANT_MASS = 0.9108800827  # kg, of Gymnasium's model
ZERO = np.zeros((1, 8))


def world(modifier, value, num_envs=1, **settings):
    """Environments in one unchanging world."""
    config = Config(
        num_envs=num_envs, schedule="fixed", modifier=modifier, fixed_value=value, **settings
    )
    env = make(config, 10**6)[0]
    env.reset(seed=0)
    return env


def centre(env):
    """Centre of mass of the first robot in metres, from fresh kinematics."""
    simulations = env.simulations
    model, data = simulations.models[0], simulations.data[0]
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    return np.array(data.subtree_com[0])


def lift(env, height=50.0):
    """Put the first robot high above the floor, at rest, all joints amid their ranges."""
    simulations = env.simulations
    model, qpos = simulations.models[0], simulations.start_qpos.copy()
    qpos[7:] = model.jnt_range[1:].mean(axis=1)
    qpos[2] = height
    simulations.reset(0, (qpos, simulations.start_qvel))


@pytest.mark.parametrize("gravity", [1.62, 4.905, 9.81, 19.62])
def test_gravity_decides_how_far_a_body_falls(gravity):
    env = world("gravity", gravity)
    lift(env)
    before = centre(env)
    for _ in range(20):  # one second, without the episode's end that a step would bring
        env.simulations.step()
    assert before[2] - centre(env)[2] == pytest.approx(0.5 * gravity, rel=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_mass_decides_how_a_known_force_accelerates(factor):
    env = world("mass", factor)
    lift(env)
    force, before = 3.0, centre(env)
    env.simulations.data[0].xfrc_applied[1, 0] = force
    for _ in range(20):
        env.simulations.step()
    moved = centre(env) - before
    assert moved[0] == pytest.approx(0.5 * force / (factor * ANT_MASS), rel=1e-6)
    assert moved[2] == pytest.approx(-0.5 * 9.81, rel=1e-6)  # bodies of any mass fall alike


@pytest.mark.parametrize("robot", ROBOT_NAMES)
def test_written_masses_equal_a_model_that_was_compiled_heavier(robot):
    kind = ROBOTS[robot, "v5"]
    factor, written = 1.7, load_model(kind)
    subject = Subject([written], [mujoco.MjData(written)], 1, None)
    Mass(subject).write(np.array([factor]))
    specification = mujoco.MjSpec.from_string(as_text(kind))
    for geom in specification.geoms:
        geom.density *= factor
        geom.mass *= factor  # NaN where the density decides
    if specification.compiler.settotalmass > 0:
        specification.compiler.settotalmass *= factor
    compiled = specification.compile()
    derived = ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0")
    for name in (*derived, "dof_invweight0", "dof_M0", "actuator_acc0"):
        np.testing.assert_allclose(getattr(written, name), getattr(compiled, name), rtol=1e-9)
    assert written.stat.meaninertia == pytest.approx(compiled.stat.meaninertia, rel=1e-9)

    untouched, same = load_model(kind), load_model(kind)
    Mass(Subject([same], [mujoco.MjData(same)], 1, None)).write(np.array([1.0]))
    runs = [(model, mujoco.MjData(model)) for model in (untouched, same)]
    for control in np.random.default_rng(0).uniform(-1, 1, size=(100, same.nu)):
        for model, data in runs:
            data.ctrl[:] = control
            mujoco.mj_step(model, data, 5)
        assert np.array_equal(runs[0][1].qpos, runs[1][1].qpos)


def as_text(kind):
    """The XML of a robot, from Gymnasium's own folder."""
    folder = gymnasium.__file__.replace("__init__.py", "envs/mujoco/assets/")
    with open(folder + kind.xml[0], encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("robot", ROBOT_NAMES)
def test_gain_scales_the_torque_of_the_same_control(robot, factor):
    env = world("actuator_gain", factor, robot=robot)
    model, data = env.simulations.models[0], env.simulations.data[0]
    gears = load_model(ROBOTS[robot, "published"]).actuator_gear[:, 0]
    control = np.linspace(-0.9, 0.9, model.nu) * model.actuator_ctrlrange[:, 1]
    env.simulations.controls[:] = control
    env.simulations.step()
    torques = data.qfrc_actuator[model.jnt_dofadr[model.actuator_trnid[:, 0]]]
    assert torques == pytest.approx(gears * factor * control, rel=1e-12)
    if robot == "ant":
        assert (gears == 150.0).all()


@pytest.mark.parametrize("number", [1, 4, 8])
def test_a_paralysed_joint_does_not_follow(number):
    """The robot moves as if the agent gave that joint no control; but the agent pays for it."""
    healthy, paralysed = world("joint_paralysis", 0), world("joint_paralysis", number)
    actions = np.random.default_rng(number).uniform(0.5, 1.0, size=(5, 1, 8))
    usual = world("joint_paralysis", 0)
    for action in actions:
        without = action.copy()
        without[0, number - 1] = 0.0
        expected = usual.step(without)
        found = paralysed.step(action)
        assert np.array_equal(found[4]["next_observation"], expected[4]["next_observation"])
        cost = 0.5 * action[0, number - 1] ** 2
        assert found[1][0] == pytest.approx(expected[1][0] - cost, rel=1e-9)
        healthy.step(action)
    data, other = paralysed.simulations.data[0], healthy.simulations.data[0]
    model = paralysed.simulations.models[0]
    joint = model.actuator_trnid[number - 1, 0]
    assert data.qfrc_actuator[model.jnt_dofadr[joint]] == 0.0
    assert other.qfrc_actuator[model.jnt_dofadr[joint]] != 0.0
    angle = model.jnt_qposadr[joint]
    assert abs(data.qpos[angle] - other.qpos[angle]) > 0.02  # radians


@pytest.mark.parametrize("size", [-0.7, 0.4])
def test_an_offset_is_read_and_moves_nothing(size):
    shifted, plain = world("observation_offset", size, 2), world("observation_offset", 0.0, 2)
    assert np.array_equal(plain.reset(seed=3)[0], world("friction", None, 2).reset(seed=3)[0])
    difference = shifted.reset(seed=3)[0] - plain.reset(seed=3)[0]
    assert np.sqrt(np.mean(difference[0] ** 2)) == pytest.approx(abs(size))
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(30, 2, 8)):
        rows, others = shifted.step(actions), plain.step(actions)
        assert np.array_equal(rows[1], others[1])  # rewards
        for found, true in (
            (rows[0], others[0]),
            (rows[4]["next_observation"], others[4]["next_observation"]),
        ):
            np.testing.assert_allclose(found - true, difference, atol=1e-12)


def test_a_permutation_shows_the_same_numbers_elsewhere():
    permuted, plain = (world("observation_permutation", k, 2) for k in (17, 0))
    assert np.array_equal(plain.reset(seed=3)[0], world("friction", None, 2).reset(seed=3)[0])
    true = plain.reset(seed=3)[0][0]
    seen = permuted.reset(seed=3)[0][0]
    places = [int(np.flatnonzero(true == number)[0]) for number in seen]
    assert sorted(places) == list(range(27))
    assert places != list(range(27))
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(30, 2, 8)):
        rows, others = permuted.step(actions), plain.step(actions)
        assert np.array_equal(rows[1], others[1])
        assert np.array_equal(rows[0], others[0][:, places])
        assert np.array_equal(rows[4]["next_observation"], others[4]["next_observation"][:, places])
    another = world("observation_permutation", 18, 2).reset(seed=3)[0][0]
    assert not np.array_equal(another, seen)


@pytest.mark.parametrize("target", [0.0, 1.3, 3.0])
def test_the_best_paid_speed_is_the_target(target):
    """Pushed at a known speed, the robot earns less the farther that is from the target."""
    earned = {}
    for speed in (-1.0, 0.0, 1.3, 3.0, 4.5):
        env = world("target_velocity", target, robot="half_cheetah")
        qvel = env.simulations.start_qvel.copy()
        qvel[0] = speed
        env.simulations.reset(0, (env.simulations.start_qpos, qvel))
        data = env.simulations.data[0]
        before = data.qpos[0]
        reward = env.step(np.zeros((1, 6)))[1][0]
        velocity = (data.qpos[0] - before) / 0.05
        assert reward == pytest.approx(-abs(velocity - target), abs=1e-12)
        earned[speed] = reward
    assert max(earned, key=earned.__getitem__) == min(earned, key=lambda v: abs(v - target))


def test_target_velocity_keeps_all_other_terms():
    """Against Gymnasium's own account of the terms, for the robot whose forward weight is not 1."""
    env = world("target_velocity", 0.8, robot="humanoid", semantics="v5")
    reference = gymnasium.make("Humanoid-v5")
    reference.unwrapped.model.geom_friction[:] = env.simulations.models[0].geom_friction
    reference.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-0.4, 0.4, size=(5, 17)):
        reward = env.step(action[None])[1][0]
        info = reference.step(action)[4]
        others = info["reward_survive"] + info["reward_ctrl"] + info["reward_contact"]
        expected = -1.25 * abs(info["x_velocity"] - 0.8) + others
        assert reward == pytest.approx(expected, abs=1e-9)


def test_every_modifier_is_in_this_file():
    """A new file in envs/modifiers/ needs a test of its physics; friction has a file of tests."""
    seen = {
        "gravity",
        "mass",
        "actuator_gain",
        "joint_paralysis",
        "observation_offset",
        "observation_permutation",
        "target_velocity",
        "friction",
    }
    assert set(modifiers.names()) == seen


@pytest.mark.parametrize("modifier", ["gravity", "mass", "actuator_gain", "joint_paralysis"])
def test_the_nominal_world_is_the_untouched_one(modifier):
    env = world(modifier, None, num_envs=2)
    reference = world("friction", None, num_envs=2)
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(30, 2, 8)):
        assert np.array_equal(env.step(actions)[0], reference.step(actions)[0])


def test_a_value_that_the_robot_does_not_have_is_refused_at_the_start():
    with pytest.raises(ValueError, match="no actuator; they are numbered 1 to 3"):
        world("joint_paralysis", 4, robot="hopper")
    with pytest.raises(ValueError, match="no actuator; they are numbered 1 to 8"):
        make(Config(modifier="joint_paralysis", schedule="list", values=(1.0, 9.0)), 100)
    env = world("gravity", 9.81)
    with pytest.raises(ValueError, match="above 0"):
        env.set_value(0.0)
    with pytest.raises(ValueError, match="not friction; use set_value"):
        env.set_friction(0.5)
    env.set_value(4.0)
    assert env.regime_value.tolist() == [4.0]
    with pytest.raises(AttributeError, match="change gravity"):
        _ = env.friction
