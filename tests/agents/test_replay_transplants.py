"""A replay goes into another run only where its rows mean the same there."""

import numpy as np
import pytest
import sac_toys as toys
import torch
from random_worlds import random_step

from agents import sac, sb3_sac
from agents.parts import Parts
from networks import mlp
from plasticity.optimizers import adam


def sb3(num_envs=4, replay_size=40):
    config = sb3_sac.Config(
        batch_size=8, replay_size=replay_size, warmup_steps=1_000, hidden_sizes=[8]
    )
    parts = Parts(5, 2, num_envs, mlp.Config(), adam.Config())
    return sb3_sac.build(config, parts)


def lived(agent, num_steps, num_envs=4):
    rng, context = np.random.default_rng(0), np.zeros((num_envs, 0), dtype=np.float32)
    for _ in range(num_steps):
        random_step(agent, rng, context, 5)
    return agent.state_dict()


def test_a_full_replay_of_stable_baselines3_keeps_its_capacity():
    state = lived(sb3(), 12)  # 10 vector steps are kept
    with pytest.raises(ValueError, match=r"10 vector steps, .* is not of a capacity of 100; leave"):
        sb3(replay_size=400).transplant(state, [])
    sb3(replay_size=400).transplant(state, ["replay"])
    heir = sb3()
    heir.transplant(state, [])
    buffer = heir.model.replay_buffer
    assert (buffer.size(), buffer.pos) == (10, 2)
    assert buffer.observations.any(axis=(1, 2)).all()


def test_a_replay_of_stable_baselines3_that_is_not_full_fits_a_larger_one_of_equal_width():
    state = lived(sb3(), 7)
    larger = sb3(replay_size=400)
    larger.transplant(state, [])
    assert larger.model.replay_buffer.size() == 7
    with pytest.raises(ValueError, match="is not of a capacity of 5"):
        sb3(replay_size=20).transplant(state, [])


def test_one_environment_does_not_become_many():
    state = lived(sb3(num_envs=1), 5, num_envs=1)
    with pytest.raises(ValueError, match=r"holds observations of shape .*; environments"):
        sb3(num_envs=4, replay_size=400).transplant(state, [])


def test_seeds_that_share_a_reservoir_choose_places_of_their_own():
    settings = {"buffer_on_switch": "reservoir", "replay_size": 20, "batch_size": 8}
    donor, heir = (toys.make(seed=seed, **settings) for seed in (7, 1))
    toys.fill(donor, np.random.default_rng(0))
    (stream,) = heir.replay.streams
    before = stream.get_state()
    heir.transplant(donor.state_dict(), [])
    assert torch.equal(stream.get_state(), before)
    assert heir.replay.num_seen == donor.replay.num_seen


def in_tasks(num_envs, num_steps=0, batches="shared"):
    """A soft actor-critic in two tasks, its environments in the order of the tasks."""
    config = sac.Config(
        batch_size=16, replay_size=80, warmup_steps=1_000, task_balanced_batches=batches
    )
    network = mlp.Config(hidden_sizes=[8])
    agent = sac.build(config, Parts(5, 2, num_envs, network, adam.Config(), num_tasks=2))
    rng, context = np.random.default_rng(0), np.zeros((num_envs, 0), dtype=np.float32)
    for _ in range(num_steps):
        random_step(agent, rng, context, 5, regime=np.repeat([3, 7], num_envs // 2))
    return agent


@pytest.mark.parametrize(("num_envs", "num_steps"), [(2, 5), (8, 3), (8, 10)])
def test_balanced_batches_need_the_vector_steps_of_the_run(num_envs, num_steps):
    """With 5 steps of 2 a batch would read beyond the last row; halves of 8 have one task."""
    state = in_tasks(num_envs, num_steps).state_dict()
    with pytest.raises(ValueError, match=r"vector steps of 4 environments .* fresh_parts"):
        in_tasks(4).transplant(state, [])
    in_tasks(4).transplant(state, ["replay"])
    in_tasks(num_envs).transplant(state, [])
    unbalanced = in_tasks(4, batches="off")
    unbalanced.transplant(state, [])
    assert unbalanced.replay.size == num_envs * num_steps
