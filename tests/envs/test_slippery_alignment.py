"""Observations, rewards and episode ends equal Gymnasium's bit for bit."""

import gymnasium
import numpy as np
import pytest

from envs.locomotion import Config, make
from envs.robots import ROBOTS

LIMIT = 200


def actions_of(seed, steps, action_dim):
    return np.random.default_rng([seed, 7]).uniform(-1, 1, size=(steps, action_dim))


def gymnasium_trajectory(gymnasium_id, seed, steps):
    """Rows (observation after reset, successor, reward, terminated, truncated)."""
    env = gymnasium.make(gymnasium_id, max_episode_steps=LIMIT)
    observation, _ = env.reset(seed=seed)
    start, rows = observation, []
    for action in actions_of(seed, steps, env.action_space.shape[0]):
        successor, reward, terminated, truncated, _ = env.step(action)
        observation = env.reset()[0] if terminated or truncated else successor
        rows.append((observation, successor, reward, terminated, truncated))
    return start, [np.array(column) for column in zip(*rows, strict=True)]


def our_trajectory(config, num_threads, steps, first_seed=0):
    env, info = make(config, total_steps=10**9, num_threads=num_threads)
    seeds = range(first_seed, first_seed + config.num_envs)
    tapes = np.stack([actions_of(s, steps, info.action_dim) for s in seeds], 1)
    start, _ = env.reset(seed=first_seed)
    rows = []
    for actions in tapes:
        observation, reward, terminated, truncated, step_info = env.step(actions)
        rows.append((observation, step_info["next_observation"], reward, terminated, truncated))
    env.close()
    return start, [np.array(column) for column in zip(*rows, strict=True)]


@pytest.fixture(scope="module", params=["published", "v5"])
def ant_reference(request):
    gymnasium_id = ROBOTS["ant", request.param].gymnasium_id
    return request.param, [gymnasium_trajectory(gymnasium_id, s, 1000) for s in range(5)]


def assert_equal_to_reference(config, num_threads, steps, reference):
    """Every seed of the reference, with as many of them side by side as there are environments."""
    for first in range(0, len(reference), config.num_envs):
        start, columns = our_trajectory(config, num_threads, steps, first)
        compared = reference[first : first + config.num_envs]
        for index, (their_start, their_columns) in enumerate(compared):
            assert np.array_equal(start[index], their_start)
            for ours, theirs in zip(columns, their_columns, strict=True):
                assert ours.dtype == theirs.dtype
                assert np.array_equal(ours[:, index], theirs)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("num_envs", [1, 2, 8])
def test_ant_equals_gymnasium(ant_reference, num_envs, num_threads):
    semantics, reference = ant_reference
    terminated = np.concatenate([columns[3] for _, columns in reference])
    truncated = np.concatenate([columns[4] for _, columns in reference])
    assert terminated.sum() > 5
    assert truncated.sum() > 5  # the tape exercises both kinds of episode end
    config = Config(
        semantics=semantics, num_envs=num_envs, schedule="fixed", max_episode_steps=LIMIT
    )
    assert_equal_to_reference(config, num_threads, 1000, reference)


@pytest.mark.parametrize("robot", ["hopper", "walker2d", "half_cheetah", "humanoid"])
@pytest.mark.parametrize("semantics", ["published", "v5"])
def test_other_robots_equal_gymnasium(robot, semantics):
    """Their geoms do not all have friction 1, so the reference gets the same friction."""
    gymnasium_id = ROBOTS[robot, semantics].gymnasium_id
    config = Config(
        robot=robot, semantics=semantics, num_envs=3, schedule="fixed", max_episode_steps=LIMIT
    )
    env, info = make(config, total_steps=10**9)
    references = [gymnasium.make(gymnasium_id, max_episode_steps=LIMIT) for _ in range(3)]
    start, _ = env.reset(seed=0)
    for index, reference in enumerate(references):
        reference.unwrapped.model.geom_friction[:, 0] = 1.0
        assert np.array_equal(reference.reset(seed=index)[0], start[index])
    ends = 0
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(400, 3, info.action_dim)):
        observation, reward, terminated, truncated, step_info = env.step(actions)
        for index, reference in enumerate(references):
            row = reference.step(actions[index])
            assert np.array_equal(row[0], step_info["next_observation"][index])
            assert row[1:4] == (reward[index], terminated[index], truncated[index])
            if row[2] or row[3]:
                ends += 1
                assert np.array_equal(reference.reset()[0], observation[index])
    assert ends > (5 if robot == "half_cheetah" else 10)  # it never falls, so only time limits


