"""Gradient steps of soft actor-critic with gated networks, against the formulas written plainly."""

import numpy as np
import pytest
import torch
from sac_toys import ACTION, NUM_ENVS, OBSERVATION, learn, make, sampled, weights
from torch.nn import functional

from agents.base import Transition
from networks import dendritic, k_winners
from networks.segments import reference_logits

TASKS, STEPS, RATE, TAU, DISCOUNT = 4, 3, 1e-3, 0.005, 0.99

NETWORKS = {
    "k_winners": k_winners.Config(hidden_sizes=[16, 16], active_fraction=0.5),
    "dendrites": dendritic.Config(
        hidden_sizes=[16, 16], num_segments=3, active_fraction=0.5, context_to_input=True
    ),
    "segments_only": dendritic.Config(hidden_sizes=[16, 16], num_segments=1, active_fraction=0.5),
    "both_layers": dendritic.Config(
        hidden_sizes=[16, 16], dendritic_layers=[0, 1], num_segments=2, active_fraction=0.5
    ),
}


def features(weight, x, context, to_input, active_fraction=0.5):
    """Two hidden layers: linear, gate by the signed most extreme segment, k-winners."""
    x = torch.cat((x, context), 1) if to_input else x
    for layer in ("torso.layers.0.", "torso.layers.1."):
        x = x @ weight[f"{layer}linear.weight"].T + weight[f"{layer}linear.bias"]
        if f"{layer}segments" in weight:
            x = x * torch.sigmoid(reference_logits(weight[f"{layer}segments"], context, "absmax"))
        k = round(active_fraction * x.shape[1])
        least = x.detach().sort(1, descending=True).values[:, k - 1 : k]
        x = torch.where(x >= least, x, torch.zeros(()))
    return x


def linear(weight, name, x):
    return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]


def fill(agent, rng, steps=40):
    """Store random transitions; environment i has task i, and one task further on after a step.

    Acceptance 20 of active dendrites: targets are those of the successor's context.
    """
    context = np.eye(TASKS, dtype=np.float32)
    following = np.roll(context, 1, axis=1)
    for _ in range(steps):
        agent.observe(
            Transition(
                rng.normal(size=(NUM_ENVS, OBSERVATION)),
                rng.uniform(-1, 1, size=(NUM_ENVS, ACTION)),
                rng.normal(size=NUM_ENVS),
                rng.normal(size=(NUM_ENVS, OBSERVATION)),
                rng.random(NUM_ENVS) < 0.1,
                rng.random(NUM_ENVS) < 0.1,
                context,
                following,
                np.arange(NUM_ENVS),
            )
        )


def test_targets_boost_the_units_that_their_critics_boost():
    """Duty cycles choose the winners; unboosted ones change nothing and stay where they began."""
    for strength in (0.0, 2.0):
        network = k_winners.Config(
            hidden_sizes=[16, 16], active_fraction=0.5, boost_strength=strength
        )
        agent = make(network=network, context_dim=TASKS)
        learn(agent, np.random.default_rng(0), iterations=3)
        for critic, target in zip((agent.critic_1, agent.critic_2), agent.targets, strict=True):
            for ours, theirs in zip(critic.torso.layers, target.torso.layers, strict=True):
                ours, theirs = ours.activation, theirs.activation
                assert not torch.equal(ours.duty, torch.full((16,), 0.5))
                assert torch.equal(ours.duty, theirs.duty) == (strength > 0.0)
                assert torch.equal(ours.seen, theirs.seen) == (strength > 0.0)
        x, context = torch.randn(64, OBSERVATION + ACTION), torch.eye(TASKS).repeat(16, 1)
        agent.targets[0].load_state_dict(
            {**agent.targets[0].state_dict(), **dict(agent.critic_1.named_parameters())}
        )
        assert torch.equal(agent.targets[0](x, context), agent.critic_1(x, context))


