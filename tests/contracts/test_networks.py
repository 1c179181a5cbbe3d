"""What every torso promises, tested for every file in networks/ that defines one."""

import dataclasses

import pytest
import torch
from network_builders import INDEPENDENT, INPUTS, KINDS, build, data, policy_of

from agents.parts import NETWORKS
from networks.heads import GaussianPolicy, QFunction, SquashedGaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.masks import live_parameters
from networks.streams import Streams
from networks.units import Recording, parameter_roles
from plasticity.diagnostics import dormant_mask
from plasticity.method import Target
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")


def test_every_file_is_found():
    assert {"mlp", "dendritic", "k_winners", "film", "xdg", "simba", "multi_head"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_and_shapes(kind):
    config = NETWORKS.get(kind).Config()
    assert config.kind == kind
    assert dataclasses.is_dataclass(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "other"
    Initializer(config.head_initializer)
    torso = build(kind)
    x, context, ids = data()
    features = torso(x, context)
    assert features.shape == (32, torso.output_dim)
    assert features.isfinite().all()
    assert torch.equal(torso(x, ids), features)
    assert torso(x[:1], context[:1]).shape == (1, torso.output_dim)
    with torch.inference_mode():
        assert torch.equal(torso(x, context), features)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [GaussianPolicy, SquashedGaussianPolicy])
def test_gradients_reach_every_parameter(kind, head):
    torso = build(kind)
    network = head(torso, 2, Initializer(), Streams(0))
    x, context, _ = data()
    output = network(x, context)
    total = sum(o.square().sum() for o in (output if isinstance(output, tuple) else (output,)))
    (total + network.log_std.sum() if head is GaussianPolicy else total).backward()
    missing = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not missing
    assert set(parameter_roles(network)) == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_bits(kind):
    first, second, other = policy_of(kind), policy_of(kind), policy_of(kind, seed=1)
    states = [network.state_dict() for network in (first, second, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("kind", KINDS)
def test_building_a_network_is_no_business_of_global_generators(kind):
    torch.manual_seed(1)
    first = policy_of(kind).state_dict()
    torch.manual_seed(2)
    assert all(
        torch.equal(first[name], value) for name, value in policy_of(kind).state_dict().items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_restores_the_function(kind):
    first, second = policy_of(kind), policy_of(kind, seed=1)
    x, context, _ = data()
    first.torso.record_statistics(x, context)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, context), second(x, context))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_counting_statistics_changes_no_parameter_and_no_gradient(kind):
    network = policy_of(kind)
    x, context, _ = data()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network.torso.record_statistics(x, context)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_described_counts(kind):
    torso = build(kind)
    stored = sum(parameter.numel() for parameter in torso.parameters())
    described = torso.describe()
    assert described == {"parameters": stored, "live_parameters": live_parameters(torso)}


@pytest.mark.parametrize("kind", KINDS)
def test_groups_give_one_value_per_unit_and_name_a_dormancy_rule(kind):
    network = policy_of(kind)
    groups = network.unit_groups()
    assert len({group.name for group in groups}) == len(groups) >= 1
    recording = Recording(groups)
    x, context, ids = data()
    with recording as activations:
        network(x, context)
    for group in groups:
        values = activations[group.name]
        assert values.shape == (32, group.num_units)
        mask = dormant_mask(values, group.activation, context_ids=ids)
        assert mask.shape == (group.num_units,)
        assert not group.nonnegative or (values >= 0).all()
        assert group.layer.incoming_magnitude().shape == (group.num_units,)
        assert group.outgoing_sum().shape == (group.num_units,)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_readers_are_complete(kind):
    """Acceptance 31. Behind zero outgoing weights a unit may become anything: nobody sees it."""
    network = policy_of(kind, **INDEPENDENT.get(kind, {})).double()
    x, context, _ = data(dtype=torch.float64)
    for group in network.unit_groups():
        for unit in (0, group.num_units - 1):
            index = torch.tensor([unit])
            group.forget_units(index)
            before = network(x, context)
            group.layer.reset_units(index, torch.Generator().manual_seed(unit))
            assert torch.equal(network(x, context), before)
            group.layer.linear.bias[unit] = 100.0
            assert torch.equal(network(x, context), before)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_resetting_units_rewrites_what_it_says_and_nothing_else(kind):
    network = policy_of(kind)
    names = {id(p): name for name, p in network.named_parameters()}
    for group in network.unit_groups():
        units = torch.tensor([1, group.num_units - 1])
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        touched = group.layer.reset_units(units, torch.Generator().manual_seed(9))
        rewritten = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in before.items()}
        for entry in touched:
            assert entry.dim == 0
            rewritten[names[id(entry.parameter)]][entry.indices] = True
        for name, parameter in network.named_parameters():
            kept = ~rewritten[name]
            assert torch.equal(parameter[kept], before[name][kept]), name
        weight = names[id(group.layer.linear.weight)]
        assert rewritten[weight][units].all()
        assert (group.layer.linear.weight[units] != before[weight][units]).all()
        segments = getattr(group.layer, "segments", None)
        assert segments is None or rewritten[names[id(segments)]][units].all()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_renewed_units_follow_the_law_of_the_layer(kind):
    network = policy_of(kind)
    for group in network.unit_groups():
        weight = group.layer.linear.weight
        bound, std = weight.abs().max(), weight.std()
        group.layer.reset_units(torch.arange(group.num_units), torch.Generator().manual_seed(3))
        assert weight.abs().max().item() == pytest.approx(bound.item(), rel=0.1)
        assert weight.std().item() == pytest.approx(std.item(), rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["keep", "zero_moments", "per_unit_step"])
def test_continual_backprop_renews_units_and_their_optimizer_state(kind, policy):
    network = policy_of(kind)
    groups = network.unit_groups()
    config = continual_backprop.Config(
        replacement_rate=0.05, maturity_threshold=2, optimizer_state=policy
    )
    method = continual_backprop.build(
        config, Target("policy", network, groups, torch.Generator().manual_seed(0))
    )
    optimizer = adam.build(
        adam.Config(learning_rate=1e-3), network, per_unit_step=policy == "per_unit_step"
    )
    recording, renewed = Recording(groups), 0
    x, context, _ = data()
    for _ in range(8):
        with recording:
            loss = (network(x, context) - x[:, :2]).square().mean() + network.log_std.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(recording.activations, optimizer)
        renewed += len(method.pop_events())
        for entry in method.pop_touched():
            moment = optimizer.state[entry.parameter]["exp_avg"]
            edited = moment.index_select(entry.dim, entry.indices)
            assert policy == "keep" or (edited == 0).all()
            assert (moment != 0).any()
    assert renewed >= len(groups)
    assert network(x, context).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_reads_observation_and_action(kind):
    torso = build(kind, inputs=INPUTS + 2)
    x, context, _ = data()
    for critic in (QFunction, ValueFunction):
        value = critic(torso, Initializer(), Streams(0))
        assert value(torch.cat((x, x[:, :2]), 1), context).shape == (32,)


@pytest.mark.parametrize("kind", ["film", "xdg", "k_winners", "dendritic", "multi_head"])
def test_arms_share_their_initial_hidden_weights(kind):
    a, b = (policy_of(name, context_to_input=True) for name in (kind, "mlp"))
    for left, right in zip(a.torso.layers, b.torso.layers, strict=True):
        assert torch.equal(left.linear.weight, right.linear.weight)
    assert torch.equal(a.mean.weight[:2], b.mean.weight)
