"""What a step of the batch returns: published numbers, shapes, spaces, horizon, refusals."""

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from meta_world_tools import (
    DENSE,
    as_namespace,
    batch,
    built,
    expert,
    global_generators_untouched,
    goal_of,
    play,
    random_actions,
)

from envs.base import SimulatorError
from envs.meta_world import Config, make
from envs.meta_world_choice import EVALUATION, GoalChoice, row_stream
from envs.meta_world_tasks import MT10, set_goal

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]


@pytest.fixture(scope="module")
def ten():
    """MT10 with goal seed 0; every test resets it."""
    env, _ = make(Config(goal_seed=0, world_seed=1, num_workers=0), total_steps=10_000)
    yield env
    env.close()


@pytest.fixture
def two():
    """Two cheap tasks, two copies each, short episodes."""
    env = batch(["drawer-close-v3", "window-open-v3"], copies=2, horizon=7, run_seed=1)
    yield env
    env.close()


def test_streams_are_the_published_ones():
    expected = {
        (0, 0, 0): [19, 18, 20, 23, 40, 29],
        (0, 1, 0): [10, 10, 36, 7, 49, 37],
        (0, 0, 1): [46, 18, 44, 46, 19, 10],
        (1, 0, 0): [19, 45, 4, 5, 37, 8],
    }
    for key, goals in expected.items():
        choice = GoalChoice(50, "uniform", row_stream(1, *key))
        assert [choice.next() for _ in goals] == goals


def test_a_cycle_visits_every_goal_once_per_pass_in_a_new_order():
    choice = GoalChoice(50, "cycle", row_stream(0, EVALUATION, 0, 0))
    passes = [[choice.next() for _ in range(50)] for _ in range(3)]
    assert all(sorted(goals) == list(range(50)) for goals in passes)
    assert len({tuple(goals) for goals in passes}) == 3


@pytest.mark.slow
def test_goals_are_chosen_evenly_and_copies_differ():
    choices = [GoalChoice(50, "uniform", row_stream(3, 0, 0, copy)) for copy in (0, 1)]
    first, second = ([choice.next() for _ in range(5000)] for choice in choices)
    counts = np.bincount(first, minlength=50)
    assert ((counts - 100) ** 2 / 100).sum() < 85.35  # chi-square, 49 degrees, p = 0.001
    assert first != second


def test_rows_follow_their_own_streams(two):
    """The first goals are those of the streams above, and the tasks do not share them."""
    goals = np.array([two.reset()[1]["goal_index"] for _ in range(6)])
    assert goals[:, 0].tolist() == [19, 18, 20, 23, 40, 29]
    assert goals[:, 1].tolist() == [46, 18, 44, 46, 19, 10]
    assert goals[:, 2].tolist() == [10, 10, 36, 7, 49, 37]


def test_published_observations_and_rewards(ten):
    observation = ten.start_episodes(range(10), [0] * 10)
    np.testing.assert_allclose(observation[0, :4], [0.004584, 0.601388, 0.195143, 1.0], atol=1e-4)
    np.testing.assert_allclose(observation[4, 4:7], [0.093401, 0.73, 0.09], atol=1e-4)
    np.testing.assert_allclose(observation[4, 36:], [0.093401, 0.54, 0.09], atol=1e-4)
    for _ in range(10):
        observation, reward, *_ = ten.step(np.tile([1, -1, 0.5, 1], (10, 1)))
    np.testing.assert_allclose(
        observation[0, :4], [0.06991, 0.532925, 0.229833, 0.572721], atol=1e-4
    )
    assert reward[0] == pytest.approx(0.839420, abs=1e-4)
    assert reward[4] == pytest.approx(1.019873, abs=1e-4)


