"""What an edit does to a network: function, law of the fresh weights, graph, masks, roles."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from recycling_nets import (
    LECUN,
    Trainer,
    critic,
    generator,
    parameters_of,
    policy,
    recycler,
    target_of,
)
from scipy import stats
from torch import nn

from networks.initializers import Initializer
from networks.sequential import unit_groups_of
from networks.units import HiddenLayer, Reader, Touched, UnitGroup, reset_linear_units
from plasticity.optimizer_state import apply_policy
from plasticity.optimizers import adam
from plasticity.recycling import Selection, mirror_edits, renew


def select(group: UnitGroup, *units: int, means=None) -> Selection:
    index = torch.tensor(units)
    zeros = torch.zeros(len(units))
    return Selection(group, index, zeros, torch.zeros_like(index), means)


def hidden_values(net: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    values = []
    for module in net:
        x = module(x)
        if isinstance(module, nn.ReLU):
            values.append(x)
    return values


@torch.no_grad()
def test_removal_changes_the_next_pre_activation_by_exactly_what_the_units_gave():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)
    ).double()
    groups = unit_groups_of(net)
    x = torch.randn(32, 4, dtype=torch.float64)
    units = torch.tensor([1, 5, 6])
    h = hidden_values(net, x)[0]
    before = net[2](h)
    removed = h[:, units] @ net[2].weight[:, units].T
    renew([select(groups[0], 1, 5, 6)], generator())
    after = net[2](hidden_values(net, x)[0])
    torch.testing.assert_close(after - before, -removed, rtol=0, atol=1e-14)
    assert removed.abs().max() > 0.1


@torch.no_grad()
def test_drawing_a_row_behind_zero_columns_changes_nothing():
    net = policy((16, 16))
    x = torch.randn(64, 4, generator=generator())
    for group in net.unit_groups():
        group.forget_units(torch.tensor([3, 9]))
        before = net(x)
        group.layer.reset_units(torch.tensor([3, 9]), generator(5))
        assert torch.equal(before, net(x))


@torch.no_grad()
def test_removing_a_dead_unit_leaves_outputs_bit_identical():
    net = policy((16, 16))
    net.torso.layers[0].linear.bias[4] = -100.0
    x = torch.randn(64, 4, generator=generator())
    before, weight = net(x), net.torso.layers[1].linear.weight.clone()
    renew([select(net.unit_groups()[0], 4)], generator())
    assert torch.equal(before, net(x))
    assert not torch.equal(weight, net.torso.layers[1].linear.weight)


@pytest.mark.parametrize("reader_first", [False, True])
@torch.no_grad()
def test_two_layers_renewed_in_one_call_leave_no_random_weight_between_them(reader_first):
    net = policy((16, 16))
    first, second = net.unit_groups()
    old = net.torso.layers[1].linear.weight.clone()
    selections = [select(first, 3), select(second, 7)]
    renew(selections[::-1] if reader_first else selections, generator())
    row = net.torso.layers[1].linear.weight[7]
    assert row[3] == 0.0
    others = torch.arange(16) != 3
    assert (row[others] != 0.0).all()
    assert (row[others] != old[7][others]).all()
    assert (net.torso.layers[1].linear.weight[:, 3] == 0.0).all()
    assert (net.mean.weight[:, 7] == 0.0).all()


@torch.no_grad()
def test_means_move_to_the_readers_before_anything_is_zeroed():
    net = policy((6, 6)).double()
    first, second = net.unit_groups()
    reader, head = net.torso.layers[1].linear, net.mean
    means1, means2 = torch.tensor([2.0, 3.0]).double(), torch.tensor([5.0]).double()
    expected = reader.bias + reader.weight[:, [1, 4]] @ means1
    expected_head = head.bias + head.weight[:, 2] * 5.0
    renew([select(first, 1, 4, means=means1), select(second, 2, means=means2)], generator())
    kept = torch.arange(6) != 2  # unit 2 of the reader was renewed itself: bias 0
    torch.testing.assert_close(reader.bias[kept], expected[kept])
    assert reader.bias[2] == 0.0
    torch.testing.assert_close(head.bias, expected_head)


@pytest.mark.parametrize(
    ("fan_in", "bound"), [(256, 0.1082532), (27, 0.333333), (105, 0.169031), (111, 0.164399)]
)
def test_lecun_bounds(fan_in, bound):
    assert math.isclose(LECUN.bound(fan_in), bound, abs_tol=1e-6)


@pytest.mark.parametrize("kind", ["lecun_uniform", "kaiming_uniform", "xavier_uniform", "pytorch"])
def test_recycled_rows_follow_the_law_of_the_layer(kind):
    """10,000 fresh rows against the uniform law with the published bound, by KS test."""
    net = nn.Sequential(nn.Linear(27, 100), nn.ReLU(), nn.Linear(100, 1))
    (group,) = unit_groups_of(net, kind)
    bound = {
        "lecun_uniform": math.sqrt(3 / 27),
        "kaiming_uniform": math.sqrt(2) * math.sqrt(3 / 27),
        "xavier_uniform": math.sqrt(6 / 127),
        "pytorch": math.sqrt(1 / 27),
    }[kind]
    stream, rows, biases = generator(1), [], []
    for _ in range(100):
        group.layer.reset_units(torch.arange(100), stream)
        rows.append(net[0].weight.detach().clone())
        biases.append(net[0].bias.detach().clone())
    drawn = torch.cat(rows).flatten().double().numpy()
    law = stats.uniform(-bound, 2 * bound)
    assert stats.kstest(drawn[::7], law.cdf).pvalue > 1e-3
    bias = torch.cat(biases).double().numpy()
    if kind == "pytorch":
        assert stats.kstest(bias, law.cdf).pvalue > 1e-3
    else:
        assert (bias == 0.0).all()


@torch.no_grad()
def test_published_network_law_and_heads():
    net = policy((256, 256), inputs=27, actions=8)
    layer = net.torso.layers[1].linear
    layer.weight.zero_()
    renew([select(net.unit_groups()[1], *range(256))], generator())
    assert layer.weight.abs().max() <= 0.1082532 + 1e-7
    assert layer.weight.abs().max() > 0.1082532 * 0.999
    assert layer.weight.abs().mean().item() == pytest.approx(0.0541266, rel=0.01)
    head = policy((256, 256), inputs=27, actions=8).mean.weight
    assert 0.1082532 * 0.99 < head.abs().max() <= 0.1082532 + 1e-7  # heads are LeCun too


@torch.no_grad()
def test_orthogonal_rows_have_the_norm_of_the_law():
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
    (group,) = unit_groups_of(net, Initializer("orthogonal"))
    group.layer.reset_units(torch.tensor([2, 3]), generator())
    rows = net[0].weight[[2, 3]]
    torch.testing.assert_close(rows @ rows.T, 2.0 * torch.eye(2), rtol=0, atol=1e-5)


@torch.no_grad()
def test_normalisation_entries_are_cleared():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(net[1], name).fill_(7.0)
    renew([select(unit_groups_of(net)[0], 2)], generator())
    assert net[1].weight.tolist() == [7.0, 7.0, 1.0, 7.0]
    assert net[1].bias.tolist() == [7.0, 7.0, 0.0, 7.0]
    assert net[1].running_mean.tolist() == [7.0, 7.0, 0.0, 7.0]
    assert net[1].running_var.tolist() == [7.0, 7.0, 1.0, 7.0]


@torch.no_grad()
def test_flattened_channel_owns_its_positions():
    net = nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    touched = renew([select(unit_groups_of(net)[0], 5)], generator())
    zero = (net[3].weight == 0.0).all(dim=0).nonzero().flatten().tolist()
    assert zero == [20, 21, 22, 23]
    assert touched[-1].indices.tolist() == zero


@torch.no_grad()
def test_all_readers_are_zeroed_and_count_towards_utility():
    torch.manual_seed(0)
    trunk = nn.Linear(4, 6)
    net = nn.Sequential(trunk, nn.ReLU(), nn.Linear(6, 3))
    (plain,) = unit_groups_of(net)
    skip = nn.Linear(6, 5)
    group = UnitGroup("trunk", plain.layer, (*plain.readers, Reader(skip)), net[1])
    outgoing = torch.cat((net[2].weight, skip.weight)).abs().mean(0)
    torch.testing.assert_close(group.outgoing_sum() / group.num_outgoing, outgoing)
    renew([select(group, 2)], generator())
    assert (net[2].weight[:, 2] == 0.0).all()
    assert (skip.weight[:, 2] == 0.0).all()
    assert (skip.weight[:, 3] != 0.0).all()


def test_hidden_layer_without_reader_is_an_error():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    (group,) = unit_groups_of(net)
    with pytest.raises(ValueError, match="no readers"):
        UnitGroup("trunk", group.layer, (), net[1])


class SparseDendrites(HiddenLayer):
    """Masked weights and a segment bank, as a layer of one's own would define them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_units, self.activation_name = 6, "relu"
        self.linear = nn.Linear(8, 6)
        self.segments = nn.Parameter(torch.randn(6, 3, 2))
        self.mask = torch.zeros(6, 8)
        self.mask[:, ::2] = 1.0
        with torch.no_grad():
            self.linear.weight.mul_(self.mask)

    def forward(self, x, context=None):
        gate = torch.sigmoid(self.segments.amax(dim=(1, 2)))
        return torch.relu(self.linear(x)) * gate

    def reset_units(self, units, generator):
        touched = reset_linear_units(self.linear, units, LECUN, generator, self.mask)
        with torch.no_grad():
            shape = (len(units), 3, 2)
            self.segments[units] = torch.empty(shape).uniform_(-9, 9, generator=generator)
        return [*touched, Touched(self.segments, 0, units)]

    def incoming_magnitude(self):
        return self.linear.weight.detach().abs().mean(1)


