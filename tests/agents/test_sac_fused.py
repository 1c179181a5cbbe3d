"""SAC's hand-written critic pass against autograd."""

import numpy as np
import pytest
import torch
from sac_toys import ACTION, fill, make, sampled, weights

from agents.sac_fused import FusedSACSteps
from networks import mlp
from plasticity.methods import continual_backprop, l2_init

CASES = {
    "plain": {},
    "context": {"context_dim": 4, "temperature_per_task": True},
    "clipped": {"max_grad_norm": 0.5},
    "clipped together": {"max_grad_norm": 0.5, "critic_clipping": "joint"},
    "two threads": {"threads": 2},
}


def pair(**settings):
    # Adam divides by the size of a gradient, also where that is rounding alone; a large epsilon
    # makes its steps as smooth as the gradients that are compared.
    agents = [make(fast_path=fast, hidden=(24, 16), **settings) for fast in (True, False)]
    assert [type(agent._steps) is FusedSACSteps for agent in agents] == [True, False]
    for agent in agents:
        for update in agent.updates.values():
            for group in update.optimizer.param_groups:
                group["eps"] = 1e-2
        fill(agent, np.random.default_rng(0))
    return agents


def drawn(agent, seed):
    torch.manual_seed(seed)
    return sampled(agent, seed)


@pytest.mark.parametrize("case", CASES)
def test_gradient_steps_equal_those_of_autograd(case):
    fast, plain = pair(**CASES[case])
    for seed in range(20):
        statistics = [agent._steps.step(*drawn(agent, seed)) for agent in (fast, plain)]
        torch.testing.assert_close(*statistics, rtol=1e-4, atol=1e-5)
    found, expected = weights(fast), weights(plain)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    for agent in (fast, plain):
        agent.close()


def test_critics_get_the_gradients_of_autograd():
    fast, plain = pair()
    batch, _, next_noise = sampled(fast)
    inputs = torch.cat((batch.observation, batch.action), 1)
    target = plain._steps.targets_of(batch, next_noise)
    torch.testing.assert_close(fast._steps.targets_of(batch, next_noise), target)
    for index, name in enumerate(("critic_1", "critic_2")):
        for agent in (fast, plain):
            agent._steps._critic_gradient(index, inputs, None, target)
        for ours, theirs in zip(
            fast.networks()[name].parameters(), plain.networks()[name].parameters(), strict=True
        ):
            assert ours.grad is not None
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("ties", [False, True])
def test_smaller_value_sends_each_row_through_its_critic(ties):
    fast, plain = pair()
    for agent in (fast, plain):
        if ties:
            agent.critic_2.load_state_dict(agent.critic_1.state_dict())
    batch = sampled(fast)[0]
    gradients = []
    for agent in (fast, plain):
        action = batch.action.clone().requires_grad_()
        q = agent._steps._smaller_value(batch.observation, action, None)
        (q * torch.linspace(-1.0, 2.0, len(q))).sum().backward()
        gradients.append(action.grad)
        assert all(p.grad is None for p in agent.critic_1.parameters())
    assert gradients[0].shape == (len(batch.action), ACTION)
    assert gradients[1].abs().sum() > 0.0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_methods_see_the_activations_of_the_training_pass():
    rates = {"maturity_threshold": 5, "replacement_rate": 0.02}
    fast, plain = pair(methods={"continual_backprop": continual_backprop.Config(**rates)})
    for seed in range(40):
        for agent in (fast, plain):
            agent._steps.step(*drawn(agent, seed))
    for name in fast.networks():
        ours, theirs = (a.updates[name].methods["continual_backprop"] for a in (fast, plain))
        assert {s: c.replaced_total for s, c in ours.counters.items()} == {
            s: c.replaced_total for s, c in theirs.counters.items()
        }
        assert sum(c.replaced_total for c in ours.counters.values()) > 0
        for group in ours.statistics:
            found, expected = ours.statistics[group].utility, theirs.statistics[group].utility
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_what_needs_autograd_gets_it():
    penalty = {"l2_init": l2_init.Config()}
    assert not isinstance(make(methods=penalty)._steps, FusedSACSteps)
    fisher = {"continual_backprop": continual_backprop.Config(utility="fisher")}
    assert not isinstance(make(methods=fisher)._steps, FusedSACSteps)
    norm = mlp.Config(hidden_sizes=[16, 16], layer_norm=True)
    assert not isinstance(make(network=norm)._steps, FusedSACSteps)


@pytest.mark.parametrize("case", ["plain", "context", "clipped together"])
def test_two_threads_change_no_bit(case):
    one, two = (make(hidden=(24, 16), threads=threads, **CASES[case]) for threads in (1, 2))
    for agent in (one, two):
        assert agent._steps._policy is not None
        fill(agent, np.random.default_rng(0))
        for seed in range(10):
            agent._steps.step(*drawn(agent, seed))
    found, expected = weights(two), weights(one)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    for agent in (one, two):
        agent.close()


def test_a_policy_that_needs_autograd_gets_it_beside_fast_critics():
    fast, plain = pair(methods={"l2_init": l2_init.Config(networks=["actor"])})
    assert fast._steps._policy is None
    for seed in range(5):
        for agent in (fast, plain):
            agent._steps.step(*drawn(agent, seed))
    found, expected = weights(fast), weights(plain)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)