@pytest.mark.parametrize("steps", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_ten_tasks_keep_their_spaces_and_touch_no_global_generator(ten, steps):
    with global_generators_untouched():
        observation, info = ten.reset()
        assert np.array_equal(info["context"], np.eye(10, dtype=np.float32))
        assert len(set(info["goal_index"].tolist())) > 1
        for number, action in enumerate(random_actions(steps, 10), start=1):
            assert (observation.dtype, observation.shape) == (np.float32, (10, 39))
            assert (ten.context.dtype, ten.context.shape) == (np.float32, (10, 10))
            assert ten.observation_space.contains(observation)
            targets = [row.env._target_pos for row in ten._rows.rows.values()]
            np.testing.assert_allclose(observation[:, 36:], targets, rtol=1e-6)
            np.testing.assert_array_equal(ten.context, np.eye(10, dtype=np.float32))
            observation, reward, terminated, truncated, info = ten.step(action)
            assert reward.dtype == np.float32
            assert ((reward >= 0) & (reward <= 10)).all()
            assert not terminated.any()
            assert truncated.tolist() == [number % 500 == 0] * 10
            assert np.array_equal(info["next_observation"], observation) != truncated.any()
            assert info["events"] == []


def test_spaces_have_no_width_to_spare(ten):
    space = ten.single_observation_space
    for index, bound in ((0, -0.525), (1, 0.348), (2, -0.0525), (3, -1.0)):
        assert bound - 1e-6 < space.low[index] < bound
    assert np.isinf(space.low[4:18]).all()
    assert (space.high[36:] - space.low[36:] < 2).all()
    assert (space.high[36:] > space.low[36:]).all()


def test_every_array_of_info_is_dense_and_fresh(two):
    two.reset()
    first = two.step(random_actions(1, 4)[0])
    kept = {key: first[4][key].copy() for key in DENSE}
    two.step(random_actions(1, 4, seed=1)[0])
    for key in DENSE:
        assert len(first[4][key]) == 4
        assert np.array_equal(first[4][key], kept[key])
    assert first[4]["regime"].tolist() == [0, 0, 1, 1]
    assert first[4]["regime_value"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert first[4]["goal_index"].dtype == np.int32


def test_episodes_end_by_truncation_at_the_horizon_and_go_on_in_the_same_step(two):
    _, info = two.reset()
    goals = info["goal_index"]
    rows = [as_namespace(row) for row in play(two, random_actions(8, 4))]
    assert [row.truncated.all() for row in rows] == [False] * 6 + [True, False]
    last = rows[6]
    assert not last.terminated.any()
    assert last.episode_length.tolist() == [7] * 4
    assert np.array_equal(last.goal_index, goals)
    total = np.sum([row.reward for row in rows[:7]], axis=0)
    np.testing.assert_allclose(last.episode_return, total, rtol=1e-5)
    # The true successor still carries the previous frame, a first observation carries itself twice.
    assert np.array_equal(last.next_observation[:, 18:36], rows[5].observation[:, :18])
    assert np.array_equal(last.observation[:, 18:36], last.observation[:, :18])
    assert np.array_equal(rows[7].next_observation[:, 18:36], last.observation[:, :18])
    assert rows[7].episode_length.tolist() == [1] * 4
    assert not np.array_equal(rows[7].goal_index, goals)


def test_staggered_episodes_end_one_by_one(two):
    two.reset()
    rows = play(two, random_actions(3, 4))
    running = two.last_observation
    observation, _ = two.reset(np.array([False, True, False, False]))
    assert np.array_equal(observation[[0, 2, 3]], running[[0, 2, 3]])
    rows = [as_namespace(row) for row in play(two, random_actions(4, 4, seed=1))]
    assert rows[3].truncated.tolist() == [True, False, True, True]
    assert rows[3].observation[1].tolist() == rows[3].next_observation[1].tolist()
    assert two.step(np.zeros((4, 4)))[3].tolist() == [False] * 4
    assert two.step(np.zeros((4, 4)))[3].tolist() == [False] * 4
    assert two.step(np.zeros((4, 4)))[3].tolist() == [False, True, False, False]


def test_the_full_horizon_is_500_steps():
    env = batch(["drawer-close-v3"])
    env.reset()
    lengths = [step for step in range(1, 1001) if env.step(np.zeros((1, 4)))[3][0]]
    assert lengths == [500, 1000]
    assert env.env_steps == 1000
    env.close()


def test_success_is_kept_for_the_episode_and_the_last_step_stands_apart():
    """The expert opens the door at step 75 and swings it too far at step 105."""
    env, policy = batch(["door-open-v3"], horizon=120), expert("door-open-v3")
    observation = env.start_episodes([0], [0])
    successes = []
    for _ in range(120):
        observation, _, _, truncated, info = env.step(policy(observation[0])[None])
        successes.append(bool(info["success"][0]))
        assert bool(info["episode_success"][0]) == any(successes)
        assert not (info["final_success"][0] and not truncated[0])
    assert any(successes)
    assert not successes[-1]
    assert truncated[0]
    assert info["episode_success"][0]
    assert not info["final_success"][0]
    assert not env.step(np.zeros((1, 4)))[4]["episode_success"][0]
    env.close()


def test_actions_are_clipped_once_before_stepping(two):
    results = []
    for action in ([3.0, -5.0, 1.5, 9.0], [1.0, -1.0, 1.0, 1.0]):
        two.start_episodes(range(4), [0] * 4)
        results.append(play(two, np.tile(action, (5, 4, 1))))
    assert np.array_equal(results[0][-1][0], results[1][-1][0])
    assert np.array_equal(results[0][-1][1], results[1][-1][1])


def test_a_hidden_task_is_announced_nowhere_but_in_regime():
    env = batch(["drawer-close-v3", "window-open-v3"], hide_task_id=True)
    _, info = env.reset()
    assert env.info.context_dim == 0
    assert info["context"].shape == env.step(np.zeros((2, 4)))[4]["next_context"].shape == (2, 0)
    assert env.regime.tolist() == [0, 1]
    env.close()


def test_rows_of_chosen_tasks_keep_their_place_in_the_list():
    """What a sequence of tasks needs: one stage has rows for one task of the whole list."""
    tasks = ["drawer-close-v3", "window-open-v3"]
    whole, stage = batch(tasks, run_seed=4), batch(tasks, run_seed=4, active=(1,))
    observation, _ = whole.reset()
    assert np.array_equal(stage.reset()[0], observation[1:])
    assert stage.context.tolist() == [[0.0, 1.0]]
    assert stage.regime.tolist() == [1]
    whole.close()
    stage.close()


def test_what_cannot_be_done_is_refused(two):
    fresh = batch(["drawer-close-v3"])
    with pytest.raises(ResetNeeded):
        fresh.step(np.zeros((1, 4)))
    with pytest.raises(ResetNeeded):
        fresh.snapshot()
    fresh.close()
    with pytest.raises(ClosedEnvironmentError):
        fresh.reset()
    two.reset()
    with pytest.raises(ValueError, match=r"shape \(4, 3\), expected \(4, 4\)"):
        two.step(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="goal 50 does not exist"):
        two.start_episodes([0], [50])
    with pytest.raises(ValueError, match="mask"):
        two.reset(np.array([True]))
    with pytest.raises(ValueError, match="masks"):
        two.reset(options={"masks": 1})


def test_an_action_that_is_not_finite_names_its_row(two):
    two.reset()
    actions = np.zeros((4, 4))
    actions[2, 1] = np.nan
    with pytest.raises(SimulatorError, match="environment 2: action is not finite"):
        two.step(actions)


@pytest.mark.parametrize("mode", ["count", "fail"])
def test_a_simulation_that_blows_up_is_never_passed_on(mode):
    env = batch(["drawer-close-v3", "push-v3"], on_simulator_reset=mode)
    observation, _ = env.reset()
    env.step(np.zeros((2, 4)))
    before = env.last_observation
    env.physics(1)[1].qvel[:] = np.nan
    if mode == "fail":
        with pytest.raises(SimulatorError, match="environment 1: MuJoCo warning BAD") as caught:
            env.step(np.zeros((2, 4)))
        assert caught.value.dump["integration_state"].ndim == 1
        env.close()
        return
    observation, reward, terminated, truncated, info = env.step(np.zeros((2, 4)))
    assert info["unstable"].tolist() == [False, True]
    assert truncated.tolist() == [False, True]
    assert not terminated.any()
    assert reward[1] == 0.0
    assert np.array_equal(info["next_observation"][1], before[1])
    assert np.isfinite(observation).all()
    assert env.unstable_episodes == 1
    goal = int(env._rows.rows[1]._goal)
    clean = batch(["drawer-close-v3", "push-v3"])
    assert np.array_equal(clean.start_episodes([1], [goal])[1], observation[1])
    assert not env.step(np.zeros((2, 4)))[4]["unstable"].any()
    clean.close()
    env.close()


def test_a_reset_with_a_seed_begins_the_streams_again(two):
    first = two.reset(seed=9)[1]["goal_index"]
    two.reset()
    assert np.array_equal(two.reset(seed=9)[1]["goal_index"], first)
    other = batch(two.settings.tasks, copies=2, run_seed=9)
    assert np.array_equal(other.reset()[1]["goal_index"], first)
    other.close()


def test_mt10_is_in_the_published_order():
    assert MT10 == (
        "reach-v3",
        "push-v3",
        "pick-place-v3",
        "door-open-v3",
        "drawer-open-v3",
        "drawer-close-v3",
        "button-press-topdown-v3",
        "peg-insert-side-v3",
        "window-open-v3",
        "window-close-v3",
    )


def test_goals_beyond_the_spaces_of_a_task_are_refused():
    env = built("drawer-close-v3")
    with pytest.raises(ValueError, match="no goal of drawer-close-v3"):
        set_goal(env, "drawer-close-v3", goal_of("drawer-close-v3") + 1.0)
