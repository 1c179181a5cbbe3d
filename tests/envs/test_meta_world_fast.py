"""The fast classes compute what the stock classes compute."""

import inspect

import numpy as np
import pytest
from meta_world_tools import built, expert, goal_of, random_actions, reset_to
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from scipy.spatial.transform import Rotation

from envs.meta_world_fast import QUATERNION_SOURCES, FastContacts, quaternion
from envs.meta_world_tasks import ALL_TASKS, CW10, MT10

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]

PUBLISHED = tuple(dict.fromkeys(MT10 + CW10))


def trajectory(env, name, goal, actions=None, steps=0):
    """Observations, rewards and all info of random actions, or of the expert's."""
    observation = reset_to(env, name, goal)
    rows, policy = [], expert(name)
    for step in range(len(actions) if actions is not None else steps):
        action = policy(observation) if actions is None else actions[step]
        observation, reward, _, _, info = env.step(action)
        rows.append(np.concatenate([observation, [reward], [float(x) for x in info.values()]]))
    return np.array(rows)


def compare(name, steps, goals=(0,)):
    """Largest difference, and whether the gripper ever held the object."""
    envs, held, worst = [built(name, fast) for fast in (False, True)], False, 0.0
    for index in goals:
        for actions in (random_actions(steps, seed=index), None):
            stock, fast = (
                trajectory(env, name, goal_of(name, index), actions, steps) for env in envs
            )
            worst = max(worst, float(np.abs(stock - fast).max()))
            held |= bool(stock[:, 42].any())
    return worst, held


@pytest.mark.parametrize(
    "name", ["reach-v3", "door-open-v3", "peg-insert-side-v3", "stick-pull-v3"]
)
def test_fast_equals_stock_for_a_while(name):
    assert compare(name, 60)[0] <= 1e-12


@pytest.mark.parametrize("name", ["pick-place-v3"])
def test_fast_equals_stock_while_the_gripper_holds_the_object(name):
    worst, held = compare(name, 110)
    assert held
    assert worst <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
def test_fast_equals_stock_for_whole_episodes(name):
    goals = (0, 1) if name in PUBLISHED else (0,)
    assert compare(name, 500, goals)[0] <= 1e-12


def test_both_classes_live_in_one_process():
    stock, fast = built("push-v3", fast=False), built("push-v3")
    assert type(stock) is ALL_V3_ENVIRONMENTS["push-v3"]
    assert not isinstance(stock, FastContacts)
    assert isinstance(fast, FastContacts)
    actions = random_actions(20)
    results = [trajectory(env, "push-v3", goal_of("push-v3"), actions) for env in (stock, fast)]
    assert np.abs(results[0] - results[1]).max() <= 1e-12


def test_every_use_of_scipy_in_metaworld_is_known():
    slow = {
        task_class
        for task_class in ALL_V3_ENVIRONMENTS.values()
        if "from_matrix" in inspect.getsource(task_class._get_quat_objects)
    }
    assert slow == set(QUATERNION_SOURCES)


def test_quaternions_have_the_branch_and_the_numbers_of_scipy():
    rotations = Rotation.random(2000, random_state=0)
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3))
    branches = set()
    for matrix in np.concatenate([rotations.as_matrix(), half_turns.as_matrix()]):
        ours = quaternion(matrix.ravel().tolist())
        np.testing.assert_allclose(ours, Rotation.from_matrix(matrix).as_quat(), atol=1e-14)
        branches.add(int(np.argmax([*np.diag(matrix), np.trace(matrix)])))
    assert branches == {0, 1, 2, 3}


def test_a_contact_needs_both_pads_and_a_force():
    """The gripper is asked about every geom of the scene while it holds the object."""
    env = built("pick-place-v3")
    observation = reset_to(env, "pick-place-v3", goal_of("pick-place-v3"))
    policy = expert("pick-place-v3")
    answers = []
    for _ in range(80):
        observation, *_ = env.step(policy(observation))
        for geom in range(env.model.ngeom):
            ours = env.touching_object(geom)
            stock = super(FastContacts, env).touching_object(geom)
            assert bool(ours) == bool(stock)
            answers.append(bool(ours))
    assert any(answers)
