"""What every method promises, tested for every file in plasticity/methods/ on every agent.

A new file needs one entry in `STRONG`: settings with which it acts within a few updates, and
settings that switch it off.
"""

import dataclasses
import functools
import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from random_worlds import random_step

from agents.parts import METHODS, Parts
from configs.run import AGENTS
from networks import dendritic, mlp
from networks.masks import HasMasks
from networks.torso import ContextSpec
from networks.units import parameter_roles
from plasticity.optimizers import adam


@dataclass(frozen=True)
class Entry:
    """Settings of one method for these tests."""

    strong: dict[str, Any]
    off: dict[str, Any]
    layer_norm: bool = False
    at_boundaries: dict[str, Any] = field(default_factory=dict)


PERIODIC = {"period": 5, "clock": "gradient_step", "at_task_change": False}
AT_BOUNDARIES = {"period": 0, "at_task_change": True}
NEVER = {"period": 0, "at_task_change": False}
STRONG = {
    "c_chain": Entry({"warmup_steps": 2, "window_steps": 100}, {"relative_strength": 0.0}),
    "continual_backprop": Entry(
        {"maturity_threshold": 3, "replacement_rate": 0.05}, {"replacement_rate": 0.0}
    ),
    "ewc": Entry(
        {"strength": 1e3, "num_samples": 8, "refresh_period": 2, **PERIODIC},
        {"strength": 0.0, **PERIODIC},
        at_boundaries=AT_BOUNDARIES,
    ),
    "fire": Entry(PERIODIC, NEVER, at_boundaries=AT_BOUNDARIES),
    "hare_tortoise": Entry({"momentum": 0.5, "period": 5}, {"period": 0}),
    "injection": Entry(PERIODIC, {"max_injections": 0}, at_boundaries=AT_BOUNDARIES),
    "l2_init": Entry({"strength": 0.1}, {"strength": 0.0}),
    "nap": Entry({}, {"period": 0}, layer_norm=True),
    "parseval": Entry({"strength": 0.1}, {"strength": 0.0}),
    "redo": Entry({"period": 5, "dormancy_threshold": 0.7, "window_samples": 32}, {"period": 0}),
    "regrama": Entry({"period": 5, "dormancy_threshold": 0.7}, {"period": 0}),
    "reset": Entry(PERIODIC, NEVER, at_boundaries=AT_BOUNDARIES),
    "shrink_perturb": Entry(
        PERIODIC, {"shrink": 1.0, "noise": 0.0, **PERIODIC}, at_boundaries=AT_BOUNDARIES
    ),
    "si": Entry(
        {"strength": 1e3, **PERIODIC}, {"strength": 0.0, **PERIODIC}, at_boundaries=AT_BOUNDARIES
    ),
    "snr": Entry(
        {"min_silence": 1, "max_silence": 1, "min_records": 1, "refresh_period": 2},
        {"tail_probability": 0.0},
    ),
    "spectral": Entry({"strength": 0.1}, {"strength": 0.0}),
    "wasserstein_init": Entry({"strength": 0.1}, {"strength": 0.0}),
    "weight_clipping": Entry({"kappa": 0.5}, {"kappa": math.inf}),
}
KINDS = METHODS.names()
MISSING = [kind for kind in KINDS if kind not in STRONG]
TESTED = [kind for kind in KINDS if kind in STRONG]
WITH_BOUNDARIES = [kind for kind in TESTED if STRONG[kind].at_boundaries]
SMALL = {
    "ppo": {"rollout_length": 16, "minibatch_size": 16, "num_epochs": 2},
    "sac": {
        "batch_size": 16,
        "replay_size": 512,
        "warmup_steps": 24,
        "updates_per_env_step": 0.5,
        "steps_per_iteration": 16,
    },
}
PLACES = [(agent, network) for agent in ("ppo", "sac") for network in ("mlp", "dendritic")]
OBSERVATION, ACTION, NUM_ENVS, NUM_TASKS = 5, 2, 4, 3


def network_config(network, layer_norm):
    if network == "mlp":
        return mlp.Config(hidden_sizes=[16, 16], layer_norm=layer_norm)
    return dendritic.Config(
        hidden_sizes=[16, 16],
        active_fraction=0.5,
        weight_density=0.75,
        head_density=0.75,
        layer_norm=layer_norm,
    )