@torch.no_grad()
def test_masked_weights_stay_zero_and_segments_are_drawn_again():
    layer, head = SparseDendrites(), nn.Linear(6, 1)
    group = UnitGroup("hidden", layer, (Reader(head),), layer)
    segments = layer.segments.clone()
    touched = renew([select(group, 0, 4)], generator())
    assert (layer.linear.weight[layer.mask == 0.0] == 0.0).all()
    fresh = layer.linear.weight[[0, 4]][:, ::2]
    assert fresh.abs().max() <= math.sqrt(3 / 4)  # fan-in counts unmasked inputs
    assert fresh.abs().max() > math.sqrt(3 / 8)
    changed = (layer.segments != segments).flatten(1)
    assert changed.all(1).tolist() == [True, False, False, False, True, False]
    assert not changed[[1, 2, 3, 5]].any()
    assert any(entry.parameter is layer.segments for entry in touched)


def output_change_of_renewal(layer_norm: bool, k_winners: int = 0) -> float:
    """Relative change of the output by redrawing the least useful of 256 units."""
    net = policy((256, 256), inputs=512, actions=1, layer_norm=layer_norm)
    if k_winners:
        for layer in net.torso.layers:
            layer.activation = KWinners(k_winners)
    x = torch.randn(256, 512, generator=generator())
    group = net.unit_groups()[0]
    with torch.no_grad():
        h = net.torso.layers[0](x)
        unit = (h.abs().mean(0) * group.outgoing_sum()).argmin().reshape(1)
        group.forget_units(unit)
        before = net(x)
        group.layer.reset_units(unit, generator(3))
        return ((net(x) - before).std() / before.std()).item()


