"""PPO learns with the contexts that its actions were chosen with."""

import numpy as np
import torch

from agents import ppo
from agents.base import Transition
from agents.parts import Parts
from networks import dendritic
from networks.torso import ContextSpec
from plasticity.optimizers import adam

NUM_ENVS, LENGTH, WIDTH = 4, 16, 3


def test_20_first_minibatch_has_ratio_one_with_contexts_that_change_at_every_step():
    """Acceptance 20, active dendrites."""
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=NUM_ENVS,
        network=dendritic.Config(hidden_sizes=[32], num_segments=4, active_fraction=0.25),
        optimizer=adam.Config(learning_rate=1e-3),
        methods={},
        context=ContextSpec(WIDTH, discrete=False),
        seed=0,
        total_steps=1_000_000,
        num_threads=1,
    )
    agent = ppo.build(ppo.Config(rollout_length=LENGTH, minibatch_size=NUM_ENVS * LENGTH), parts)
    rng = np.random.default_rng(0)
    context = rng.normal(size=(NUM_ENVS, WIDTH)).astype(np.float32)
    for _ in range(LENGTH):
        following = rng.normal(size=(NUM_ENVS, WIDTH)).astype(np.float32)
        observation, successor = rng.normal(size=(2, NUM_ENVS, 5))
        action = agent.act(observation, context, explore=True)
        never = np.zeros(NUM_ENVS, dtype=bool)
        numbers = observation, action, rng.normal(size=NUM_ENVS), successor
        shown = context, following, np.zeros(NUM_ENVS, dtype=int)
        agent.observe(Transition(*numbers, never, never, *shown))
        context = following
    with torch.no_grad():
        batch, _ = agent._prepare()
        spread = agent.policy.log_std.exp()

        def ratio(shown):
            law = torch.distributions.Normal(agent.policy(batch.observation, shown), spread)
            return torch.exp(law.log_prob(batch.action).sum(-1) - batch.log_probability)

        assert (ratio(batch.context) - 1).abs().max() < 1e-5
        assert (ratio(batch.context.roll(NUM_ENVS, 0)) - 1).abs().max() > 1e-2
