"""EnvPool's Meta-World: refused without its package, labelled, and otherwise a usual batch."""

from importlib.util import find_spec

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from meta_world_tools import as_namespace, batch, built, play, random_actions, reset_to

from envs.base import SimulatorError
from envs.meta_world import Config, choose_threads, make, make_evaluation
from envs.meta_world_envpool import EnvPoolRows, envpool_id
from envs.meta_world_group import RowGroup
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import ALL_TASKS

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]
needs_envpool = pytest.mark.skipif(find_spec("envpool") is None, reason="envpool is not installed")

TASKS = ("reach-v3", "drawer-close-v3")


def pools(num_workers=0, **settings):
    settings = {"copies": 2, "run_seed": 3, "horizon": 7, **settings}
    return batch(TASKS, backend="envpool", num_workers=num_workers, **settings)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    def missing(name):
        from importlib.metadata import PackageNotFoundError

        raise PackageNotFoundError(name)

    monkeypatch.setattr("envs.meta_world_envpool.version", missing)
    with pytest.raises(ValueError, match=r"needs the optional package .* pip install envpool==1"):
        make(Config(benchmark="mt1", backend="envpool"), 100)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr("envs.meta_world_envpool.version", lambda name: "0.8.4")
    with pytest.raises(ValueError, match=r"envpool 0\.8\.4 is installed"):
        make(Config(benchmark="mt1", backend="envpool"), 100)


@pytest.mark.parametrize(
    "settings", [{"reward_version": "v1"}, {"goal_order": "cycle"}, {"autoreset": False}]
)
def test_what_envpool_cannot_do_is_refused(settings):
    with pytest.raises(ValueError, match=r"backend=envpool has .* only"):
        Settings(TASKS, backend="envpool", **settings)


def test_evaluations_of_such_runs_are_on_stock_tasks_and_carry_the_name():
    config = Config(benchmark="mt1", task="drawer-close-v3", backend="envpool", num_goals=2)
    env = make_evaluation(config)
    assert isinstance(env._rows, RowGroup)
    assert (env.manifest["backend"], env.settings.backend) == ("envpool", "stock")
    assert make_manifest("stock")["backend"] == "stock"
    env.close()


def make_manifest(backend):
    config = Config(benchmark="mt1", task="drawer-close-v3", backend=backend)
    env = make_evaluation(config)
    manifest = env.manifest
    env.close()
    return manifest


def test_threads_follow_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert choose_threads("auto", 10, 1) == 0
    assert choose_threads("auto", 10, 2) == 8
    assert choose_threads(3, 10, 1) == 3


def test_names_of_tasks_are_envpools():
    assert envpool_id("peg-insert-side-v3") == "MetaWorld/PegInsertSide-v3"


@needs_envpool
def test_every_task_has_a_name_in_envpool():
    import envpool  # pyright: ignore[reportMissingImports]

    assert {envpool_id(task) for task in ALL_TASKS} <= set(envpool.list_all_envs())


@needs_envpool
def test_rewards_of_reach_are_those_of_stock_on_equal_goals():
    env = batch(["reach-v3"], backend="envpool", run_seed=1)
    observation, info = env.reset()
    assert info["goal_index"].tolist() == [-1]
    stock = built("reach-v3")
    goal = np.concatenate([observation[0, 4:7], observation[0, 36:]]).astype(np.float64)
    low, high = stock._random_reset_space.low, stock._random_reset_space.high
    first = reset_to(stock, "reach-v3", np.clip(goal, low, high))
    np.testing.assert_allclose(observation[0], first, atol=2e-3)
    for action in random_actions(60):
        _, reward, *_ = env.step(action[None])
        assert reward[0] == pytest.approx(stock.step(action)[1], abs=1e-6)
    env.close()