class KWinners(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x):
        kept = x.topk(self.k, dim=1)
        return torch.zeros_like(x).scatter(1, kept.indices, kept.values)


def test_function_at_reset_is_exact_or_bounded():
    assert output_change_of_renewal(layer_norm=False) == 0.0
    assert 0.0 < output_change_of_renewal(layer_norm=True) < 0.03
    assert 0.0 < output_change_of_renewal(layer_norm=False, k_winners=64) < 0.3


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.ReLU(),
        nn.Conv2d(5, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.Tanh(),
        nn.Linear(6, 2),
    )


@pytest.mark.parametrize("build", [policy, critic, convolutional])
def test_severed_units_cannot_reach_the_output(build):
    """Zero the columns of one unit and push its bias far away: no output may move."""
    net = build()
    groups = target_of(net).unit_groups
    shape = (8, 1, 5, 5) if build is convolutional else (8, 4)
    x = torch.randn(shape, generator=generator())
    intact = parameters_of(net)
    for group in groups:
        linear = group.layer.linear  # type: ignore[attr-defined]
        for unit in range(group.num_units):
            with torch.no_grad():
                group.forget_units(torch.tensor([unit]))
                before = net(x)
                for bias in (100.0, -100.0):
                    linear.bias[unit] = bias
                    assert torch.equal(net(x), before), (group.name, unit)
                for name, parameter in net.named_parameters():
                    parameter.copy_(intact[name])


