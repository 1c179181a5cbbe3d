"""Actions of squashing agents in worlds whose controls are not bounded by -1 and 1."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import sac
from agents.action_range import ActionRange
from agents.sb3 import SB3Model
from configs.build import build_agent, build_environment
from configs.compose import compose_run
from envs import locomotion
from envs.sb3 import SB3VecEnv

LOW, HIGH = [-0.4, -2.0, 0.0], [0.4, 2.0, 3.0]
TINY = (
    "agent=sac",
    "network.hidden_sizes=[8]",
    "agent.replay_size=400",
    "agent.batch_size=16",
    "agent.warmup_steps=100",
)


class Bounded(gymnasium.Env):
    """Nothing but spaces."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(np.array(LOW), np.array(HIGH), dtype=np.float32)


def test_it_is_the_map_of_stable_baselines3():
    policy = SAC("MlpPolicy", Bounded(), buffer_size=2, device="cpu").policy
    bounds, rng = ActionRange(LOW, HIGH), np.random.default_rng(0)
    squashed = rng.uniform(-1, 1, size=(50, 3)).astype(np.float32)
    control = bounds.to_world(squashed)
    np.testing.assert_allclose(control, policy.unscale_action(squashed), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bounds.from_world(control), squashed, rtol=1e-5, atol=1e-6)


def test_bounds_of_one_change_no_bit():
    action = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for bounds in (ActionRange(None, None), ActionRange([-1.0] * 3, [1.0] * 3)):
        assert bounds.to_world(action) is action
        assert bounds.from_world(action) is action


@pytest.mark.parametrize(("low", "high"), [([-np.inf], [1.0]), ([0.5], [0.5])])
def test_bounds_that_nobody_can_squash_into_are_refused(low, high):
    with pytest.raises(ValueError, match="needs finite bounds"):
        ActionRange(low, high)


@pytest.mark.parametrize("kind", ["sac", "sb3_sac"])
def test_a_humanoid_gets_its_whole_range_and_the_replay_keeps_it_squashed(kind):
    words = [f"agent={kind}" if word == "agent=sac" else word for word in TINY]
    if kind == "sb3_sac":
        words = [word for word in words if not word.startswith("network")]
    config = compose_run([*words, "env=slippery_humanoid", "env.num_envs=2"]).config
    envs, info = build_environment(config)
    np.testing.assert_allclose(info.action_high, 0.4, rtol=1e-6)
    agent = build_agent(config, info)
    observation, context = envs.reset()[0], np.zeros((2, 0), dtype=np.float32)
    drawn = np.concatenate([agent.act(observation, context, explore=True) for _ in range(40)])
    assert 0.38 < np.abs(drawn).max() <= 0.4 + 1e-6  # uniform in the whole range, and no more
    mode = agent.act(observation, context, explore=False)
    squashed, _ = agent.network_inputs("critic_1", observation, mode, context)
    np.testing.assert_allclose(squashed[:, -17:].numpy(), mode / 0.4, rtol=1e-5, atol=1e-6)
    assert np.abs(agent.sample(observation, context)).max() <= 0.4 + 1e-6


def test_the_replay_holds_squashed_actions():
    config = compose_run([*TINY, "env=slippery_humanoid", "env.num_envs=2"]).config
    model = SB3Model(config, SB3VecEnv(locomotion.make(config.env, 10_000)[0])).learn(80)
    assert isinstance(model.agent, sac.SAC)
    stored = model.agent.replay.last(80).action.numpy()
    assert 0.9 < np.abs(stored).max() <= 1.0 + 1e-5


def test_foreign_environments_are_driven_up_to_their_bounds():
    """Pendulum takes torques between -2 and 2."""
    config = compose_run([*TINY, "env.num_envs=1"]).config
    seen = []

    class Watched(gymnasium.ActionWrapper):
        def action(self, action):
            seen.append(float(action[0]))
            return action

    SB3Model(config, DummyVecEnv([lambda: Watched(gymnasium.make("Pendulum-v1"))])).learn(200)
    assert max(seen) > 1.6
    assert min(seen) < -1.6
    assert max(map(abs, seen)) <= 2.0


def test_clipping_in_the_environment_knows_the_bounds():
    settings = locomotion.Config(
        robot="humanoid", num_envs=2, schedule="fixed", clip_action_in_env=True
    )
    rewards = []
    for size in (0.4, 1.0):
        envs, _ = locomotion.make(settings, 10_000)
        envs.reset(seed=0)
        rewards.append(envs.step(np.full((2, 17), size))[1])
    np.testing.assert_allclose(rewards[0], rewards[1], rtol=1e-6)
