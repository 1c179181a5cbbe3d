"""What every agent promises, tested for every file in agents/ that defines one."""

import dataclasses

import numpy as np
import pytest
import torch
from random_worlds import random_step

from agents.base import Agent
from agents.parts import Parts
from configs.run import AGENTS
from networks import mlp
from networks.torso import ContextSpec
from plasticity.optimizers import adam

OBSERVATION, ACTION, NUM_ENVS = 5, 2, 4
# Settings that make two iterations quick; a file that is not listed is tested with its defaults.
SMALL = {
    "ppo": {"rollout_length": 16, "minibatch_size": 32, "num_epochs": 2},
    "sb3_ppo": {"rollout_length": 16, "minibatch_size": 32, "num_epochs": 2, "hidden_sizes": [16]},
    "sac": {
        "batch_size": 16,
        "replay_size": 96,
        "warmup_steps": 24,
        "updates_per_env_step": 0.5,
        "steps_per_iteration": 32,
    },
    "sb3_sac": {
        "batch_size": 16,
        "replay_size": 96,
        "warmup_steps": 24,
        "updates_per_env_step": 0.5,
        "steps_per_iteration": 32,
        "hidden_sizes": [16],
    },
}
KINDS = AGENTS.names()
BUILDS_OWN_NETWORKS = ("sb3_ppo", "sb3_sac")


def make(kind, seed=0, context_dim=0):
    module = AGENTS.get(kind)
    own = kind in BUILDS_OWN_NETWORKS
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=NUM_ENVS,
        network=mlp.Config() if own else mlp.Config(hidden_sizes=[16]),
        optimizer=adam.Config() if own else adam.Config(learning_rate=1e-3),
        context=ContextSpec(context_dim, discrete=context_dim > 0),
        seed=seed,
        answers="numbers",
    )
    return module.build(module.Config(**SMALL.get(kind, {})), parts)


class World:
    """Random transitions from a stream that can be saved, so that agents can be compared."""

    def __init__(self, seed=0, context_dim=0):
        self.rng = np.random.default_rng(seed)
        self.context = np.eye(max(1, context_dim))[np.arange(NUM_ENVS) % max(1, context_dim)]
        self.context = self.context[:, :context_dim].astype(np.float32)

    def step(self, agent, updates=True):
        action = random_step(
            agent,
            self.rng,
            self.context,
            OBSERVATION,
            end_rate=0.1,
            target=lambda observation: np.tanh(observation[:, :ACTION]),
        )
        return action, agent.update() if updates and agent.update_is_due else {}

    def iterate(self, agent, count=1):
        """Run until some iterations are complete; returns what each of them logged."""
        rows, last = [], agent.iteration + count
        for _ in range(20_000):
            _, statistics = self.step(agent)
            rows += [statistics] if statistics else []
            if agent.iteration >= last:
                return rows
        raise AssertionError("no iteration within 80,000 environment steps")


def weights(agent):
    return {
        f"{name}.{key}": value.detach().clone()
        for name, network in agent.networks().items()
        for key, value in network.state_dict().items()
    }


def different(first, second):
    return [key for key in first if not torch.equal(first[key], second[key])]


@pytest.mark.parametrize("kind", KINDS)
def test_builds_with_the_kind_of_its_own_file(kind):
    module = AGENTS.get(kind)
    assert module.Config().kind == kind
    assert dataclasses.is_dataclass(module.Config)
    agent = make(kind)
    assert isinstance(agent, Agent)
    assert agent.iteration == 0
    assert agent.is_at_quiet_point
    assert not agent.update_is_due
    assert agent.update() == {}
    agent.close()


