"""What the tests of Meta-World share: built tasks, goals, experts and trajectories."""

import functools
import random
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from envs.meta_world_goals import load_goals
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import build_task, set_goal
from envs.meta_world_vector import MetaWorldVec

DENSE = (
    "next_observation",
    "context",
    "next_context",
    "regime",
    "regime_value",
    "switch_truncated",
    "unstable",
    "active",
    "success",
    "goal_index",
    "episode_success",
    "final_success",
    "episode_return",
    "episode_length",
    "episode_start_regime",
)


@functools.lru_cache(maxsize=16)  # a task takes up to 70 MB
def built(name, fast=True, reward_version="v2"):
    """One simulation per task and process: building takes 0.3 s, and a reset forgets all."""
    return build_task(name, reward_version, fast=fast)


@functools.cache
def goal_of(name, index=0, goal_seed=0):
    """A goal by the rule for single tasks."""
    return load_goals((name,), goal_seed).vectors[0][index]


def reset_to(env, name, goal):
    """Set a goal and reset; returns the observation."""
    set_goal(env, name, goal)
    return env.reset()[0]


def expert(name):
    """Meta-World's own scripted policy: observation -> float32 action in [-1, 1]."""
    policy = ENV_POLICY_MAP[name]()

    def act(observation):
        action = policy.get_action(np.asarray(observation, dtype=np.float64))
        return np.clip(action, -1, 1).astype(np.float32)

    return act


def random_actions(steps, num_rows=None, seed=0):
    shape = (steps, 4) if num_rows is None else (steps, num_rows, 4)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def batch(tasks, num_workers=0, goal_seed=0, **settings):
    """Environments of a list of tasks."""
    goals = load_goals(tasks, goal_seed)
    return MetaWorldVec(Settings(tuple(tasks), **settings), goals, num_workers)


def play(env, actions):
    """Everything that comes out of the environments, step by step."""
    rows = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        rows.append([observation, reward, terminated, truncated, *(info[key] for key in DENSE)])
    return rows


@contextmanager
def global_generators_untouched():
    """Python's and NumPy's global generators are as they were, and were not reseeded either."""
    np.random.seed(11)  # noqa: NPY002
    random.seed(11)
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    yield
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert before[1] == random.getstate()


def assert_same(first, second):
    """Bit for bit."""
    assert len(first) == len(second)
    for step, (row, other) in enumerate(zip(first, second, strict=True)):
        names = ("observation", "reward", "terminated", "truncated", *DENSE)
        for name, a, b in zip(names, row, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=f"{name} at step {step}")


def as_namespace(row):
    """One row of ``play`` by name."""
    names = ("observation", "reward", "terminated", "truncated", *DENSE)
    return SimpleNamespace(**dict(zip(names, row, strict=True)))
