"""Runs on Meta-World: normalisers stay off returns and contexts, and small ones take seconds."""

import csv
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train
from analysis.checkpoint import CheckpointStore
from analysis.episodes import EPISODE_COLUMNS, EpisodeAccount
from analysis.scripted_experts import expert_policy, run_experts
from configs.build import build_agent, build_environment
from configs.compose import compose_run
from envs.meta_world import Config, make, make_evaluation
from envs.meta_world_goals import load_goals
from envs.meta_world_tasks import MT10
from envs.meta_world_vector import MetaWorldVec

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]

QUIET = ["log.figures=false", "log.tensorboard=false", "progress=false", "num_threads=1"]
TWO_TASKS = [
    "env=mt10",
    "env.benchmark=custom",
    "env.tasks=[drawer-close-v3,window-open-v3]",
    "env.horizon=25",
    "agent=ppo",
    "agent.normalize_observation=true",
    "agent.rollout_length=50",
    "agent.minibatch_size=25",
    "agent.num_epochs=1",
    "network.hidden_sizes=[8]",
    "total_steps=200",
    "log.final_evaluation=false",
]


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def run(root, words):
    composed = compose_run([*words, *QUIET])
    return train.run(replace(composed, config=replace(composed.config, runs_root=str(root))))


def folder(root):
    (found,) = Path(root).glob("*/*/*/seed_0")
    return found


def test_a_normaliser_takes_every_observation_once_and_leaves_the_context_alone():
    composed = compose_run([*TWO_TASKS, *QUIET])
    envs, info = build_environment(composed.config)
    agent = build_agent(composed.config, info)
    observation, seen = envs.reset()[0], []
    for _ in range(30):
        seen.append(observation)
        action = agent.act(observation, envs.context, explore=True)
        observation, *_, result = envs.step(action)
        np.testing.assert_array_equal(result["context"], np.eye(2, dtype=np.float32))
        np.testing.assert_array_equal(envs.context, np.eye(2, dtype=np.float32))
    assert agent.normalizer.count == 60
    assert agent.normalizer.mean.shape == (39,)
    np.testing.assert_allclose(
        agent.normalizer.mean, np.concatenate(seen, dtype=np.float64).mean(0), atol=1e-12
    )
    agent.close()
    envs.close()


def test_returns_of_a_run_with_a_normaliser_are_sums_of_raw_rewards(tmp_path, monkeypatch):
    rewards, step = [], MetaWorldVec.step

    def noted(self, actions):
        result = step(self, actions)
        if self.num_envs == 2:  # the probe set is made with one environment
            rewards.append(result[1].astype(np.float64))
        return result

    monkeypatch.setattr(MetaWorldVec, "step", noted)
    assert run(tmp_path, TWO_TASKS) == train.EXIT_DONE
    expected = np.array(rewards).reshape(4, 25, 2).sum(axis=1)
    rows = list(csv.DictReader((folder(tmp_path) / "episodes.csv").open()))
    assert len(rows) == 8
    for row, value in zip(rows, expected.ravel(), strict=True):
        assert float(row["episode_return"]) == pytest.approx(value, rel=1e-5)


def test_success_in_training_is_logged_for_every_task(tmp_path, monkeypatch):
    step = MetaWorldVec.step

    def lucky(self, actions):
        """The first task succeeds in the middle of each of its episodes, and not at their end."""
        result = step(self, actions)
        if self.num_envs == 2:
            result[4]["episode_success"] = result[4]["episode_length"] * (self.regime == 0) > 12
        return result

    monkeypatch.setattr(MetaWorldVec, "step", lucky)
    assert run(tmp_path, TWO_TASKS) == train.EXIT_DONE
    episodes = list(csv.DictReader((folder(tmp_path) / "episodes.csv").open()))
    assert [row["success"] for row in episodes] == ["True", "False"] * 4
    rows = list(csv.DictReader((folder(tmp_path) / "progress.csv").open()))
    ended = [row for row in rows if row["episode_success"]]
    assert ended
    for row in ended:
        assert float(row["episode_success"]) == 0.5
        assert float(row["episode_success/drawer-close-v3"]) == 1.0
        assert float(row["episode_success/window-open-v3"]) == 0.0
        both = [float(row[f"episode_return/{task}-v3"]) for task in ("drawer-close", "window-open")]
        assert float(row["episode_return"]) == pytest.approx(np.mean(both))


