"""The utility that is handed on from the outputs, by hand and against a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recycling_nets import LECUN, equal_bits, policy, recycler
from torch import nn

from agents.update import Update, clone
from networks import dendritic, mlp, multi_head, simba
from networks.heads import SquashedGaussianPolicy
from networks.sequential import unit_groups_of
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Reader, Recording, UnitGroup
from plasticity.optimizers import adam
from plasticity.propagated_utility import PropagatedUtility
from plasticity.utilities import instantaneous_utility, shared_utility

TASKS = ContextSpec(3, discrete=True)


def hand_net():
    """2-2-2-1 whose utilities can be worked out by hand."""
    net = nn.Sequential(
        nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)
    ).double()
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
        net[4].weight.copy_(torch.tensor([[2.0, -6.0]]))
    return net


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_by_hand():
    """Mean |h| (1, 2), (3, 1): the output splits as 6 : 6, then .5 as 1 : 2 and .5 as 0 : 4."""
    utility = PropagatedUtility(unit_groups_of(hand_net()))
    found = utility({"0": double([2.0, 0.0], [0.0, -4.0]), "2": double([3.0, 2.0], [-3.0, 0.0])})
    torch.testing.assert_close(found["2"], double(0.5, 0.5))
    torch.testing.assert_close(found["0"], double(1.0 / 6.0, 5.0 / 6.0))


def test_work_for_a_useless_unit_is_useless():
    """Unit 1 of the first layer feeds, strongly, a unit that nobody reads."""
    net = hand_net()
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 100.0]]))
        net[4].weight.copy_(torch.tensor([[1.0, 0.0]]))
    ones = torch.ones(3, 2, dtype=torch.float64)
    found = PropagatedUtility(unit_groups_of(net))({"0": ones, "2": ones})
    assert found["0"].tolist() == pytest.approx([1.0, 0.0])
    contribution = instantaneous_utility(
        "contribution", ones, net[2].weight.abs().mean(0), *torch.ones(2, 2, dtype=torch.float64)
    )
    assert contribution[1] > contribution[0]


def test_running_average_through_the_method():
    method = recycler(hand_net(), utility="propagated", utility_decay=0.9)
    ones = torch.ones(1, 2, dtype=torch.float64)
    method.update_utilities({"0": double([1.0, 2.0]), "2": double([3.0, 1.0])})
    method.update_utilities({"0": ones, "2": ones})
    # The second minibatch: the output splits as 2 : 6, then .25 as 1 : 1 and .75 as 0 : 2.
    expected = 0.09 * double(1.0 / 6.0, 5.0 / 6.0) + 0.1 * double(0.125, 0.875)
    torch.testing.assert_close(method.statistics["0"].utility, expected)


def loop(magnitudes, matrices):
    """Utilities of consecutive layers; matrices[l] reads layer l, the last one is the outputs."""
    utilities, above = [], [1.0] * len(matrices[-1])
    for size, matrix in zip(reversed(magnitudes), reversed(matrices), strict=True):
        here = [0.0] * len(size)
        for k, row in enumerate(matrix):
            parts = [abs(w) * h for w, h in zip(row, size, strict=True)]
            for i, part in enumerate(parts):
                here[i] += above[k] * part / (sum(parts) + 1e-12)
        utilities, above = [here, *utilities], here
    return utilities


STACKS = {
    "mlp": (mlp, mlp.Config(hidden_sizes=[7, 6, 5], activation="tanh", layer_norm=True)),
    "dendritic": (
        dendritic,
        dendritic.Config(
            hidden_sizes=[16, 18, 16], active_fraction=0.5, weight_density=0.5, head_density=0.75
        ),
    ),
    "multi_head": (multi_head, multi_head.Config(hidden_sizes=[7, 6])),
}


@pytest.mark.parametrize("name", list(STACKS))
def test_deep_networks_with_two_heads_equal_a_loop(name):
    module, config = STACKS[name]
    streams = Streams(0, "actor/")
    net = SquashedGaussianPolicy(module.build(config, 4, TASKS, streams), 2, LECUN, streams)
    net, recording = net.double(), Recording(net.unit_groups())
    context = torch.eye(3, dtype=torch.float64)[torch.arange(9) % 3]
    with recording, torch.no_grad():
        net(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double(), context)
    found = PropagatedUtility(net.unit_groups())(recording.activations)
    sizes = [h.abs().mean(0).tolist() for h in recording.activations.values()]
    matrices = [layer.linear.weight.tolist() for layer in net.torso.layers][1:]
    heads = torch.cat([net.mean.weight, net.log_std.weight])
    assert len(heads) == (12 if name == "multi_head" else 4)
    for group, expected in zip(
        net.unit_groups(), loop(sizes, [*matrices, heads.tolist()]), strict=True
    ):
        assert found[group.name].tolist() == pytest.approx(expected)
        assert found[group.name].sum().item() == pytest.approx(len(heads))


def test_units_with_two_values_own_two_columns():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    group = unit_groups_of(net)[0]
    reader = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        reader.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    columns = torch.tensor([[0, 2], [1, 3]])
    paired = UnitGroup("x", group.layer, (Reader(reader, columns),), net[1], values_per_unit=2)
    # Values (1, 0) and (1, 1): shares 1 + 0 and 2 + 4 of 7.
    values = paired.unit_values(double([1.0, 1.0, 0.0, 1.0]))
    found = PropagatedUtility([paired])({"x": values})["x"]
    torch.testing.assert_close(found, double(1.0 / 7.0, 6.0 / 7.0))


def test_positions_of_a_convolution_share_the_mean_of_their_channel():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    ).double()
    recording = Recording(unit_groups_of(net))
    with recording, torch.no_grad():
        net(torch.randn(4, 1, 5, 5, dtype=torch.float64))
    sizes = [h.abs().mean((0, 2, 3)).tolist() for h in recording.activations.values()]
    kernel = net[2].weight.abs().sum((2, 3)).tolist()
    flat = net[5].weight.abs().unflatten(1, (2, 4)).sum(2).tolist()
    found = PropagatedUtility(unit_groups_of(net))(recording.activations)
    first, second = loop(sizes, [kernel, flat])
    assert found["0"].tolist() == pytest.approx(first)
    assert found["2"].tolist() == pytest.approx(second)


def test_groups_come_in_any_order_and_a_skip_connection_counts():
    """The head also reads the first layer: two layers read it, and their shares add up."""
    net = hand_net()
    first, second = unit_groups_of(net)
    skip = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        skip.weight.copy_(torch.tensor([[3.0, 1.0]]))
    wide = UnitGroup("0", first.layer, (*first.readers, Reader(skip)), first.tap)
    h = {"0": double([1.0, 2.0]), "2": double([3.0, 1.0])}
    for groups in ([wide, second], [second, wide]):
        found = PropagatedUtility(groups)(h)["0"]
        torch.testing.assert_close(found, double(1 / 6 + 3 / 5, 5 / 6 + 2 / 5))


def test_a_layer_that_reads_two_groups_splits_among_both():
    net, joint = hand_net(), nn.Linear(4, 1, bias=False).double()
    first, second = unit_groups_of(net)
    with torch.no_grad():
        joint.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    groups = [
        UnitGroup("0", first.layer, (Reader(joint, torch.tensor([[0], [1]])),), first.tap),
        UnitGroup("2", second.layer, (Reader(joint, torch.tensor([[2], [3]])),), second.tap),
    ]
    found = PropagatedUtility(groups)({"0": double([1.0, 2.0]), "2": double([3.0, 4.0])})
    assert [found["0"].tolist(), found["2"].tolist()] == [
        pytest.approx([0.1, 0.2]),
        pytest.approx([0.3, 0.4]),
    ]


def test_a_residual_stream_counts_as_output():
    streams = Streams(0, "value/")
    torso = simba.build(simba.Config(width=4, expansion=2, num_blocks=2), 3, ContextSpec(), streams)
    groups = torso.unit_groups((torso.head(1, LECUN, streams, "value"),))
    recording = Recording(groups)
    with recording, torch.no_grad():
        torso(torch.randn(5, 3))
    for values in PropagatedUtility(groups)(recording.activations).values():
        assert values.sum().item() == pytest.approx(4.0, rel=1e-5)  # the width of the stream


def test_silent_layers_are_worth_nothing_and_divide_nothing_by_zero():
    silent = {"0": torch.ones(2, 2).double(), "2": torch.zeros(2, 2).double()}
    found = PropagatedUtility(unit_groups_of(hand_net()))(silent)
    assert not found["2"].any()
    assert not found["0"].any()
    weight = torch.zeros(3, 4)
    assert shared_utility(weight, torch.ones(4)).tolist() == [0.0] * 4


def test_a_circle_and_a_lone_formula_are_refused():
    net = hand_net()
    first, second = unit_groups_of(net)
    circle = UnitGroup("2", second.layer, (Reader(net[0]),), second.tap)
    with pytest.raises(ValueError, match="circle"):
        PropagatedUtility([first, circle])
    ones = torch.ones(2)
    with pytest.raises(ValueError, match="whole network"):
        instantaneous_utility("propagated", torch.ones(1, 2), ones, ones, ones)


def train(net, method, steps, stream):
    update = Update("policy", net, adam.build(adam.Config(learning_rate=1e-2), net), {"cb": method})
    events = []
    for _ in range(steps):
        x = torch.randn(32, 4, generator=stream)
        with update.recording():
            y = net(x)
        update.step((y - x[:, :2]).square().mean())
        events += update.pop_events()
    return update, events


def test_the_least_useful_unit_is_renewed():
    net = policy((12, 12))
    settings = {"maturity_threshold": 5, "replacement_rate": 0.05, "utility_decay": 0.0}
    method = recycler(net, name="policy", utility="propagated", **settings)
    utility, seen = method._propagated, []

    def spy(activations):
        seen.append(utility(activations))
        return seen[-1]

    method._propagated = spy
    _, events = train(net, method, 8, torch.Generator().manual_seed(0))
    assert {event["group"] for event in events} == {"layers.0", "layers.1"}
    for event in events:
        expected = seen[event["gradient_step"] - 1][event["group"]]
        assert event["utility"] <= np.quantile(expected.numpy(), 0.2) + 1e-7
        if event["gradient_step"] == events[0]["gradient_step"]:
            assert event["unit"] == int(expected.argmin())


def test_resume_is_exact():
    def start(seed):
        net = policy((12, 12), seed=seed)
        settings = {"maturity_threshold": 3, "replacement_rate": 0.1}
        return net, recycler(net, seed, name="policy", utility="propagated", **settings)

    stream = torch.Generator().manual_seed(0)
    (net, method), (twin, other) = start(0), start(1)
    update, events = train(net, method, 10, stream)
    assert events
    restored = Update(
        "policy", twin, adam.build(adam.Config(learning_rate=1e-2), twin), {"cb": other}
    )
    restored.load_state_dict(clone(update.state_dict()))
    for both in (update, restored):
        stream.manual_seed(5)
        for _ in range(10):
            x = torch.randn(32, 4, generator=stream)
            with both.recording():
                y = both.network(x)
            both.step((y - x[:, :2]).square().mean())
    assert equal_bits(clone(update.state_dict()), clone(restored.state_dict()))
    assert update.pop_events() == restored.pop_events()