def test_only_units_are_edited():
    """log_std, head biases and untouched entries are bit-identical after an edit."""
    net = policy((16, 16))
    with torch.no_grad():
        net.log_std.fill_(0.3)
        net.mean.bias.fill_(0.2)
    before = parameters_of(net)
    touched = renew([select(group, 2, 5) for group in net.unit_groups()], generator())
    for name, parameter in net.named_parameters():
        allowed = torch.zeros_like(parameter, dtype=torch.bool)
        for entry in touched:
            if entry.parameter is parameter:
                allowed.index_fill_(entry.dim, entry.indices, True)
        changed = parameter.detach() != before[name]
        assert not (changed & ~allowed).any(), name
        if name not in ("log_std", "mean.bias") and "bias" not in name:
            assert (changed == allowed).all(), name


def test_many_renewals_leave_log_std_alone():
    """The regression loss does not use log_std, so nothing at all may move it."""
    net = policy((16, 16))
    method = recycler(net, replacement_rate=0.05, maturity_threshold=5)
    Trainer(net, method, adam.build(adam.Config(weight_decay=0.1), net)).run(100)
    assert method.counters["layers.0"].replaced_total > 10
    assert torch.equal(net.log_std, torch.zeros(2))


def test_absorbed_means_are_reported_not_forgotten_and_added_to_targets():
    online = critic()
    target = copy.deepcopy(online)
    head = online.value
    optimizer = torch.optim.Adam(online.parameters())
    online(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    moment = optimizer.state[head.bias]["exp_avg"].clone()
    units, means = torch.tensor([3]), torch.tensor([2.0])
    absorbed = 2.0 * head.weight[:, 3].detach()
    expected = head.bias.detach() + absorbed
    group = online.unit_groups()[-1]
    touched = renew([Selection(group, units, means, units, means)], generator())
    torch.testing.assert_close(head.bias.data, expected)
    (shifted,) = [entry for entry in touched if not entry.renewed]
    assert shifted.parameter is head.bias
    apply_policy("zero_moments", optimizer, touched)
    assert moment.any()
    assert torch.equal(optimizer.state[head.bias]["exp_avg"], moment)
    assert not optimizer.state[head.weight]["exp_avg"][:, 3].any()
    with torch.no_grad():  # a target lags behind: its own bias must stay below the addition
        target.value.bias.add_(0.7)
    expected = target.value.bias.detach() + absorbed
    mirror_edits(touched, online, target)
    torch.testing.assert_close(target.value.bias.data, expected)
    assert not target.value.weight[:, 3].any()


def test_mirrored_edits_write_the_same_rows_and_columns():
    online = critic()
    target = copy.deepcopy(online)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1.0)
    shifted = parameters_of(target)
    touched = renew([select(online.unit_groups()[0], 1), select(online.unit_groups()[1], 6)],
                    generator())  # fmt: skip
    mirror_edits(touched, online, target)
    ours, theirs = online.torso.layers, target.torso.layers
    assert torch.equal(theirs[0].linear.weight[1], ours[0].linear.weight[1])
    assert torch.equal(theirs[1].linear.weight[6], ours[1].linear.weight[6])
    assert (theirs[1].linear.weight[:, 1] == 0.0).all()
    assert (target.value.weight[:, 6] == 0.0).all()
    untouched = torch.arange(16) != 1
    kept = theirs[0].linear.weight[untouched]
    assert torch.equal(kept, shifted["torso.layers.0.linear.weight"][untouched])
    with pytest.raises(ValueError, match="does not belong"):
        mirror_edits(touched, target, online)
