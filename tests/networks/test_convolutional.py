"""The convolutional network: shapes, its unit graph, renewed channels, a run."""

import json

import pytest
import torch

import train
from agents.supervised import Predictor
from networks import convolutional
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, parameter_roles


def predictor(inputs=3 * 32 * 32, **settings):
    config = convolutional.Config(**settings)
    torso = convolutional.build(config, inputs, ContextSpec(), Streams(0))
    return Predictor(torso, 2, Initializer(config.head_initializer), Streams(0))


def test_the_published_network_has_the_published_shapes():
    network = predictor()
    shapes = [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 3, 5, 5), (64, 32, 3, 3), (128, 64, 3, 3), (128, 512), (128, 128), (2, 128)]
    assert network(torch.zeros(4, 3072)).shape == (4, 2)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            bound = parameter[0].numel() ** -0.5
            assert 0.9 * bound < parameter.abs().max() <= bound
    assert set(parameter_roles(network).values()) == {"weight", "bias"}


def test_channels_own_their_columns_and_readers_are_complete():
    network = predictor().double()
    groups = network.unit_groups()
    assert [group.num_units for group in groups] == [32, 64, 128, 128, 128]
    x = torch.randn(3, 3072, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with Recording(groups) as activations:
        network(x)
    assert activations[groups[2].name].shape == (3, 128, 2, 2)
    with torch.no_grad():
        groups[2].forget_units(torch.tensor([5]))
        dense = groups[2].readers[0].layer.weight
        assert torch.flatnonzero((dense == 0).all(0)).tolist() == [20, 21, 22, 23]
        for group in groups:
            units = torch.tensor([1])
            group.forget_units(units)
            before = network(x)
            group.layer.reset_units(units, torch.Generator().manual_seed(1))
            assert torch.equal(network(x), before)


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, 64, "no square image"),
        ({"image_channels": 1}, 64, "shrink to nothing"),
        ({"channels": [4]}, 3072, "one kernel size per convolution"),
        ({"hidden_sizes": [0]}, 3072, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(settings, inputs, message):
    with pytest.raises(ValueError, match=message):
        predictor(inputs, **settings)


def test_a_run_on_pairs_of_digits_renews_channels_and_is_examined(tmp_path):
    words = ["experiment=image_pairs_smoke", "progress=false", f"run_dir={tmp_path / 'run'}"]
    assert train.main(words) == 0
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    scores = [event["accuracy"] for event in events if event["event"] == "examination"]
    assert len(scores) == 3
    assert min(scores) > 0.6
    assert {e["group"] for e in events if e["event"] == "unit_reset"} >= {"0", "3"}
