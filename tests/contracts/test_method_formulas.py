"""Every method against its formula, inside agents: values, edits, optimizer slots, costs.

`method_oracles` holds the formulas. Like the other contract tests these run for every file of
plasticity/methods/ on every agent and network.
"""

import numpy as np
import pytest
import torch
from method_oracles import ORACLES
from test_methods import (
    ACTION,
    NUM_ENVS,
    OBSERVATION,
    PLACES,
    STRONG,
    TESTED,
    World,
    everywhere,
    make,
    networks_acted_on,
    same_copy,
)
from torch.utils._python_dispatch import TorchDispatchMode

from plasticity.utilities import UTILITIES

READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
# The other two pairs of agent and network run with the slow tests.
DIAGONAL = (("ppo", "mlp"), ("sac", "dendritic"))
RECYCLERS = ("continual_backprop", "redo", "regrama", "snr")
POLICIES = ("keep", "zero_moments", "per_unit_step")
# Looks at the device when a silence may have become too long, with these settings at every step.
COUNTS_ON_THE_DEVICE = {"snr"}


def test_every_method_has_a_formula():
    missing = sorted(set(TESTED) - set(ORACLES))
    assert not missing, (
        f"plasticity/methods/{missing[0]}.py is not checked against its formula: give "
        f"{', '.join(missing)} an oracle in tests/contracts/method_oracles.py"
    )


def inputs_of(agent, name, world):
    rng = np.random.default_rng(7)
    observation = rng.normal(size=(NUM_ENVS, OBSERVATION))
    action = rng.uniform(-1.0, 1.0, size=(NUM_ENVS, ACTION)).astype(np.float32)
    return tuple(agent.network_inputs(name, observation, action, world.context))


@everywhere(TESTED)
def test_does_what_its_formula_says(kind, place):
    agent, world = make(place, kind, STRONG[kind].strong), World()
    normalised = place[1] == "dendritic" or STRONG[kind].layer_norm
    oracles = {
        name: ORACLES[kind](update, method, inputs_of(agent, name, world), normalised)
        for name, (update, method) in networks_acted_on(agent, kind).items()
    }
    world.iterate(agent, 2)
    events = agent.pop_events()
    for name, oracle in oracles.items():
        assert oracle.step == 17
        oracle.done([event for event in events if event["network"] == name])


def on_the_diagonal(kinds):
    cases = [
        pytest.param(
            kind,
            place,
            marks=() if place in DIAGONAL else pytest.mark.slow,
            id="-".join((kind, *place)),
        )
        for kind in kinds
        for place in PLACES
    ]
    return pytest.mark.parametrize(("kind", "place"), cases)


@on_the_diagonal(TESTED)
def test_optimizers_move_every_parameter_after_an_intervention(kind, place):
    """By their own steps: an edit that moves a parameter which nobody trains hides nothing."""
    agent, world = make(place, kind, STRONG[kind].strong), World()
    world.iterate(agent, 2)  # 16 gradient steps, of which some have intervened
    moved = {name: set() for name in agent.updates}

    def watch(name, update):
        original = update.optimizer.step

        def step(*arguments):
            named = dict(update.network.named_parameters())
            before = {key: p.detach().clone() for key, p in named.items()}
            result = original(*arguments)
            moved[name] |= {key for key, p in named.items() if not torch.equal(p, before[key])}
            return result

        update.optimizer.step = step

    for name, update in agent.updates.items():
        watch(name, update)
    world.iterate(agent, 3)
    for name, network in agent.networks().items():
        trained = {key for key, p in network.named_parameters() if p.requires_grad}
        assert moved[name] == trained


def entries(update):
    """Moments and step of every entry of every parameter."""
    optimizer, found = update.optimizer, {}
    for name, parameter in update.network.named_parameters():
        state = optimizer.state.get(parameter, {})
        if not state:
            continue
        if hasattr(optimizer, "steps"):
            steps = optimizer.steps(parameter).clone()
        else:
            steps = torch.full(parameter.shape, float(state["step"]))
        found[name] = {
            "exp_avg": state["exp_avg"].clone(),
            "exp_avg_sq": state["exp_avg_sq"].clone(),
            "steps": steps,
        }
    return found


@pytest.mark.parametrize("policy", POLICIES)
@on_the_diagonal(RECYCLERS)
def test_optimizer_slots_of_rewritten_entries_alone_follow_the_policy(kind, place, policy):
    settings = {**STRONG[kind].strong, "optimizer_state": policy}
    agent, world, rewritten = make(place, kind, settings), World(), []

    def watch(update, method):
        names = {id(p): name for name, p in update.network.named_parameters()}
        original = method.after_step

        def call(activations, optimizer):
            before = entries(update)
            original(activations, optimizer)
            after = entries(update)
            masks = {name: torch.zeros_like(s["steps"], dtype=bool) for name, s in before.items()}
            for entry in method._touched:
                masks[names[id(entry.parameter)]].index_fill_(entry.dim, entry.indices, True)
                rewritten.append(len(entry.indices))
            for name, mask in masks.items():
                for key, old in before[name].items():
                    cleared = policy != "keep" if key != "steps" else policy == "per_unit_step"
                    expected = old.masked_fill(mask, 0) if cleared else old
                    assert torch.equal(after[name][key], expected), f"{name}.{key}"

        method.after_step = call

    for pair in networks_acted_on(agent, kind).values():
        watch(*pair)
    world.iterate(agent, 2)
    assert sum(rewritten)


class CountReads(TorchDispatchMode):
    """Counts what would wait for a device: numbers read off it, shapes that depend on it."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func.overloadpacket in READS
        return func(*args, **(kwargs or {}))


@on_the_diagonal([kind for kind in TESTED if kind not in COUNTS_ON_THE_DEVICE])
def test_a_step_without_an_event_reads_nothing_off_the_device(kind, place):
    """Whether something is due is counted on the host."""
    agent, world, quiet = make(place, kind, STRONG[kind].strong), World(), []

    def watch(method):
        originals = {n: getattr(method, n) for n in ("penalty", "after_backward", "after_step")}

        def counted(name):
            def call(*arguments):
                with CountReads() as counter:
                    result = originals[name](*arguments)
                if not method.pop_events():
                    quiet.append(name)
                    assert counter.reads == 0, name
                return result

            return call

        for name in originals:
            setattr(method, name, counted(name))

    for _, method in networks_acted_on(agent, kind).values():
        watch(method)
    world.iterate(agent, 2)
    assert quiet.count("after_step") >= 8


@pytest.mark.parametrize("place", DIAGONAL, ids="-".join)
@pytest.mark.parametrize("utility", list(UTILITIES))
def test_every_utility_acts_and_resumes_in_the_same_bits(utility, place):
    settings = {**STRONG["continual_backprop"].strong, "utility": utility}
    agent, world = make(place, "continual_backprop", settings), World()
    world.iterate(agent, 2)
    assert {event["network"] for event in agent.pop_events()} == set(agent.networks())
    state, position = same_copy(agent.state_dict()), world.rng.bit_generator.state
    twin, twin_world = make(place, "continual_backprop", settings, seed=1), World(1)
    twin.load_state_dict(state)
    twin_world.rng.bit_generator.state = position
    for both, stream in ((agent, world), (twin, twin_world)):
        stream.iterate(both, 2)
    left, right = agent.pop_events(), twin.pop_events()
    assert left
    assert left == right
    for name, network in agent.networks().items():
        for mine, theirs in zip(
            network.parameters(), twin.networks()[name].parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)
