"""Methods that meet on one network, in either order, and what an announced reset leaves behind."""

import numpy as np
import pytest
import torch
from random_worlds import random_step
from recycling_nets import policy, target_of

from agents import ppo, sac
from agents.parts import METHODS, Parts
from agents.update import Update
from networks import mlp
from networks.redraw import redraw
from networks.sequential import unit_groups_of
from plasticity.method import Target
from plasticity.methods import continual_backprop, redo, regrama, snr
from plasticity.optimizers import adam
from plasticity.recycling import drawn_units

PERIODIC = {"period": 5, "clock": "gradient_step", "at_task_change": False}
PPO = {"rollout_length": 16, "minibatch_size": 16, "num_epochs": 2}


def make(module, methods, law="lecun_uniform", **settings):
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=4,
        network=mlp.Config(hidden_sizes=[16, 16], layer_norm=True, initializer=law),
        optimizer=adam.Config(learning_rate=1e-3),
        methods={kind: METHODS.get(kind).Config(**given) for kind, given in methods.items()},
    )
    return module.build(module.Config(**settings), parts)


def learn(agent, iterations=2):
    rng, context = np.random.default_rng(0), np.zeros((4, 0), dtype=np.float32)
    while agent.iteration < iterations:
        random_step(agent, rng, context, 5, end_rate=0.1)
        agent.update()
    return agent


# Normalize-and-Project takes biases out of training --------------------------------------------

PARTNERS = {
    "ewc": {"num_samples": 4, **PERIODIC},
    "l2_init": {"decoupled": True},
    "si": PERIODIC,
    "shrink_perturb": PERIODIC,
}


# Left out are orders that are refused (si) or warned of (l2_init).
@pytest.mark.parametrize(
    ("partner", "nap_first"),
    [
        (partner, nap_first)
        for partner in PARTNERS
        for nap_first in (True, False)
        if partner not in ("si", "l2_init") or nap_first != (partner == "si")
    ],
)
@pytest.mark.filterwarnings("ignore:nap keeps the size")
def test_biases_that_nap_freezes_trouble_nobody(partner, nap_first):
    kinds = ["nap", partner] if nap_first else [partner, "nap"]
    settings = {"nap": {}, **PARTNERS}
    agent = learn(make(ppo, {kind: settings[kind] for kind in kinds}, **PPO))
    biases = [layer.linear.bias for layer in agent.policy.torso.layers]
    assert not any(bias.requires_grad or bias.any() for bias in biases)
    kept = getattr(agent.updates["policy"].methods[partner], "_references", None)
    if kept is not None:
        assert not any(parameter is bias for parameter in kept.parameters for bias in biases)


def test_targets_start_without_the_biases_that_nap_removes():
    agent = make(sac, {"nap": {}}, law="pytorch", batch_size=16, replay_size=64, warmup_steps=24)
    for critic, target in zip((agent.critic_1, agent.critic_2), agent.targets, strict=True):
        pairs = zip(critic.state_dict().items(), target.state_dict().values(), strict=True)
        assert all(torch.equal(mine, theirs) for (_, mine), theirs in pairs)


# Recyclers judge units that a reset has drawn as new ones --------------------------------------


def test_rows_of_a_group_are_found_by_its_own_layers():
    network = policy()
    groups = network.unit_groups()
    entries = redraw(network.torso.layers[0], torch.Generator())
    assert drawn_units(groups[0], entries).tolist() == list(range(16))
    assert drawn_units(groups[1], entries) is None
    columns = groups[0].forget_units(torch.tensor([3]))  # columns of layer 1: no new unit there
    assert drawn_units(groups[1], columns) is None
    plain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    (group,) = unit_groups_of(plain)
    rows = group.layer.reset_units(torch.tensor([2, 0]), torch.Generator())
    assert drawn_units(group, rows).tolist() == [0, 2]


def test_no_unit_is_renewed_before_it_matures_after_a_reset():
    """At 30 steps to maturity and a reset at every seventh, no unit ever matures."""
    never = {"maturity_threshold": 30, "replacement_rate": 0.5}
    for order in (["continual_backprop", "reset"], ["reset", "continual_backprop"]):
        settings = {"continual_backprop": never, "reset": {**PERIODIC, "period": 7}}
        agent = learn(make(ppo, {kind: settings[kind] for kind in order}, **PPO), 10)
        assert agent.updates["policy"].num_steps > 60
        assert not [e for e in agent.pop_events() if e["event"] == "unit_reset"]


def test_half_a_layer_drawn_anew_matures_later_than_the_other():
    network = policy()
    config = continual_backprop.Config(
        replacement_rate=1.0, maturity_threshold=10, networks=["policy"]
    )
    method = continual_backprop.build(config, target_of(network, "policy"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    activations = {group.name: torch.rand(8, 16) for group in network.unit_groups()}
    for _ in range(6):
        method.after_step(activations, optimizer)
    layer = network.torso.layers[0]
    entries = layer.reset_units(torch.arange(8), torch.Generator())
    method.notice_edits(entries, renewed=False)  # shrunk, say: still the same units
    assert method.statistics["layers.0"].born.tolist() == [0] * 16
    method.notice_edits(entries, renewed=True)
    assert not method.statistics["layers.0"].utility[:8].any()
    assert method.statistics["layers.0"].utility[8:].all()
    for _ in range(11):
        method.after_step(activations, optimizer)
    first = [e for e in method.pop_events() if e["group"] == "layers.0"]
    assert {e["unit"]: e["gradient_step"] for e in first} == {
        **dict.fromkeys(range(8), 17),
        **dict.fromkeys(range(8, 16), 11),
    }
    assert {e["age"] for e in first} == {11}
    assert method.log_values()["layers.0/replaced_total"] == 16


class Case:
    """One recycler of a policy in an `Update`, and steps on random inputs."""

    def __init__(self, module, config):
        self.network = policy()
        groups = self.network.unit_groups()
        target = Target("policy", self.network, groups, torch.Generator())
        self.method = module.build(config, target)
        optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3)
        self.update = Update("policy", self.network, optimizer, {"it": self.method})

    def step(self, times):
        for _ in range(times):
            with self.update.recording():
                mean = self.network(torch.randn(8, 4))
            self.update.step(mean.square().mean())


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (redo, redo.Config(period=5)),
        (regrama, regrama.Config(period=5)),
    ],
)
def test_periodic_recyclers_forget_what_they_saw_of_old_units(module, config):
    case = Case(module, config)
    case.step(4)
    windows = list(case.method.groups.values())
    assert not any(window.is_empty for window in windows)
    case.update.renew(torch.Generator().manual_seed(1))
    assert all(window.is_empty and (window.born == 4).all() for window in windows)
    assert not any(window.replaced_total for window in windows)


def test_silences_end_with_the_unit():
    config = snr.Config(min_silence=5, max_silence=5)
    case = Case(snr, config)
    with torch.no_grad():
        case.network.torso.layers[0].linear.bias[2] = -100.0
    case.step(4)
    record = case.method.groups["layers.0"]
    assert record.silence[2] == 4
    case.update.renew(torch.Generator().manual_seed(1))
    assert not record.silence.any()
    assert not record.histogram.any()
    case.step(1)
    assert not case.update.pop_events()
    assert record.replaced_total == 0
