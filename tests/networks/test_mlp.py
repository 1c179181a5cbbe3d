"""The perceptron torso, its heads, its graph of readers, and plain sequential networks."""

import itertools

import pytest
import torch
from torch import nn

from networks import mlp
from networks.heads import GaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.sequential import unit_groups_of
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, UnitGroup, parameter_roles


def build(config=None, input_dim=27, context=None, seed=0):
    streams = Streams(seed).child("policy")
    torso = mlp.build(config or mlp.Config(), input_dim, context or ContextSpec(), streams)
    return GaussianPolicy(torso, 8, Initializer(), streams)


@pytest.mark.parametrize(
    ("inputs", "policy", "value"), [(27, 75_016, 73_217), (111, 96_520, 94_721)]
)
def test_parameter_counts_of_the_reference_networks(inputs, policy, value):
    network = build(input_dim=inputs)
    assert sum(p.numel() for p in network.parameters()) == policy + 8  # and log_std
    streams = Streams(0)
    torso = mlp.build(mlp.Config(), inputs, ContextSpec(), streams)
    critic = ValueFunction(torso, Initializer(), streams)
    assert sum(p.numel() for p in critic.parameters()) == value


def test_initial_weights_follow_lecun_everywhere_heads_included():
    network = build()
    means = [
        network.torso.layers[0].linear.weight.abs().mean().item(),
        network.torso.layers[1].linear.weight.abs().mean().item(),
        network.mean.weight.abs().mean().item(),
    ]
    assert means == pytest.approx([0.1666667, 0.0541266, 0.0541266], rel=0.02)
    assert all(p.abs().max() == 0 for name, p in network.named_parameters() if "bias" in name)
    assert network.log_std.abs().max() == 0


def test_forward_equals_the_formula():
    network = build(mlp.Config(hidden_sizes=[5, 4]), input_dim=3)
    x = torch.randn(7, 3)
    first, second = network.torso.layers
    hidden = torch.relu(x @ first.linear.weight.T + first.linear.bias)
    hidden = torch.relu(hidden @ second.linear.weight.T + second.linear.bias)
    expected = hidden @ network.mean.weight.T + network.mean.bias
    torch.testing.assert_close(network(x), expected)


def test_layer_norm_stands_before_every_nonlinearity():
    network = build(mlp.Config(hidden_sizes=[64, 32], layer_norm=True))
    seen = []
    for layer in network.torso.layers:
        layer.activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(10, 27))
    assert len(seen) == 2
    for values in seen:
        assert values.mean(-1).abs().max() < 1e-3
        assert (values.var(-1, unbiased=False) - 1).abs().max() < 1e-3


def test_context_reaches_the_input_as_vector_or_as_index():
    network = build(mlp.Config(hidden_sizes=[6]), 3, ContextSpec(4, discrete=True))
    x, ids = torch.randn(5, 3), torch.tensor([0, 3, 1, 1, 2])
    one_hot = nn.functional.one_hot(ids, 4).float()
    torch.testing.assert_close(network(x, ids), network(x, one_hot))
    assert not torch.allclose(network(x, one_hot), network(x, one_hot.roll(1, 1)))
    with pytest.raises(ValueError, match="context"):
        network(x)


def test_every_reader_is_in_the_graph():
    """Cut all readers of a unit: then nothing the unit does may reach the output."""
    network = build(mlp.Config(hidden_sizes=[6, 5]), input_dim=3)
    x = torch.randn(4, 3)
    for group in network.unit_groups():
        for unit in range(group.num_units):
            index = torch.tensor([unit])
            group.forget_units(index)
            before = network(x)
            with torch.no_grad():
                group.layer.linear.bias[unit] = 100.0
            assert torch.equal(network(x), before)


