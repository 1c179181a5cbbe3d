"""A small soft actor-critic and the worlds that its tests share."""

from __future__ import annotations

import numpy as np
import torch

from agents import sac
from agents.base import Transition
from agents.parts import Parts
from networks import mlp
from networks.torso import ContextSpec
from plasticity.optimizers import adam

OBSERVATION, ACTION, NUM_ENVS = 5, 2, 4


def make(
    seed=0,
    methods=None,
    context_dim=0,
    num_envs=NUM_ENVS,
    observation=OBSERVATION,
    action=ACTION,
    hidden=(16, 16),
    learning_rate=1e-3,
    threads=1,
    total_steps=0,
    network=None,
    **settings,
):
    settings = {
        "batch_size": 32,
        "replay_size": 400,
        "warmup_steps": 64,
        "updates_per_env_step": 0.5,
        "steps_per_iteration": 64,
        **settings,
    }
    parts = Parts(
        observation_dim=observation,
        action_dim=action,
        num_envs=num_envs,
        network=network or mlp.Config(hidden_sizes=list(hidden)),
        optimizer=adam.Config(learning_rate=learning_rate),
        methods=methods or {},
        context=ContextSpec(context_dim, discrete=context_dim > 0),
        seed=seed,
        total_steps=total_steps,
        num_threads=threads,
    )
    return sac.build(sac.Config(**settings), parts)


def step(agent, rng, regime=0):
    """One vector step of random numbers; with contexts, environment i has task i."""
    num_envs, size = agent.num_envs, agent.actor.torso.layers[0].linear.in_features
    context_dim = agent.replay.columns.slices["context"]
    context_dim = context_dim.stop - context_dim.start
    context = np.eye(max(1, context_dim), dtype=np.float32)
    context = context[np.arange(num_envs) % max(1, context_dim), :context_dim]
    observation = rng.normal(size=(num_envs, size - context_dim))
    action = agent.act(observation, context, explore=True)
    agent.observe(
        Transition(
            observation,
            action,
            rng.normal(size=num_envs),
            rng.normal(size=observation.shape),
            rng.random(num_envs) < 0.1,
            rng.random(num_envs) < 0.1,
            context,
            context,
            np.full(num_envs, regime),
        )
    )
    return action


def fill(agent, rng, steps=40):
    """Store transitions without learning from them."""
    for _ in range(steps):
        step(agent, rng)


def learn(agent, rng, iterations=1):
    """Run until some iterations are complete; returns what the last one logged."""
    last, logged = agent.iteration + iterations, {}
    while agent.iteration < last:
        step(agent, rng)
        logged = agent.update() or logged
    return logged


def weights(agent):
    """All trained numbers, targets and temperature included."""
    modules = {**agent.networks(), "target_1": agent.targets[0], "target_2": agent.targets[1]}
    found = {
        f"{name}.{key}": value.detach().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    return {**found, "temperature": agent.temperature.log_temperature.detach().clone()}


def different(first, second):
    """Names of the modules that differ between two results of `weights`."""
    return {key.split(".")[0] for key in first if not torch.equal(first[key], second[key])}


def sampled(agent, seed=0):
    """A minibatch and noise for one gradient step."""
    rows = agent.replay.draw(agent.config.batch_size, torch.Generator().manual_seed(seed))
    noise = torch.randn(2, agent.config.batch_size, agent.action_dim)
    return agent.replay.rows(rows), *noise
