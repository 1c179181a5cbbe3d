"""Units with two features (concatenated ReLU, Fourier features): graph, recycling, diagnostics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks.heads import GaussianPolicy, SquashedGaussianPolicy
from networks.initializers import Initializer
from networks.mlp import Config, build
from networks.readers import Reader, paired_readers
from networks.sequential import unit_groups_of
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, UnitGroup
from plasticity.diagnostics import dormant_mask
from plasticity.method import Target
from plasticity.methods import continual_backprop, redo
from plasticity.optimizers import adam
from plasticity.recycling import Selection, renew
from plasticity.unit_statistics import UnitStatistics

PAIRED = ("crelu", "deep_fourier")


def network(activation="crelu", sizes=(8, 6), head=GaussianPolicy, layer_norm=False):
    config = Config(hidden_sizes=list(sizes), activation=activation, layer_norm=layer_norm)
    streams = Streams(0, "policy/")
    torso = build(config, 5, ContextSpec(), streams)
    return head(torso, 2, Initializer(), streams).double()


def inputs(rows=16):
    return torch.randn(rows, 5, generator=generator(), dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(3)


def recorded(net, x):
    recording = Recording(net.unit_groups())
    with recording:
        net(x)
    recording.close()
    return recording.activations


@pytest.mark.parametrize("activation", PAIRED)
def test_a_unit_owns_columns_i_and_i_plus_half(activation):
    groups = network(activation).unit_groups()
    assert [group.num_units for group in groups] == [4, 3]
    assert groups[0].readers[0].columns.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [group.num_outgoing for group in groups] == [2 * 3, 2 * 2]
    two_heads = network(activation, head=SquashedGaussianPolicy).unit_groups()[1]
    assert len(two_heads.readers) == 2
    assert two_heads.num_outgoing == 2 * 4


@pytest.mark.parametrize("activation", PAIRED)
@pytest.mark.parametrize("head", [GaussianPolicy, SquashedGaussianPolicy])
@torch.no_grad()
def test_zeroing_both_columns_cuts_the_unit(activation, head):
    for index in range(2):
        for unit in range(3):
            net, x = network(activation, head=head), inputs()
            group = net.unit_groups()[index]
            group.forget_units(torch.tensor([unit]))
            before = net(x)
            group.layer.linear.bias[unit] = 100.0
            assert equal(net(x), before)
            group.layer.linear.bias[unit] = -100.0
            assert equal(net(x), before)
            # One column alone would not do.
            reader = group.readers[0]
            reader.layer.weight[:, reader.columns[unit, 1]] = 1.0
            group.layer.linear.bias[unit] = -99.0
            assert not equal(net(x), before)


def equal(left, right):
    if isinstance(left, tuple):
        return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    return torch.equal(left, right)


@pytest.mark.parametrize("activation", PAIRED)
@torch.no_grad()
def test_renewal_removes_the_unit_exactly_and_its_fresh_row_changes_nothing(activation):
    net, x = network(activation), inputs()
    group = net.unit_groups()[1]
    units = torch.tensor([0, 2])
    h, w = recorded(net, x)["layers.1"], net.mean.weight.clone()
    before = net(x)
    columns = [0, 2, 3, 5]
    touched = renew([Selection(group, units, units, units)], generator())
    expected = before - h[:, columns] @ w[:, columns].T
    torch.testing.assert_close(net(x), expected)
    assert (net.mean.weight[:, columns] == 0.0).all()
    assert torch.equal(net.mean.weight[:, [1, 4]], w[:, [1, 4]])
    edited = {id(t.parameter): sorted(t.indices.tolist()) for t in touched}
    assert edited[id(net.mean.weight)] == columns
    assert edited[id(group.layer.linear.weight)] == [0, 2]
    after = net(x)
    group.layer.reset_units(units, generator())
    assert torch.equal(net(x), after)


@torch.no_grad()
def test_mean_transfer_keeps_the_mean_output():
    net, x = network(), inputs()
    group = net.unit_groups()[1]
    statistics = UnitStatistics(group, "contribution", 0.9, mean_transfer=True)
    statistics.update(group.unit_values(recorded(net, x)["layers.1"]), 1)
    selection = statistics.select(2, 1, 0, generator())
    assert selection.means.shape == (2, 2)
    before = net(x).mean(0)
    renew([selection], generator())
    torch.testing.assert_close(net(x).mean(0), before)


NAMES = ("contribution", "weight", "adaptation", "zero_contribution", "adaptable_contribution")


@pytest.mark.parametrize("name", [*NAMES, "feature_by_input", "fisher", "fisher_contribution"])
@torch.no_grad()
def test_utilities_are_means_over_the_two_features(name):
    """Every feature is judged as a unit of its own with the columns that read it."""
    net, x = network(), inputs()
    group = net.unit_groups()[1]
    h = recorded(net, x)["layers.1"]
    gradient = torch.randn(h.shape, generator=generator(), dtype=torch.float64)
    statistics = UnitStatistics(group, name, 0.5)
    statistics.update(group.unit_values(h), 1, group.unit_values(gradient))
    expected = []
    for unit in range(3):
        incoming = group.layer.linear.weight[unit].abs().mean()
        each = []
        for column in (unit, unit + 3):
            outgoing = net.mean.weight[:, column].abs().mean()
            size, spread = h[:, column].abs().mean(), (h[:, column] - h[:, column].mean()).abs()
            fisher = (16 * gradient[:, column]).square().mean()
            each.append(
                {
                    "contribution": outgoing * size,
                    "weight": outgoing,
                    "adaptation": 1.0 / incoming,
                    "zero_contribution": outgoing * spread.mean(),
                    "adaptable_contribution": outgoing * spread.mean() / incoming,
                    "feature_by_input": spread.mean() / incoming,
                    "fisher": fisher,
                    "fisher_contribution": fisher * outgoing * size,
                }[name]
            )
        expected.append(0.5 * (each[0] + each[1]))
    torch.testing.assert_close(statistics.corrected(statistics.utility, 1), torch.stack(expected))


@torch.no_grad()
def test_a_feature_that_never_fires_does_not_lend_its_weights_to_the_other():
    """Unit 0 is always positive and read through zero weights: it contributes nothing."""
    net = network()
    group = net.unit_groups()[1]
    net.mean.weight[:, 0], net.mean.weight[:, 3] = 0.0, 10.0
    h = torch.rand(8, 6, dtype=torch.float64)
    h[:, 3] = 0.0
    statistics = UnitStatistics(group, "contribution", 0.0)
    statistics.update(group.unit_values(h), 1)
    assert statistics.utility[0] == 0.0
    assert (statistics.utility[1:] > 0.0).all()


def target(net):
    return Target("policy", net, net.unit_groups(), generator())


@pytest.mark.parametrize("activation", PAIRED)
@pytest.mark.parametrize("optimizer_state", ["keep", "zero_moments", "per_unit_step"])
def test_recyclers_run_and_edit_both_columns_of_the_optimizer(activation, optimizer_state):
    net = network(activation)
    optimizer = adam.build(adam.Config(), net, per_unit_step=optimizer_state == "per_unit_step")
    config = continual_backprop.Config(
        maturity_threshold=3,
        replacement_rate=0.2,
        optimizer_state=optimizer_state,
        mean_transfer=True,
        utility="zero_contribution",
    )
    method = continual_backprop.build(config, target(net))
    recording = Recording(net.unit_groups())
    for _ in range(12):
        optimizer.zero_grad()
        with recording:
            y = net(inputs())
        y.square().mean().backward()
        optimizer.step()
        method.after_step(recording.activations, optimizer)
        events = [e["unit"] for e in method.pop_events() if e["group"] == "layers.1"]
        if events:
            columns = [c for unit in events for c in (unit, unit + 3)]
            assert (net.mean.weight[:, columns] == 0.0).all()
            moments = optimizer.state[net.mean.weight]["exp_avg"][:, columns]
            assert (moments == 0.0).all() == (optimizer_state != "keep")
            return
    raise AssertionError("no unit was renewed")


def test_redo_scores_units_by_both_features():
    """crelu: |h| of the two features adds up to |z|."""
    net = network()
    method = redo.build(redo.Config(period=1, dormancy_threshold=0.1), target(net))
    first = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 3.0, 1.0]]).double().repeat(4, 1)
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    method.after_step({"layers.0": first, "layers.1": torch.ones(4, 6).double()}, sgd)
    (event,) = method.pop_events()
    assert (event["group"], event["unit"]) == ("layers.0", 1)


@pytest.mark.parametrize("activation", PAIRED)
def test_dormancy_goes_by_the_gradient_of_the_units(activation):
    features = torch.rand(20, 6)
    gradient = torch.tensor([[0.1, -0.3], [0.0, 0.001], [0.2, 0.2]])
    mask = dormant_mask(features, activation, weight_gradient=gradient)
    assert mask.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="6 rows for 3 units"):
        dormant_mask(features, activation, weight_gradient=gradient.repeat(2, 1))
    with pytest.raises(ValueError, match="never silent"):
        dormant_mask(features, activation)
    smooth = dormant_mask(features[:, :3], "smooth_leaky", weight_gradient=gradient)
    assert smooth.tolist() == [False, True, False]


@torch.no_grad()
def test_plain_sequential_networks_work_too():
    from networks.activations import CReLU

    net = nn.Sequential(nn.Linear(5, 4), CReLU(), nn.Linear(8, 2)).double()
    (group,) = unit_groups_of(net)
    x = inputs()
    group.forget_units(torch.tensor([1]))
    before = net(x)
    net[0].bias[1] = 50.0
    assert torch.equal(net(x), before)
    with pytest.raises(ValueError, match="8 inputs only"):
        unit_groups_of(nn.Sequential(nn.Linear(5, 4), CReLU(), nn.Linear(4, 2)))


def test_readers_without_columns_for_both_features_are_refused():
    layer = nn.Linear(8, 2)
    producer = network().unit_groups()[0].layer
    with pytest.raises(ValueError, match=r"columns of shape \(4, 2\)"):
        UnitGroup("x", producer, (Reader(layer),), layer, "crelu", values_per_unit=2)
    UnitGroup("x", producer, paired_readers((layer,), 4), layer, "crelu", values_per_unit=2)


def test_a_tap_of_another_width_is_refused():
    group = network().unit_groups()[0]
    with pytest.raises(ValueError, match=r"4 units with 2 value\(s\)"):
        group.unit_values(torch.ones(3, 4))
