"""Gradient-based recyclers and the optimizers inside whole agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_worlds import random_step
from recycling_nets import equal_bits

from agents import ppo, sac
from agents.parts import OPTIMIZERS, Parts
from agents.ppo_steps import AutogradSteps, FusedSteps
from agents.update import clone
from networks import mlp
from plasticity.methods import continual_backprop, regrama, snr
from plasticity.optimizers import adam, adam_rel, upgd

PPO = ppo.Config(rollout_length=16, num_epochs=2, minibatch_size=32)
SAC = sac.Config(
    batch_size=16,
    replay_size=96,
    warmup_steps=24,
    updates_per_env_step=0.5,
    steps_per_iteration=32,
)
METHODS = {
    "fisher": continual_backprop.Config(
        utility="fisher", maturity_threshold=3, replacement_rate=0.3
    ),
    "regrama": regrama.Config(period=4, dormancy_threshold=0.8),
    "snr": snr.Config(
        min_silence=1, max_silence=6, min_records=2, refresh_period=2, gradient_threshold=0.8
    ),
}


def make(agent="ppo", methods=(), optimizer=None, seed=0, **network):
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=4,
        network=mlp.Config(hidden_sizes=[16], **network),
        optimizer=optimizer or adam.Config(learning_rate=1e-3),
        methods={name: METHODS[name] for name in methods},
        seed=seed,
    )
    return silenced(ppo.build(PPO, parts) if agent == "ppo" else sac.build(SAC, parts))


@torch.no_grad()
def silenced(agent):
    """One ReLU of every network is dead: on toy worlds none would ever be silent."""
    for network in agent.networks().values():
        for group in network.unit_groups():
            if group.activation == "relu":
                group.layer.linear.bias[0] = -100.0
    return agent


def learn(agent, iterations, seed=0):
    rng, last = np.random.default_rng(seed), agent.iteration + iterations
    empty = np.zeros((4, 0), dtype=np.float32)
    while agent.iteration < last:
        random_step(agent, rng, empty, 5)
        agent.update()
    return agent


def weights(agent):
    return {name: dict(network.state_dict()) for name, network in agent.networks().items()}


@pytest.mark.parametrize("agent", ["ppo", "sac"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "crelu", "smooth_leaky"])
@pytest.mark.parametrize("method", list(METHODS))
def test_recyclers_fire_on_every_network(agent, method, activation):
    trained = learn(make(agent, [method], activation=activation), 3)
    events = trained.pop_events()
    assert {event["network"] for event in events} == set(trained.networks())
    assert all(p.isfinite().all() for n in trained.networks().values() for p in n.parameters())


def test_only_gradients_at_units_cost_the_fast_pass():
    assert isinstance(make(methods=["fisher"])._steps, AutogradSteps)
    for methods in ([], ["regrama"], ["snr"]):
        assert isinstance(make(methods=methods)._steps, FusedSteps)
    assert isinstance(make(activation="crelu")._steps, AutogradSteps)
    hooks = [m._forward_hooks for m in make(methods=["regrama"]).policy.modules()]
    assert not any(hooks)  # it reads gradients of weights and needs nothing else


@pytest.mark.parametrize("method", ["regrama", "snr"])
def test_both_passes_of_ppo_renew_the_same_units(method):
    resets = []
    for fast_path in (True, False):
        parts = Parts(
            observation_dim=5,
            action_dim=2,
            num_envs=4,
            network=mlp.Config(hidden_sizes=[16]),
            optimizer=adam.Config(learning_rate=1e-3),
            methods={method: METHODS[method]},
        )
        config = ppo.Config(rollout_length=16, num_epochs=2, minibatch_size=32, fast_path=fast_path)
        agent = learn(silenced(ppo.build(config, parts)), 2)
        resets.append([(e["network"], e["unit"], e["gradient_step"]) for e in agent.pop_events()])
    assert resets[0] == resets[1]
    assert resets[0]


def test_ppo_announces_a_new_objective_at_every_rollout():
    agent = learn(make(optimizer=adam_rel.Config()), 3)
    steps_per_rollout = 2 * 16 * 4 // 32
    for update in agent.updates.values():
        assert update.num_steps == 3 * steps_per_rollout
        counters = {float(state["step"]) for state in update.optimizer.state.values()}
        assert counters == {steps_per_rollout}


def test_adam_rel_learns_its_first_rollout_as_adam_does():
    first, second = learn(make(), 1), learn(make(optimizer=adam_rel.Config(learning_rate=1e-3)), 1)
    assert equal_bits(weights(first), weights(second))
    learn(first, 1)
    learn(second, 1)
    assert not equal_bits(weights(first), weights(second))


def test_noise_of_the_optimizer_leaves_all_other_streams_alone():
    noisy = learn(make(optimizer=upgd.Config(noise_std=0.1)), 2)
    plain = learn(make(), 2)
    for stream in ("action_noise", "shuffle"):
        assert torch.equal(noisy.state_dict()[stream], plain.state_dict()[stream])
    one, two = (noisy.updates[name].optimizer.shared_state()["noise"] for name in noisy.networks())
    assert not torch.equal(one, two)


@pytest.mark.parametrize("agent", ["ppo", "sac"])
@pytest.mark.parametrize("optimizer", ["adam_rel", "trac", "upgd"])
def test_agents_resume_exactly_around_recycling(agent, optimizer):
    def start(seed):
        config = OPTIMIZERS.get(optimizer).Config(learning_rate=1e-3)
        return make(agent, ["fisher"], config, seed)

    whole, other = learn(start(0), 2), start(1)
    assert whole.pop_events()
    other.load_state_dict(clone(whole.state_dict()))
    learn(whole, 2, seed=5)
    learn(other, 2, seed=5)
    assert equal_bits(weights(whole), weights(other))
    assert equal_bits(clone(whole.state_dict()), clone(other.state_dict()))
    assert whole.pop_events()


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_leave_the_streams_of_the_agent_alone(method):
    with_method, without = learn(make(methods=[method]), 2), learn(make(), 2)
    assert with_method.pop_events()
    for stream in ("action_noise", "shuffle"):
        assert torch.equal(with_method.state_dict()[stream], without.state_dict()[stream])
