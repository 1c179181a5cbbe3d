"""Weight decay spares what belongs to contexts that are not in the batch."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import LECUN, generator

from agents.update import load_optimizer_state, optimizer_state
from networks import continual_world, film, multi_head
from networks.heads import GaussianPolicy
from networks.injected import make_room
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import context_parameters, parameter_roles
from plasticity.optimizers import adam, sgd

TASKS = ContextSpec(2, discrete=True)
NETWORKS = {
    "film": (film, film.Config(hidden_sizes=[16, 16])),
    "multi_head": (multi_head, multi_head.Config(hidden_sizes=[16, 16])),
    "continual_world": (continual_world, continual_world.Config(hidden_sizes=[16, 16])),
}
OPTIMIZERS = {
    "coupled": (adam, adam.Config(learning_rate=1e-3, weight_decay=1e-4), False),
    "per_unit": (adam, adam.Config(learning_rate=1e-3, weight_decay=1e-4), True),
    "decoupled": (
        adam,
        adam.Config(learning_rate=1e-3, weight_decay=0.1, weight_decay_mode="decoupled"),
        False,
    ),
    "sgd": (sgd, sgd.Config(learning_rate=1e-2, weight_decay=0.1), False),
}


def built(kind: str, seed: int = 0) -> GaussianPolicy:
    module, config = NETWORKS[kind]
    streams = Streams(seed, "policy/")
    return GaussianPolicy(module.build(config, 4, TASKS, streams), 2, LECUN, streams)


def learn(network, optimizer, steps, task=1, seed=0):
    data = generator(seed)
    for _ in range(steps):
        x = torch.randn(8, 4, generator=data)
        loss = (network(x, torch.full((8,), task)) - x[:, :2].sin()).square().mean()
        optimizer.zero_grad()
        (loss + network.log_std.sum()).backward()
        optimizer.step()


def entries_of(network, task: int) -> list[torch.Tensor]:
    """What only one of the two tasks uses."""
    if isinstance(network.torso, multi_head.MultiHead | continual_world.ContinualWorld):
        rows = slice(2 * task, 2 * task + 2)
        return [network.mean.weight.detach()[rows], network.mean.bias.detach()[rows]]
    return [layer.modulation.weight.detach()[:, task] for layer in network.torso.layers]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_absent_task_keeps_its_weights(kind, optimizer):
    module, config, per_unit = OPTIMIZERS[optimizer]
    network = built(kind)
    with torch.no_grad():  # as if both tasks had been learnt
        for entries in (*entries_of(network, 0), *entries_of(network, 1)):
            entries.normal_(std=0.2, generator=generator())
    before = [[e.clone() for e in entries_of(network, task)] for task in (0, 1)]
    learn(network, module.build(config, network, per_unit_step=per_unit), 300)
    for entries, kept in zip(entries_of(network, 0), before[0], strict=True):
        assert torch.equal(entries, kept)
    for entries, kept in zip(entries_of(network, 1), before[1], strict=True):
        assert not torch.equal(entries, kept)


def test_which_parameters_belong_to_single_contexts():
    assert context_parameters(built("film")) == {
        "torso.layers.0.modulation.weight",
        "torso.layers.1.modulation.weight",
    }
    assert context_parameters(built("multi_head")) == {"mean.weight", "mean.bias"}
    network = built("multi_head")
    make_room(network)
    parts = ("base", "fresh", "frozen")
    assert context_parameters(network) == {
        f"mean.{part}.{name}" for part in parts for name in ("weight", "bias")
    }


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_other_weights_decay_as_before(kind):
    network = built(kind)
    names = {id(p): name for name, p in network.named_parameters()}
    groups = adam.parameter_groups(adam.Config(weight_decay=0.1), network)
    decays = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    spared = context_parameters(network)
    assert decays == {name: 0.0 if name in spared else 0.1 for name in names.values()}
    assert len(adam.parameter_groups(adam.Config(), network)) == 1  # one fused call


@pytest.mark.parametrize("kind", NETWORKS)
def test_moments_saved_when_these_parameters_decayed_are_found_again(kind):
    """Positions of all checkpoints: weights, biases and norms, the log standard deviation."""
    network = built(kind)
    roles, named = parameter_roles(network), dict(network.named_parameters())
    places = (("weight",), ("bias", "norm_gain", "norm_offset"), ("log_std",))
    order = [name for members in places for name in named if roles[name] in members]
    assert sorted(order) == sorted(named)
    old = torch.optim.Adam([named[name] for name in order], lr=1e-3, weight_decay=1e-4)
    learn(network, old, 5)
    ours = adam.build(adam.Config(weight_decay=1e-4), network)
    load_optimizer_state(ours, optimizer_state(old))
    for name in order:
        assert torch.equal(ours.state[named[name]]["exp_avg"], old.state[named[name]]["exp_avg"])
