"""Values of a rollout against a slow loop over its transitions."""

import numpy as np
import pytest
import torch

from agents.baselines import NetworkBaseline
from agents.buffers import Rollout
from agents.parts import Parts
from networks import dendritic
from networks.heads import ValueFunction
from networks.torso import ContextSpec
from plasticity.optimizers import adam

LENGTH, ENVS, CONTEXT = 7, 2, 3


def value_function():
    parts = Parts(
        observation_dim=4, action_dim=2, num_envs=ENVS, optimizer=adam.Config(),
        network=dendritic.Config(hidden_sizes=[16, 16], num_segments=2, activation="tanh"),
        context=ContextSpec(CONTEXT, False),
    )  # fmt: skip
    torso = parts.torso("value", 4, 1)
    return ValueFunction(torso, parts.head_initializer, parts.streams.child("value"))


def filled():
    rng = np.random.default_rng(1)
    row = Rollout(LENGTH, ENVS, 4, 2, CONTEXT)
    row.terminated[2, 0] = row.truncated[4, 1] = True
    observation = rng.normal(size=(LENGTH + 1, ENVS, 4)).astype(np.float32)
    context = rng.normal(size=(LENGTH + 1, ENVS, CONTEXT)).astype(np.float32)
    row.observation[:], row.context[:] = observation[:-1], context[:-1]
    row.next_observation[:], row.next_context[:] = observation[1:], context[1:]
    for end in ((2, 0), (4, 1)):  # the successors that no action answers
        row.next_observation[end] = rng.normal(size=4)
        row.next_context[end] = rng.normal(size=CONTEXT)
    row.position = LENGTH
    return row


def test_successors_are_valued_in_their_own_contexts():
    network, row = value_function(), filled()
    current, successor = NetworkBaseline(network).values(row)
    with torch.no_grad():
        for t in range(LENGTH):
            for n in range(ENVS):
                for got, observation, context in (
                    (current, row.observation, row.context),
                    (successor, row.next_observation, row.next_context),
                ):
                    inputs = torch.from_numpy(observation[t, n][None])
                    expected = network(inputs, torch.from_numpy(context[t, n][None])).item()
                    assert got[t, n] == pytest.approx(expected, abs=1e-6)


def test_rollouts_saved_without_contexts_of_successors_can_be_continued():
    row = filled()
    state = row.state_dict()
    del state["next_context"]
    other = Rollout(LENGTH, ENVS, 4, 2, CONTEXT)
    other.load_state_dict(state)
    assert np.array_equal(other.next_context, row.context)
    assert np.array_equal(other.next_observation, row.next_observation)
