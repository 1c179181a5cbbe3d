"""Actions from a copy of the actor that is one call of `update` behind."""

import copy

import numpy as np
import pytest
import torch
from sac_toys import make, step

from agents.acting import CurrentActor, DelayedActor
from plasticity.methods import continual_backprop, redo

OBSERVATION = np.linspace(-1.0, 1.0, 10).reshape(2, 5)
NOTHING = np.zeros((2, 0))


def acts_with(agent, actor):
    """What the agent would do without noise if it acted with this actor."""
    wanted = CurrentActor(actor, torch.device("cpu")).actions(OBSERVATION, NOTHING, None)
    return np.array_equal(agent._acting.actions(OBSERVATION, NOTHING, None), wanted)


def test_exploring_actions_are_those_of_the_weights_one_update_ago():
    agent, rng = make(acting="delayed", warmup_steps=32), np.random.default_rng(0)
    kept = [copy.deepcopy(agent.actor)]  # weights after each update, the first ones before all
    for _ in range(30):
        step(agent, rng)
        if not agent.update_is_due:
            continue
        agent.update()
        assert acts_with(agent, kept[-1])
        assert not acts_with(agent, agent.actor)
        kept.append(copy.deepcopy(agent.actor))
    assert len(kept) > 10


def test_only_exploration_is_delayed():
    agent, rng = make(acting="delayed", warmup_steps=32), np.random.default_rng(0)
    for _ in range(20):
        step(agent, rng)
        agent.update()
    now = CurrentActor(agent.actor, agent.device).actions(OBSERVATION, NOTHING, None)
    assert np.array_equal(agent.act(OBSERVATION, NOTHING, explore=False), now)
    generator = copy.deepcopy(agent._watching_noise)
    noise = torch.randn(2, agent.action_dim, generator=generator)
    sampled = CurrentActor(agent.actor, agent.device).actions(OBSERVATION, NOTHING, noise)
    assert np.array_equal(agent.sample(OBSERVATION, NOTHING), sampled)


@pytest.mark.parametrize("methods", [{}, {"continual_backprop": continual_backprop.Config()}])
def test_a_restored_agent_goes_on_in_the_same_bits(methods):
    def learn(agent, rng, count):
        for _ in range(count):
            step(agent, rng)
            agent.update()

    whole = make(acting="delayed", warmup_steps=32, methods=methods)
    learn(whole, np.random.default_rng(1), 15)
    restored = make(acting="delayed", warmup_steps=32, methods=methods, seed=9)
    restored.load_state_dict(copy.deepcopy(whole.state_dict()))
    for agent in (whole, restored):
        learn(agent, np.random.default_rng(2), 15)
    for name, value in whole.actor.state_dict().items():
        assert torch.equal(value, restored.actor.state_dict()[name]), name


def test_a_checkpoint_without_delay_is_acted_on_at_once():
    donor, agent = make(seed=1), make(acting="delayed")
    assert "acting" not in donor.state_dict()
    agent.load_state_dict(copy.deepcopy(donor.state_dict()))
    assert acts_with(agent, donor.actor)


@pytest.mark.parametrize("change", ["task", "transplant"])
def test_weights_that_change_otherwise_are_acted_on_at_once(change):
    agent, donor = make(acting="delayed"), make(seed=1)
    if change == "transplant":
        agent.transplant(donor.state_dict(), [])
    else:
        with torch.no_grad():
            agent.actor.mean.bias.add_(0.5)
        assert not acts_with(agent, agent.actor)
        agent.on_task_change(1)
    assert acts_with(agent, agent.actor)


def test_a_cpu_acts_with_the_actor_itself():
    agent = make()
    assert agent._acting is agent._current
    assert not isinstance(agent._acting, DelayedActor)


def test_a_delay_that_methods_forbid_is_refused():
    with pytest.raises(ValueError, match=r"acting=delayed.*redo.*acting=current"):
        make(acting="delayed", methods={"redo": redo.Config()})
