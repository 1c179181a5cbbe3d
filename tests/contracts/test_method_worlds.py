"""Every method, optimizer and layer option trains on the Ant and on a Meta-World task.

Parametrised over the files, so that a new one is covered the moment it exists. Settings with
which a method acts within a few gradient steps come from `test_methods`.
"""

import dataclasses
import warnings

import pytest
import torch
from test_methods import STRONG

from agents.base import Transition
from agents.parts import METHODS, OPTIMIZERS
from configs.build import build_agent, build_environment
from configs.compose import compose_run, presets

WORLDS = {
    "ant": ["env=slippery_ant", "env.num_envs=2", "env.max_episode_steps=12"],
    "reach": ["env=mt1", "env.task=reach-v3", "env.horizon=12"],
}
AGENTS = {
    "ppo": ["agent.rollout_length=16", "agent.minibatch_size=16", "agent.num_epochs=4"],
    "sac": [
        "agent=sac",
        "agent.batch_size=8",
        "agent.replay_size=64",
        "agent.warmup_steps=8",
        "agent.updates_per_env_step=0.5",
        "agent.steps_per_iteration=8",
    ],
}
LAYER_OPTIONS = [
    p for p in presets("network") if p in ("layer_norm", "crelu", "smooth_leaky", "deep_fourier")
]
CHOICES = [
    *(("method", kind) for kind in METHODS.names()),
    *(("optimizer", kind) for kind in OPTIMIZERS.names()),
    *(("network", name) for name in LAYER_OPTIONS),
]
NUM_STEPS = 34


def compose(world, agent, network="mlp"):
    words = [*WORLDS[world], *AGENTS[agent], f"network={network}", "network.hidden_sizes=[16,16]"]
    return compose_run([*words, "total_steps=100000", "boundary=oracle"]).config


@pytest.fixture(scope="module")
def worlds():
    """Built once: what is tested does not depend on where an episode begins."""
    built = {name: build_environment(compose(name, "ppo")) for name in WORLDS}
    yield built
    for envs, _ in built.values():
        envs.close()


@pytest.fixture(scope="module")
def configs():
    names = ["mlp", *LAYER_OPTIONS]
    return {(w, a, n): compose(w, a, n) for w in WORLDS for a in AGENTS for n in names}


def chosen(configs, world, agent, group, name):
    """Configuration with one method, optimizer or layer option."""
    if group == "network":
        return configs[world, agent, name]
    entry = STRONG.get(name) if group == "method" else None
    layer_norm = entry is not None and entry.layer_norm
    config = configs[world, agent, "layer_norm" if layer_norm else "mlp"]
    if group == "optimizer":
        # TRAC as published is frozen for longer than these few steps.
        settings = {"initial_scale": 0.1} if name == "trac" else {}
        optimizer = OPTIMIZERS.get(name).Config(learning_rate=1e-3, **settings)
        return dataclasses.replace(config, optimizer=optimizer)
    method = METHODS.get(name).Config(**({} if entry is None else entry.strong))
    return dataclasses.replace(config, method={name: method})


def differs(learner, name, start):
    """Whether a trained parameter of a network is not as it was at the start."""
    pairs = zip(start[name], learner.networks()[name].parameters(), strict=True)
    return any(p.requires_grad and not torch.equal(before, p) for before, p in pairs)


@pytest.mark.parametrize("world", list(WORLDS))
@pytest.mark.parametrize("agent", list(AGENTS))
@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda value: value)
def test_it_trains(worlds, configs, group, name, agent, world):
    envs, info = worlds[world]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parseval on weights that are not orthogonal
        learner = build_agent(chosen(configs, world, agent, group, name), info)
    start = {
        name: [p.detach().clone() for p in network.parameters()]
        for name, network in learner.networks().items()
    }
    moved = set()  # at any time: TRAC may go back to where it began
    observation, context = envs.reset()[0], envs.context
    try:
        for step in range(NUM_STEPS):
            action = learner.act(observation, context, explore=True)
            after, reward, terminated, truncated, facts = envs.step(action)
            learner.observe(
                Transition(
                    observation,
                    action,
                    reward,
                    facts["next_observation"],
                    terminated,
                    truncated,
                    context,
                    facts["next_context"],
                    facts["regime"],
                )
            )
            learner.update()
            moved |= {name for name in start.keys() - moved if differs(learner, name, start)}
            observation, context = after, facts["context"]
            if step == NUM_STEPS // 2:
                learner.on_task_change(1)
        for network_name, update in learner.updates.items():
            assert update.num_steps >= 8
            assert network_name in moved
            trained = [p for p in update.network.parameters() if p.requires_grad]
            assert trained
            assert all(bool(p.isfinite().all()) for p in trained)
    finally:
        learner.close()


def test_all_layer_options_are_there():
    assert len(LAYER_OPTIONS) == 4
