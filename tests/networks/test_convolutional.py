"""The convolutional network: shapes, its unit graph, renewed channels, a run."""

import json

import numpy as np
import pytest
import torch

import train
from agents import supervised
from agents.base import Transition
from agents.parts import METHODS, Parts
from agents.supervised import Predictor
from networks import convolutional
from networks.initializers import Initializer
from networks.redraw import redraw
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, parameter_roles
from plasticity.optimizers import sgd


def predictor(inputs=3 * 32 * 32, **settings):
    config = convolutional.Config(**settings)
    torso = convolutional.build(config, inputs, ContextSpec(), Streams(0))
    return Predictor(torso, 2, Initializer(config.head_initializer), Streams(0))


def test_the_published_network_has_the_published_shapes():
    network = predictor()
    shapes = [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")]
    assert shapes == [
        (32, 3, 5, 5),
        (64, 32, 3, 3),
        (128, 64, 3, 3),
        (128, 512),
        (128, 128),
        (2, 128),
    ]
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
        assert (dense == 0).all(0).nonzero().flatten().tolist() == [20, 21, 22, 23]
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


def test_several_heads_read_the_last_layer():
    config = convolutional.Config(channels=[4], kernel_sizes=[3], hidden_sizes=[6])
    torso = convolutional.build(config, 3 * 8 * 8, ContextSpec(), Streams(0))
    heads = torch.nn.Linear(6, 2), torch.nn.Linear(6, 3)
    dense = torso.unit_groups(heads)[-1]
    assert [reader.layer for reader in dense.readers] == list(heads)
    dense.forget_units(torch.tensor([4]))
    for head in heads:
        assert (head.weight == 0).all(0).tolist() == [unit == 4 for unit in range(6)]


def test_the_whole_network_can_be_drawn_anew_from_its_laws():
    network, other = predictor(), predictor()
    touched = redraw(network, torch.Generator().manual_seed(5))
    assert {id(entry.parameter) for entry in touched} == {id(p) for p in network.parameters()}
    for fresh, old in zip(network.parameters(), other.parameters(), strict=True):
        assert not torch.equal(fresh, old)
        if fresh.dim() > 1:
            assert fresh.std().item() == pytest.approx(old.std().item(), rel=0.15)
    redraw(other, torch.Generator().manual_seed(5))
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["shrink_perturb", "injection", "redo", "snr", "hare_tortoise"])
def test_methods_accept_it(kind):
    """Those that draw layers anew, split the head, or watch activations of channels."""
    network = convolutional.Config(
        image_channels=1, channels=[4, 4], kernel_sizes=[3, 3], padding=1, hidden_sizes=[8]
    )
    parts = Parts(
        observation_dim=64,
        action_dim=2,
        num_envs=8,
        network=network,
        optimizer=sgd.Config(learning_rate=0.01, momentum=0.9),
        methods={kind: METHODS.get(kind).Config()},
        answers="classes",
        total_steps=20_000_000,  # injection and hare and tortoise wait long
    )
    agent = supervised.build(supervised.Config(batch_size=8), parts)
    inputs = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    target = np.eye(2, dtype=np.float32)[np.arange(8) % 2]
    no, nothing = np.zeros(8, dtype=bool), np.zeros((8, 0), dtype=np.float32)
    for step in range(4):
        before = [p.detach().clone() for p in agent.network.parameters()]
        agent.observe(
            Transition(
                inputs, target, no, inputs, no, no, nothing, nothing, no, target, split="train"
            )
        )
        assert agent.update()["loss"].isfinite()
        if step == 2:
            agent.on_task_change(1)
        changed = zip(before, agent.network.parameters(), strict=True)
        assert any(not torch.equal(old, new) for old, new in changed)


def test_a_run_on_pairs_of_digits_renews_channels_and_is_examined(tmp_path):
    words = ["experiment=image_pairs_smoke", "progress=false", f"run_dir={tmp_path / 'run'}"]
    assert train.main(words) == 0
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    scores = [event["accuracy"] for event in events if event["event"] == "examination"]
    assert len(scores) == 3
    assert min(scores) > 0.8
    assert {e["group"] for e in events if e["event"] == "unit_reset"} >= {"0", "3"}
