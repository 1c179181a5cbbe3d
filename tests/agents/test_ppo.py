"""PPO: arithmetic of one update, the fast path against autograd, state, and step counts."""

import math

import numpy as np
import pytest
import torch

from agents import ppo
from agents.base import Transition
from agents.minibatches import Minibatch
from agents.parts import Parts
from agents.ppo_steps import AutogradSteps, FusedSteps, Losses, policy_loss, value_loss
from agents.returns import normalized
from agents.update import NumericalFailure
from networks import mlp
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam

NUM_ENVS, LENGTH = 4, 32


def make(seed=0, threads=1, methods=None, network=None, optimizer=None, **settings):
    settings = {"rollout_length": LENGTH, "minibatch_size": 32, "num_epochs": 3, **settings}
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=NUM_ENVS,
        network=network or mlp.Config(hidden_sizes=[16, 16]),
        optimizer=optimizer or adam.Config(learning_rate=1e-3),
        methods=methods or {},
        seed=seed,
        total_steps=1_000_000,
        num_threads=threads,
    )
    return ppo.build(ppo.Config(**settings), parts)


def fill(agent, rng, steps=LENGTH):
    context = np.zeros((NUM_ENVS, 0), np.float32)
    for _ in range(steps):
        observation = rng.normal(size=(NUM_ENVS, 5))
        action = agent.act(observation, context, explore=True)
        terminated = rng.random(NUM_ENVS) < 0.05
        truncated = rng.random(NUM_ENVS) < 0.05
        reward, successor = rng.normal(size=NUM_ENVS), rng.normal(size=(NUM_ENVS, 5))
        agent.observe(
            Transition(
                observation,
                action,
                reward,
                successor,
                terminated,
                truncated,
                context,
                context,
                np.zeros(NUM_ENVS, dtype=int),
            )
        )


def weights(agent):
    return [p.detach().clone() for n in agent.networks().values() for p in n.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def minibatch(agent, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    observation = torch.randn(size, 5, generator=generator)
    with torch.no_grad():
        mean = agent.policy(observation)
    action = mean + torch.randn(size, 2, generator=generator)
    old = torch.distributions.Normal(mean, 1.0).log_prob(action).sum(-1)
    old = old + 0.3 * torch.randn(size, generator=generator)  # so that some ratios are clipped
    advantage = torch.randn(size, generator=generator)
    target = torch.randn(size, generator=generator)
    return Minibatch(observation, None, action, old, advantage, target)


@pytest.mark.parametrize("entropy", [0.0, 0.01])
@pytest.mark.parametrize("sizes", [[16, 16], [7], [12, 9, 5]])
def test_fast_path_gradients_equal_autograd(sizes, entropy):
    agents = [make(network=mlp.Config(hidden_sizes=sizes)) for _ in range(2)]
    losses = Losses(clip_range=0.2, value_coefficient=0.5, entropy_coefficient=entropy)
    batch, results, gradients = minibatch(agents[0]), [], []
    for agent, kind in zip(agents, (AutogradSteps, FusedSteps), strict=True):
        with torch.no_grad():
            agent.policy.log_std.copy_(torch.tensor([-0.4, 0.2]))
        arguments = (agent.policy, agent.value, agent.updates, losses)
        steps = kind(*arguments, *([32] if kind is FusedSteps else []))
        loss, log_ratio = steps.policy(batch)
        results.append((loss, log_ratio, steps.value(batch)))
        gradients.append([p.grad for n in agent.networks().values() for p in n.parameters()])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)
    clipped = (torch.expm1(results[0][1]).abs() > 0.2).float().mean()
    assert 0.1 < clipped < 0.9  # both branches of the clip were exercised


def test_fast_path_activations_equal_the_recorded_ones():
    agent = make(methods={"continual_backprop": continual_backprop.Config(maturity_threshold=5)})
    update = agent.updates["policy"]
    fast = agent._steps._policy
    x = torch.randn(32, 5)
    with update.recording():
        agent.policy(x)
    fast.forward(x)
    for name, values in update._recording.activations.items():
        torch.testing.assert_close(fast.activations[name], values)


def test_whole_updates_agree_with_and_without_the_fast_path():
    agents = [make(fast_path=fast, optimizer=adam.Config(epsilon=1e-3)) for fast in (False, True)]
    assert isinstance(agents[0]._steps, AutogradSteps)
    assert isinstance(agents[1]._steps, FusedSteps)
    for agent in agents:
        fill(agent, np.random.default_rng(0))
        agent.update()
    for plain, fast in zip(weights(agents[0]), weights(agents[1]), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_networks_the_fast_path_does_not_know_use_autograd():
    agent = make(network=mlp.Config(hidden_sizes=[8], layer_norm=True))
    assert isinstance(agent._steps, AutogradSteps)


def test_one_thread_and_two_give_equal_bits():
    agents = [make(threads=threads) for threads in (1, 2)]
    for agent in agents:
        rng = np.random.default_rng(0)
        for _ in range(3):
            fill(agent, rng)
            agent.update()
        agent.close()
    assert equal(weights(agents[0]), weights(agents[1]))


def test_gradient_steps_per_rollout():
    agent = make()
    fill(agent, np.random.default_rng(0), LENGTH - 1)
    assert agent.update() == {}
    assert not agent.update_is_due
    fill(agent, np.random.default_rng(0), 1)
    assert agent.update_is_due
    statistics = agent.update()
    assert set(statistics) == set(agent.statistic_names())
    assert {update.num_steps for update in agent.updates.values()} == {3 * NUM_ENVS * LENGTH // 32}


def test_reference_run_makes_as_many_gradient_steps_as_published():
    config = ppo.Config()
    rollouts = 20_000_000 // (16 * config.rollout_length)
    per_rollout = config.num_epochs * 16 * config.rollout_length // config.minibatch_size
    assert (rollouts, per_rollout, rollouts * per_rollout) == (9_765, 160, 1_562_400)
    assert 20_000_000 - rollouts * 2_048 == 1_280


def test_first_minibatch_has_ratio_one():
    agent = make()
    fill(agent, np.random.default_rng(0))
    with torch.no_grad():
        batch, _ = agent._prepare()
        mean = agent.policy(batch.observation)
    log_probability = torch.distributions.Normal(mean, agent.policy.log_std.exp()).log_prob(
        batch.action
    )
    ratio = torch.exp(log_probability.sum(-1) - batch.log_probability)
    assert (ratio - 1).abs().max() < 1e-5


def test_losses_equal_their_formulas():
    log_ratio = torch.tensor([math.log(1.5), math.log(0.5), 0.0, math.log(1.5)])
    advantage = torch.tensor([1.0, 1.0, 2.0, -1.0])
    # min(1.5, 1.2), min(.5, .8), 2, min(-1.5, -1.2)
    assert policy_loss(log_ratio, advantage, 0.2).item() == pytest.approx(
        -(1.2 + 0.5 + 2 - 1.5) / 4
    )
    assert value_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])).item() == 2.5


