"""Every torso inside PPO and SAC: learning, unit renewal, exact resume, duty cycles."""

import numpy as np
import pytest
import torch
from network_builders import CONTEXTS, DISCRETE, INPUTS, KINDS, config_of
from random_worlds import random_step

from agents import ppo, sac
from agents.parts import Parts
from networks.winners import Winners
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")

AGENTS = {
    "ppo": (ppo, {"rollout_length": 12, "minibatch_size": 18, "num_epochs": 2}),
    "sac": (
        sac,
        {
            "batch_size": 12,
            "replay_size": 60,
            "warmup_steps": 18,
            "updates_per_env_step": 0.5,
            "steps_per_iteration": 30,
        },
    ),
}
NUM_ENVS = CONTEXTS


RENEWING = {
    "continual_backprop": continual_backprop.Config(
        replacement_rate=0.02, maturity_threshold=2, optimizer_state="zero_moments"
    )
}


def agent_of(kind, name, seed=0, methods=RENEWING):
    module, small = AGENTS[name]
    parts = Parts(
        observation_dim=INPUTS,
        action_dim=2,
        num_envs=NUM_ENVS,
        network=config_of(kind),
        optimizer=adam.Config(learning_rate=1e-3),
        methods=methods,
        context=DISCRETE,
        seed=seed,
    )
    return module.build(module.Config(**small), parts)


def live(agent, rng, iterations):
    """Random worlds, one context per environment; returns actions and logged values."""
    context, log = np.eye(NUM_ENVS, CONTEXTS, dtype=np.float32), []
    last = agent.iteration + iterations
    while agent.iteration < last:
        regime = np.arange(NUM_ENVS)
        action = random_step(agent, rng, context, INPUTS, end_rate=0.1, regime=regime)
        statistics = agent.update() if agent.update_is_due else {}
        log += [action.tolist(), *({k: float(v) for k, v in statistics.items()},)]
    return log


def states(agent):
    return {
        f"{name}.{key}": value.clone()
        for name, network in agent.networks().items()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(AGENTS))
def test_agents_learn_with_it_and_resume_exactly(kind, name):
    """Acceptance 17."""
    agent, rng = agent_of(kind, name), np.random.default_rng(0)
    before = states(agent)
    live(agent, rng, 1)
    learnt = states(agent)
    changed = {key for key in learnt if not torch.equal(learnt[key], before[key])}
    assert {key for key in learnt if key.endswith(("weight", "bias", "segments"))} <= changed
    assert not {key for key in changed if "mask" in key or "passes" in key}
    saved, position = agent.state_dict(), rng.bit_generator.state
    first = live(agent, rng, 1)
    other, again = agent_of(kind, name, seed=5), np.random.default_rng(0)
    again.bit_generator.state = position
    other.load_state_dict(saved)
    assert repr(live(other, again, 1)) == repr(first)
    one, two = states(agent), states(other)
    assert all(torch.equal(one[key], two[key]) for key in one)
    agent.close()
    other.close()


@pytest.mark.parametrize("kind", ["k_winners", "dendritic"])
def test_ppo_counts_duty_cycles_once_per_update(kind):
    """Acceptance 15."""
    agent, rng = agent_of(kind, "ppo", methods={}), np.random.default_rng(0)
    winners = [m for m in agent.networks()["policy"].modules() if isinstance(m, Winners)]
    assert len(winners) == 2
    for count in (36, 72):
        live(agent, rng, 1)
        assert [int(module.seen) for module in winners] == [count, count]
    duty = [module.duty.clone() for module in winners]
    for _ in range(5):  # acting, exploring or not, counts nothing
        for explore in (True, False):
            agent.act(
                rng.normal(size=(NUM_ENVS, INPUTS)), np.eye(NUM_ENVS, dtype=np.float32), explore
            )
    for module, value in zip(winners, duty, strict=True):
        assert torch.equal(module.duty, value)
        assert module.duty.mean().item() == pytest.approx(0.25, abs=1e-5)
    agent.close()