def make(place, kind=None, settings=None, layer_norm=None, seed=0):
    agent, network = place
    module, methods = AGENTS.get(agent), {}
    if kind is not None:
        methods[kind] = METHODS.get(kind).Config(**(settings or {}))
        layer_norm = STRONG[kind].layer_norm if layer_norm is None else layer_norm
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=NUM_ENVS,
        network=network_config(network, bool(layer_norm)),
        optimizer=adam.Config(learning_rate=1e-3),
        methods=methods,
        context=ContextSpec(NUM_TASKS, discrete=True),
        seed=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parseval on weights that are not orthogonal
        return module.build(module.Config(**SMALL[agent]), parts)


class World:
    """Random transitions; environment i has task i modulo the number of tasks."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.context = np.eye(NUM_TASKS, dtype=np.float32)[np.arange(NUM_ENVS) % NUM_TASKS]

    def iterate(self, agent, count, boundary_after=None):
        """Run some iterations; announce a task change after one of them."""
        rng, last = self.rng, agent.iteration + count
        change = None if boundary_after is None else agent.iteration + boundary_after
        while agent.iteration < last:
            before = agent.iteration
            random_step(agent, rng, self.context, OBSERVATION, end_rate=0.1)
            agent.update()
            if agent.iteration != before and agent.iteration == change:
                agent.on_task_change(1)


def without_methods(state):
    updates = {
        name: {key: value for key, value in update.items() if key not in ("methods", "penalties")}
        for name, update in state["updates"].items()
    }
    return {**state, "updates": updates}


def same(left, right, path=""):
    """Paths at which two nested states differ in a bit."""
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return [f"{path}: {sorted(left.keys() ^ right.keys())}"]
        return [p for key in left for p in same(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, list | tuple):
        pairs = zip(left, right, strict=True)
        return [p for i, (a, b) in enumerate(pairs) for p in same(a, b, f"{path}/{i}")]
    if isinstance(left, torch.Tensor):
        equal = left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, np.ndarray):
        equal = np.array_equal(left, right)
    else:
        equal = left == right
    return [] if equal else [path]


def streams(state):
    """States of the generators that no method may draw from."""
    if "generators" in state:
        return dict(state["generators"])
    return {name: state[name] for name in ("action_noise", "shuffle")}


@functools.cache
def baseline(place, layer_norm, iterations):
    agent = make(place, layer_norm=layer_norm)
    World().iterate(agent, iterations)
    return agent.state_dict()


def networks_acted_on(agent, kind):
    return {
        name: (update, update.methods[kind])
        for name, update in agent.updates.items()
        if kind in update.methods and update.methods[kind].active
    }


def everywhere(kinds):
    cases = [(kind, place) for kind in kinds for place in PLACES]
    names = [f"{kind}-{agent}-{network}" for kind, (agent, network) in cases]
    return pytest.mark.parametrize(("kind", "place"), cases, ids=names)


def test_every_method_has_an_entry():
    assert not MISSING, (
        f"plasticity/methods/{MISSING[0]}.py is not tested: give {', '.join(MISSING)} an entry in "
        "STRONG (tests/contracts/test_methods.py) with settings that act within a few updates, "
        "and settings that switch it off"
    )
    assert set(STRONG) == set(KINDS), "entries without a file"


@pytest.mark.parametrize("kind", KINDS)
def test_config_is_frozen_and_names_its_own_file(kind):
    config = METHODS.get(kind).Config
    assert dataclasses.is_dataclass(config)
    assert config().kind == kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().kind = "other"
    names = {f.name for f in dataclasses.fields(config)}
    assert "networks" in names
    with pytest.raises(ValueError, match=r"networks"):
        config(networks=["no_such_network"])


@everywhere(TESTED)
def test_acts_goes_on_learning_and_leaves_other_streams_alone(kind, place):
    agent, world = make(place, kind, STRONG[kind].strong), World()
    world.iterate(agent, 4)
    plain = baseline(place, STRONG[kind].layer_norm, 4)
    changed = same(
        without_methods(plain)["updates"], without_methods(agent.state_dict())["updates"]
    )
    acted = networks_acted_on(agent, kind)
    assert acted
    for name in acted:
        assert any(path.startswith(f"/{name}/") for path in changed), f"{name}: it did nothing"
    before = {
        name: {key: p.detach().clone() for key, p in network.named_parameters()}
        for name, network in agent.networks().items()
    }
    trained = {
        name: {key for key, p in network.named_parameters() if p.requires_grad}
        for name, network in agent.networks().items()
    }
    world.iterate(agent, 3)  # 24 gradient steps
    for name, network in agent.networks().items():
        parameters = dict(network.named_parameters())
        held = [p for group in agent.updates[name].optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(parameters[key]) for key in trained[name]}
        assert len(held) == len(trained[name])
        for key, parameter in parameters.items():
            moved = not torch.equal(parameter, before[name][key])
            assert moved == (key in trained[name]), f"{name}.{key}"
            assert torch.isfinite(parameter).all()
    longer = baseline(place, STRONG[kind].layer_norm, 7)
    assert not same(streams(longer), streams(agent.state_dict()))


@everywhere(TESTED)
def test_zero_strength_is_the_baseline_bit_for_bit_and_costs_nothing(kind, place):
    iterations = 25 if place == ("ppo", "mlp") else 3  # 200 and 24 gradient steps
    agent = make(place, kind, STRONG[kind].off)
    for network in agent.networks().values():
        assert not any(module._forward_hooks for module in network.modules())
    for update in agent.updates.values():
        assert not update.has_penalties
        assert not update.needs_activations
        for method in update.methods.values():
            assert not method.active
            assert method.state_dict() == {}
    assert agent.methods_that_need_boundaries() == []
    World().iterate(agent, iterations)
    plain = baseline(place, STRONG[kind].layer_norm, iterations)
    assert not same(without_methods(plain), without_methods(agent.state_dict()))


@everywhere(TESTED)
def test_save_and_load_continue_in_the_same_bits(kind, place):
    check_save_and_load(kind, place, boundary=False)


@everywhere(WITH_BOUNDARIES)
def test_save_and_load_around_task_changes(kind, place):
    check_save_and_load(kind, place, boundary=True)


def check_save_and_load(kind, place, boundary):
    entry = STRONG[kind]
    settings = {**entry.strong, **(entry.at_boundaries if boundary else {})}
    after = 1 if boundary else None
    agent, world = make(place, kind, settings), World()
    world.iterate(agent, 2, after)
    agent.pop_events()
    state, position = agent.state_dict(), world.rng.bit_generator.state
    kept = same_copy(state)
    twin, twin_world = make(place, kind, settings, seed=1), World(1)
    twin.load_state_dict(state)
    assert not same(state, twin.state_dict())
    twin_world.rng.bit_generator.state = position
    for both, stream in ((agent, world), (twin, twin_world)):
        stream.iterate(both, 2, after)
    assert not same(agent.state_dict(), twin.state_dict())
    assert agent.pop_events() == twin.pop_events()
    assert not same(kept, state)  # neither agent has written into the saved tensors


def same_copy(state):
    if isinstance(state, dict):
        return {key: same_copy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [same_copy(value) for value in state]
    if isinstance(state, torch.Tensor):
        return state.clone()
    return state.copy() if isinstance(state, np.ndarray) else state


class Watcher:
    """Looks at one network before and after every hook that may edit it."""

    def __init__(self, update, method):
        self.update, self.method = update, method
        self.roles = parameter_roles(update.network)
        self.edits = self.pulls = 0
        self.order = []
        for name in ("after_step", "on_task_change"):
            setattr(method, name, self.watched(getattr(method, name), name))
        method.penalty = self.watched_penalty(method.penalty)
        original = update.optimizer.step

        def step(*arguments):
            self.order.append("optimizer")
            return original(*arguments)

        update.optimizer.step = step

    def watched_penalty(self, penalty):
        def call(loss):
            assert not loss.requires_grad
            value = penalty(loss)
            if value is not None:
                self.pulls += 1
                outside = [
                    p
                    for name, p in self.update.network.named_parameters()
                    if p.requires_grad and self.roles[name] not in self.method.touches
                ]
                for gradient in (
                    torch.autograd.grad(value, outside, retain_graph=True, allow_unused=True)
                    if outside
                    else ()
                ):
                    assert gradient is None or not gradient.any()
            return value

        return call

    def parameters(self):
        return {name: p.detach().clone() for name, p in self.update.network.named_parameters()}

    def slots(self):
        return {
            name: {k: same_copy(v) for k, v in self.update.optimizer.state.get(p, {}).items()}
            for name, p in self.update.network.named_parameters()
        }

    def watched(self, hook, name):
        def call(*arguments):
            self.order.append(name)
            before, slots = self.parameters(), self.slots()
            hook(*arguments)
            self.check(before, self.parameters(), slots, self.slots())

        return call

    def check(self, before, after, slots, slots_after):
        edited = {name for name in before if not torch.equal(before[name], after[name])}
        self.edits += bool(edited)
        for name in edited:
            assert self.roles[name] in self.method.touches, f"{name} was edited"
        resets = self.method.resets_optimizer
        reported = getattr(self.method, "_touched", [])
        drawn = {id(entry.parameter) for entry in reported if self.method.renews_entries}
        for name, parameter in self.update.network.named_parameters():
            if name in edited and id(parameter) not in drawn:
                assert self.method.changes_weights, f"{name} was changed; set changes_weights"
        touched = [entry for entry in reported if entry.renewed]
        listed = {id(entry.parameter) for entry in touched}
        for name, parameter in self.update.network.named_parameters():
            if resets == "no" or (resets == "entries" and id(parameter) not in listed):
                assert not same(slots[name], slots_after[name]), name
        if resets == "entries":
            for entry in touched:
                for key, value in self.update.optimizer.state.get(entry.parameter, {}).items():
                    if key in ("exp_avg", "exp_avg_sq"):
                        assert not value.index_select(entry.dim, entry.indices).any()


@everywhere(TESTED)
def test_edits_what_it_declares_after_the_optimizer_and_keeps_masks(kind, place):
    agent, world = make(place, kind, STRONG[kind].strong), World()
    watchers = [Watcher(*pair) for pair in networks_acted_on(agent, kind).values()]
    world.iterate(agent, 2)
    for watcher in watchers:
        assert watcher.method.needs <= {"activations", "gradients", "contexts"}  # what is read
        assert watcher.order == ["optimizer", "after_step"] * (len(watcher.order) // 2)
        assert len(watcher.order) == 32
        assert watcher.pulls > 0 or not watcher.method.adds_penalty
    num_masks = 0
    for network in agent.networks().values():
        for module in network.modules():
            if isinstance(module, HasMasks):
                for parameter, mask in module.masked_parameters():
                    num_masks += 1
                    assert not parameter[~mask].any()
    assert (num_masks > 0) == (place[1] == "dendritic")


@everywhere(WITH_BOUNDARIES)
def test_boundaries_are_declared_and_used_only_when_announced(kind, place):
    entry = STRONG[kind]
    agent, world = make(place, kind, {**entry.strong, **entry.at_boundaries}), World()
    assert agent.methods_that_need_boundaries() == [kind]
    watchers = [Watcher(*pair) for pair in networks_acted_on(agent, kind).values()]
    world.iterate(agent, 1)
    assert all(watcher.order.count("on_task_change") == 0 for watcher in watchers)
    agent.on_task_change(1)
    world.iterate(agent, 1)
    assert all(watcher.order.count("on_task_change") == 1 for watcher in watchers)
    events = [event for event in agent.pop_events() if event["event"] == "intervention"]
    assert {event["network"] for event in events} == set(networks_acted_on(agent, kind))
    assert {event["reason"] for event in events} == {"task_change"}
    periodic = make(place, kind, entry.strong)
    assert periodic.methods_that_need_boundaries() == []


@everywhere(TESTED)
def test_acting_and_measuring_leave_no_trace(kind, place):
    agent, world = make(place, kind, STRONG[kind].strong), World()
    world.iterate(agent, 1)
    before = {name: same_copy(u.state_dict()) for name, u in agent.updates.items()}
    observation = np.random.default_rng(1).normal(size=(NUM_ENVS, OBSERVATION))
    for explore in (True, False):
        for _ in range(10):
            if not explore or agent.is_at_quiet_point:
                action = agent.act(observation, world.context, explore)
    for name, network in agent.networks().items():
        with torch.no_grad():
            network(*agent.network_inputs(name, observation, action, world.context))
    agent.log_values()
    after = {name: update.state_dict() for name, update in agent.updates.items()}
    assert not same(before, after)


@pytest.mark.parametrize("kind", TESTED)
def test_logged_columns_never_change(kind):
    agent, world = make(("ppo", "mlp"), kind, STRONG[kind].strong), World()
    first = agent.log_values()
    world.iterate(agent, 2)
    second = agent.log_values()
    assert first.keys() == second.keys()
    assert all(isinstance(value, float | int) for value in second.values())
