"""Log-probabilities, entropies and whole PPO updates against stable-baselines3."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.logger import Logger

from agents import ppo
from agents.base import Transition
from agents.distributions import gaussian_entropy, gaussian_log_probability
from agents.parts import Parts
from agents.ppo_steps import AutogradSteps, FusedSteps
from networks import mlp
from plasticity.optimizers import adam

LENGTH, NUM_ENVS, OBSERVATION, ACTION = 64, 8, 11, 3
SIZES, MINIBATCH, LEARNING_RATE, CLIP = [64, 64], 64, 3e-4, 0.2


def test_log_probability_and_entropy_equal_sb3():
    generator = torch.Generator().manual_seed(0)
    mean = 3 * torch.randn(500, 8, generator=generator, dtype=torch.float64)
    log_std = torch.randn(8, generator=generator, dtype=torch.float64)
    actions = 3 * torch.randn(500, 8, generator=generator, dtype=torch.float64)
    theirs = DiagGaussianDistribution(8).proba_distribution(mean, log_std)
    ours = gaussian_log_probability(actions, mean, log_std)
    torch.testing.assert_close(ours, theirs.log_prob(actions), rtol=1e-12, atol=1e-12)
    entropy = theirs.entropy()
    torch.testing.assert_close(gaussian_entropy(log_std).expand(500), entropy)


def our_agent(num_epochs, entropy_coefficient, fast_path):
    config = ppo.Config(
        rollout_length=LENGTH,
        num_epochs=num_epochs,
        minibatch_size=MINIBATCH,
        clip_range=CLIP,
        entropy_coefficient=entropy_coefficient,
        normalize_advantage=False,
        fast_path=fast_path,
    )
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=SIZES),
        optimizer=adam.Config(learning_rate=LEARNING_RATE, epsilon=1e-8),
        seed=1,
        total_steps=10**6,
    )
    return ppo.build(config, parts)


def collect(agent):
    """Fill one rollout with random transitions."""
    rng = np.random.default_rng(0)
    context, regime = np.zeros((NUM_ENVS, 0), np.float32), np.zeros(NUM_ENVS, int)
    observation = rng.normal(size=(NUM_ENVS, OBSERVATION)).astype(np.float32)
    for _ in range(LENGTH):
        action = agent.act(observation, context, explore=True)
        successor = rng.normal(size=observation.shape).astype(np.float32)
        reward = rng.normal(size=NUM_ENVS)
        terminated, truncated = rng.random((2, NUM_ENVS)) < 0.05
        contexts = (context, context)
        outcome = (reward, successor, terminated, truncated)
        agent.observe(Transition(observation, action, *outcome, *contexts, regime))
        ended = (terminated | truncated)[:, None]
        fresh = rng.normal(size=observation.shape).astype(np.float32)
        observation = np.where(ended, fresh, successor)


def sb3_twin(agent, num_epochs, entropy_coefficient):
    """SB3's PPO with one joint Adam, and our weights."""
    model = PPO(
        "MlpPolicy",
        None,
        learning_rate=LEARNING_RATE,
        n_steps=LENGTH,
        batch_size=MINIBATCH,
        n_epochs=num_epochs,
        clip_range=CLIP,
        normalize_advantage=False,
        ent_coef=entropy_coefficient,
        vf_coef=1.0,
        max_grad_norm=1e9,
        policy_kwargs={
            "net_arch": {"pi": SIZES, "vf": SIZES},
            "activation_fn": torch.nn.ReLU,
            "optimizer_kwargs": {"eps": 1e-8},
        },
        device="cpu",
        _init_setup_model=False,
    )
    model.observation_space = Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    model.action_space = Box(-1, 1, (ACTION,), np.float32)
    model.n_envs = NUM_ENVS
    model._setup_model()
    model.set_logger(Logger(folder=None, output_formats=[]))
    with torch.no_grad():
        for theirs, ours in zip(sb3_parameters(model), our_parameters(agent), strict=True):
            assert theirs.shape == ours.shape
            theirs.copy_(ours)
    return model


