"""The stacked utility update against the update of one group after the other: equal bits."""

import pytest
import torch
from recycling_nets import generator, policy

from networks.heads import SquashedGaussianPolicy
from networks.initializers import Initializer
from networks.mlp import Config, build
from networks.sequential import unit_groups_of
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.replacement_count import ReplacementCounter
from plasticity.stacked_contribution import StackedContribution
from plasticity.unit_statistics import UnitStatistics


def two_headed():
    """Its last group has two readers."""
    streams, law = Streams(0, "actor/"), Initializer("lecun_uniform")
    torso = build(Config(hidden_sizes=[24, 16]), 4, ContextSpec(), streams)
    return SquashedGaussianPolicy(torso, 2, law, streams)


def statistics_of(groups, **settings):
    return [UnitStatistics(group, "contribution", 0.97, **settings) for group in groups]


def activations_of(groups, num_samples, seed):
    draws = {
        group.name: torch.randn(num_samples, group.num_units, generator=generator(seed + i))
        for i, group in enumerate(groups)
    }
    return {
        group.name: draws[group.name].relu() if group.nonnegative else draws[group.name]
        for group in groups
    }


@pytest.mark.parametrize(
    "network",
    [policy((24, 16)), policy((24, 16), activation="tanh"), two_headed(), policy((130,))],
    ids=["relu", "tanh", "two readers", "one layer"],
)
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_stacked_equals_one_by_one_to_the_bit(network, aggregate):
    groups = network.unit_groups()
    apart = statistics_of(groups, out_aggregate=aggregate)
    together = statistics_of(groups, out_aggregate=aggregate)
    assert StackedContribution.supports(together)
    stacked = StackedContribution(together)
    for call in range(1, 30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01)
        activations = activations_of(groups, 32 if call < 20 else 7, 10 * call)
        with torch.no_grad():
            assert stacked.update(activations)
            for one in apart:
                one.update(activations[one.group.name], call)
    for left, right in zip(apart, together, strict=True):
        assert torch.equal(left.utility, right.utility)
        assert left.utility.abs().sum() > 0.0


def test_edits_through_the_statistics_reach_the_stack():
    groups = policy((8, 8)).unit_groups()
    statistics = statistics_of(groups)
    stacked = StackedContribution(statistics)
    activations = activations_of(groups, 16, 0)
    stacked.update(activations)
    statistics[1].clear(torch.tensor([3]), call=1)
    assert statistics[1].utility[3] == 0.0
    restored = statistics_of(groups)
    again = StackedContribution(restored)
    for one, saved in zip(restored, statistics, strict=True):
        one.load_state_dict(saved.state_dict())
    again.update(activations)
    stacked.update(activations)
    for left, right in zip(restored, statistics, strict=True):
        assert torch.equal(left.utility, right.utility)


def test_other_forms_are_left_to_the_general_update():
    groups = policy((8, 8)).unit_groups()
    assert not StackedContribution.supports(statistics_of(groups, mean_transfer=True))
    assert not StackedContribution.supports([UnitStatistics(groups[0], "weight", 0.9)])
    crelu = policy((8, 8), activation="crelu").unit_groups()
    assert not StackedContribution.supports(statistics_of(crelu))
    convolution = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)
    )
    law = Initializer("lecun_uniform")
    assert not StackedContribution.supports(statistics_of(unit_groups_of(convolution, law)))

    statistics = statistics_of(groups)
    stacked = StackedContribution(statistics)
    good = activations_of(groups, 16, 0)
    assert not stacked.update({"layers.0": good["layers.0"]})
    assert not stacked.update({**good, "layers.1": good["layers.1"].double()})
    assert not stacked.update({**good, "layers.1": good["layers.1"][:, :3]})
    assert all(not one.utility.any() for one in statistics)


@pytest.mark.parametrize("mode", ["accumulate", "accumulate_strict"])
def test_the_host_foresees_every_replacement(mode):
    counter = ReplacementCounter(16, 0.013, maturity_threshold=5, count_mode=mode)
    foreseen, happened = [], []
    for _ in range(400):
        before = counter.state_dict()
        foreseen.append(counter.is_due_next())
        assert counter.state_dict() == before
        happened.append(counter.advance() > 0)
    assert foreseen == happened
    assert sum(happened) > 20


def test_drawn_counts_are_due_whenever_a_unit_is_eligible():
    counter = ReplacementCounter(4, 0.5, maturity_threshold=2, count_mode="bernoulli")
    foreseen = []
    for _ in range(4):
        foreseen.append(counter.is_due_next())
        counter.advance(generator(0))
    assert foreseen == [False, False, True, True]
