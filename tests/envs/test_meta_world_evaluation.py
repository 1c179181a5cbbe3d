"""Scripted experts succeed where published, and evaluation visits every goal once, apart."""

import pickle

import metaworld
import numpy as np
import pytest
from meta_world_tools import assert_same, expert, goal_of, play, random_actions

from envs.meta_world import Config, make, make_evaluation
from envs.meta_world_goals import NUM_GOALS, Goals, goal_hash, load_goals
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import MT10
from envs.meta_world_vector import MetaWorldVec

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]

# Successes of 6 goals at any step and at the last, goal seed 42, in MT10's order.
SIX_GOALS = ((6, 6), (6, 4), (6, 6), (6, 0), (6, 6), (6, 6), (6, 6), (5, 2), (6, 6), (6, 6))
ALL_GOALS_ANY = (50, 50, 50, 49, 50, 50, 50, 47, 50, 50)
ALL_GOALS_FINAL = (50, 23, 50, 0, 50, 50, 50, 24, 50, 50)


def successes(goals, num_goals, policies, steps=500):
    """First step of success (-1 is never) and success at the last step, shape (T, G) each.

    Rows are the tasks; their goals are run one after the other.
    """
    count = len(goals.tasks)
    env = MetaWorldVec(Settings(goals.tasks, autoreset=False, horizon=steps), goals)
    first = np.full((count, num_goals), -1)
    final = np.zeros((count, num_goals), dtype=bool)
    for goal in range(num_goals):
        observation = env.start_episodes(range(count), [goal] * count)
        for step in range(1, steps + 1):
            rows = zip(policies, observation, strict=True)
            actions = np.array([policy(goal, row) for policy, row in rows])
            observation, _, _, _, info = env.step(actions)
            fresh = info["success"] & (first[:, goal] < 0)
            first[fresh, goal] = step
        final[:, goal] = info["success"]
        assert info["final_success"].tolist() == final[:, goal].tolist()
        assert info["episode_success"].tolist() == (first[:, goal] > 0).tolist()
    env.close()
    return first, final


def experts(tasks):
    acts = [expert(task) for task in tasks]
    return [lambda _, row, act=act: act(row) for act in acts]


@pytest.fixture(scope="module")
def mt10_goals():
    return load_goals(MT10, 42)


def test_the_expert_reaches_at_the_published_steps():
    """Reach is the first task that MT10 draws, so MT1 with the same plain seed has its goals."""
    tasks = metaworld.MT1("reach-v3", seed=42).train_tasks
    vectors = (np.array([pickle.loads(task.data)["rand_vec"] for task in tasks]),)  # noqa: S301
    goals = Goals(("reach-v3",), "MT1", 42, vectors, goal_hash(vectors))
    first, _ = successes(goals, 6, experts(["reach-v3"]), steps=80)
    assert first[0].tolist() == [42, 40, 38, 73, 46, 36]


@pytest.mark.slow
def test_experts_of_ten_tasks_on_six_goals(mt10_goals):
    first, final = successes(mt10_goals, 6, experts(MT10))
    assert list(zip((first > 0).sum(1).tolist(), final.sum(1).tolist(), strict=True)) == [
        *SIX_GOALS
    ]


@pytest.mark.slow
def test_experts_of_ten_tasks_on_all_goals(mt10_goals):
    first, final = successes(mt10_goals, NUM_GOALS, experts(MT10))
    np.testing.assert_allclose((first > 0).sum(1), ALL_GOALS_ANY, atol=1)
    assert (first > 0).mean() >= 0.95
    np.testing.assert_allclose(final.sum(1), ALL_GOALS_FINAL, atol=1)


@pytest.mark.slow
def test_doing_nothing_solves_nothing(mt10_goals):
    first, _ = successes(mt10_goals, NUM_GOALS, [lambda goal, row: np.zeros(4)] * 10)
    assert (first < 0).all()


@pytest.mark.slow
def test_random_actions_only_ever_close_the_drawer(mt10_goals):
    generators = {}

    def act(goal, row, task):
        generator = generators.setdefault((task, goal), np.random.default_rng(goal))
        return generator.uniform(-1, 1, 4)

    policies = [lambda goal, row, task=task: act(goal, row, task) for task in MT10]
    first, _ = successes(mt10_goals, 20, policies)
    solved = (first > 0).sum(1)
    assert abs(solved[5] - 6) <= 1
    assert solved.sum() == solved[5]


SMALL = Config(
    benchmark="custom", tasks=("drawer-close-v3", "window-open-v3"), horizon=20, num_goals=5
)


def evaluate(num_workers, copies):
    """Every (task, goal) once, in batches of fixed shape; a stopped row stays until the end."""
    config = Config(**{**vars(SMALL), "num_workers": num_workers})
    env = make_evaluation(config, copies=copies)
    results = {}
    for first_goal in range(0, 5, copies):
        goals = (first_goal + np.arange(copies)) % 5
        observation = env.start_episodes(range(2 * copies), np.tile(goals, 2))
        for _ in range(20):
            observation, _, _, truncated, info = env.step(np.tanh(observation[:, :4]))
            for row in np.flatnonzero(truncated).tolist():
                key = (int(info["regime"][row]), int(info["goal_index"][row]))
                results[key] = (float(info["episode_return"][row]), bool(info["success"][row]))
        assert truncated.all()
        assert not env.step(np.zeros((2 * copies, 4)))[4]["active"].any()
    env.close()
    return results


def test_every_task_and_goal_once_and_equal_for_any_workers_and_copies():
    one = evaluate(0, 1)
    assert sorted(one) == [(task, goal) for task in range(2) for goal in range(5)]
    assert len({value for value, _ in one.values()}) == 10
    assert evaluate(0, 3) == one
    assert evaluate(2, 1) == one


def test_training_does_not_notice_an_evaluation():
    actions = random_actions(45, 2)
    results = []
    for evaluated in (False, True):
        env, _ = make(SMALL, 1000)
        env.reset()
        rows = play(env, actions[:25])
        if evaluated:
            evaluate(0, 1)
        results.append(rows + play(env, actions[25:]))
        env.close()
    assert_same(*results)


def test_rows_stand_still_after_their_episode_and_when_stopped():
    env = make_evaluation(SMALL)
    env.start_episodes([0, 1], [0, 1])
    env.step(np.ones((2, 4)))
    before = env.last_observation
    env.stop_episodes([1])
    assert env.env_steps == 2
    observation, reward, _, truncated, info = env.step(np.ones((2, 4)))
    assert env.env_steps == 3
    assert info["active"].tolist() == [True, False]
    assert np.array_equal(observation[1], before[1])
    assert np.array_equal(info["next_observation"][1], before[1])
    assert (reward[1], truncated[1]) == (0.0, False)
    assert env.rows_of(1).tolist() == [1]
    assert "final_obs" not in info
    env.close()


def test_goals_of_an_evaluation_are_those_of_the_run():
    env = make_evaluation(Config(**{**vars(SMALL), "world_seed": 3}))
    assert np.array_equal(env.goals.vectors[0][0], goal_of("drawer-close-v3", 0, 3))
    assert env.manifest["goal_seed"] == 3
    env.close()
