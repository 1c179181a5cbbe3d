"""A reset is upstream's reset, forgets everything, and may come from the cache."""

import numpy as np
import pytest
from gymnasium.envs.mujoco import MujocoEnv
from meta_world_tools import (
    assert_same,
    batch,
    built,
    expert,
    goal_of,
    play,
    random_actions,
    reset_to,
)

from envs.meta_world_snapshot import capture, restore
from envs.meta_world_tasks import ALL_TASKS, set_goal

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]


def steps_after(env, observation, actions):
    return np.array([observation, *(env.step(action)[0] for action in actions)])


def test_both_passes_of_upstreams_reset_are_needed_and_kept():
    name = "window-close-v3"
    env, actions = built(name, fast=False), [expert(name)] * 60
    goal = goal_of(name)

    def drive(observation):
        rows = [observation]
        for policy in actions:
            rows.append(env.step(policy(rows[-1]))[0])
        return np.array(rows)

    upstream = drive(reset_to(env, name, goal))
    rows = batch([name])
    ours = [rows.start_episodes([0], [0])[0]]
    for policy, seen in zip(actions, upstream, strict=False):
        ours.append(rows.step(policy(seen)[None])[0][0])
    assert np.array_equal(np.array(ours), upstream.astype(np.float32))
    rows.close()

    reset_to(env, name, goal_of(name, 1))
    set_goal(env, name, goal)  # one pass only, as one might to save time
    env.curr_path_length = 0
    single, _ = MujocoEnv.reset(env)
    # What the rest of upstream's reset does to the observation.
    env._prev_obs = single[:18].copy()
    single[18:36] = env._prev_obs
    assert np.abs(drive(single) - upstream).max() > 1e-3


@pytest.mark.parametrize("name", ["door-open-v3", "push-v3", "peg-insert-side-v3"])
def test_a_reset_forgets_the_history(name):
    env, actions = built(name), random_actions(60)
    first = steps_after(env, reset_to(env, name, goal_of(name, 1)), actions)
    policy, observation = expert(name), reset_to(env, name, goal_of(name, 2))
    for _ in range(90):
        observation = env.step(policy(observation))[0]
    again = steps_after(env, reset_to(env, name, goal_of(name, 1)), actions)
    assert np.array_equal(first, again)


def test_the_same_seed_gives_the_same_trajectories():
    tasks, actions = ["drawer-close-v3", "window-open-v3"], random_actions(30, 2)
    results = []
    for seed in (5, 5, 6):
        env = batch(tasks, run_seed=seed, horizon=12)
        env.reset()
        results.append(play(env, actions))
        env.close()
    assert_same(results[0], results[1])
    assert not np.array_equal(results[0][0][0], results[2][0][0])


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["door-open-v3", "peg-insert-side-v3", "stick-pull-v3"]),
        pytest.param(ALL_TASKS[:25], marks=pytest.mark.slow),
        pytest.param(ALL_TASKS[25:], marks=pytest.mark.slow),
    ],
)
def test_a_cached_reset_goes_on_bit_for_bit(names):
    for name in names:
        env, actions = built(name), random_actions(40)
        observation = reset_to(env, name, goal_of(name))
        after_reset = capture(env)
        first = steps_after(env, observation, actions)
        reset_to(env, name, goal_of(name, 1))
        env.step(actions[0])
        restore(env, after_reset)
        assert np.array_equal(steps_after(env, observation, actions), first)


def trajectories(name, reset_cache, reward_version="v2"):
    """Two copies that come back to goals after other goals, mid-way, and after each other."""
    env = batch(
        [name], copies=2, reset_cache=reset_cache, reward_version=reward_version, run_seed=5
    )
    policy, results = expert(name), []
    for goals, steps in (((0, 1), 45), ((1, 0), 20), ((0, 0), 12), ((2, 1), 30), ((0, 2), 45)):
        observation = env.start_episodes([0, 1], goals)
        results.append([observation])
        random = random_actions(steps, seed=steps)
        for action in random:
            actions = [policy(observation[0]), action]
            results.append(list(play(env, [np.array(actions)])[0]))
            observation = results[-1][0]
    num_kept = len(env._rows.cache)
    snapshot = env.snapshot()
    env.close()
    return results, num_kept, snapshot


def check_cache(name, reward_version="v2"):
    (plain, none, _), (cached, kept, _) = (
        trajectories(name, reset_cache, reward_version) for reset_cache in (False, True)
    )
    assert (none, kept) == (0, 3)  # goals, whatever the copy
    for step, (row, other) in enumerate(zip(plain, cached, strict=True)):
        for a, b in zip(row, other, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{name}, step {step}")


@pytest.mark.parametrize("name", ["door-open-v3", "drawer-open-v3", "pick-place-v3"])
def test_the_reset_cache_changes_no_bit(name):
    check_cache(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
def test_the_reset_cache_changes_no_bit_of_any_task(name):
    check_cache(name)
    check_cache(name, "v1")


def test_the_reset_cache_changes_nothing_where_episodes_end_by_themselves():
    tasks, actions = ["door-open-v3", "drawer-open-v3"], random_actions(60, 2)
    results = []
    for reset_cache in (False, True):
        env = batch(tasks, horizon=9, num_goals=2, reset_cache=reset_cache)
        env.reset()
        results.append(play(env, actions))
        env.close()
    assert_same(*results)


def test_a_run_goes_on_from_a_snapshot_without_its_cache():
    """The cache is no part of a snapshot; a continued run resets in full and gets the same bits."""
    settings = {"horizon": 8, "num_goals": 2, "reset_cache": True}
    env, actions = batch(["door-open-v3"], **settings), random_actions(40, 1)
    env.reset()
    play(env, actions[:20])
    snapshot = env.snapshot()
    expected = play(env, actions[20:])
    env.close()
    other = batch(["door-open-v3"], **settings)
    assert len(other._rows.cache) == 0
    other.restore(snapshot)
    assert_same(play(other, actions[20:]), expected)
    other.close()