def our_parameters(agent):
    policy = [agent.policy.log_std, *agent.policy.torso.parameters()]
    policy += list(agent.policy.mean.parameters())
    return [*policy, *agent.value.parameters()]


def sb3_parameters(model):
    extractor = model.policy.mlp_extractor
    policy = [model.policy.log_std, *extractor.policy_net.parameters()]
    policy += list(model.policy.action_net.parameters())
    value = [*extractor.value_net.parameters(), *model.policy.value_net.parameters()]
    return [*policy, *value]


def hand_over(agent, model):
    """Give SB3 the transitions in its own convention, and let it compute values and advantages."""
    row = agent.rollout
    starts = np.ones(NUM_ENVS, dtype=bool)

    def value_of(observation):
        with torch.no_grad():
            return model.policy.predict_values(torch.from_numpy(observation)).flatten()

    for t in range(LENGTH):
        rewards = row.reward[t].copy()
        cut = row.truncated[t] & ~row.terminated[t]
        rewards[cut] += model.gamma * value_of(row.next_observation[t])[cut].numpy()
        with torch.no_grad():
            values, log_probability, _ = model.policy.evaluate_actions(
                torch.from_numpy(row.observation[t]), torch.from_numpy(row.action[t])
            )
        model.rollout_buffer.add(
            row.observation[t], row.action[t], rewards, starts, values, log_probability
        )
        starts = row.terminated[t] | row.truncated[t]
    last = value_of(row.next_observation[-1])
    model.rollout_buffer.compute_returns_and_advantage(last, starts)


def share_minibatch_orders(monkeypatch, num_epochs):
    """Make both libraries shuffle alike; SB3 numbers transitions env by env, we step by step."""
    size = LENGTH * NUM_ENVS
    orders = [np.random.default_rng(epoch).permutation(size) for epoch in range(num_epochs)]
    theirs = iter([order % NUM_ENVS * LENGTH + order // NUM_ENVS for order in orders])
    ours = iter([torch.from_numpy(order) for order in orders])
    monkeypatch.setattr(np.random, "permutation", lambda count: next(theirs))
    monkeypatch.setattr(torch, "randperm", lambda count, **_: next(ours))


@pytest.mark.parametrize("fast_path", [False, True])
@pytest.mark.parametrize(("num_epochs", "entropy_coefficient"), [(1, 0.0), (10, 0.0), (10, 0.01)])
def test_one_whole_update_equals_sb3(monkeypatch, num_epochs, entropy_coefficient, fast_path):
    agent = our_agent(num_epochs, entropy_coefficient, fast_path)
    assert isinstance(agent._steps, FusedSteps if fast_path else AutogradSteps)
    initial = [p.detach().clone() for p in our_parameters(agent)]
    collect(agent)
    model = sb3_twin(agent, num_epochs, entropy_coefficient)
    hand_over(agent, model)
    share_minibatch_orders(monkeypatch, num_epochs)
    statistics = agent.update()
    model.train()
    moved = [
        (p.detach() - q).abs().max().item()
        for p, q in zip(our_parameters(agent), initial, strict=True)
    ]
    assert min(moved) > 5e-4  # far above the tolerance
    for ours, theirs in zip(our_parameters(agent), sb3_parameters(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    logged = model.logger.name_to_value
    assert float(statistics["value_loss"]) == pytest.approx(logged["train/value_loss"], rel=1e-4)
    if not entropy_coefficient:  # ours includes the bonus
        theirs = logged["train/policy_gradient_loss"]
        assert float(statistics["policy_loss"]) == pytest.approx(theirs, abs=1e-5)
    assert float(statistics["explained_variance"]) == pytest.approx(
        logged["train/explained_variance"], abs=1e-4
    )
