"""The fast classes compute what the stock classes compute."""

import copy
import importlib
import inspect

import numpy as np
import pytest
from meta_world_tools import built, expert, goal_of, random_actions, reset_to
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from envs.meta_world_fast import QUATERNION_SOURCES, FastContacts, quaternion
from envs.meta_world_fast_rewards import fast_reward_methods, norm, tolerance
from envs.meta_world_tasks import ALL_TASKS, CW10, MT10, build_task

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]

PUBLISHED = tuple(dict.fromkeys(MT10 + CW10))


def trajectory(env, name, goal, actions=None, steps=0):
    """Physics, observations, rewards and all info of random actions, or of the expert's."""
    observation = reset_to(env, name, goal)
    rows, physics, policy = [], [], expert(name)
    for step in range(len(actions) if actions is not None else steps):
        action = policy(observation) if actions is None else actions[step]
        observation, reward, _, truncated, info = env.step(action)
        numbers = [reward, truncated, *(info[key] for key in sorted(info))]
        rows.append(np.concatenate([observation, [float(x) for x in numbers]]))
        physics.append(np.concatenate([env.data.qpos, env.data.qvel, env.data.mocap_pos.ravel()]))
    assert sorted(info) == INFO
    return np.array(rows), np.array(physics)


INFO = [
    "grasp_reward",
    "grasp_success",
    "in_place_reward",
    "near_object",
    "obj_to_target",
    "success",
    "unscaled_reward",
]
"""What a step says, sorted."""
GRASP = 39 + 2 + INFO.index("grasp_success")


def compare(name, steps, goals=(0,), reward_version="v2"):
    """Largest difference, and whether the gripper ever held the object; equal physics."""
    envs, held, worst = [built(name, fast, reward_version) for fast in (False, True)], False, 0.0
    for index in goals:
        for actions in (random_actions(steps, seed=index), None):
            (stock, physics), (fast, other) = (
                trajectory(env, name, goal_of(name, index), actions, steps) for env in envs
            )
            assert np.array_equal(physics, other)
            worst = max(worst, float(np.abs(stock - fast).max()))
            held |= bool(stock[:, GRASP].any())
    return worst, held


@pytest.mark.parametrize("name", PUBLISHED)
def test_fast_equals_stock_for_a_while(name):
    assert compare(name, 50)[0] <= 1e-12


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
def test_fast_equals_stock_under_the_old_rewards(name):
    # These are unscaled and reach thousands.
    assert compare(name, 200, reward_version="v1")[0] <= 1e-9


def test_both_classes_live_in_one_process():
    stock, fast = built("push-v3", fast=False), built("push-v3")
    assert type(stock) is ALL_V3_ENVIRONMENTS["push-v3"]
    assert not isinstance(stock, FastContacts)
    assert isinstance(fast, FastContacts)
    actions = random_actions(20)
    results = [trajectory(env, "push-v3", goal_of("push-v3"), actions) for env in (stock, fast)]
    assert np.abs(results[0][0] - results[1][0]).max() <= 1e-12


def test_a_fast_step_refuses_what_the_stock_step_refuses():
    for fast in (False, True):
        env = build_task("drawer-close-v3", fast=fast)
        with pytest.raises(RuntimeError, match="set_task"):
            env.step(np.zeros(4, dtype=np.float32))
        reset_to(env, "drawer-close-v3", goal_of("drawer-close-v3"))
        env.curr_path_length = env.max_path_length - 1
        assert env.step(np.zeros(4, dtype=np.float32))[3]
        with pytest.raises(ValueError, match="reset the env"):
            env.step(np.zeros(4, dtype=np.float32))


def test_a_copy_of_a_fast_task_has_views_of_its_own():
    env = built("drawer-close-v3")
    observation = reset_to(env, "drawer-close-v3", goal_of("drawer-close-v3"))
    other = copy.deepcopy(env)
    other.data.body("hand").xpos[:] = 9.0
    assert other.get_endeff_pos().tolist() == [9.0] * 3
    assert env.get_endeff_pos().tolist() == observation[:3].tolist()


def test_only_slow_helpers_of_rewards_are_replaced_and_modules_stay_as_they_are():
    module = importlib.import_module(ALL_V3_ENVIRONMENTS["pick-place-v3"].__module__)
    methods = fast_reward_methods(ALL_V3_ENVIRONMENTS["pick-place-v3"], replaced=())
    assert {"compute_reward", "_gripper_caging_reward"} <= set(methods)
    assert "_reset_hand" not in methods
    for name, method in methods.items():
        stock = getattr(ALL_V3_ENVIRONMENTS["pick-place-v3"], name)
        assert method.__code__ is stock.__code__
        assert method.__globals__ is not stock.__globals__
    assert module.np is np
    assert module.reward_utils.tolerance is reward_utils.tolerance is not tolerance


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian"])
@pytest.mark.parametrize("bounds", [(0.0, 0.05), (0, 0), (0.015, 0.05), (-1.0, 1.0)])
@pytest.mark.parametrize("margin", [0, 0.0, 1e-3, np.float64(0.3), 2.0])
def test_tolerance_is_upstreams_tolerance_bit_by_bit(sigmoid, bounds, margin):
    numbers = [*np.random.default_rng(0).normal(0, 0.3, 200), 0.0, -0.0, *map(float, bounds)]
    for x in [*numbers, *map(np.float64, numbers), float("nan")]:
        ours = tolerance(x, bounds, margin, sigmoid)
        stock = reward_utils.tolerance(x, bounds, margin, sigmoid)
        assert type(ours) is type(stock) is float
        assert ours == stock or (np.isnan(ours) and np.isnan(stock))


def test_tolerance_of_anything_else_is_upstreams():
    x = np.array([0.1, 0.7])
    for settings in ({"sigmoid": "linear"}, {"value_at_margin": 0.2}, {"sigmoid": "tanh_squared"}):
        for value in (x, 0.7):
            ours = tolerance(value, (0.0, 0.2), 0.8, **settings)
            np.testing.assert_array_equal(
                ours, reward_utils.tolerance(value, (0.0, 0.2), 0.8, **settings)
            )
    with pytest.raises(ValueError, match="Lower bound"):
        tolerance(0.5, (1.0, 0.0))
    with pytest.raises(ValueError, match="non-negative"):
        tolerance(0.5, (0.0, 0.1), -1.0)


def test_norm_is_numpys_norm_bit_by_bit():
    vectors = np.random.default_rng(1).normal(size=(500, 3))
    for vector in [*vectors, *vectors[:, :2], *vectors[:, 0], *vectors[:, 0].tolist(), vectors]:
        ours, stock = norm(vector), np.linalg.norm(vector)
        assert type(ours) is type(stock)
        assert ours == stock
    assert norm(vectors, axis=1).shape == (500,)
    assert norm(vectors[0], ord=1) == np.linalg.norm(vectors[0], ord=1)


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