def test_advantage_normalisation():
    advantages = np.array([[10.82065297, 9.39995, 7.9, 3.77457, 1.94]])
    expected = [1.07474665, 0.69807188, 0.30038614, -0.79340012, -1.27980456]
    np.testing.assert_allclose(normalized(advantages)[0], expected, atol=1e-8)
    assert (normalized(np.full((4, 2), 3.0)) == 0).all()
    assert normalized(np.array([[5.0]])) == 0


def test_constant_rewards_give_no_nan():
    agent = make(discount=0.0, gae_lambda=0.0)
    with torch.no_grad():
        agent.value.value.weight.zero_()
    fill(agent, np.random.default_rng(0))
    agent.rollout.reward[:] = 1.0
    agent.update()
    assert all(torch.isfinite(p).all() for p in weights(agent))


def test_timeouts_bootstrap_unless_told_otherwise():
    targets = []
    for terminal in (False, True):
        agent = make(timeouts_terminal=terminal, gae_lambda=0.0, normalize_advantage=False)
        fill(agent, np.random.default_rng(0))
        agent.rollout.terminated[:] = False
        agent.rollout.truncated[:] = True
        with torch.no_grad():
            batch, _ = agent._prepare()
            successor = torch.from_numpy(agent.rollout.next_observation.reshape(-1, 5))
            value = agent.value(successor)
        targets.append(batch.target)
        reward = torch.from_numpy(agent.rollout.reward.reshape(-1))
        expected = reward if terminal else reward + 0.99 * value
        torch.testing.assert_close(batch.target, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*targets)


def test_coupled_decay_reaches_biases_and_log_std():
    optimizer = adam.Config(learning_rate=1e-3, weight_decay=0.5)
    agent = make(optimizer=optimizer)
    update = agent.updates["policy"]
    with torch.no_grad():
        agent.policy.log_std.fill_(1.0)
        agent.policy.mean.bias.fill_(1.0)
    for parameter in agent.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update.apply({})
    torch.testing.assert_close(agent.policy.log_std.detach(), torch.full((2,), 1 - 1e-3))
    torch.testing.assert_close(agent.policy.mean.bias.detach(), torch.full((2,), 1 - 1e-3))


@pytest.mark.parametrize("steps_into_rollout", [0, 7])
def test_state_round_trip_continues_in_the_same_bits(steps_into_rollout):
    settings = {
        "methods": {
            "continual_backprop": continual_backprop.Config(
                maturity_threshold=5, replacement_rate=0.05
            )
        },
        "normalize_observation": True,
    }
    original, rng = make(**settings), np.random.default_rng(0)
    fill(original, rng)
    original.update()
    fill(original, rng, steps_into_rollout)
    state, position = original.state_dict(), rng.bit_generator.state
    twin, twin_rng = make(seed=9, **settings), np.random.default_rng(1)
    twin.load_state_dict(state)
    twin_rng.bit_generator.state = position
    for agent, generator in ((original, rng), (twin, twin_rng)):
        for _ in range(2):
            fill(agent, generator, LENGTH - agent.rollout.position)
            agent.update()
    assert equal(weights(original), weights(twin))
    assert twin.iteration == original.iteration == 3


