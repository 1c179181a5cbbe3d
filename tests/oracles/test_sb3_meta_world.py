"""Meta-World through SB3's eyes: its evaluation and its callbacks count the success of episodes."""

import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy

from envs import locomotion
from envs.meta_world import Config, make
from envs.sb3 import SB3VecEnv

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
    pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type"),
]

HORIZON = 120


def door(horizon=HORIZON, task="door-open-v3"):
    config = Config(benchmark="mt1", task=task, num_goals=1, horizon=horizon)
    return SB3VecEnv(make(config, 10_000)[0])


class Expert:
    """Meta-World's scripted policy with SB3's `predict`; the context stands behind 39 numbers."""

    def __init__(self, task):
        self._policy = ENV_POLICY_MAP[task]()

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        actions = [self._policy.get_action(row[:39].astype(np.float64)) for row in observation]
        return np.clip(actions, -1, 1).astype(np.float32), state


class Lazy:
    """Never moves."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.zeros((len(observation), 4), dtype=np.float32), state


def evaluated(env, policy, episodes=1):
    """Returns, lengths, and the infos of the steps that SB3's own evaluation has seen."""
    infos = []

    def note(local_variables, _):
        infos.append(local_variables["info"])

    returns, lengths = evaluate_policy(
        policy, env, n_eval_episodes=episodes, return_episode_rewards=True, callback=note
    )
    return returns, lengths, infos


def test_evaluate_policy_sees_the_success_of_the_episode_and_not_of_its_last_step():
    """The expert opens the door at step 75 and swings it too far at step 105."""
    env, taken = door(), []
    step = env.envs.step
    env.envs.step = lambda actions: taken.append(step(actions)) or taken[-1]
    returns, lengths, infos = evaluated(env, Expert("door-open-v3"))
    assert lengths == [HORIZON]
    assert ["is_success" in info for info in infos] == [False] * (HORIZON - 1) + [True]
    assert infos[-1]["is_success"] is True
    assert infos[-1]["TimeLimit.truncated"]
    assert returns[0] == pytest.approx(infos[-1]["episode"]["r"])
    assert sum(bool(result[4]["success"][0]) for result in taken) > 0
    assert not taken[-1][4]["success"][0]
    env.close()


def test_an_episode_without_success_does_not_count_and_forgets_the_one_before():
    env = door()
    _, _, infos = evaluated(env, Expert("door-open-v3"))
    assert infos[-1]["is_success"]
    _, _, infos = evaluated(env, Lazy())
    assert infos[-1]["is_success"] is False
    env.close()


def test_sb3s_evaluation_callback_reports_the_success_rate():
    env, training = door(horizon=100), door(horizon=10)
    model = PPO("MlpPolicy", training, n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=8, verbose=0)
    model.predict = Expert("door-open-v3").predict
    model.learn(8, callback)
    assert callback._is_success_buffer == [True, True]
    assert model.logger.name_to_value.get("eval/success_rate", 1.0) == 1.0
    training.close()
    env.close()


def test_worlds_without_success_say_nothing_about_it():
    env = SB3VecEnv(locomotion.make(locomotion.Config(num_envs=1, max_episode_steps=5), 1000)[0])
    env.reset()
    for _ in range(5):
        _, _, done, infos = env.step(np.zeros((1, 8), dtype=np.float32))
    assert done.all()
    assert "is_success" not in infos[0]
    env.close()
