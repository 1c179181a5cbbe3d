"""Values of a world that never ends but is cut.

Source: Pardo et al. 2018, "Time Limits in Reinforcement Learning"; the same check as in the tests
of stable-baselines3.
"""

import numpy as np
import pytest
import torch

from agents import ppo
from agents.base import Transition
from agents.parts import Parts
from networks import mlp
from plasticity.optimizers import adam

NUM_ENVS, NUM_STATES, LIMIT, DISCOUNT = 8, 4, 8, 0.98


def learn_values(num_rollouts, **settings):
    """Train on reward 1 per step, four states in a ring, every episode cut after 8 steps.

    Returns the value of every state, (4,).
    """
    config = ppo.Config(
        rollout_length=32, minibatch_size=64, discount=DISCOUNT, gae_lambda=0.95, **settings
    )
    parts = Parts(
        observation_dim=NUM_STATES,
        action_dim=1,
        num_envs=NUM_ENVS,
        network=mlp.Config(hidden_sizes=[32]),
        optimizer=adam.Config(learning_rate=1e-2),
    )
    agent = ppo.build(config, parts)
    context, regime = np.zeros((NUM_ENVS, 0), np.float32), np.zeros(NUM_ENVS, int)
    reward, never = np.ones(NUM_ENVS), np.zeros(NUM_ENVS, dtype=bool)
    states = np.eye(NUM_STATES)
    elapsed = np.arange(NUM_ENVS) % LIMIT
    while agent.iteration < num_rollouts:
        observation = states[elapsed % NUM_STATES]
        action = agent.act(observation, context, explore=True)
        elapsed += 1
        successor, truncated = states[elapsed % NUM_STATES], elapsed == LIMIT
        outcome = (reward, successor, never, truncated)
        agent.observe(Transition(observation, action, *outcome, context, context, regime))
        elapsed[truncated] = 0
        agent.update()
    with torch.no_grad():
        return agent.value(torch.eye(NUM_STATES)).numpy()


@pytest.mark.parametrize("fast_path", [False, True])
def test_cut_episodes_bootstrap_to_the_infinite_value(fast_path):
    expected = 1 / (1 - DISCOUNT)
    values = learn_values(80, fast_path=fast_path)
    np.testing.assert_allclose(values, expected, atol=1.0)


def test_timeouts_as_terminal_states_bias_the_value():
    values = learn_values(60, timeouts_terminal=True)

    def return_after(steps):
        return sum(DISCOUNT**k for k in range(steps))

    # State k is seen with 8 - k and with 4 - k steps to go; its value lies between.
    expected = [(return_after(LIMIT - k) + return_after(4 - k)) / 2 for k in range(NUM_STATES)]
    np.testing.assert_allclose(values, expected, atol=0.6)
