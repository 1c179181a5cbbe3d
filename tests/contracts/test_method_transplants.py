"""Methods that a donor did not have start from its weights, not from those that it replaced."""

import warnings

import pytest
from test_methods import STRONG, TESTED, World, baseline, make, networks_acted_on, same, same_copy

from agents.parts import METHODS
from networks.streams import Streams
from plasticity.method import InputSource, Target

PLACE, SEED = ("ppo", "mlp"), 1
# Heads of injection are of another shape, vectors of spectral are estimates that follow.
CASES = [
    *((kind, STRONG[kind].strong) for kind in TESTED if kind not in ("injection", "spectral")),
    ("l2_init", {"theta0": "original"}),
    ("nap", {"project_heads": True}),
]


def as_built_on(network, name, kind, config):
    """State of a method that is attached to a network as it is now."""
    stream = Streams(SEED, "agent/").torch(f"method/{kind}/{name}")
    source = InputSource(lambda size, generator: None, 16)
    groups = network.unit_groups()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parseval on weights that are not orthogonal
        target = Target(name, network, groups, stream, None, 2 / 16, source)
        return METHODS.get(kind).build(config, target).state_dict()


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda value: str(value)[:40])
def test_new_methods_start_from_the_weights_of_the_donor(kind, settings):
    donor = baseline(PLACE, STRONG[kind].layer_norm, 4)
    agent = make(PLACE, kind, settings, seed=SEED)
    agent.transplant(donor, ["optimizer"] if kind == "nap" else [])  # which trains fewer biases
    config, acted_on = METHODS.get(kind).Config(**settings), networks_acted_on(agent, kind)
    assert acted_on
    for name, (update, method) in acted_on.items():
        found, given = method.state_dict(), donor["updates"][name]["network"]
        assert not same(update.network.state_dict(), given)
        assert not same(found, as_built_on(update.network, name, kind, config))
    World().iterate(agent, 1)


@pytest.mark.parametrize("kind", ["hare_tortoise", "si", "l2_init", "wasserstein_init"])
def test_fresh_networks_keep_their_methods_as_built(kind):
    donor = baseline(PLACE, False, 4)
    agent = make(PLACE, kind, STRONG[kind].strong, seed=SEED)
    before = {name: same_copy(u.state_dict()) for name, u in agent.updates.items()}
    agent.transplant(donor, ["policy"])
    after = agent.updates["policy"].state_dict()
    assert not same(before["policy"]["methods"], after["methods"])


def test_a_method_that_was_off_in_the_donor_starts_fresh():
    donor = make(PLACE, "hare_tortoise", STRONG["hare_tortoise"].off)
    agent = make(PLACE, "hare_tortoise", STRONG["hare_tortoise"].strong, seed=SEED)
    agent.transplant(donor.state_dict(), [])
    method = agent.updates["policy"].methods["hare_tortoise"]
    slow = method.state_dict()["slow"]
    parameters = dict(agent.policy.named_parameters())
    assert not same(slow, {name: parameters[name].detach() for name in slow})
