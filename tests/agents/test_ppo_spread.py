"""PPO whose spread begins anew within a rollout: old log-probabilities are those of acting."""

import copy
import itertools

import numpy as np
import pytest
import torch

from agents import ppo
from agents.base import Transition
from agents.parts import Parts
from networks import mlp
from networks.heads import GaussianPolicy
from plasticity.methods import reset
from plasticity.optimizers import adam

NUM_ENVS, LENGTH = 4, 16


def make(seed=0, methods=None, **settings):
    parts = Parts(
        observation_dim=5,
        action_dim=8,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=[16, 16]),
        optimizer=adam.Config(),
        methods={"reset": reset.Config(period=0, at_task_change=True)}
        if methods is None
        else methods,
        seed=seed,
        total_steps=100_000,
    )
    settings = {"rollout_length": LENGTH, "minibatch_size": 32, "num_epochs": 1, **settings}
    agent = ppo.build(ppo.Config(**settings), parts)
    if not agent.config.state_dependent_std:
        learn_spread(agent, -1.5)
    return agent


@torch.no_grad()
def learn_spread(agent, log_std):
    assert isinstance(agent.policy, GaussianPolicy)
    agent.policy.log_std.fill_(log_std)


def fill(agent, rng, steps):
    """Act and observe; returns the log-densities under what acted, (steps, N)."""
    nothing, no = np.zeros((NUM_ENVS, 0), np.float32), np.zeros(NUM_ENVS, dtype=bool)
    drawn = [torch.zeros(0, NUM_ENVS)]
    for _ in range(steps):
        observation = rng.normal(size=(NUM_ENVS, 5)).astype(np.float32)
        with torch.no_grad():
            mean, log_std = agent.policy.moments(torch.from_numpy(observation), None)
        law = torch.distributions.Normal(mean, log_std.exp())
        action = agent.act(observation, nothing, explore=True)
        drawn.append(law.log_prob(torch.from_numpy(action)).sum(-1)[None])
        reward = rng.normal(size=NUM_ENVS).astype(np.float32)
        agent.observe(
            Transition(observation, action, reward, observation, no, no, nothing, nothing, no)
        )
    return torch.cat(drawn)


def stored(agent):
    with torch.no_grad():
        return agent._prepare()[0].log_probability.view(LENGTH, NUM_ENVS)


@pytest.mark.parametrize("settings", [{}, {"fast_path": False}, {"state_dependent_std": True}])
@pytest.mark.parametrize("switches", [[], [6], [3, 9], [LENGTH]])
def test_log_probabilities_are_those_of_the_policy_that_acted(settings, switches):
    agent, rng, drawn = make(**settings), np.random.default_rng(0), []
    for begin, end in itertools.pairwise([0, *switches, LENGTH]):
        if begin:
            agent.on_task_change(begin)
        drawn.append(fill(agent, rng, end - begin))
    torch.testing.assert_close(stored(agent), torch.cat(drawn), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fast_path", [True, False])
def test_the_clip_hardly_follows_actions_from_before_a_switch(fast_path):
    agent, rng = make(fast_path=fast_path, minibatch_size=64), np.random.default_rng(0)
    fill(agent, rng, 15)
    agent.on_task_change(1)
    fill(agent, rng, 1)
    statistics = agent.update()
    # The one gradient step comes after the ratios: 1 for the last 4 of 64, below .2 before.
    assert float(statistics["clip_fraction"]) == pytest.approx(60 / 64)
    assert float(statistics["approx_kl"]) < 30.0  # expm1(8) - 8 were ratios of some thousands


@pytest.mark.parametrize("fast_path", [True, False])
def test_a_run_stopped_behind_the_switch_goes_on_in_the_same_bits(fast_path):
    first, second = make(fast_path=fast_path), make(seed=9, fast_path=fast_path)
    rng = np.random.default_rng(0)
    fill(first, rng, 5)
    first.on_task_change(1)
    fill(first, rng, 4)
    # The other one is in the middle of a rollout of its own, with a switch or without.
    fill(second, np.random.default_rng(1), 7)
    if fast_path:
        second.on_task_change(1)
    second.load_state_dict(first.state_dict())
    for agent, draws in ((first, copy.deepcopy(rng)), (second, rng)):
        fill(agent, draws, LENGTH - 9)
    assert torch.equal(stored(first), stored(second))
    for agent in (first, second):
        agent.update()
    pairs = zip(first.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_only_a_rollout_with_two_spreads_saves_them():
    agent, rng = make(), np.random.default_rng(0)
    agent.on_task_change(1)  # nothing has been acted
    fill(agent, rng, 5)
    agent.on_task_change(2)  # the spread is new already
    before = agent.state_dict()["rollout"]
    learn_spread(agent, -1.0)
    agent.on_task_change(3)
    after = agent.state_dict()["rollout"]
    assert set(after) - set(before) == {"log_std"}
    assert after["log_std"].shape == (5, NUM_ENVS, 8)
    assert (after["log_std"] == -1.0).all()
    agent.rollout.load_state_dict(before)  # also what older versions saved
    assert agent.rollout.log_std is None
    agent.rollout.load_state_dict(after)
    fill(agent, rng, LENGTH - 5)
    agent.update()
    fill(agent, rng, 5)
    assert set(agent.state_dict()["rollout"]) == set(before)
