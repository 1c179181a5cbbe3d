"""Worlds without meaning, for tests of what agents do with whatever they meet."""

import numpy as np

from agents.base import Transition


def random_step(agent, rng, context, observation_dim, end_rate=0.0, regime=None, target=None):
    """Let an agent act and observe once; returns the action.

    Args:
        agent: The agent.
        rng: Draws everything.
        context: (N, C), before and after the step.
        observation_dim: Numbers of an observation.
        end_rate: Probability of an end, and of a cut, of every episode.
        regime: (N,) worlds; zeros for None.
        target: Observations (N, obs) -> right actions, for agents that learn from answers.
    """
    num_envs = len(context)
    observation = rng.normal(size=(num_envs, observation_dim))
    action = agent.act(observation, context, explore=True)
    reward = rng.normal(size=num_envs) - (action**2).sum(1)
    successor = rng.normal(size=(num_envs, observation_dim))
    terminated = truncated = np.zeros(num_envs, dtype=bool)
    if end_rate:
        terminated, truncated = rng.random(num_envs) < end_rate, rng.random(num_envs) < end_rate
    agent.observe(
        Transition(
            observation,
            action,
            reward,
            successor,
            terminated,
            truncated,
            context,
            context,
            np.zeros(num_envs, dtype=int) if regime is None else regime,
            target=None if target is None else target(observation),
        )
    )
    return action
