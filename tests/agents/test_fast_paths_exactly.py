"""Hand-written gradients equal autograd's in float64: what float32 hides is a wrong formula.

Gradients within 1e-10 and weights within 1e-9 after 20 gradient steps of Adam.
"""

import numpy as np
import pytest
import sac_toys
import torch

from agents import ppo
from agents.minibatches import Minibatch
from agents.parts import Parts
from agents.ppo_steps import AutogradSteps, FusedSteps, Losses
from agents.sac_fused import FusedSACSteps
from agents.sac_steps import SACSteps
from networks import mlp
from plasticity.optimizers import adam

ROWS, STEPS = 64, 20


@pytest.fixture(autouse=True)
def _doubles():
    """Buffers, networks and random numbers of both ways in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(found, expected, tolerance):
    assert found.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# PPO ---------------------------------------------------------------------------------------


def ppo_pair(sizes, entropy):
    """The same networks stepped by autograd and by hand."""
    for kind in (AutogradSteps, FusedSteps):
        parts = Parts(
            observation_dim=5,
            action_dim=2,
            num_envs=4,
            network=mlp.Config(hidden_sizes=list(sizes)),
            optimizer=adam.Config(learning_rate=1e-3),
        )
        config = ppo.Config(rollout_length=32, minibatch_size=32, fast_path=False)
        agent = ppo.build(config, parts)
        for network in agent.networks().values():
            network.double()
        losses = Losses(0.2, 0.5, entropy)
        arguments = (agent.policy, agent.value, agent.updates, losses)
        yield agent, kind(*arguments, *([ROWS] if kind is FusedSteps else []))


def ppo_minibatch(agent, seed):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(ROWS, *shape, generator=generator)

    observation = numbers(5)
    with torch.no_grad():
        action = agent.policy(observation) + numbers(2)
        mean = agent.policy(observation)
        old = torch.distributions.Normal(mean, 1.0).log_prob(action).sum(-1) + 0.3 * numbers()
    return Minibatch(observation, None, action, old, numbers(), numbers())


@pytest.mark.parametrize("entropy", [0.0, 0.01])
@pytest.mark.parametrize("sizes", [(16, 16), (7,), (12, 9, 5)])
def test_ppo(sizes, entropy):
    pair, clipped = list(ppo_pair(sizes, entropy)), []
    for step in range(STEPS):
        batch = ppo_minibatch(pair[0][0], step)
        ratios = [steps.policy(batch)[1] for _, steps in pair]
        values = [steps.value(batch) for _, steps in pair]
        close(ratios[1], ratios[0], 1e-10)
        assert values[1] == pytest.approx(values[0], rel=1e-10)
        clipped.append((torch.expm1(ratios[0]).abs() > 0.2).double().mean())
        for name, plain in pair[0][0].networks().items():
            by_hand = pair[1][0].networks()[name]
            for ours, theirs in zip(by_hand.parameters(), plain.parameters(), strict=True):
                close(ours.grad, theirs.grad, 1e-10)
                close(ours.detach(), theirs.detach(), 1e-9)
    assert 0.1 < min(clipped) <= max(clipped) < 0.9  # both branches of the clip


# SAC ---------------------------------------------------------------------------------------


CASES = {
    "plain": {},
    "context": {"context_dim": 4, "temperature_per_task": True},
    "clipped": {"max_grad_norm": 0.5},
    "clipped together": {"max_grad_norm": 0.5, "critic_clipping": "joint"},
    "two threads": {"threads": 2},
}


def sac_minibatches(case):
    """Minibatches of a replay that an agent in float32 has filled, with noise, all in float64."""
    torch.set_default_dtype(torch.float32)
    donor = sac_toys.make(**CASES[case])
    sac_toys.fill(donor, np.random.default_rng(0))
    donor.close()
    torch.set_default_dtype(torch.float64)
    for step in range(STEPS):
        torch.manual_seed(step)
        batch, *noise = sac_toys.sampled(donor, step)
        fields = {
            name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in vars(batch).items()
        }
        yield type(batch)(**fields), *noise


@pytest.mark.parametrize("case", CASES)
def test_sac(case):
    agents = [
        sac_toys.make(fast_path=fast, hidden=(24, 16), **CASES[case]) for fast in (True, False)
    ]
    assert [type(agent._steps) for agent in agents] == [FusedSACSteps, SACSteps]
    fast, plain = agents
    for arguments in sac_minibatches(case):
        statistics = [agent._steps.step(*arguments) for agent in agents]
        close(*statistics, 1e-9)
        for name, network in plain.networks().items():
            found = fast.networks()[name].parameters()
            for ours, theirs in zip(found, network.parameters(), strict=True):
                close(ours.grad, theirs.grad, 1e-10)
    found, expected = map(sac_toys.weights, agents)
    for name in expected:
        close(found[name], expected[name], 1e-9)
    for agent in agents:
        agent.close()
