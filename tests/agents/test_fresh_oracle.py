"""The fresh-network oracle: nothing but the count of iterations survives a task change."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from random_worlds import random_step

from agents import ppo, sac, supervised
from agents.base import Agent
from agents.fresh import FreshAtTaskChange
from agents.parts import Parts
from networks import mlp
from plasticity.methods import continual_backprop, ewc, injection
from plasticity.optimizers import adam

NUM_ENVS, OBSERVATION, ACTION = 4, 5, 2
PPO = ppo.Config(rollout_length=16, num_epochs=2, minibatch_size=16, normalize_observation=True)
SAC = sac.Config(
    batch_size=16,
    replay_size=512,
    warmup_steps=24,
    updates_per_env_step=0.5,
    steps_per_iteration=32,
)
EMPTY = np.zeros((NUM_ENVS, 0), dtype=np.float32)
METHODS = {
    "continual_backprop": continual_backprop.Config(maturity_threshold=3, replacement_rate=0.1)
}
KINDS = ["ppo", "sac"]


def builder(kind, methods=None, seed=0):
    module, config = {"ppo": (ppo, PPO), "sac": (sac, SAC)}[kind]
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=[16]),
        optimizer=adam.Config(learning_rate=1e-3),
        methods=METHODS if methods is None else methods,
        seed=seed,
    )
    return lambda life: module.build(config, dataclasses.replace(parts, life=life))


def steps(agent, rng, count):
    for _ in range(count):
        random_step(agent, rng, EMPTY, OBSERVATION)
        agent.update()


def differences(left, right, path=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        return [p for key in left for p in differences(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, list | tuple):
        pairs = enumerate(zip(left, right, strict=True))
        return [p for i, (a, b) in pairs for p in differences(a, b, f"{path}/{i}")]
    equal = (
        torch.equal(left, right)
        if isinstance(left, torch.Tensor)
        else np.array_equal(left, right)
        if isinstance(left, np.ndarray)
        else left == right
    )
    return [] if equal else [path]


def inner_state(agent):
    return {key: value for key, value in agent.state_dict().items() if key != "life"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_life_is_the_plain_agent(kind):
    fresh, plain = FreshAtTaskChange(builder(kind)), builder(kind)(0)
    for agent in (fresh, plain):
        steps(agent, np.random.default_rng(0), 50)
    assert not differences(inner_state(fresh), plain.state_dict())
    assert fresh.iteration == plain.iteration > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_life_is_a_new_agent_in_every_bit(kind):
    """Optimizer, methods, normaliser, replay, warm-up and rollout included."""
    agent = FreshAtTaskChange(builder(kind))
    steps(agent, np.random.default_rng(0), 50)
    before = agent.iteration
    agent.on_task_change(1)
    assert agent.iteration == before
    new = builder(kind)(1)
    assert not differences(inner_state(agent), new.state_dict())
    for one in (agent, new):
        steps(one, np.random.default_rng(1), 40)
    assert not differences(inner_state(agent), new.state_dict())
    assert agent.iteration == before + new.iteration


@pytest.mark.parametrize("kind", KINDS)
def test_lives_draw_from_different_streams(kind):
    agent, weights, actions = FreshAtTaskChange(builder(kind)), [], []
    for life in range(3):
        weights.append(next(iter(agent.networks().values())).torso.layers[0].linear.weight.clone())
        actions.append(agent.act(np.zeros((NUM_ENVS, OBSERVATION)), EMPTY, explore=True))
        agent.on_task_change(life + 1)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(weights[i], weights[j])
        assert not np.array_equal(actions[i], actions[j])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lives", [0, 1, 2])
def test_resuming_is_exact_in_every_life(kind, lives):
    first, rng = FreshAtTaskChange(builder(kind)), np.random.default_rng(0)
    for life in range(lives):
        steps(first, rng, 20)
        first.on_task_change(life + 1)
    steps(first, rng, 13)
    state = first.state_dict()
    second = FreshAtTaskChange(builder(kind, seed=5))
    second.load_state_dict(state)
    assert second.iteration == first.iteration
    seed = np.random.SeedSequence(3)
    for agent in (first, second):
        steps(agent, np.random.default_rng(seed), 30)
    assert not differences(first.state_dict(), second.state_dict())


def test_structure_that_a_method_has_changed_begins_anew_as_well():
    methods = {"injection": injection.Config(period=24)}
    agent = FreshAtTaskChange(builder("ppo", methods))
    steps(agent, np.random.default_rng(0), 40)
    assert any(update.methods["injection"].count for update in agent.updates.values())
    agent.on_task_change(1)
    new = builder("ppo", methods)(1)
    for name, update in agent.updates.items():
        assert update.methods["injection"].count == 0
        frozen = [p.requires_grad for p in update.network.parameters()]
        assert frozen == [p.requires_grad for p in new.updates[name].network.parameters()]


def test_beginnings_are_events_and_no_event_gets_lost():
    agent = FreshAtTaskChange(builder("ppo"))
    steps(agent, np.random.default_rng(0), 40)
    agent.on_task_change(4)
    events = agent.pop_events()
    assert events[-1] == {"event": "begin_anew", "task": 4, "life": 1}
    assert [event["event"] for event in events[:-1]] == ["unit_reset"] * (len(events) - 1)
    assert len(events) > 1
    assert agent.pop_events() == []


def test_it_says_that_it_uses_the_boundary():
    agent = FreshAtTaskChange(builder("ppo"))
    assert agent.methods_that_need_boundaries() == ["fresh_at_switch"]
    assert "uses task boundary" in agent.announcements()[0]


def test_methods_that_wait_for_switches_are_said_to_be_idle():
    methods = {"ewc": ewc.Config(), "continual_backprop": METHODS["continual_backprop"]}
    agent = FreshAtTaskChange(builder("ppo", methods))
    assert agent.methods_that_need_boundaries() == ["fresh_at_switch"]
    assert agent.announcements()[-1].startswith("ewc: nothing happens at task changes")
    assert "nothing happens" not in str(FreshAtTaskChange(builder("ppo")).announcements())


def test_sampling_for_an_evaluation_leaves_the_normaliser_of_the_inner_agent_alone():
    agent = FreshAtTaskChange(builder("ppo"))
    steps(agent, np.random.default_rng(0), 5)
    before, observation = agent.normalizer.state_dict(), np.full((NUM_ENVS, OBSERVATION), 9.0)
    agent.begin_sampling()
    first = agent.sample(observation, EMPTY)
    assert not differences(agent.normalizer.state_dict(), before)
    assert (agent.sample(observation, EMPTY) != first).any()
    agent.begin_sampling()
    np.testing.assert_array_equal(agent.sample(observation, EMPTY), first)
    assert FreshAtTaskChange(builder("sac")).normalizer is None


@pytest.mark.parametrize("epochs", [None, [1]])
def test_the_first_answers_of_a_task_reach_the_agent_of_that_task(epochs):
    """Supervised problems tell them together with the news of the task."""
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=1,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=[8]),
        optimizer=adam.Config(),
        answers="numbers",
    )
    config = supervised.Config(step_size_epochs=epochs)

    def build(life):
        return supervised.build(config, dataclasses.replace(parts, life=life))

    agent, new = FreshAtTaskChange(build), build(1)
    rng = np.random.default_rng(0)
    tell(agent, rng)
    agent.update()
    first = rng.bit_generator.state
    tell(agent, rng)
    agent.on_task_change(1)
    rng.bit_generator.state = first
    tell(new, rng)
    for one in (agent, new):
        assert one.update_is_due
        assert len(one.window_inputs("predictor", 100)[0]) == NUM_ENVS
        one.update()
    assert not differences(inner_state(agent), new.state_dict())
    assert new.updates["predictor"].num_steps == NUM_ENVS
    agent.on_task_change(2)
    assert not agent.update_is_due  # everything had been learnt from


def tell(agent, rng):
    random_step(agent, rng, EMPTY, OBSERVATION, target=lambda observation: observation[:, :1])


def test_the_old_agent_is_gone_before_the_new_one_is_built():
    """Two replays of a million transitions may not fit side by side."""
    import weakref

    seen, build = [], builder("sac")

    def watched(life):
        seen.append([reference() for reference in references])
        agent = build(life)
        references.append(weakref.ref(agent.replay))
        return agent

    references = []
    agent = FreshAtTaskChange(watched)
    steps(agent, np.random.default_rng(0), 30)
    agent.on_task_change(1)
    assert seen == [[], [None]]


def test_everything_that_agents_define_for_themselves_is_passed_on():
    """A new hook of agents must not silently fall back to the base class here."""
    own = {"predict"}  # made of act and sample
    for kind in (ppo.PPO, sac.SAC):
        overridden = {
            name
            for name in vars(Agent)
            if not name.startswith("_") and name in vars(kind) and says_what_it_is(name)
        }
        assert overridden - own <= set(vars(FreshAtTaskChange))


def says_what_it_is(name):
    member = inspect.getattr_static(Agent, name)
    return callable(member) or isinstance(member, property | bool)
