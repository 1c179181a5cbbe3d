"""What methods do when another one, a reset or a checkpoint has rewritten their network."""

import numpy as np
import pytest
import torch
from torch import nn

from agents.parts import METHODS, Parts
from configs.run import AGENTS
from networks import dendritic, mlp
from networks.film import Config as FilmConfig
from networks.injected import InjectedHead, fitted_state
from networks.redraw import redraw
from networks.sequential import unit_groups_of
from networks.torso import ContextSpec
from networks.winners import Winners
from plasticity.method import InputSource, Target
from plasticity.optimizers import adam
from plasticity.parameters import whole
from plasticity.recycling import Selection, renew

SMALL = {
    "ppo": {"rollout_length": 16, "minibatch_size": 16, "num_epochs": 2},
    "sac": {"batch_size": 16, "warmup_steps": 32, "replay_size": 200, "updates_per_env_step": 0.5},
}


def agent_of(kind, network, methods):
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=4,
        network=network,
        optimizer=adam.Config(),
        methods={name: METHODS.get(name).Config(**chosen) for name, chosen in methods.items()},
        context=ContextSpec(3, discrete=True),
        seed=0,
    )
    return AGENTS.get(kind).build(AGENTS.get(kind).Config(**SMALL[kind]), parts)


def attach(kind, network, **settings):
    module = METHODS.get(kind)
    stream = torch.Generator().manual_seed(1)
    inputs = InputSource(lambda count, generator: (torch.zeros(count, 4), None), 8)
    target = Target("net", network, unit_groups_of(network), stream, inputs=inputs)
    return module.build(module.Config(networks="all", **settings), target)


@pytest.mark.parametrize(
    ("kind", "kept", "settings"),
    [
        ("hare_tortoise", "slow", {}),
        ("l2_init", "initial", {}),
        ("ewc", "anchor", {"period": 5, "at_task_change": False}),
        ("si", "anchor", {"period": 5, "at_task_change": False}),
    ],
)
def test_an_absorbed_mean_moves_what_is_remembered(kind, kept, settings):
    """The bias takes over 3.9 of a unit that was always on; nothing may pull that back out."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    method = attach(kind, network, **settings)
    before = method.state_dict()[kept]["2.bias"].clone()
    old = network[2].bias.detach().clone()
    group, unit = unit_groups_of(network)[0], torch.tensor([3])
    zero = torch.zeros(1)
    selection = Selection(
        group, unit, zero, torch.zeros(1, dtype=torch.int64), torch.full((1,), 3.9)
    )
    touched = renew([selection], torch.Generator().manual_seed(2))
    method.notice_edits([entry for entry in touched if entry.renewed], True)
    method.notice_edits([entry for entry in touched if not entry.renewed], False)
    moved = network[2].bias.detach() - old
    assert moved.abs().max() > 0.01
    torch.testing.assert_close(method.state_dict()[kept]["2.bias"] - before, moved)


def test_what_a_redrawn_bias_had_absorbed_is_remembered_by_nobody():
    """Two layers are renewed at once: unit 2 of the second reads unit 3 of the first."""
    methods = {"continual_backprop": {"mean_transfer": True}, "l2_init": {}, "hare_tortoise": {}}
    update = agent_of("ppo", mlp.Config(hidden_sizes=[8, 8]), methods).updates["policy"]
    first, second = update.network.unit_groups()
    selections = [
        Selection(group, torch.tensor([unit]), torch.zeros(1), torch.zeros(1), torch.ones(1))
        for group, unit in ((first, 3), (second, 2))
    ]
    recycler = update.methods["continual_backprop"]
    touched = renew(selections, torch.Generator().manual_seed(2))
    recycler.pop_touched = lambda: touched
    update._spread_edits(recycler)
    name = "torso.layers.1.linear.bias"
    live = dict(update.network.named_parameters())[name]
    (absorbed,) = [e.shift for e in touched if e.parameter is live and e.shift is not None]
    assert absorbed[2]
    assert not live[2]
    for kind, kept in (("l2_init", "initial"), ("hare_tortoise", "slow")):
        torch.testing.assert_close(update.methods[kind].state_dict()[kept][name], live.data)


def test_absorbed_means_are_no_path_of_si():
    """And the optimizer's own step of that bias is."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    method = attach("si", network, period=5, at_task_change=False)
    bias = network[2].bias
    bias.grad = torch.ones(2)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    method.after_backward()
    with torch.no_grad():
        bias.sub_(0.5)
    group = unit_groups_of(network)[0]
    selection = Selection(group, torch.tensor([3]), torch.zeros(1), torch.zeros(1), torch.ones(1))
    touched = renew([selection], torch.Generator().manual_seed(2))
    method.notice_edits([entry for entry in touched if not entry.renewed], False)
    method.notice_edits([entry for entry in touched if entry.renewed], True)
    method.after_step({}, torch.optim.SGD(network.parameters(), lr=0.1))
    torch.testing.assert_close(method.state_dict()["path"]["2.bias"], torch.full((2,), 0.5))


def test_weights_that_another_method_shrinks_are_no_path_of_si():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    method = attach("si", network, period=5, at_task_change=False)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    method.after_backward()
    weight = network[0].weight
    with torch.no_grad():
        weight.mul_(0.5)
    method.notice_edits([whole(weight)], False)  # as of a method that renews nothing
    method.after_step({}, torch.optim.SGD(network.parameters(), lr=0.1))
    assert not method.state_dict()["path"]["0.weight"].any()


