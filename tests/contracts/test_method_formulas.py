"""Every method against its formula, inside agents: values, edits, optimizer slots, costs.

`method_oracles` holds the formulas. It also sees that what is due is counted on the host, and
that optimizers go on moving every parameter, by their own steps, after interventions. Like the
other contract tests these run for every file of plasticity/methods/ on every agent and network.
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
    make,
    networks_acted_on,
    same_copy,
)

from plasticity.utilities import UTILITIES

# The other two pairs of agent and network run with the slow tests.
DIAGONAL = (("ppo", "mlp"), ("sac", "dendritic"))
RECYCLERS = ("continual_backprop", "redo", "regrama", "snr")
POLICIES = ("keep", "zero_moments", "per_unit_step")


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


@on_the_diagonal(TESTED)
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
        parameters = agent.networks()[name].named_parameters()
        assert oracle.moved == {key for key, p in parameters if p.requires_grad}


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


@on_the_diagonal(list(UTILITIES))
def test_every_utility_acts_and_resumes_in_the_same_bits(kind, place):
    settings = {**STRONG["continual_backprop"].strong, "utility": kind}
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