@pytest.mark.parametrize(
    ("semantics", "third", "total"),
    [
        ("published", -0.1598693153, 3.4272922149),
        ("v5", -0.1627375126, 3.4164253780),
    ],
)
def test_golden_numbers(semantics, third, total):
    env, _ = make(Config(num_envs=1, schedule="fixed", semantics=semantics), 10**6)
    observation, _ = env.reset(seed=0)
    expected = [0.6581947048, 0.9033055271, 0.0626540478, 0.0825511155, 0.0213271552]
    assert observation[0, :5] == pytest.approx(expected, abs=1e-10)
    assert observation[0, :27].sum() == pytest.approx(1.8235281806, abs=1e-9)
    rewards = [env.step(np.full((1, 8), 0.5))[1][0] for _ in range(10)]
    assert rewards[:3] == pytest.approx([0.0815286943, 0.1744448494, third], abs=1e-9)
    assert sum(rewards) == pytest.approx(total, abs=1e-8)


def place(env, qpos):
    env.reset(seed=0)
    simulations = env.simulations
    for index in range(env.num_envs):
        simulations.reset(index, (qpos, simulations.start_qvel))


@pytest.mark.parametrize(("semantics", "reward"), [("published", 1.0), ("v5", 0.0)])
def test_unhealthy_step(semantics, reward):
    env, _ = make(Config(num_envs=1, schedule="fixed", semantics=semantics), 10**6)
    qpos = env.simulations.start_qpos.copy()
    qpos[2] = 1.5
    place(env, qpos)
    _, rewards, terminated, truncated, _ = env.step(np.zeros((1, 8)))
    assert terminated[0]
    assert not truncated[0]
    assert rewards[0] == pytest.approx(reward, abs=1e-12)


def test_controls_are_clamped_but_raw_actions_are_paid_for():
    env, _ = make(Config(num_envs=2, schedule="fixed"), 10**6)
    place(env, env.simulations.start_qpos)
    _, rewards, _, _, _ = env.step(np.array([[1.0] * 8, [3.0] * 8]))
    first, second = (data.qpos for data in env.simulations.data)
    assert np.array_equal(first, second)
    assert rewards[0] - rewards[1] == 32.0

    clipping, _ = make(Config(num_envs=2, schedule="fixed", clip_action_in_env=True), 10**6)
    place(clipping, clipping.simulations.start_qpos)
    _, rewards, _, _, _ = clipping.step(np.array([[1.0] * 8, [3.0] * 8]))
    assert rewards[0] == rewards[1]


def test_padding_appends_zeros_and_nothing_else():
    plain, _ = make(Config(num_envs=2, schedule="fixed"), 10**6)
    padded, info = make(Config(num_envs=2, schedule="fixed", obs_pad_to_111=True), 10**6)
    assert info.observation_dim == 111
    ours, theirs = padded.reset()[0], plain.reset()[0]
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(20, 2, 8)):
        assert np.array_equal(ours[:, :27], theirs)
        assert not ours[:, 27:].any()
        ours, theirs = padded.step(actions)[0], plain.step(actions)[0]


def test_returned_arrays_belong_to_the_caller():
    """Overwriting everything that a step returned does not change the next step."""
    first, _ = make(Config(num_envs=2, schedule="fixed"), 10**6)
    second, _ = make(Config(num_envs=2, schedule="fixed"), 10**6)
    first.reset()
    second.reset()
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(20, 2, 8)):
        rows = first.step(actions)
        kept = [np.copy(value) for value in rows[:4]]
        for value in [*rows[:4], *rows[4].values()]:
            if isinstance(value, np.ndarray) and value.size and value.dtype != object:
                value[...] = 1
        others = second.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(kept, others[:4], strict=True))
