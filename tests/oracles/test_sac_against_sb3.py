"""SAC against stable-baselines3: targets, losses and whole gradient steps for copied weights.

SB3's tanh correction log(1 - a^2 + 1e-6) is an approximation; its epsilon is set to 0 here, so
that both compute the same formula. The last tests need no library: the value of a world that
never ends is known.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents import sac
from agents.base import Transition
from agents.parts import Parts
from agents.replay import Batch
from agents.sac_losses import squashed_sample
from networks import mlp
from plasticity.optimizers import adam

OBSERVATION, ACTION, BATCH = 6, 3, 64
DISCOUNT, TAU, RATE = 0.97, 0.02, 1e-3


def make_ours():
    config = sac.Config(
        discount=DISCOUNT,
        tau=TAU,
        batch_size=BATCH,
        replay_size=1_000,
        initial_temperature=0.3,
        temperature_learning_rate=RATE,
    )
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=1,
        network=mlp.Config(hidden_sizes=[32, 24]),
        optimizer=adam.Config(learning_rate=RATE),
    )
    ours = sac.build(config, parts)
    with torch.no_grad():  # keeps tanh away from 1, where SB3's logarithm is infinite
        for head in ours.actor.heads():
            head.weight.mul_(0.5)
        ours.actor.log_std.bias.fill_(-1.0)
    return ours


def make_theirs(ours):
    model = SAC(
        "MlpPolicy",
        None,
        learning_rate=RATE,
        buffer_size=10,
        tau=TAU,
        gamma=DISCOUNT,
        ent_coef="auto_0.3",
        target_entropy=-float(ACTION),
        policy_kwargs={"net_arch": [32, 24]},
        device="cpu",
        _init_setup_model=False,
    )
    model.observation_space = Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    model.action_space = Box(-1.0, 1.0, (ACTION,), np.float32)
    model.n_envs = 1
    model._setup_model()
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.actor.action_dist.epsilon = 0.0
    with torch.no_grad():
        for theirs, own in pairs(ours, model):
            theirs.copy_(own)
    return model


def linears(network):
    return [layer.linear for layer in network.torso.layers]


def pairs(ours, model):
    """(SB3's parameter, ours) of every weight, targets and temperature included."""
    found = []

    def layers(theirs, own):
        for first, second in zip(theirs, own, strict=True):
            found.extend([(first.weight, second.weight), (first.bias, second.bias)])

    actor = model.actor
    sequential = [m for m in actor.latent_pi if isinstance(m, torch.nn.Linear)]
    layers([*sequential, actor.mu, actor.log_std], [*linears(ours.actor), *ours.actor.heads()])
    for critic, networks in (
        (model.critic, (ours.critic_1, ours.critic_2)),
        (model.critic_target, ours.targets),
    ):
        for q, network in zip(critic.q_networks, networks, strict=True):
            sequential = [m for m in q if isinstance(m, torch.nn.Linear)]
            layers(sequential, [*linears(network), network.value])
    found.append((model.log_ent_coef, ours.temperature.log_temperature))
    return found


def minibatch(seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(BATCH, *shape, generator=generator)

    terminated = (normal() > 1.0).float()
    return Batch(
        observation=normal(OBSERVATION),
        action=torch.tanh(normal(ACTION)),
        reward=normal(),
        next_observation=normal(OBSERVATION),
        terminated=terminated,
        truncated=(normal() > 1.0).float(),
        context=None,
        next_context=None,
        regime=torch.zeros(BATCH),
    )


def sb3_step(model, batch, seed):
    """One step of `SAC.train` on a given minibatch; returns the two noise tensors it drew."""
    samples = ReplayBufferSamples(
        batch.observation,
        batch.action,
        batch.next_observation,
        batch.terminated[:, None],
        batch.reward[:, None],
    )
    model.replay_buffer = SimpleNamespace(sample=lambda *args, **kwargs: samples)
    torch.manual_seed(seed)
    model.train(1, BATCH)
    torch.manual_seed(seed)
    ones = torch.ones(BATCH, ACTION)
    return [torch.normal(torch.zeros_like(ones), ones) for _ in range(2)]


def test_losses_of_one_step_equal():
    ours = make_ours()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # targets away from the critics, as in the middle of a run
        for target in ours.targets:
            for parameter in target.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model = make_theirs(ours)
    batch = minibatch(0)
    noise, next_noise = sb3_step(model, batch, seed=5)
    values = dict(zip(sac.STATISTICS, ours._steps.step(batch, noise, next_noise), strict=True))
    logged = model.logger.name_to_value
    for name, key, factor in (
        ("actor_loss", "actor_loss", 1.0),
        ("critic_loss", "critic_loss", 0.5),  # they add the two critics, we average
        ("temperature", "ent_coef", 1.0),
        ("temperature_loss", "ent_coef_loss", 1.0),
    ):
        expected = factor * float(logged[f"train/{key}"])
        assert values[name].item() == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_targets_equal():
    ours = make_ours()
    model = make_theirs(ours)
    batch = minibatch(1)
    torch.manual_seed(3)
    with torch.no_grad():
        action, log_probability = model.actor.action_log_prob(batch.next_observation)
        values = torch.cat(model.critic_target(batch.next_observation, action), dim=1)
        value = values.min(dim=1).values - 0.3 * log_probability
        expected = batch.reward + (1 - batch.terminated) * DISCOUNT * value
    torch.manual_seed(3)
    ones = torch.ones(BATCH, ACTION)
    noise = torch.normal(torch.zeros_like(ones), ones)
    torch.testing.assert_close(ours._steps.targets_of(batch, noise), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_whole_gradient_steps_equal(steps):
    ours = make_ours()
    model = make_theirs(ours)
    before = [own.detach().clone() for _, own in pairs(ours, model)]
    for index in range(steps):
        batch = minibatch(index)
        noise, next_noise = sb3_step(model, batch, seed=10 + index)
        ours._steps.step(batch, noise, next_noise)
    for (theirs, own), old in zip(pairs(ours, model), before, strict=True):
        torch.testing.assert_close(own.detach(), theirs.detach(), rtol=0, atol=1e-5)
        assert (own - old).abs().max() > 1e-5  # everything moved by more than the tolerance


def test_the_approximate_correction_of_sb3_is_what_epsilon_removes():
    ours = make_ours()
    model = make_theirs(ours)
    with torch.no_grad():
        model.actor.mu.bias.fill_(7.0)
        ours.actor.mean.bias.fill_(7.0)
        observation = torch.zeros(1, OBSERVATION)
        model.actor.action_dist.epsilon = 1e-6
        torch.manual_seed(0)
        _, approximate = model.actor.action_log_prob(observation)
        torch.manual_seed(0)
        noise = torch.normal(torch.zeros(1, ACTION), torch.ones(1, ACTION))
        exact = squashed_sample(*ours.actor(observation), noise)[1]
    assert (exact - approximate).abs().item() > 0.1


# A world that never ends but is cut ---------------------------------------------------------

NUM_ENVS, NUM_STATES, LIMIT = 4, 4, 8
HORIZON_DISCOUNT = 0.98


def learnt_values(gradient_steps, **settings):
    """Values of the four states of a ring, (4,); reward 1, every episode cut after 8 steps."""
    config = sac.Config(
        discount=HORIZON_DISCOUNT,
        tau=1.0,
        batch_size=64,
        replay_size=512,
        warmup_steps=128,
        updates_per_env_step=0.25,
        initial_temperature=1e-6,
        temperature_learning_rate=0.0,
        **settings,
    )
    parts = Parts(
        observation_dim=NUM_STATES,
        action_dim=1,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=[32]),
        optimizer=adam.Config(learning_rate=1e-2),
    )
    agent = sac.build(config, parts)
    with torch.no_grad():  # a start nearby saves a minute
        for critic in (agent.critic_1, agent.critic_2, *agent.targets):
            critic.value.bias.fill_(47.0)
    context, regime = np.zeros((NUM_ENVS, 0), np.float32), np.zeros(NUM_ENVS, int)
    reward, never = np.ones(NUM_ENVS), np.zeros(NUM_ENVS, dtype=bool)
    states, elapsed = np.eye(NUM_STATES), 2 * np.arange(NUM_ENVS)
    while agent.clock.gradient_steps < gradient_steps:
        observation = states[elapsed % NUM_STATES]
        action = agent.act(observation, context, explore=True)
        elapsed += 1
        truncated = elapsed == LIMIT
        outcome = (reward, states[elapsed % NUM_STATES], never, truncated)
        agent.observe(Transition(observation, action, *outcome, context, context, regime))
        elapsed[truncated] = 0
        agent.update()
    with torch.no_grad():
        inputs = torch.cat((torch.eye(NUM_STATES), torch.zeros(NUM_STATES, 1)), dim=1)
        return agent.critic_1(inputs).numpy()


def test_cut_episodes_bootstrap_to_the_infinite_value():
    np.testing.assert_allclose(learnt_values(1_200), 1 / (1 - HORIZON_DISCOUNT), atol=1.0)


def test_timeouts_as_terminal_states_bias_the_value():
    values = learnt_values(500, timeouts_terminal=True)
    # Some eight steps of reward 1 are all that a state can still get.
    assert values.max() < 15.0
    assert values.min() > 1.0