def test_original_values_of_l2_init_stay_the_original_ones():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    method = attach("l2_init", network, theta0="original")
    before = method.state_dict()["initial"]["2.bias"].clone()
    group = unit_groups_of(network)[0]
    selection = Selection(group, torch.tensor([3]), torch.zeros(1), torch.zeros(1), torch.ones(1))
    touched = renew([selection], torch.Generator().manual_seed(2))
    method.notice_edits([entry for entry in touched if not entry.renewed], False)
    assert torch.equal(method.state_dict()["initial"]["2.bias"], before)


def test_biases_that_nap_has_emptied_stay_empty_whoever_draws_anew():
    network = mlp.Config(hidden_sizes=[8], layer_norm=True, initializer="pytorch")
    agent = agent_of("sac", network, {"nap": {}, "reset": {"period": 0, "at_task_change": True}})
    for _ in range(3):
        agent.on_task_change(1)
    for name, update in agent.updates.items():
        biases = [p for n, p in update.network.named_parameters() if n.endswith("linear.bias")]
        assert biases
        assert all(not bias.any() for bias in biases), name
    for target in agent.targets:
        biases = [p for n, p in target.named_parameters() if n.endswith("linear.bias")]
        assert all(not bias.any() for bias in biases)


def test_nap_empties_the_biases_of_a_donor_without_it():
    network = mlp.Config(hidden_sizes=[8], layer_norm=True, initializer="pytorch")
    donor, agent = agent_of("ppo", network, {}), agent_of("ppo", network, {"nap": {}})
    agent.transplant(donor.state_dict(), ["optimizer"])  # which trains fewer biases
    for name, update in agent.updates.items():
        update.methods["nap"].after_step({}, update.optimizer)
        given = donor.updates[name].network.state_dict()
        biases = {n: p for n, p in update.network.named_parameters() if n.endswith("linear.bias")}
        assert biases
        assert all(given[n].any() and not bias.any() for n, bias in biases.items())


def test_clipping_reaches_layers_that_start_at_zero():
    agent = agent_of("ppo", FilmConfig(hidden_sizes=[8, 8]), {"weight_clipping": {"kappa": 1.0}})
    update = agent.updates["policy"]
    with torch.no_grad():
        for parameter in update.network.parameters():
            parameter.fill_(50.0)
    update.methods["weight_clipping"].after_step({}, update.optimizer)
    left = [n for n, p in update.network.named_parameters() if p.abs().max() > 5.0]
    assert [name for name in left if "modulation" in name] == []


def test_drawing_a_network_anew_forgets_how_much_its_winners_have_seen():
    agent = agent_of("ppo", dendritic.Config(hidden_sizes=[40, 40], boost_strength=1.0), {})
    network = agent.updates["policy"].network
    winners = [module for module in network.modules() if isinstance(module, Winners)]
    assert winners
    for layer in winners:
        layer.seen.fill_(1_000)
    layer.clear(torch.tensor([0]))  # of one unit says nothing about the others
    assert layer.seen.item() == 1_000
    redraw(network, torch.Generator().manual_seed(0))
    assert [layer.seen.item() for layer in winners] == [0] * len(winners)


@pytest.mark.parametrize("decoupled", [False, True])
def test_si_goes_with_a_penalty_before_it_but_not_with_an_edit(decoupled):
    methods = {
        "l2_init": {"decoupled": decoupled},
        "si": {"period": 5, "at_task_change": False},
    }
    if decoupled:
        with pytest.raises(ValueError, match="si must come before l2_init"):
            agent_of("ppo", mlp.Config(hidden_sizes=[8]), methods)
    else:
        agent_of("ppo", mlp.Config(hidden_sizes=[8]), methods)


INJECTION = {"injection": {"period": 5, "clock": "gradient_step", "at_task_change": False}}


@pytest.mark.parametrize("kind", ["ppo", "sac"])
@pytest.mark.parametrize(("old", "new"), [({}, INJECTION), (INJECTION, {})])
def test_heads_go_on_with_or_without_room_for_injection(kind, old, new):
    network = mlp.Config(hidden_sizes=[8])
    donor, agent = (agent_of(kind, network, methods) for methods in (old, new))
    for update in donor.updates.values():
        with torch.no_grad():
            for parameter in update.network.parameters():
                parameter.add_(
                    torch.from_numpy(np.random.default_rng(0).normal(size=parameter.shape))
                )
    agent.transplant(donor.state_dict(), [])
    pairs = [(u.network, donor.updates[name].network) for name, u in agent.updates.items()]
    for ours, theirs in [
        *pairs,
        *zip(getattr(agent, "targets", []), getattr(donor, "targets", []), strict=True),
    ]:
        for head, other in zip(ours.heads(), theirs.heads(), strict=True):
            assert isinstance(head, InjectedHead) == bool(new)
            torch.testing.assert_close(head.weight, other.weight)
            torch.testing.assert_close(head.bias, other.bias)


def test_fitting_changes_nothing_where_heads_are_alike():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    state = network.state_dict()
    assert fitted_state(network, state) == dict(state)