@needs_envpool
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ended_episodes_go_on_in_the_same_step_with_their_true_successor(num_workers):
    env = pools(num_workers)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset()
    goals = env.last_observation[:, 36:]
    rows = [as_namespace(row) for row in play(env, random_actions(15, 4))]
    assert [row.truncated.all() for row in rows] == [step in (6, 13) for step in range(15)]
    assert not any(row.terminated.any() for row in rows)
    last, successor = rows[6], rows[7]
    assert last.episode_length.tolist() == [7] * 4
    total = np.sum([row.reward for row in rows[:7]], axis=0)
    np.testing.assert_allclose(last.episode_return, total, rtol=1e-5)
    # The true successor carries the previous frame and the old goal, a first observation neither.
    np.testing.assert_array_equal(last.next_observation[:, 18:36], rows[5].observation[:, :18])
    np.testing.assert_array_equal(last.next_observation[:, 36:], goals)
    np.testing.assert_array_equal(last.observation[:, 18:36], last.observation[:, :18])
    assert not np.array_equal(last.observation[:, 36:], goals)
    np.testing.assert_array_equal(successor.next_observation[:, 18:36], last.observation[:, :18])
    assert successor.episode_length.tolist() == [1] * 4
    env.close()


@needs_envpool
def test_rows_have_streams_of_their_own_that_no_layout_changes():
    first = pools().reset()[0]
    assert len(np.unique(first[:, 36:], axis=0)) == 4
    np.testing.assert_array_equal(pools(num_workers=2).reset()[0], first)
    np.testing.assert_array_equal(pools(copies=1).reset()[0], first[[0, 2]])
    assert not np.array_equal(pools(run_seed=4).reset()[0], first)
    env = pools()
    env.reset()
    np.testing.assert_array_equal(env.reset(seed=3)[0], env.reset(seed=3)[0])


@needs_envpool
def test_a_restored_batch_says_that_it_begins_new_episodes():
    env = pools()
    before = env.reset()[0]
    play(env, random_actions(4, 4))
    snapshot = env.snapshot()
    assert env.resume == env.manifest["resume"] == "inexact"
    assert batch(["drawer-close-v3"]).resume == "exact"
    other = pools()
    other.reset()
    with pytest.warns(RuntimeWarning, match=r"cannot save its simulations: .* new episodes"):
        other.restore(snapshot)
    assert other.env_steps == 16
    assert not np.array_equal(other.last_observation, before)  # goals that were not met yet
    result = as_namespace(play(other, random_actions(1, 4))[0])
    assert result.episode_length.tolist() == [1] * 4
    env.close()
    other.close()


@needs_envpool
def test_goals_cannot_be_chosen_and_rows_cannot_stand_still():
    env = pools()
    env.reset()
    with pytest.raises(ValueError, match="fresh goal"):
        env.start_episodes([0], [0])
    with pytest.raises(ValueError, match="never stand still"):
        env.stop_episodes([0])
    with pytest.raises(ValueError, match="backend=stock"):
        env.physics(0)
    env.close()


@needs_envpool
def test_masks_reset_chosen_rows_only():
    env = pools()
    env.reset()
    play(env, random_actions(3, 4))
    before = env.last_observation
    observation, _ = env.reset(np.array([False, True, False, False]))
    np.testing.assert_array_equal(observation[[0, 2, 3]], before[[0, 2, 3]])
    assert not np.array_equal(observation[1, 36:], before[1, 36:])
    rows = [as_namespace(row) for row in play(env, random_actions(4, 4))]
    assert rows[3].truncated.tolist() == [True, False, True, True]
    env.close()


@needs_envpool
@pytest.mark.parametrize("mode", ["count", "fail"])
def test_numbers_that_are_not_finite_are_never_passed_on(mode):
    env = pools(on_simulator_reset=mode)
    env.reset()
    rows = env._rows
    assert isinstance(rows, EnvPoolRows)
    results = rows._results

    def spoilt():
        for position, result in enumerate(results()):
            result = list(result)
            result[0] = np.array(result[0])
            if position == 1:
                result[0][0, 5] = np.nan
            yield tuple(result)

    rows._results = spoilt
    before = env.last_observation
    if mode == "fail":
        with pytest.raises(SimulatorError, match="environment 2: EnvPool's"):
            env.step(np.zeros((4, 4)))
        return
    observation, reward, _, truncated, info = env.step(np.zeros((4, 4)))
    assert np.isfinite(observation).all()
    assert truncated.tolist() == info["unstable"].tolist() == [False, False, True, False]
    assert reward[2] == 0.0
    np.testing.assert_array_equal(info["next_observation"][2], before[2])
    assert env.unstable_episodes == 1
    rows._results = results
    assert env.step(np.zeros((4, 4)))[4]["episode_length"].tolist() == [2, 2, 1, 2]
    env.close()