class Plain:
    """Soft actor-critic by the book, in float64, with torch's own Adam."""

    def __init__(self, agent, to_input):
        def copied(module):
            return {k: v.detach().double().clone() for k, v in module.named_parameters()}

        self.to_input = to_input
        self.networks = {name: copied(module) for name, module in agent.networks().items()}
        self.targets = [copied(target) for target in agent.targets]
        self.log_temperature = agent.temperature.log_temperature.detach().double().clone()
        trained = {name: list(w.values()) for name, w in self.networks.items()}
        trained["temperature"] = [self.log_temperature]
        for tensors in trained.values():
            for tensor in tensors:
                tensor.requires_grad_(True)
        self.optimizers = {
            name: torch.optim.Adam(tensors, lr=RATE if name != "temperature" else 3e-4)
            for name, tensors in trained.items()
        }

    def value(self, weight, observation, action, context):
        x = torch.cat((observation, action), 1)
        return linear(weight, "value", features(weight, x, context, self.to_input))[:, 0]

    def policy(self, observation, context, noise):
        weight = self.networks["actor"]
        hidden = features(weight, observation, context, self.to_input)
        mean, log_std = linear(weight, "mean", hidden), linear(weight, "log_std", hidden)
        std = log_std.clamp(-20, 2).exp()
        u = mean + std * noise
        density = torch.distributions.Normal(mean, std).log_prob(u)
        jacobian = 2.0 * (np.log(2.0) - u - functional.softplus(-2.0 * u))
        return torch.tanh(u), (density - jacobian).sum(1)

    def descend(self, name, loss):
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    def step(self, batch, noise, next_noise):
        with torch.no_grad():
            temperature = (batch["context"] * self.log_temperature).sum(1).exp()
            following = (batch["next_context"] * self.log_temperature).sum(1).exp()
            state, context = batch["next_observation"], batch["next_context"]
            action, log_p = self.policy(state, context, next_noise)
            q = torch.minimum(*(self.value(t, state, action, context) for t in self.targets))
            value = (1 - batch["terminated"]) * (q - following * log_p)
            target = batch["reward"] + DISCOUNT * value
        state, context = batch["observation"], batch["context"]
        critics = [self.networks["critic_1"], self.networks["critic_2"]]
        for index, weight in enumerate(critics):
            q = self.value(weight, state, batch["action"], context)
            self.descend(f"critic_{index + 1}", 0.5 * ((q - target) ** 2).mean())
            with torch.no_grad():
                for key, average in self.targets[index].items():
                    average.mul_(1 - TAU).add_(weight[key], alpha=TAU)
        action, log_p = self.policy(state, context, noise)
        q = torch.minimum(*(self.value(weight, state, action, context) for weight in critics))
        self.descend("actor", (temperature * log_p - q).mean())
        own = (context * self.log_temperature).sum(1)
        self.descend("temperature", -(own * (log_p.detach() - 2.0)).mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_steps_are_those_of_the_formulas(name):
    config = NETWORKS[name]
    agent = make(
        network=config, context_dim=TASKS, temperature_per_task=True, learning_rate=RATE, tau=TAU
    )
    fill(agent, np.random.default_rng(0))
    # With segments large enough for gates to be far from one half, whichever segment wins.
    with torch.no_grad():
        for network in (*agent.networks().values(), *agent.targets):
            for key, parameter in network.named_parameters():
                if key.endswith("segments"):
                    parameter.mul_(4.0)
    plain = Plain(agent, config.context_to_input)
    before = weights(agent)
    for seed in range(STEPS):
        batch, noise, next_noise = sampled(agent, seed)
        fields = {k: v.double() for k, v in vars(batch).items()}
        agent._steps.step(batch, noise, next_noise)
        plain.step(fields, noise.double(), next_noise.double())
    after = weights(agent)
    assert all(not torch.equal(before[key], after[key]) for key in after if "segments" in key)
    for network, expected in {
        **plain.networks,
        "target_1": plain.targets[0],
        "target_2": plain.targets[1],
    }.items():
        for key, value in expected.items():
            found = after[f"{network}.{key}"].double()
            torch.testing.assert_close(found, value.detach(), rtol=0, atol=2e-5)
    torch.testing.assert_close(
        after["temperature"].double(), plain.log_temperature.detach(), rtol=0, atol=1e-6
    )
