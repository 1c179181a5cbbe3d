"""The trainability of networks whose observations are standardised by running moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.normalization import RunningNormalizer
from analysis.trainability import METRICS, TrainabilityMeasures
from networks import mlp
from networks.heads import ValueFunction
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.probe import Settings, TrainabilityProbe

QUICK = Settings(num_targets=1, num_steps=5, batch_size=50, num_fresh=2)
SAMPLES = np.random.default_rng(0).normal(3.0, 2.0, (100, 4)).astype(np.float32)
KEYS = [f"probe/value/all/{metric}" for metric in METRICS]


def network(seed):
    streams = Streams(seed, "network/")
    torso = mlp.build(mlp.Config(hidden_sizes=[8]), 4, ContextSpec(), streams)
    return ValueFunction(torso, Initializer("lecun_uniform"), streams)


class Inputs:
    """Samples, standardised by the moments of what has been seen so far."""

    def __init__(self):
        self.normalizer = RunningNormalizer(4)

    def __call__(self, name):
        return torch.from_numpy(self.normalizer(SAMPLES).astype(np.float32)), None


def measures(inputs):
    return TrainabilityMeasures(1_000, 1, inputs, QUICK)


def gaps(one, network):
    reasons = {}
    row = one.measure({"value": network}, reasons)
    assert reasons == {}
    return [row[key] for key in KEYS]


def alone(inputs, network):
    """By the probe itself, on what the inputs are now."""
    found = TrainabilityProbe(network, *inputs("value"), settings=QUICK).measure(network)
    return [found.gap, found.gap_final]


@pytest.fixture
def trained(monkeypatch):
    """Names of the fresh networks that were drawn as references."""
    names, draw = [], TrainabilityProbe.fresh_network
    monkeypatch.setattr(
        TrainabilityProbe,
        "fresh_network",
        lambda self, name: (names.append(name), draw(self, name))[1],
    )
    return lambda: sum(name.startswith("fresh/") for name in names)


def test_inputs_follow_the_normaliser_and_so_does_a_resumed_run():
    inputs = Inputs()
    whole = measures(inputs)
    inputs.normalizer.update(SAMPLES[:20])
    gaps(whole, network(1))
    state = whole.state_dict()
    inputs.normalizer.update(10.0 * SAMPLES)
    later = gaps(whole, network(2))
    assert later == alone(inputs, network(2))
    assert all(math.isfinite(gap) for gap in later)
    resumed = measures(inputs)
    resumed.load_state_dict(state)
    assert gaps(resumed, network(2)) == later


def test_references_are_kept_while_inputs_stay(trained):
    inputs = Inputs()
    inputs.normalizer.update(SAMPLES)
    first = measures(inputs)
    gaps(first, network(1))
    found = gaps(first, network(2))
    resumed = measures(inputs)
    resumed.load_state_dict(first.state_dict())
    assert gaps(resumed, network(2)) == found
    assert trained() == QUICK.num_fresh  # once, not at every probe nor after the resume


def test_a_state_that_does_not_name_its_inputs_is_loaded_and_scored_anew(trained):
    inputs = Inputs()
    first = measures(inputs)
    found = gaps(first, network(1))
    state = {key: value for key, value in first.state_dict().items() if key != "inputs"}
    resumed = measures(inputs)
    resumed.load_state_dict(state)
    assert gaps(resumed, network(1)) == found
    assert trained() == 2 * QUICK.num_fresh


def test_the_samples_of_a_single_task_are_enough():
    """A set of 100 samples is smaller than the minibatches of the usual protocol."""
    settings = Settings(num_targets=1, num_steps=5, num_fresh=2)
    assert settings.batch_size > len(SAMPLES)
    inputs = Inputs()
    inputs.normalizer.update(SAMPLES)
    found = gaps(TrainabilityMeasures(1_000, 1, inputs, settings), network(1))
    assert all(math.isfinite(gap) for gap in found)
