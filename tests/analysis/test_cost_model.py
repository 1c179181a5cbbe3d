"""Arithmetic of the reference workloads, against worked-out tables and torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from agents import ppo
from agents.parts import Parts
from analysis import cost_model
from networks import mlp
from plasticity.optimizers import adam

HIDDEN = [256, 256]
WIDE = [400, 400, 400]


def ant(observation_dim):
    return [observation_dim, *HIDDEN, 8], [observation_dim, *HIDDEN, 1]


@pytest.mark.parametrize(
    ("observation_dim", "policy", "value", "per_sample", "per_env_step"),
    [
        (27, 74_496, 72_704, 855_552, 8_849_920),
        (105, 94_464, 92_672, 1_015_296, 10_527_232),
        (111, 96_000, 94_208, 1_027_584, 10_656_256),
    ],
)
def test_ppo_on_the_ant(observation_dim, policy, value, per_sample, per_env_step):
    sizes = ant(observation_dim)
    assert tuple(map(cost_model.multiply_adds, sizes)) == (policy, value)
    assert sum(map(cost_model.training_flop, sizes)) == per_sample
    assert cost_model.ppo_flop_per_env_step(*sizes, num_epochs=10) == per_env_step


@pytest.mark.parametrize(
    ("hidden", "batch_size", "per_sample", "per_env_step"),
    [
        ([400, 400], 1280, 5_696_800, 729_190_400),
        ([400, 400], 5120, 5_696_800, 2_916_761_600),
        (WIDE, 1280, 10_816_800, 1_384_550_400),
        (WIDE, 256, 10_816_800, 276_910_080),
    ],
)
def test_sac_on_mt10(hidden, batch_size, per_sample, per_env_step):
    actor, critic = [49, *hidden, 8], [53, *hidden, 1]
    assert cost_model.sac_flop_per_sample(actor, critic) == per_sample
    assert batch_size * per_sample == 10 * per_env_step  # one update in ten environment steps


def test_mt10_ppo_policy():
    assert cost_model.training_flop([49, *WIDE, 8]) == 2_017_600


def test_parameters():
    policy, value = ant(27)
    assert cost_model.parameters(policy) == 75_016
    assert cost_model.parameters(value) == 73_217
    log_std = 8
    assert sum(map(cost_model.parameters, ant(27))) + log_std == 148_241
    assert sum(map(cost_model.parameters, ant(105))) + log_std == 188_177
    assert cost_model.parameters([49, *WIDE, 8]) == 344_008
    assert cost_model.parameters([53, *WIDE, 1]) == 342_801


def test_refuses_widths_that_are_no_network():
    with pytest.raises(ValueError, match="at least two widths"):
        cost_model.multiply_adds([5])


def agent(observation_dim=27):
    config = ppo.Config(rollout_length=16, minibatch_size=16)
    parts = Parts(observation_dim, 8, 1, mlp.Config(), adam.Config())
    return ppo.build(config, parts)


@pytest.mark.parametrize("observation_dim", [27, 105])
def test_our_networks_have_the_counted_parameters(observation_dim):
    networks = agent(observation_dim).networks().values()
    count = sum(p.numel() for network in networks for p in network.parameters())
    expected = sum(map(cost_model.parameters, ant(observation_dim))) + 8
    assert count == expected


@pytest.mark.parametrize("name", ["policy", "value"])
def test_flop_equal_those_that_torch_counts(name):
    network, batch_size = agent().networks()[name], 128
    sizes = ant(27)[name == "value"]
    with FlopCounterMode(display=False) as counter:
        output = network(torch.randn(batch_size, 27))
    assert counter.get_total_flops() == batch_size * 2 * cost_model.multiply_adds(sizes)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(batch_size, 27)).sum().backward()
    assert counter.get_total_flops() == batch_size * cost_model.training_flop(sizes)
    assert output.shape[0] == batch_size
