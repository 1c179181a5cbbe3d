"""What every optimizer promises inside whole agents, tested for every file on every agent."""

import dataclasses

import pytest
import torch
from test_methods import PLACES, World, baseline, make, same, same_copy, streams

from agents.parts import METHODS, OPTIMIZERS, Parts
from networks.masks import HasMasks

KINDS = OPTIMIZERS.names()
POLICIES = ("keep", "zero_moments", "per_unit_step")
RECYCLING = {"maturity_threshold": 3, "replacement_rate": 0.05}


def with_optimizer(monkeypatch, kind, place, methods=None, seed=0):
    """The agents of the contract of methods, with another optimizer."""
    config = OPTIMIZERS.get(kind).Config(learning_rate=1e-3)

    def build(**settings):
        return Parts(**{**settings, "optimizer": config, "methods": methods or {}})

    monkeypatch.setattr("test_methods.Parts", build)
    return make(place, seed=seed)


def everywhere():
    """All agents and networks; two of the four pairs with the slow tests."""
    cases = [
        pytest.param(
            kind,
            place,
            marks=() if place in PLACES[::3] else pytest.mark.slow,
            id="-".join((kind, *place)),
        )
        for kind in KINDS
        for place in PLACES
    ]
    return pytest.mark.parametrize(("kind", "place"), cases)


@everywhere()
def test_trains_everything_keeps_masks_and_leaves_other_streams_alone(monkeypatch, kind, place):
    agent, world = with_optimizer(monkeypatch, kind, place), World()
    before = {
        name: {key: p.detach().clone() for key, p in network.named_parameters()}
        for name, network in agent.networks().items()
    }
    world.iterate(agent, 4)  # 32 gradient steps
    num_masks = 0
    for name, network in agent.networks().items():
        for key, parameter in network.named_parameters():
            assert torch.isfinite(parameter).all()
            assert not torch.equal(parameter, before[name][key]), f"{name}.{key} stood still"
        for module in network.modules():
            if isinstance(module, HasMasks):
                for parameter, mask in module.masked_parameters():
                    num_masks += 1
                    assert not parameter[~mask].any()
    assert (num_masks > 0) == (place[1] == "dendritic")
    assert not same(streams(baseline(place, False, 4)), streams(agent.state_dict()))


@pytest.mark.parametrize(
    "policy",
    [*(pytest.param(p, marks=pytest.mark.slow) for p in POLICIES[:-1]), POLICIES[-1]],
)
@everywhere()
def test_save_and_load_around_recycling_continue_in_the_same_bits(monkeypatch, kind, place, policy):
    config = METHODS.get("continual_backprop").Config(optimizer_state=policy, **RECYCLING)
    methods = {"continual_backprop": config}
    agent, world = with_optimizer(monkeypatch, kind, place, methods), World()
    world.iterate(agent, 2)
    assert agent.pop_events()
    state, position = agent.state_dict(), world.rng.bit_generator.state
    kept = same_copy(state)
    twin, twin_world = with_optimizer(monkeypatch, kind, place, methods, seed=1), World(1)
    twin.load_state_dict(state)
    twin_world.rng.bit_generator.state = position
    for both, stream in ((agent, world), (twin, twin_world)):
        stream.iterate(both, 2)
    assert not same(agent.state_dict(), twin.state_dict())
    assert agent.pop_events() == twin.pop_events()
    assert not same(kept, state)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_frozen_and_unknown_ones_are_refused(kind):
    config = OPTIMIZERS.get(kind).Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "other"
    with pytest.raises(TypeError, match="unexpected keyword"):
        OPTIMIZERS.get(kind).Config(no_such_setting=1)
