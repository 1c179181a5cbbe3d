"""Utilities from gradients at the units' outputs, against a loop over samples."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import Trainer, equal_bits, parameters_of, policy, recycler
from torch import nn

from agents.update import Update
from networks.sequential import unit_groups_of
from networks.units import Recording
from plasticity.optimizers import adam
from plasticity.unit_statistics import UnitStatistics
from plasticity.utilities import fisher_information, instantaneous_utility


def net_of(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 2)
    ).double()


def loss_of(output, x):
    """Mean over samples of a loss that is not symmetric in them."""
    return ((output.sum(1) - x.prod(1)) ** 2 * (1.0 + x[:, 0] ** 2)).mean()


def fisher_by_definition(net, x):
    """Every sample alone: differentiate its own loss by every unit of the layers."""
    totals = None
    for sample in x:
        single = sample[None]
        first = net[1](net[0](single)).detach().requires_grad_()
        second = net[3](net[2](first))
        second.retain_grad()
        loss_of(net[4](second), single).backward()
        grads = [first.grad[0] ** 2, second.grad[0] ** 2]
        totals = grads if totals is None else [a + b for a, b in zip(totals, grads, strict=True)]
    return [total / len(x) for total in totals]


def pass_through(net, x):
    recording = Recording(unit_groups_of(net), gradients=True)
    with recording:
        output = net(x)
    loss_of(output, x).backward()
    recording.close()
    return recording


def test_equals_a_loop_over_samples():
    net, x = net_of(), torch.randn(9, 4, dtype=torch.float64)
    recording = pass_through(net, x)
    expected = fisher_by_definition(net, x)
    for name, by_hand in zip(("0", "2"), expected, strict=True):
        torch.testing.assert_close(fisher_information(recording.gradients[name]), by_hand)


def test_running_average_and_product_with_contribution():
    net = net_of()
    group = unit_groups_of(net)[0]
    plain = UnitStatistics(group, "fisher", 0.8)
    product = UnitStatistics(group, "fisher_contribution", 0.8)
    running = running_product = torch.zeros(6, dtype=torch.float64)
    for call in (1, 2, 3):
        x = torch.randn(5 + call, 4, dtype=torch.float64)
        recording = pass_through(net, x)
        fisher = fisher_by_definition(net, x)[0]
        with torch.no_grad():
            contribution = net[1](net[0](x)).abs().mean(0) * net[2].weight.abs().mean(0)
            running = 0.8 * running + 0.2 * fisher
            running_product = 0.8 * running_product + 0.2 * fisher * contribution
            for statistics in (plain, product):
                statistics.update(recording.activations["0"], call, recording.gradients["0"])
    torch.testing.assert_close(plain.utility, running)
    torch.testing.assert_close(product.utility, running_product)


def test_a_unit_that_nobody_reads_is_worth_nothing():
    net = net_of(nn.ReLU)
    with torch.no_grad():
        net[2].weight[:, 4] = 0.0
    recording = pass_through(net, torch.randn(16, 4, dtype=torch.float64))
    fisher = fisher_information(recording.gradients["0"])
    assert fisher[4] == 0.0
    assert (fisher > 0.0).sum() == 5


def test_positions_of_a_convolution_are_samples():
    torch.manual_seed(0)
    gradient = torch.randn(3, 2, 4, 5)
    expected = [(3 * gradient[:, channel]).square().mean() for channel in range(2)]
    torch.testing.assert_close(fisher_information(gradient), torch.stack(expected))


def test_missing_gradients_are_an_error():
    ones = torch.ones(3)
    with pytest.raises(ValueError, match="needs the gradients"):
        instantaneous_utility("fisher", torch.ones(2, 3), ones, ones, ones)
    method = recycler(net_of(), utility="fisher")
    with pytest.raises(ValueError, match="gradients=True"):
        method.update_utilities({"0": torch.ones(2, 6), "2": torch.ones(2, 5)})


@pytest.mark.parametrize("utility", ["fisher", "fisher_contribution"])
def test_the_least_informative_units_go_through_the_whole_update(utility):
    net = policy((16, 16))
    method = recycler(
        net,
        name="policy",
        utility=utility,
        maturity_threshold=5,
        replacement_rate=0.05,
        utility_decay=0.0,
    )
    update = Update("policy", net, adam.build(adam.Config(), net), {"cb": method})
    assert update.needs_output_gradients
    stream, events = torch.Generator().manual_seed(0), []
    for _ in range(12):
        x = torch.randn(32, 4, generator=stream)
        with update.recording():
            y = net(x)
        gradient = (
            torch.autograd.grad(y.square().mean(), y, retain_graph=True)[0] @ net.mean.weight
        )  # dL/dh of the last hidden layer
        if utility == "fisher":
            expected = int((gradient * 32).square().mean(0).argmin())
        update.step(y.square().mean())
        fresh = [event for event in update.pop_events() if event["group"] == "layers.1"]
        if fresh and utility == "fisher" and not events:
            assert fresh[0]["unit"] == expected
        events += fresh
    assert events


def test_nothing_is_registered_or_kept_unless_asked_for():
    net = policy((8, 8))
    method = recycler(net, name="policy")
    update = Update("policy", net, adam.build(adam.Config(), net), {"cb": method})
    assert not update.needs_output_gradients
    with update.recording():
        y = net(torch.randn(4, 4))
    update.step(y.square().mean())
    assert update._recording is not None
    assert update._recording.gradients == {}
    bare = policy((8, 8))
    Update("policy", bare, adam.build(adam.Config(), bare), {})
    assert all(not module._forward_hooks for module in bare.modules())


def test_passes_without_gradient_or_outside_the_block_leave_nothing():
    net = net_of()
    recording = Recording(unit_groups_of(net), gradients=True)
    with recording, torch.no_grad():
        net(torch.randn(3, 4, dtype=torch.float64))
    net(torch.randn(3, 4, dtype=torch.float64)).sum().backward()
    assert recording.gradients == {}
    assert set(recording.activations) == {"0", "2"}


def test_looking_at_gradients_changes_no_bit():
    nets = [policy((16, 16)) for _ in range(2)]
    for net, utility in zip(nets, ("contribution", "fisher"), strict=True):
        method = recycler(net, utility=utility, maturity_threshold=1000)
        Trainer(net, method, adam.build(adam.Config(), net)).run(30)
    assert equal_bits(parameters_of(nets[0]), parameters_of(nets[1]))
