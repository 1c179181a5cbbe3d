"""Utility formulas against hand computation and against a slow loop from the equations."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import hand_net, recycler
from torch import nn

from networks.sequential import unit_groups_of
from networks.units import Recording
from plasticity.context_statistics import ContextStatistics
from plasticity.periodic_recycling import ActivityWindow
from plasticity.propagated_utility import unit_magnitudes
from plasticity.unit_statistics import UnitStatistics
from plasticity.utilities import (
    UTILITIES,
    dormancy_scores,
    fisher_information,
    instantaneous_utility,
)

# Utilities of gradients and of whole networks have pages of their own, test_fisher_utility.py and
# test_propagated_utility.py.
FORMULAS = [
    name
    for name, u in UTILITIES.items()
    if name != "random" and not u.uses_fisher and not u.uses_network
]
HAND = {
    "contribution": [4.0, 0.6],
    "weight": [2.0, 3.0],
    "adaptation": [1.0, 10.0],
    "zero_contribution": [2.0, 0.3],
    "adaptable_contribution": [2.0, 3.0],
    "feature_by_input": [1.0, 1.0],
}


@pytest.mark.parametrize("name", FORMULAS)
def test_hand_computation(name):
    net = hand_net()
    method = recycler(net, utility=name, utility_decay=0.9)
    recording = Recording(method.target.unit_groups)
    with recording:
        net(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    method.update_utilities(recording.activations)
    statistics = method.statistics["0"]
    corrected = statistics.corrected(statistics.utility, 1)
    torch.testing.assert_close(corrected, torch.tensor(HAND[name], dtype=torch.float64))


def test_deviations_are_from_the_corrected_mean_of_this_call():
    """Activations 1, 1, 4 have mean 2 and mean deviation 4/3; the raw average would be 0.2."""
    net = hand_net()
    method = recycler(net, utility="zero_contribution", utility_decay=0.9)
    h = torch.tensor([[1.0, 1.0], [1.0, 1.0], [4.0, 4.0]], dtype=torch.float64)
    method.update_utilities({"0": h})
    expected = 0.1 * 4.0 / 3.0 * torch.tensor([2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(method.statistics["0"].utility, expected)


def naive_loop(name, h, w_out, w_in, mean):
    samples, units = h.shape
    result = []
    for i in range(units):
        outgoing = sum(abs(w_out[o, i].item()) for o in range(len(w_out))) / len(w_out)
        incoming = sum(abs(w_in[i, k].item()) for k in range(w_in.shape[1])) / w_in.shape[1]
        size = sum(abs(h[b, i].item()) for b in range(samples)) / samples
        spread = sum(abs((h[b, i] - mean[i]).item()) for b in range(samples)) / samples
        result.append(
            {
                "contribution": outgoing * size,
                "weight": outgoing,
                "adaptation": 1.0 / incoming,
                "zero_contribution": outgoing * spread,
                "adaptable_contribution": outgoing * spread / incoming,
                "feature_by_input": spread / incoming,
            }[name]
        )
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("name", FORMULAS)
def test_running_utility_equals_a_naive_loop(name):
    """Three calls with different batches and weights, through the engine."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    statistics = UnitStatistics(unit_groups_of(net)[0], name, decay=0.8)
    running = mean = torch.zeros(7, dtype=torch.float64)
    for call in (1, 2, 3):
        h = torch.randn(6 + call, 7, dtype=torch.float64)
        nn.init.normal_(net[2].weight)
        nn.init.normal_(net[0].weight)
        mean = 0.8 * mean + 0.2 * h.mean(0)
        y = naive_loop(name, h, net[2].weight, net[0].weight, mean / (1.0 - 0.8**call))
        running = 0.8 * running + 0.2 * y
        with torch.no_grad():
            statistics.update(h, call)
        torch.testing.assert_close(statistics.utility, running)
    torch.testing.assert_close(
        statistics.corrected(statistics.utility, 3), running / (1.0 - 0.8**3)
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_permuting_units_permutes_utilities(name):
    torch.manual_seed(0)
    h, outgoing, incoming, mean = torch.randn(9, 6), torch.rand(6), torch.rand(6), torch.randn(6)
    order = torch.randperm(6)
    plain = instantaneous_utility(name, h, outgoing, incoming, mean)
    permuted = instantaneous_utility(
        name, h[:, order], outgoing[order], incoming[order], mean[order]
    )
    torch.testing.assert_close(permuted, plain[order])


def test_sum_and_mean_of_outgoing_weights_rank_alike():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 3))
    group = unit_groups_of(net)[0]
    h = torch.rand(16, 40)
    ranks = []
    for aggregate in ("mean", "sum"):
        statistics = UnitStatistics(group, "contribution", 0.9, out_aggregate=aggregate)
        with torch.no_grad():
            statistics.update(h, 1)
        ranks.append(statistics.utility)
    torch.testing.assert_close(ranks[1], 3.0 * ranks[0])
    assert torch.equal(ranks[0].argsort(), ranks[1].argsort())


def test_convolution_averages_over_positions():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    (group,) = unit_groups_of(net)
    recording = Recording((group,))
    with recording:
        net(torch.randn(5, 2, 6, 6, dtype=torch.float64))
    h = recording.activations["0"]
    assert h.shape == (5, 4, 2, 2)  # after pooling
    statistics = UnitStatistics(group, "contribution", 0.0)
    with torch.no_grad():
        statistics.update(h, 1)
    for channel in range(4):
        outgoing = net[4].weight[:, 4 * channel : 4 * channel + 4].abs().mean()
        expected = outgoing * h[:, channel].abs().mean()
        assert statistics.utility[channel].item() == pytest.approx(expected.item())


def test_zero_incoming_weights_do_not_divide_by_zero():
    ones = torch.ones(2)
    result = instantaneous_utility("adaptation", torch.ones(1, 2), ones, torch.zeros(2), ones)
    assert result.tolist() == pytest.approx([1e12, 1e12])


def test_random_has_no_formula():
    ones = torch.ones(2)
    with pytest.raises(ValueError, match="noise"):
        instantaneous_utility("random", torch.ones(1, 2), ones, ones, ones)


def test_dormancy_scores():
    scores = dormancy_scores(torch.tensor([4.0, 0.0, 1.0, 3.0]))
    torch.testing.assert_close(scores, torch.tensor([2.0, 0.0, 0.5, 1.5]))
    assert dormancy_scores(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_activations_are_summed_in_float32(dtype):
    """64 images of 28 x 28 positions hold 50,176 values of a channel: float16 ends at 65,504."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 2)
    )
    (group,) = unit_groups_of(net)
    size = torch.tensor([2.0, 8.0, 4.0, 100.0]).view(1, 4, 1, 1)
    half = (size * (torch.rand(64, 4, 28, 28) + 0.5)).to(dtype)
    contexts = torch.arange(64) % 2

    def measured(h):
        found = {"magnitude": unit_magnitudes(group, h), "fisher": fisher_information(h)}
        for name in (*FORMULAS, "fisher_contribution"):
            statistics = UnitStatistics(group, name, 0.5, mean_transfer=True)
            statistics.update(h, 1, gradient=h)
            found[name] = statistics.utility
            found[f"{name}_mean"] = statistics.mean
        window = ActivityWindow(group, 64)
        window.add(h)
        window.add(h)
        by_context = ContextStatistics(group, 2, 0.5)
        by_context.update_by_context(h, contexts)
        return {**found, "window": window.mean(), "by_context": by_context.by_context}

    with torch.no_grad():
        expected = measured(half.float())
        for name, value in measured(half).items():
            assert value.dtype == torch.float32, name
            torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=0.0)
