"""Our worlds as SB3 environments: against SB3's own DummyVecEnv, its checks and its agents."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from envs import locomotion
from envs.physics import make_slippery
from envs.sb3 import SB3VecEnv

NUM_ENVS = 3


def ant(num_envs=NUM_ENVS, total_steps=100_000, **settings):
    settings = {"schedule": "fixed", "max_episode_steps": 40, **settings}
    return SB3VecEnv(
        locomotion.make(locomotion.Config(num_envs=num_envs, **settings), total_steps)[0]
    )


def gymnasium_ants(seed):
    """SB3's own way to the same robots: Gymnasium's Ant-v4 with Monitor in a DummyVecEnv."""

    def make():
        return Monitor(gymnasium.make("Ant-v4", max_episode_steps=40, disable_env_checker=True))

    env = DummyVecEnv([make] * NUM_ENVS)
    env.seed(seed)
    return env


def test_every_step_equals_sb3s_own_environments_of_the_same_robot():
    ours, theirs = ant(fixed_friction=1.0), gymnasium_ants(7)
    ours.seed(7)
    first, second = ours.reset(), theirs.reset()
    np.testing.assert_array_equal(first, second)
    assert ours.action_space == theirs.action_space
    rng, ended, cut = np.random.default_rng(0), 0, 0
    for _ in range(200):
        actions = rng.uniform(-1, 1, (NUM_ENVS, 8)).astype(np.float32)
        first, reward, done, infos = ours.step(actions)
        second, their_reward, their_done, their_infos = theirs.step(actions)
        np.testing.assert_array_equal(done, their_done)
        # Gymnasium sums the control cost of a float32 action in float32, we in float64.
        np.testing.assert_allclose(reward, their_reward, rtol=0, atol=1e-6)
        assert reward.dtype == their_reward.dtype
        for mine, other in zip(infos, their_infos, strict=True):
            assert mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert ("terminal_observation" in mine) == ("terminal_observation" in other)
            if "terminal_observation" in mine:
                np.testing.assert_array_equal(
                    mine["terminal_observation"], other["terminal_observation"]
                )
                assert mine["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)
                assert mine["episode"]["l"] == other["episode"]["l"]
                ended, cut = ended + 1, cut + mine["TimeLimit.truncated"]
        np.testing.assert_array_equal(first, second)
    assert ended > cut > 0  # both ways to end were compared


def test_actions_are_clipped_before_they_act_and_cost():
    clipped, bounded = ant(), ant()
    clipped.reset()
    bounded.reset()
    actions = np.full((NUM_ENVS, 8), 5.0, dtype=np.float32)
    far, near = clipped.step(actions), bounded.step(np.ones_like(actions))
    np.testing.assert_array_equal(far[0], near[0])
    np.testing.assert_array_equal(far[1], near[1])
    assert (actions == 5.0).all()  # the caller's array is left alone


def test_infos_name_the_world_of_the_transition():
    env = ant(
        schedule="list", friction_values=[1.0, 0.1], switch_interval=30, total_steps=60, num_envs=2
    )
    env.reset()
    actions = np.zeros((2, 8), dtype=np.float32)
    steps = [env.step(actions) for _ in range(20)]
    assert [infos[0]["regime"] for *_, infos in steps] == [0] * 15 + [1] * 5
    assert steps[15][3][1]["regime_value"] == pytest.approx(0.1)
    *_, done, infos = steps[14]  # the switch cuts every episode, which SB3 bootstraps
    assert done.all()
    assert all(info["TimeLimit.truncated"] for info in infos)


class Announcing(gymnasium.vector.VectorEnv):
    """Two environments with a context of three numbers; the second step ends every episode."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self):
        self.num_envs = 2
        self.single_observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.count = 0

    @property
    def context(self):
        return np.full((2, 3), self.count, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 1)), {}

    def step(self, actions):
        self.count += 1
        ended = np.array([False, self.count == 2])
        final = np.array([None, np.full(1, 8.0)], dtype=object)
        info = {"context": self.context, "next_context": self.context - 0.5, "final_obs": final}
        return np.full((2, 1), 5.0), np.ones(2), ended, np.zeros(2, dtype=bool), info


def test_a_context_stands_behind_the_observation():
    env = SB3VecEnv(Announcing())
    assert env.observation_space.shape == (4,)
    np.testing.assert_array_equal(env.reset(), [[0, 0, 0, 0]] * 2)
    env.step(np.zeros((2, 1)))
    observation, _, done, infos = env.step(np.zeros((2, 1)))
    np.testing.assert_array_equal(observation, [[5, 2, 2, 2]] * 2)
    assert done.tolist() == [False, True]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], [8, 1.5, 1.5, 1.5])
    assert infos[1]["TimeLimit.truncated"] is False


def test_foreign_environments_must_reset_in_the_same_step():
    def make():
        return gymnasium.make("Pendulum-v1", max_episode_steps=5)

    with pytest.raises(ValueError, match="SAME_STEP"):
        SB3VecEnv(SyncVectorEnv([make], autoreset_mode=AutoresetMode.NEXT_STEP))
    env = SB3VecEnv(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset()
    for _ in range(5):
        observation, _, done, infos = env.step(np.zeros((2, 1)))
    assert done.all()
    assert infos[0]["TimeLimit.truncated"]
    assert not np.array_equal(infos[0]["terminal_observation"], observation[0])
    env.close()


@pytest.mark.filterwarnings("ignore:.*already wrapped with a `Monitor`.*")
def test_sb3s_wrappers_accept_the_worlds():
    env = VecNormalize(VecMonitor(ant()), norm_reward=False)
    env.reset()
    for _ in range(45):
        observation, _, done, infos = env.step(np.zeros((NUM_ENVS, 8)))
        for index in np.flatnonzero(done):
            assert infos[index]["episode"]["l"] <= 40
    assert np.abs(observation).max() <= 10


def test_single_environments_pass_sb3s_check():
    check_env(make_slippery("ant"), skip_render_check=True)


def test_single_attributes_cannot_be_set():
    env = ant()
    assert env.get_attr("num_envs", indices=[0, 2]) == [NUM_ENVS, NUM_ENVS]
    with pytest.raises(NotImplementedError, match="one batch"):
        env.set_attr("render_mode", "human")
    with pytest.raises(NotImplementedError, match="one batch"):
        env.env_method("reset")


def test_sb3_ppo_learns_from_two_rollouts():
    env = ant(num_envs=4, total_steps=10_000, switch_interval=300, schedule="abrupt")
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = model.policy.mlp_extractor.policy_net[0].weight.detach().clone()
    model.learn(2 * 64 * 4)
    assert env.envs.env_steps == model.num_timesteps == 512
    assert not before.equal(model.policy.mlp_extractor.policy_net[0].weight)
    assert len(model.ep_info_buffer) > 4
    assert max(episode["l"] for episode in model.ep_info_buffer) <= 40
    mean, _ = evaluate_policy(model, ant(num_envs=2), n_eval_episodes=2)
    assert np.isfinite(mean)


def test_sb3_sac_learns_on_the_worlds():
    env = ant(num_envs=2)
    model = SAC("MlpPolicy", env, learning_starts=20, batch_size=16, seed=0, device="cpu")
    model.learn(60)
    assert model._n_updates > 0
    assert env.envs.env_steps == 60
