"""Returns of a frozen agent in fixed worlds."""

import json
import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from analysis.evaluation import (
    checked_frictions,
    evaluate,
    measure_returns,
    results_table,
    start_seed,
    write_results,
)
from analysis.restored import fixed_worlds
from analysis.run_files import NotARun
from analysis.storage import StorageError
from configs.build import build_agent
from configs.compose import compose_run

torch.set_num_threads(1)


class Countdown:
    """Environment i ends after lengths[i] steps; every step pays the friction."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)
        self.num_envs = len(lengths)
        self.seeds = []

    @property
    def context(self):
        return np.zeros((self.num_envs, 0), dtype=np.float32)

    def set_value(self, value):
        self.friction = value

    def reset(self, *, seed=None):
        self.seeds.append(seed)
        self.elapsed = np.zeros(self.num_envs, dtype=int)
        return np.zeros((self.num_envs, 1)), {}

    def step(self, actions):
        self.elapsed += 1
        length = self.elapsed.copy()
        ended = length == self.lengths
        self.elapsed[ended] = 0
        info = {"episode_return": length * self.friction, "episode_length": length}
        none = np.zeros(self.num_envs, dtype=bool)
        return np.zeros((self.num_envs, 1)), None, ended, none, info


class Idle:
    """Counts how it is asked to act."""

    def __init__(self):
        self.explored = []

    def act(self, observation, context, explore):
        self.explored.append(explore)
        return np.zeros((len(observation), 1))

    def sample(self, observation, context):
        return self.act(observation, context, True)

    def begin_sampling(self):
        self.explored.append("anew")


@pytest.mark.parametrize(
    ("num_episodes", "lengths"), [(2, [2, 10]), (3, [2, 2, 10]), (1, [2]), (4, [2, 2, 10, 10])]
)
def test_short_episodes_are_not_counted_more_often(num_episodes, lengths):
    found = measure_returns(Idle(), Countdown([2, 10]), 1.0, num_episodes, 0, deterministic=True)
    assert sorted(found.lengths) == lengths
    assert found.mean == np.mean(lengths)
    assert found.mean_length == np.mean(lengths)


def test_returns_have_an_interval_over_episodes():
    found = measure_returns(Idle(), Countdown([1, 3, 5, 7]), 2.0, 4, 0, deterministic=True)
    assert found.returns == (2.0, 6.0, 10.0, 14.0)
    assert 2.0 <= found.low < found.mean == 8.0 < found.high <= 14.0
    constant = measure_returns(Idle(), Countdown([4, 4]), 2.0, 2, 0, deterministic=True)
    assert constant.low == constant.mean == constant.high == 8.0
    alone = measure_returns(Idle(), Countdown([4]), 2.0, 1, 0, deterministic=True)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_every_world_and_kind_of_action_meets_the_same_starts():
    agent, envs = Idle(), Countdown([1, 2])
    worlds = evaluate(agent, envs, [0.5, 2.0], 2, seed=5)
    assert envs.seeds == [start_seed(5)] * 4
    assert start_seed(5) != start_seed(6)
    assert [world.value for world in worlds] == [0.5, 2.0]
    assert [world.stochastic.mean for world in worlds] == [0.75, 3.0]
    assert agent.explored == [False, False, "anew", True, True] * 2


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="num_episodes is 0"):
        measure_returns(Idle(), Countdown([1]), 1.0, 0, 0, deterministic=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.1,0", "friction '0' is not a number above 0"),
        ("-1", "'-1'"),
        ("ice", "'ice'"),
        ("inf", "'inf'"),
        ("nan", "'nan'"),
        ("", "''"),
        ("0.1,", "''"),
        ("0.1,0.2,0.10", "0.1 is given twice"),
    ],
)
def test_impossible_frictions_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        checked_frictions(text)


def test_frictions_are_read():
    assert checked_frictions("0.02, 0.2,2") == [0.02, 0.2, 2.0]


def test_results_are_written_and_shown(tmp_path):
    worlds = evaluate(Idle(), Countdown([4]), [0.5], 1, 0)
    path = write_results(tmp_path / "new" / "evaluation.json", worlds, {"seed": 0})
    record = json.loads(path.read_text())
    assert record["worlds"][0]["deterministic"]["returns"] == [2.0]
    assert record["worlds"][0]["stochastic"]["low"] is None
    assert record["confidence"] == 0.95
    table = results_table(worlds)
    assert [list(column.cells) for column in table.columns] == [["0.5"], *[["2.0"], ["4"]] * 2]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_results(tmp_path / "file" / "evaluation.json", worlds, {})


WORDS = ["env=slippery_ant", "network=small", "env.num_envs=2", "seed=4"]


@pytest.fixture(scope="module")
def ant():
    config = compose_run([*WORDS, "agent.normalize_observation=true"]).config
    envs, info = fixed_worlds(config, 2)
    agent = build_agent(config, info)
    yield agent, envs
    agent.close()
    envs.close()


def flat(state):
    if isinstance(state, dict):
        return {f"{k}.{i}": v for k, item in state.items() for i, v in flat(item).items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)))
    return {"": np.asarray(state)}


def test_measuring_leaves_the_agent_as_it_was(ant):
    agent, envs = ant
    agent.normalizer.update(np.random.default_rng(0).normal(2.0, 3.0, (50, 27)))
    before = flat(agent.state_dict())
    first = measure_returns(agent, envs, 0.5, 2, 0, deterministic=False)
    after = flat(agent.state_dict())
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(value, after[key], err_msg=key)
    assert measure_returns(agent, envs, 0.5, 2, 0, deterministic=False) == first
    assert measure_returns(agent, envs, 0.5, 2, 1, deterministic=False) != first
    assert measure_returns(agent, envs, 0.5, 2, 0, deterministic=True) != first


def test_sampled_actions_are_those_of_the_policy_also_within_the_warm_up():
    words = [w for w in WORDS if not w.startswith("agent.")]
    config = compose_run([*words, "agent=sac", "agent.warmup_steps=1000"]).config
    envs, info = fixed_worlds(config, 2)
    agent = build_agent(config, info)
    assert agent.clock.is_warming_up
    first = measure_returns(agent, envs, 0.5, 2, 0, deterministic=False)
    with torch.no_grad():  # a policy that hardly explores
        agent.networks()["actor"].log_std.bias.fill_(-20.0)
        agent.networks()["actor"].log_std.weight.zero_()
    found = measure_returns(agent, envs, 0.5, 2, 0, deterministic=False)
    assert found != first
    certain = measure_returns(agent, envs, 0.5, 2, 0, deterministic=True)
    assert found.mean == pytest.approx(certain.mean, rel=1e-2)
    agent.close()
    envs.close()


def test_the_normaliser_does_not_drift_while_measuring(ant, monkeypatch):
    agent, envs = ant
    counts, step = [agent.normalizer.count], envs.step

    def counted(actions):
        counts.append(agent.normalizer.count)
        return step(actions)

    monkeypatch.setattr(envs, "step", counted)
    measure_returns(agent, envs, 0.5, 1, 0, deterministic=False)
    assert len(counts) > 2
    assert len(set(counts)) == 1


@pytest.mark.parametrize("friction", [0.05, 2.0])
def test_deterministic_returns_equal_those_of_gymnasium(ant, friction):
    agent, envs = ant
    found = measure_returns(agent, envs, friction, 2, 3, deterministic=True)
    robots: list[Any] = [gymnasium.make("Ant-v4") for _ in range(2)]
    for robot in robots:
        robot.unwrapped.model.geom_friction[:, 0] = friction
    observations = np.stack(
        [robot.reset(seed=start_seed(3) + index)[0] for index, robot in enumerate(robots)]
    )
    totals, lengths, running = [0.0, 0.0], [0, 0], [True, True]
    while any(running):
        # Both rows at once, as in the batch: a product of one row may round differently.
        actions = agent.act(observations, np.zeros((2, 0), np.float32), explore=False)
        for k in np.flatnonzero(running):
            observations[k], reward, terminated, truncated, _ = robots[k].step(
                actions[k].astype(np.float64)
            )
            totals[k], lengths[k] = totals[k] + reward, lengths[k] + 1
            running[k] = not (terminated or truncated)
    assert sorted(found.lengths) == sorted(lengths)
    assert sorted(found.returns) == pytest.approx(sorted(totals), rel=1e-9)


def test_the_worlds_are_fixed_and_like_those_of_training():
    config = compose_run([*WORDS, "env.schedule=gradual", "env.semantics=v5"]).config
    envs, info = fixed_worlds(config, 3)
    assert (info.num_envs, info.name, info.observation_dim) == (3, "ant-v5", 105)
    envs.set_friction(0.25)
    assert envs.friction.tolist() == [0.25] * 3
    envs.close()


def test_environments_without_friction_are_refused():
    config = compose_run(WORDS).config
    with pytest.raises(ValueError, match="kind other, which has no friction"):
        fixed_worlds(replace(config, env=type("Other", (), {"kind": "other"})()), 1)


def test_networks_told_the_number_of_the_world_have_none_at_a_chosen_friction():
    with pytest.raises(NotARun, match="none of these worlds"):
        fixed_worlds(compose_run(["context=regime", "network=dendrites"]).config, 1)