def test_saved_state_does_not_change_with_the_agent():
    agent, rng = make(), np.random.default_rng(0)
    state = agent.state_dict()
    before = state["updates"]["policy"]["network"]["mean.weight"].clone()
    fill(agent, rng)
    agent.update()
    assert torch.equal(state["updates"]["policy"]["network"]["mean.weight"], before)
    assert not torch.equal(agent.policy.mean.weight, before)


def test_deterministic_actions_leave_no_trace():
    agent = make(normalize_observation=True)
    fill(agent, np.random.default_rng(0))
    noise = agent._action_noise.get_state()
    count = agent.normalizer.count
    observation, context = np.ones((3, 5)), np.zeros((3, 0), np.float32)
    first = agent.act(observation, context, explore=False)
    assert np.array_equal(first, agent.act(observation, context, explore=False))
    assert torch.equal(noise, agent._action_noise.get_state())
    assert agent.normalizer.count == count


@pytest.mark.parametrize("fast", [True, False])
def test_a_loss_that_is_not_finite_stops_before_any_change(fast):
    agent = make(fast_path=fast)
    fill(agent, np.random.default_rng(0))
    agent.rollout.reward[3, 1] = np.nan
    before = weights(agent)
    with pytest.raises(NumericalFailure, match="loss of the"):
        agent.update()
    policy = dict(agent.policy.named_parameters())
    assert equal([p.detach() for p in policy.values()], before[: len(policy)])


def test_a_gradient_that_is_not_finite_is_caught_within_the_update():
    agent = make()
    fill(agent, np.random.default_rng(0))
    update = agent.updates["policy"]
    original = update.optimizer.step

    def poisoned(*arguments):
        result = original(*arguments)
        if update.num_steps == 11:  # the last step of the phase
            with torch.no_grad():
                agent.policy.mean.bias[0] = math.inf
        return result

    update.optimizer.step = poisoned
    with pytest.raises(NumericalFailure, match="weights of the policy"):
        agent.update()


def test_gradient_clipping_bounds_the_norm():
    agent = make(max_grad_norm=1e-3, optimizer=adam.Config(learning_rate=1e-3))
    norms = []
    update = agent.updates["value"]
    original = update.optimizer.step

    def record(*arguments):
        gradients = [p.grad for p in agent.value.parameters()]
        norms.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])).item())
        return original(*arguments)

    update.optimizer.step = record
    fill(agent, np.random.default_rng(0))
    agent.update()
    assert len(norms) == 12
    assert max(norms) <= 1e-3 * 1.001


def test_a_minibatch_that_does_not_divide_the_rollout_is_refused():
    with pytest.raises(ValueError, match="does not divide a rollout of 32 x 4 = 128"):
        make(minibatch_size=48)


def test_unknown_organs_are_refused():
    agent = make()
    with pytest.raises(ValueError, match="fresh_parts has head"):
        agent.transplant(agent.state_dict(), ["head"])


@pytest.mark.parametrize("donor_normalizes", [True, False])
def test_networks_are_not_transplanted_to_inputs_of_another_scale(donor_normalizes):
    donor = make(normalize_observation=donor_normalizes)
    fill(donor, np.random.default_rng(0))
    agent, state = make(normalize_observation=not donor_normalizes), donor.state_dict()
    message = f"set agent.normalize_observation={str(donor_normalizes).lower()}"
    for fresh in ([], ["policy"], ["value", "log_std", "optimizer"]):
        with pytest.raises(ValueError, match=message):
            agent.transplant(state, fresh)
    agent.transplant(state, ["policy", "value"])
    same = make(normalize_observation=donor_normalizes, seed=1)
    same.transplant(state, [])
    if donor_normalizes:
        assert same.normalizer.count == donor.normalizer.count == NUM_ENVS * LENGTH


def test_learns_to_point_at_the_observation():
    """A one-step problem with a known optimum: the action should equal the first two inputs."""
    agent = make(discount=0.0, optimizer=adam.Config(learning_rate=3e-3), num_epochs=10)
    rng, context = np.random.default_rng(0), np.zeros((NUM_ENVS, 0), np.float32)

    def error():
        observation = np.random.default_rng(1).normal(size=(200, 5))
        action = agent.act(observation, np.zeros((200, 0), np.float32), explore=False)
        return np.mean((action - observation[:, :2]) ** 2)

    before = error()
    for _ in range(60 * LENGTH):
        observation = rng.normal(size=(NUM_ENVS, 5))
        action = agent.act(observation, context, explore=True)
        reward = -((action - observation[:, :2]) ** 2).sum(-1)
        ended = np.ones(NUM_ENVS, bool)
        zeros = np.zeros(NUM_ENVS, bool)
        regime = np.zeros(NUM_ENVS, int)
        agent.observe(
            Transition(
                observation, action, reward, observation, ended, zeros, context, context, regime
            )
        )
        agent.update()
    assert error() < 0.2 * before