def test_a_run_that_began_without_success_columns_goes_on(tmp_path, monkeypatch):
    """As one does that an earlier version began."""
    with monkeypatch.context() as earlier:
        names = ["episodes", "episode_return", "episode_length", "reward_per_step"]
        earlier.setattr(EpisodeAccount, "columns", names)
        earlier.setattr(EpisodeAccount, "episode_columns", EPISODE_COLUMNS)
        assert run(tmp_path, [*TWO_TASKS, "total_steps=100"]) == train.EXIT_DONE
    begun = [*TWO_TASKS, f"run_dir={folder(tmp_path)}", "accept_change=true"]
    assert run(tmp_path, begun) == train.EXIT_DONE
    header, *rows = (folder(tmp_path) / "episodes.csv").read_text().splitlines()
    assert header == ",".join(EPISODE_COLUMNS)
    assert len(rows) == 8
    assert "episode_success" not in (folder(tmp_path) / "progress.csv").read_text()


def test_a_run_records_the_rules_of_its_world(tmp_path):
    assert run(tmp_path, [*TWO_TASKS, "total_steps=100"]) == train.EXIT_DONE
    text = (folder(tmp_path) / "environment.json").read_text()
    for entry in ('"backend": "stock"', '"reward_version": "v2"', '"resume": "exact"'):
        assert entry in text
    assert load_goals(("drawer-close-v3", "window-open-v3"), 0).sha256 in text


@pytest.mark.slow
def test_ten_tasks_keep_their_rules_for_a_thousand_steps():
    envs, _ = make(Config(goal_seed=0, num_workers=0), 10_000)
    rng = np.random.default_rng(0)
    chosen, observation = [], envs.reset()[0]
    for _ in range(1_000):
        assert envs.observation_space.contains(observation)
        targets = [row.env._target_pos for row in envs._rows.rows.values()]
        np.testing.assert_allclose(observation[:, 36:], targets, rtol=1e-6)
        observation, reward, *_, info = envs.step(rng.uniform(-1, 1, (10, 4)))
        assert ((reward >= 0) & (reward <= 10)).all()
        np.testing.assert_array_equal(info["context"], np.eye(10, dtype=np.float32))
    for _ in range(20):
        chosen.append(envs.reset()[1]["goal_index"])
    assert any(len(set(goals.tolist())) > 1 for goals in chosen)
    envs.close()


# Time, in seconds of this process: other work on the machine counts little ---------------------


@pytest.mark.slow
def test_ten_tasks_are_built_and_stepped_quickly():
    load_goals(MT10, 0)
    begin = time.process_time()
    envs, _ = make(Config(goal_seed=0, num_workers=0), 10_000)
    envs.reset()
    assert time.process_time() - begin < 3.0
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 10, 4))
    begin = time.process_time()
    for action in actions:
        envs.step(action)
    assert time.process_time() - begin < 1.0
    envs.close()


@pytest.mark.slow
def test_experts_solve_ten_tasks_within_seconds_where_episodes_stop_at_success():
    worlds, act = make_evaluation(Config(goal_seed=42)), expert_policy(MT10, 1)
    begin, solved = time.process_time(), np.zeros((2, 10), dtype=bool)
    for goal in (0, 1):
        observation = worlds.start_episodes(range(10), [goal] * 10)
        for _ in range(500):
            observation, _, _, truncated, info = worlds.step(act(observation, worlds.context))
            solved[goal] |= info["success"]
            worlds.stop_episodes(np.flatnonzero(info["success"]))
            if not (info["active"] & ~info["success"] & ~truncated).any():
                break
    assert solved.mean() >= 0.9
    assert time.process_time() - begin < 6.0
    worlds.close()


def test_experts_are_run_on_every_goal_of_every_task():
    """The command of the result page, on two tasks and two goals."""
    config = Config(
        benchmark="custom", tasks=("drawer-close-v3", "window-open-v3"), num_goals=2, horizon=120
    )
    outcomes = run_experts(config, 2)
    assert outcomes.success.tolist() == [[True, True], [True, True]]
    assert (outcomes.episode_length == 120).all()
    assert ((outcomes.first_success_step > 10) & (outcomes.first_success_step <= 120)).all()


@pytest.mark.slow
def test_a_small_run_with_a_stop_and_a_continuation_takes_half_a_minute(tmp_path, monkeypatch):
    words = [
        "experiment=mt1_cpu",
        "env.task=reach-v3",
        "env.copies=2",
        "total_steps=2000",
        "network.hidden_sizes=[64,64]",
        "agent.replay_size=2000",
        "agent.batch_size=64",
        "agent.warmup_steps=200",
        "agent.steps_per_iteration=1000",
        "log.final_evaluation=false",
    ]
    begin, step = time.process_time(), train.Progress.step

    def stopping(self, done):
        step(self, done)
        if done == 1_200:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "step", stopping)
        assert run(tmp_path, words) == train.EXIT_SIGNAL
    assert run(tmp_path, words) == train.EXIT_DONE
    assert time.process_time() - begin < 30.0