def test_recording_sees_only_passes_inside_the_block():
    network = build(mlp.Config(hidden_sizes=[6, 5]), input_dim=3)
    recording = Recording(network.unit_groups())
    network(torch.randn(2, 3))
    assert recording.activations == {}
    with recording as activations:
        network(torch.randn(7, 3))
    network(torch.randn(9, 3))
    assert {name: tuple(v.shape) for name, v in activations.items()} == {
        "layers.0": (7, 6),
        "layers.1": (7, 5),
    }
    assert not any(value.requires_grad for value in activations.values())


def test_equal_seeds_give_equal_bits_and_arms_share_them():
    plain, normed = build(seed=4), build(mlp.Config(layer_norm=True), seed=4)
    for a, b in itertools.pairwise([plain, build(seed=4)]):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(plain.torso.layers[1].linear.weight, normed.torso.layers[1].linear.weight)
    assert not torch.equal(plain.mean.weight, build(seed=5).mean.weight)


def test_roles_of_parameters():
    roles = parameter_roles(build(mlp.Config(layer_norm=True)))
    assert roles["log_std"] == "log_std"
    assert roles["torso.layers.0.linear.weight"] == "weight"
    assert roles["torso.layers.0.norm.weight"] == "norm_gain"
    assert roles["mean.bias"] == "bias"


def test_a_group_without_readers_is_refused():
    layer = build().torso.layers[0]
    with pytest.raises(ValueError, match="no readers"):
        UnitGroup("layers.0", layer, (), layer)


def test_sequential_graph_of_a_convolution():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 9, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )
    first, second = unit_groups_of(network)
    assert (first.num_units, first.num_outgoing, second.num_outgoing) == (8, 9 * 16, 2)
    x = torch.randn(2, 3, 8, 8)
    first.forget_units(torch.tensor([5]))
    before = network(x)
    with torch.no_grad():
        network[0].bias[5] = 100.0
    assert torch.equal(network(x), before)
    assert (network[4].weight[:, 45:54] == 0).all()
    assert (network[4].weight[:, :45] != 0).all()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Linear(2, 3)], "at least one hidden layer"),
        ([nn.Linear(2, 3), nn.Linear(3, 1)], "no activation"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 1)], "is read by a layer with 4 inputs"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.LSTM(3, 3), nn.Linear(3, 1)], "not understood"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Tanh()], "must end with its linear head"),
    ],
)
def test_sequential_networks_that_are_not_understood(modules, message):
    with pytest.raises(ValueError, match=message):
        unit_groups_of(nn.Sequential(*modules))


def test_sequential_networks_with_a_module_at_two_positions_are_refused():
    act = nn.ReLU()
    twice = nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 1))
    with pytest.raises(ValueError, match="ReLU at position 3 is the module of position 1 again"):
        unit_groups_of(twice)


def test_sequential_networks_with_a_layer_or_weight_used_twice_are_refused():
    layer = nn.Linear(3, 3)
    network = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="Linear at position 2 is the module of position 0 again"):
        unit_groups_of(network)
    network[2] = nn.Linear(3, 3)
    network[2].weight = layer.weight
    with pytest.raises(ValueError, match="weight of position 2 is that of position 0 again"):
        unit_groups_of(network)


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "Sequential"),
        (nn.Conv1d(2, 3, 1), "Conv1d"),
    ],
)
def test_layers_before_the_first_one_that_is_found_are_refused(first, name):
    network = nn.Sequential(first, nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=f"{name} at position 0 has parameters and stands before"):
        unit_groups_of(network)


def test_inputs_may_be_prepared_in_front_of_the_first_layer():
    network = nn.Sequential(
        nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)
    )
    assert [group.name for group in unit_groups_of(network)] == ["2"]


@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_computed_weights_are_refused(position, name):
    network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 1))
    nn.utils.parametrize.register_parametrization(network[position], name, nn.Identity())
    with pytest.raises(ValueError, match=f"{name} of position {position} is computed"):
        unit_groups_of(network)


def test_weight_norm_is_refused():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    nn.utils.parametrizations.weight_norm(network[0])
    with pytest.raises(ValueError, match="weight of position 0 is computed"):
        unit_groups_of(network)