@pytest.mark.parametrize("kind", KINDS)
def test_learning_changes_every_network_and_logs_what_it_declared(kind):
    agent, world = make(kind), World()
    before = weights(agent)
    rows = world.iterate(agent, 2)
    changed = different(before, weights(agent))
    assert {key.split(".")[0] for key in changed} == set(agent.networks())
    assert agent.iteration == 2
    assert len(rows) == 2
    for row in rows:
        assert set(row) == set(agent.statistic_names())
        assert all(value.dim() == 0 for value in row.values())
        assert all(np.isfinite(float(value)) for value in row.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_state_round_trip_continues_in_the_same_bits(kind, extra):
    agent, world = make(kind), World()
    world.iterate(agent, 2)
    for _ in range(extra):  # vector steps into the next iteration
        world.step(agent)
    state, position = agent.state_dict(), world.rng.bit_generator.state
    twin, twin_world = make(kind, seed=1), World(seed=1)
    twin.load_state_dict(state)
    twin_world.rng.bit_generator.state = position
    assert not different(weights(agent), weights(twin))
    for _ in range(40):
        action, statistics = world.step(agent)
        twin_action, twin_statistics = twin_world.step(twin)
        assert np.array_equal(action, twin_action)
        assert statistics == twin_statistics
    assert agent.iteration == twin.iteration > 2
    assert not different(weights(agent), weights(twin))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_shares_nothing_with_the_agent(kind):
    agent, world = make(kind), World()
    world.iterate(agent)
    state, before = agent.state_dict(), weights(agent)
    world.iterate(agent)
    twin = make(kind, seed=1)
    twin.load_state_dict(state)
    assert not different(before, weights(twin))


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide_everything(kind):
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))  # the process-wide generator must not matter
        agent, world = make(kind, seed), World()
        world.iterate(agent)
        runs.append(weights(agent))
    assert not different(runs[0], runs[1])
    assert different(runs[0], runs[2])


@pytest.mark.parametrize("kind", KINDS)
def test_watching_leaves_no_trace(kind):
    """Deterministic actions, watched samples and measurements between two training steps."""
    agents = [make(kind), make(kind)]
    worlds = [World(), World()]
    process_wide = torch.get_rng_state()
    for _ in range(40):
        for agent, world, watched in zip(agents, worlds, (False, True), strict=True):
            if watched:
                observation, context = np.ones((3, OBSERVATION)), np.zeros((3, 0), np.float32)
                action = agent.act(observation, context, explore=False)
                again = agent.act(observation, context, explore=False)
                assert np.array_equal(action, again)
                assert action.shape == (3, ACTION)
                assert action.dtype == np.float32
                agent.sample(observation, context)
                for name, network in agent.networks().items():
                    inputs = agent.network_inputs(name, observation, action, context)
                    with torch.no_grad():
                        network(*inputs)
            world.step(agent)
    assert agents[0].iteration == agents[1].iteration > 0
    assert not different(weights(agents[0]), weights(agents[1]))
    assert torch.equal(process_wide, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_window_holds_the_last_transitions_and_only_before_an_update(kind):
    agent, world = make(kind), World()
    name = next(iter(agent.networks()))
    assert agent.window_inputs(name, 8) is None
    seen = []
    while not agent.update_is_due:
        position = world.rng.bit_generator.state
        seen.append(np.random.default_rng())
        seen[-1].bit_generator.state = position
        world.step(agent, updates=False)
    expected = np.concatenate([r.normal(size=(NUM_ENVS, OBSERVATION)) for r in seen[-2:]])
    inputs, context = agent.window_inputs(name, 2 * NUM_ENVS)
    assert context is None
    np.testing.assert_allclose(inputs, expected, rtol=1e-6)
    for other, network in agent.networks().items():
        inputs, _ = agent.window_inputs(other, 8)
        with torch.no_grad():
            network(inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_are_accepted(kind):
    agent, world = make(kind, context_dim=3), World(context_dim=3)
    world.iterate(agent)
    first, second = (
        agent.act(np.zeros((1, OBSERVATION)), np.eye(3, dtype=np.float32)[[task]], explore=False)
        for task in (0, 1)
    )
    assert not np.array_equal(first, second)  # the perceptron's input has the context in it


@pytest.mark.parametrize("kind", KINDS)
def test_transplants_replace_what_they_are_told(kind):
    donor, world = make(kind), World()
    world.iterate(donor)
    state, given = donor.state_dict(), weights(donor)
    whole = make(kind, seed=1)
    whole.transplant(state, [])
    assert not different(weights(donor), weights(whole))
    first = next(iter(donor.networks()))
    assert first in whole.organs()
    partial, untouched = make(kind, seed=1), weights(make(kind, seed=1))
    partial.transplant(state, [first])
    after = weights(partial)
    mine = [key for key in after if key.startswith(f"{first}.") and key != f"{first}.log_std"]
    assert all(torch.equal(after[key], untouched[key]) for key in mine)
    others = [key for key in after if not key.startswith(f"{first}.")]
    assert others or list(donor.networks()) == [first]
    assert all(torch.equal(after[key], given[key]) for key in others)
    with pytest.raises(ValueError, match="fresh_parts has liver"):
        partial.transplant(state, ["liver"])
