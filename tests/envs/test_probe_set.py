"""The probe set is one and the same for every run on the same robot."""

import math

import numpy as np
import pytest

from envs.locomotion import Config, probe
from envs.probe import probe_frictions, probe_set


@pytest.fixture(scope="module")
def standard():
    return probe_set(Config())


def test_equal_for_all_methods_and_seeds(standard):
    other = Config(
        num_envs=3,
        world_seed=8,
        table_seed=4,
        schedule="cyclic",
        switch_rule="episode_end",
        switch_interval=77,
        clip_action_in_env=True,
        max_episode_steps=10,
        on_simulator_reset="count",
    )
    again = probe(other)
    assert again.sha256 == standard.sha256
    assert np.array_equal(again.observations, standard.observations)
    assert np.array_equal(again.actions, standard.actions)


def test_shapes_types_and_spread(standard):
    assert standard.observations.shape == (1000, 27)
    assert standard.actions.shape == (1000, 8)
    assert standard.observations.dtype == standard.actions.dtype == np.float32
    assert np.abs(standard.actions).max() <= 1.0
    assert abs(standard.actions.mean()) < 0.03
    assert len(np.unique(standard.observations, axis=0)) == 1000
    assert standard.sha256.startswith("1ed64ae2")  # MuJoCo 3.3.0, x86-64


def test_frictions_are_log_quantiles():
    shares = [(math.log(f) - math.log(0.02)) / math.log(100) for f in probe_frictions()]
    assert shares == pytest.approx([0.05 + 0.1 * k for k in range(10)])


def test_depends_on_robot_semantics_padding_and_seed_only():
    small = {"num_samples": 100}
    hashes = [
        probe_set(Config(), **small).sha256,
        probe_set(Config(), seed=1, **small).sha256,
        probe_set(Config(semantics="v5"), **small).sha256,
        probe_set(Config(obs_pad_to_111=True), **small).sha256,
        probe_set(Config(robot="hopper"), **small).sha256,
    ]
    assert len(set(hashes)) == 5
    padded = probe_set(Config(obs_pad_to_111=True), **small)
    plain = probe_set(Config(), **small)
    assert np.array_equal(padded.observations[:, :27], plain.observations)
    with pytest.raises(ValueError, match="multiple of 100"):
        probe_set(Config(), num_samples=150)
