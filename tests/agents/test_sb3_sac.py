"""SB3's SAC in our loop: runs and replays in which it could never learn are refused."""

import numpy as np
import pytest

from agents import sac_config, sb3_sac
from agents.base import Transition
from agents.parts import Parts
from networks import mlp
from plasticity.optimizers import adam

NUM_ENVS = 10
SETTINGS = {"warmup_steps": 100, "batch_size": 64, "replay_size": 200, "hidden_sizes": [8]}


def make(total_steps=0, **settings):
    parts = Parts(3, 2, NUM_ENVS, mlp.Config(), adam.Config(), total_steps=total_steps)
    return sb3_sac.build(sb3_sac.Config(**{**SETTINGS, **settings}), parts)


def fill(agent, num_steps):
    """Let it observe; returns the gradient steps that it has made."""
    random, nothing = np.random.default_rng(0), np.zeros((NUM_ENVS, 0), np.float32)
    never = np.zeros(NUM_ENVS, dtype=bool)
    for _ in range(num_steps):
        observation, successor = random.standard_normal((2, NUM_ENVS, 3), dtype=np.float32)
        action = agent.act(observation, nothing, explore=True)
        reward = np.zeros(NUM_ENVS, np.float32)
        outcome = (reward, successor, never, never, nothing, nothing, never.astype(np.int64))
        agent.observe(Transition(observation, action, *outcome))
        agent.update()
    return agent.clock.gradient_steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_steps": 100}, r"warmup_steps=100 leaves nothing of total_steps=100 to learn from"),
        ({"replay_size": 63}, r"agent\.replay_size is 63; give at least agent\.batch_size=64"),
        ({"replay_size": 69}, r"replay_size=69 is too small .* 60 transitions; give at least 70$"),
    ],
)
def test_runs_that_could_never_learn_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_the_smallest_run_and_replay_learn():
    agent = make(total_steps=110, replay_size=70, updates_per_env_step=0.1)
    assert fill(agent, 10) == 0
    assert fill(agent, 1) == 1


@pytest.mark.parametrize("name", ["batch_size", "replay_size", "steps_per_iteration"])
def test_both_kinds_of_sac_refuse_the_same_sizes(name):
    for config in (sac_config.Config, sb3_sac.Config):
        with pytest.raises(ValueError, match=f"agent.{name} is 0; give at least 1"):
            config(**{name: 0})
