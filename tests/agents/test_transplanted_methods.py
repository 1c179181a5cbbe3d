"""What a transplant makes of the state of methods: own random streams, and settings that differ."""

import warnings

import numpy as np
import pytest
import torch
from random_worlds import random_step

from agents import ppo
from agents.parts import Parts
from networks import mlp
from networks.torso import ContextSpec
from plasticity.methods import c_chain, continual_backprop, ewc, nap, snr
from plasticity.optimizers import adam, upgd

OBSERVATION, NUM_ENVS, NUM_CONTEXTS = 5, 4, 3
CBP = {"maturity_threshold": 3, "replacement_rate": 0.05}


def make(methods=None, seed=0, optimizer=None, **settings):
    config = ppo.Config(rollout_length=8, minibatch_size=16, num_epochs=2)
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=2,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=[16, 16], **settings),
        optimizer=optimizer or adam.Config(learning_rate=1e-3),
        methods=methods or {},
        context=ContextSpec(NUM_CONTEXTS, discrete=True),
        seed=seed,
    )
    return ppo.build(config, parts)


def trained(agent, iterations=2):
    rng, context = np.random.default_rng(0), np.eye(NUM_CONTEXTS, dtype=np.float32)
    last = agent.iteration + iterations
    while agent.iteration < last:
        random_step(agent, rng, context[np.arange(NUM_ENVS) % NUM_CONTEXTS], OBSERVATION)
        agent.update()
    return agent


STREAMS = [
    {"continual_backprop": continual_backprop.Config(**CBP)},
    {"c_chain": c_chain.Config()},
    {"ewc": ewc.Config(num_samples=4)},
]


@pytest.mark.parametrize("methods", STREAMS, ids=lambda methods: next(iter(methods)))
def test_seeds_that_share_a_donor_draw_independently(methods):
    donor = trained(make(methods, seed=7)).state_dict()
    check_streams(donor, [make(methods, seed=seed) for seed in (1, 2)])
    again = make(methods, seed=3)  # going on is another matter: the stream belongs to the run
    again.load_state_dict(donor)
    method, kind = again.state_dict()["updates"]["policy"]["methods"], next(iter(methods))
    saved = donor["updates"]["policy"]["methods"][kind]["generator"]
    assert torch.equal(method[kind]["generator"], saved)


def test_seeds_that_share_a_donor_have_noise_of_their_own():
    donor = trained(make(optimizer=upgd.Config(), seed=7)).state_dict()
    check_streams(donor, [make(optimizer=upgd.Config(), seed=seed) for seed in (1, 2)])


def check_streams(donor, heirs):
    """What optimizers and methods will save must be of the streams that were theirs before."""
    before = [positions(agent.state_dict()) for agent in heirs]
    for agent in heirs:
        agent.transplant(donor, [])
    after = [positions(agent.state_dict()) for agent in heirs]
    assert before[0]
    for name in before[0]:
        assert all(torch.equal(a[name], b[name]) for a, b in zip(before, after, strict=True))
        assert not torch.equal(after[0][name], after[1][name])


def positions(state, path=()):
    """Saved states of generators, by path."""
    if not isinstance(state, dict):
        return {path: state} if path[-1] in ("generator", "noise") else {}
    found = {}
    for key, value in state.items():
        found |= positions(value, (*path, key))
    return found


CHANGES = {
    "another utility": (
        continual_backprop.Config(**CBP),
        continual_backprop.Config(**CBP, utility="adaptable_contribution"),
    ),
    "utilities by context": (
        continual_backprop.Config(**CBP),
        continual_backprop.Config(**CBP, utility_over_contexts="max"),
    ),
    "pooled utilities": (
        continual_backprop.Config(**CBP, utility_over_contexts="max"),
        continual_backprop.Config(**CBP),
    ),
    "heads, too": (nap.Config(), nap.Config(project_heads=True)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_method_whose_state_does_not_fit_starts_anew(change):
    old, new = CHANGES[change]
    donor = trained(make({old.kind: old}, layer_norm=True)).state_dict()
    agent = make({new.kind: new}, seed=1, layer_norm=True)
    with pytest.warns(UserWarning, match=f"{new.kind} on .* starts anew"):
        agent.transplant(donor, [])
    for update in donor["updates"].values():  # a donor that never had the method
        update["methods"] = {}
    without = make({new.kind: new}, seed=1, layer_norm=True)
    without.transplant(donor, [])
    for name, update in agent.updates.items():
        found = update.methods[new.kind].state_dict()
        wanted = without.updates[name].methods[new.kind].state_dict()
        assert found["calls"] == 0
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    trained(agent, 1)


def test_a_method_that_is_switched_off_takes_nothing_over():
    donor = trained(make({"continual_backprop": continual_backprop.Config(**CBP)})).state_dict()
    off = continual_backprop.Config(replacement_rate=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make({"continual_backprop": off}).transplant(donor, [])


@pytest.mark.parametrize("longest", [40, 4_000])
def test_silences_keep_their_lengths_under_other_limits(longest):
    """Records go into the classes that hold the same lengths, not the same numbers of classes."""

    def silences(max_silence):
        return snr.Config(max_silence=max_silence, min_silence=10, min_records=1, refresh_period=1)

    donor = make({"snr": silences(1_000)})
    record = donor.updates["policy"].methods["snr"].groups["layers.0"]
    record.silence.fill_(30)
    for _ in range(5):
        record.count(torch.zeros(16, dtype=torch.bool))
        record.silence.fill_(30)
    record.refresh(0.02, 1)
    agent = make({"snr": silences(longest)}, seed=1)
    agent.transplant(donor.state_dict(), [])
    heir = agent.updates["policy"].methods["snr"].groups["layers.0"]
    assert int(record.limit[0]) == int(heir.limit[0]) in (30, 31)
    heir.refresh(0.02, 1)
    assert 30 <= int(heir.limit[0]) <= 32
    assert int(heir.histogram.sum()) == int(record.histogram.sum()) == 5 * 16
    never = agent.updates["value"].methods["snr"].groups["layers.0"]
    assert int(never.limit[0]) == longest


def test_silences_of_older_states_have_the_classes_of_the_run():
    first, second = make({"snr": snr.Config()}), make({"snr": snr.Config()}, seed=1)
    first.updates["policy"].methods["snr"].groups["layers.0"].histogram.fill_(3)
    state = first.state_dict()
    for update in state["updates"].values():
        for group in update["methods"]["snr"]["groups"].values():
            del group["upper_edges"]
    second.load_state_dict(state)
    histogram = second.updates["policy"].methods["snr"].groups["layers.0"].histogram
    assert bool((histogram == 3).all())
