"""SB3's `evaluate_policy` and callbacks on our agents, and models saved to files."""

import itertools

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.sb3 import SB3Model
from analysis.checkpoint import CheckpointError, CheckpointStore
from analysis.state_files import state_hash
from configs.build import build_environment
from configs.compose import compose_run
from envs import locomotion
from envs.sb3 import SB3VecEnv

NUM_ENVS, LENGTH = 2, 16
OVERRIDES = (
    "network.hidden_sizes=[16]",
    f"agent.rollout_length={LENGTH}",
    "agent.minibatch_size=16",
    "agent.num_epochs=2",
)


@pytest.fixture(scope="module")
def config():
    return compose_run(OVERRIDES).config


@pytest.fixture(scope="module")
def recycling():
    words = ["method=continual_backprop", "method.continual_backprop.maturity_threshold=2"]
    return compose_run([*OVERRIDES, *words, "agent.normalize_observation=true"]).config


def worlds(num_envs=NUM_ENVS):
    settings = locomotion.Config(num_envs=num_envs, schedule="fixed", max_episode_steps=12)
    return SB3VecEnv(locomotion.make(settings, 100_000)[0])


def observations(count=5):
    return np.random.default_rng(0).normal(size=(count, 27))


def test_contexts_of_gates_stand_behind_those_of_the_input():
    words = [*(w for w in OVERRIDES if not w.startswith("network")), "arm=zero_context"]
    config = compose_run([*words, "env=slippery_ant", f"env.num_envs={NUM_ENVS}"]).config
    envs, info = build_environment(config)
    assert info.gate_context_dim
    model = SB3Model(config, SB3VecEnv(envs))
    assert (model.shape.context_dim, model.shape.gate_context_dim) == (9, 9)
    assert model.learn(40).num_timesteps >= 40


def test_predict_returns_the_clipped_mode_and_seeded_samples(config):
    model, twin = SB3Model(config, worlds()), SB3Model(config, worlds())
    batch = observations()
    mode, state = model.predict(batch, deterministic=True)
    raw = model.agent.act(batch, np.zeros((5, 0), np.float32), explore=False)
    np.testing.assert_array_equal(mode, np.clip(raw, -1, 1))
    assert state is None
    np.testing.assert_array_equal(model.agent.predict(batch, deterministic=True)[0], raw)
    single, _ = model.predict(batch[0], deterministic=True)
    assert single.shape == (8,)
    np.testing.assert_allclose(single, mode[0], atol=1e-6)
    samples = [m.predict(batch)[0] for m in (model, twin, model)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])
    assert np.abs(samples[0]).max() == 1.0  # a standard deviation of 1 leaves the bounds


def test_samples_have_the_mean_and_deviation_of_the_policy(config):
    agent = SB3Model(config, worlds()).agent
    batch = np.repeat(observations(1), 20_000, axis=0)
    actions, _ = agent.predict(batch)
    mode, _ = agent.predict(batch[:1], deterministic=True)
    np.testing.assert_allclose(actions.mean(axis=0), mode[0], atol=0.03)
    np.testing.assert_allclose(actions.std(axis=0), 1.0, atol=0.03)


def test_prediction_during_a_rollout_leaves_training_alone(recycling):
    class Predict(BaseCallback):
        def _on_step(self):
            self.model.predict(observations())
            self.model.predict(observations(), deterministic=True)
            return True

    hashes = []
    for callback in (None, Predict()):
        model = SB3Model(recycling, worlds())
        model.learn(3 * NUM_ENVS * LENGTH, callback)
        hashes.append(state_hash(model.agent.state_dict()))
    assert hashes[0] == hashes[1]


def test_evaluate_policy_counts_whole_episodes(config):
    model = SB3Model(config, worlds())
    returns, lengths = evaluate_policy(
        model, worlds(3), n_eval_episodes=7, return_episode_rewards=True
    )
    assert len(returns) == 7
    assert all(1 <= length <= 12 for length in lengths)
    mean, deviation = evaluate_policy(model.agent, worlds(3), n_eval_episodes=4)
    assert np.isfinite([mean, deviation]).all()


def test_evaluate_policy_equals_our_own_rollout(config):
    """One episode, the mode of the policy, stepped by hand."""
    model = SB3Model(config, worlds())
    returns, lengths = evaluate_policy(
        model, worlds(1), n_eval_episodes=1, return_episode_rewards=True
    )
    env = worlds(1).envs
    observation, ended, total, length = env.reset()[0], False, 0.0, 0
    while not ended:
        action = model.agent.act(observation, env.context, explore=False)
        observation, reward, terminated, truncated, _ = env.step(np.clip(action, -1, 1))
        total, length = total + reward[0], length + 1
        ended = terminated[0] or truncated[0]
    assert (returns[0], lengths[0]) == (pytest.approx(total, abs=1e-5), length)


def test_eval_and_checkpoint_callbacks(config, tmp_path):
    model = SB3Model(config, worlds())
    evaluation = EvalCallback(
        worlds(3),
        n_eval_episodes=3,
        eval_freq=LENGTH,
        log_path=str(tmp_path / "log"),
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
    )
    checkpoints = CheckpointCallback(LENGTH, str(tmp_path / "saved"), name_prefix="ppo")
    model.learn(3 * NUM_ENVS * LENGTH, [evaluation, checkpoints])
    assert model.num_timesteps == 3 * NUM_ENVS * LENGTH
    with np.load(tmp_path / "log" / "evaluations.npz", allow_pickle=False) as written:
        assert written["timesteps"].tolist() == [32, 64, 96]
        assert written["results"].shape == (3, 3)
        best = written["results"].mean(axis=1).max()
    assert evaluation.best_mean_reward == pytest.approx(best)
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["ppo_32_steps", "ppo_64_steps", "ppo_96_steps"]
    again = SB3Model.load(tmp_path / "saved" / "ppo_64_steps.zip")
    assert again.num_timesteps == 64
    assert len(CheckpointStore(tmp_path / "best" / "best_model").paths()) == 1
    SB3Model.load(tmp_path / "best" / "best_model")


class Spy(BaseCallback):
    """Notes the order of calls and the locals of every step."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.calls, self.stop_after = [], stop_after

    def _on_training_start(self):
        self.calls.append("start")

    def _on_rollout_start(self):
        self.calls.append("rollout")

    def _on_step(self):
        self.calls.append("step")
        assert self.training_env.num_envs == len(self.locals["dones"]) == len(self.locals["infos"])
        assert np.abs(self.locals["actions"]).max() <= 1
        assert self.num_timesteps == self.n_calls * NUM_ENVS
        return self.n_calls != self.stop_after

    def _on_rollout_end(self):
        self.calls.append("end")
        assert self.model.agent.update_is_due

    def _on_training_end(self):
        self.calls.append("stop")


def test_callbacks_are_called_in_sb3s_order(config):
    spy = Spy()
    SB3Model(config, worlds()).learn(NUM_ENVS * LENGTH + 1, spy)
    rollout = ["rollout", *["step"] * LENGTH, "end"]
    assert spy.calls == ["start", *rollout, *rollout, "stop"]


@pytest.mark.parametrize("stop_after", [5, LENGTH])
def test_a_callback_can_stop_and_training_can_go_on(config, stop_after):
    model = SB3Model(config, worlds())
    model.learn(10_000, Spy(stop_after))
    assert model.num_timesteps == stop_after * NUM_ENVS
    model.learn(1, reset_num_timesteps=False)
    straight = SB3Model(config, worlds()).learn(model.num_timesteps)
    assert model.num_timesteps == NUM_ENVS * LENGTH * (1 if stop_after < LENGTH else 2)
    assert state_hash(model.agent.state_dict()) == state_hash(straight.agent.state_dict())


def test_functions_and_counting_callbacks(config):
    seen = []
    model = SB3Model(config, worlds())
    model.learn(LENGTH * NUM_ENVS, lambda local, _: bool(seen.append(local["self"])) or True)
    assert seen == [model] * LENGTH
    model.learn(100_000, StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps < 200


def test_the_logger_gets_statistics_and_episodes(config, tmp_path):
    model = SB3Model(config, worlds())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(3 * NUM_ENVS * LENGTH)
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(rows) == 3
    for name in ("train/value_loss", "rollout/ep_rew_mean", "time/total_timesteps"):
        assert name in header.split(",")
    column = header.split(",").index("time/total_timesteps")
    assert [int(float(row.split(",")[column])) for row in rows] == [32, 64, 96]


def test_saved_models_predict_alike_and_continue_in_the_same_bits(recycling, tmp_path):
    model = SB3Model(recycling, worlds())
    model.learn(2 * NUM_ENVS * LENGTH)
    assert model.agent.log_values()  # the method is there and has state
    model.save(tmp_path / "model.zip")
    loaded = SB3Model.load(tmp_path / "model", worlds())
    batch = observations(50)
    for deterministic in (True, False):
        expected, _ = model.predict(batch, deterministic=deterministic)
        actual, _ = loaded.predict(batch, deterministic=deterministic)
        np.testing.assert_array_equal(actual, expected)
    assert loaded.config == model.config
    assert loaded.num_timesteps == model.num_timesteps
    assert state_hash(loaded.agent.state_dict()) == state_hash(model.agent.state_dict())
    for one in (model, loaded):
        one.set_env(worlds())
        one.learn(NUM_ENVS * LENGTH)
    assert state_hash(loaded.agent.state_dict()) == state_hash(model.agent.state_dict())


def test_saving_again_replaces_even_a_later_model(config, tmp_path):
    model = SB3Model(config, worlds())
    model.learn(2 * NUM_ENVS * LENGTH)
    model.save(tmp_path / "model")
    model.learn(NUM_ENVS * LENGTH)  # counts from 0 again
    model.save(tmp_path / "model")
    assert SB3Model.load(tmp_path / "model").num_timesteps == NUM_ENVS * LENGTH
    assert len(CheckpointStore(tmp_path / "model").paths()) == 1


def test_a_model_saved_mid_rollout_forgets_the_rollout(config, tmp_path):
    model = SB3Model(config, worlds())
    model.learn(10_000, Spy(stop_after=LENGTH + 3))
    assert not model.agent.is_at_quiet_point
    model.save(tmp_path / "model")
    loaded = SB3Model.load(tmp_path / "model", worlds())
    assert loaded.agent.is_at_quiet_point
    batch = observations()
    expected, _ = model.predict(batch, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(batch, deterministic=True)[0], expected)
    with pytest.raises(ValueError, match="half a rollout"):
        model.set_env(worlds())


def test_refusals(config, tmp_path):
    with pytest.raises(ValueError, match="give the environments, or the shape"):
        SB3Model(config)
    model = SB3Model(config, worlds())
    with pytest.raises(ValueError, match="num_envs=3"):
        model.set_env(worlds(3))
    with pytest.raises(ValueError, match="was built for 27"):
        model.predict(np.zeros((2, 28)))
    with pytest.raises(ValueError, match="holds no saved model"):
        SB3Model.load(tmp_path / "nothing")
    CheckpointStore(tmp_path / "run").save(5, {"agent": {}})
    with pytest.raises(ValueError, match="checkpoints of a run"):
        model.save(tmp_path / "run")
    path = model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="no environments"):
        SB3Model.load(path).learn(1)
    for file in path.rglob("*.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError):
        SB3Model.load(path)


def test_foreign_environments_of_sb3_are_accepted(config):
    """Truncated episodes of a plain DummyVecEnv reach the agent as truncated."""

    def make():
        return Monitor(gymnasium.make("Pendulum-v1", max_episode_steps=5))

    env = VecNormalize(DummyVecEnv([make] * NUM_ENVS))
    model = SB3Model(config, env)
    assert model.get_vec_normalize_env() is env
    seen = []
    observe = model.agent.observe
    model.agent.observe = lambda transition: (seen.append(transition), observe(transition))[1]
    model.learn(NUM_ENVS * LENGTH)
    assert [bool(t.truncated.all()) for t in seen] == [t % 5 == 4 for t in range(LENGTH)]
    assert not any(t.terminated.any() for t in seen)
    for now, then in itertools.pairwise(seen):
        joins = np.array_equal(now.next_observation, then.observation)
        assert joins != now.truncated.all()
    assert [e["l"] for e in model.ep_info_buffer] == [5] * 6


def test_a_single_environment_is_monitored_and_learnt_from():
    words = ["agent=ppo", "agent.rollout_length=64", "agent.minibatch_size=32", "total_steps=128"]
    config = compose_run([*words, "network.hidden_sizes=[8]"]).config
    model = SB3Model(config, gymnasium.make("Pendulum-v1", max_episode_steps=5)).learn(128)
    assert len(model.ep_info_buffer) == 25
    assert model.ep_info_buffer[0]["l"] == 5
    model.set_env(gymnasium.make("Pendulum-v1", max_episode_steps=5))
    assert evaluate_policy(model, model.get_env(), n_eval_episodes=2)[0] < 0.0
    with pytest.raises(TypeError, match="environments are SyncVectorEnv; give a VecEnv"):
        SB3Model(config, gymnasium.make_vec("Pendulum-v1", num_envs=2))


@pytest.mark.parametrize("fresh", [[], ["fresh_at_switch=true", "boundary=oracle"]])
def test_agents_with_a_replay_stop_and_load_at_any_step(fresh, tmp_path):
    words = ["network.hidden_sizes=[8]", "agent.warmup_steps=20", "agent.batch_size=8", *fresh]
    sac = compose_run(["agent=sac", "agent.replay_size=1000", *words]).config
    model = SB3Model(sac, worlds()).learn(61)
    assert model.num_timesteps == 62
    assert not model.agent.is_at_quiet_point
    model.save(tmp_path / "model")
    loaded = SB3Model.load(tmp_path / "model", worlds())
    assert loaded.agent.state_dict()["clock"]["env_steps"] == 62
    assert state_hash(loaded.agent.state_dict()) == state_hash(model.agent.state_dict())
    for one in (model, loaded):
        one.set_env(worlds())
        one.learn(20, reset_num_timesteps=False)
    assert state_hash(loaded.agent.state_dict()) == state_hash(model.agent.state_dict())


def test_events_are_handed_over_once_and_not_kept():
    words = ["method=continual_backprop", "method.continual_backprop.replacement_rate=0.05"]
    words += ["method.continual_backprop.maturity_threshold=2"]
    model, seen = SB3Model(compose_run([*OVERRIDES, *words]).config, worlds()), []

    def look(*_):
        seen.append(model.events)
        return True

    model.learn(4 * NUM_ENVS * LENGTH, look)
    replaced = sum(v for k, v in model.agent.log_values().items() if k.endswith("replaced_total"))
    assert replaced > 0
    assert sum(map(len, [*seen, model.events])) == replaced
    assert {e["event"] for events in seen for e in events} == {"unit_reset"}
    assert [i for i, events in enumerate(seen) if events] == [LENGTH, 2 * LENGTH, 3 * LENGTH]
    assert not model.agent.pop_events()


def changing(**settings):
    settings = {"num_envs": NUM_ENVS, "max_episode_steps": 12, "switch_interval": 44, **settings}
    return SB3VecEnv(locomotion.make(locomotion.Config(**settings), 100_000)[0])


@pytest.mark.parametrize("rule", ["exact", "episode_end"])
def test_announced_worlds_reach_the_agent_once(rule):
    words = [*OVERRIDES, "boundary=oracle", "method=[reset]", "method.reset.period=0"]
    words = [*words, "method.reset.at_task_change=true"]
    model, seen = SB3Model(compose_run(words).config, changing(switch_rule=rule)), []
    announce = model.agent.on_task_change
    model.agent.on_task_change = lambda task: (
        seen.append((model.num_timesteps, task)),
        announce(task),
    )
    newest, events = [], []

    def look(local, _):
        newest.append(max(info["regime"] for info in local["infos"]))
        events.extend(model.events)
        return True

    model.learn(96, look)
    model.learn(64, look, reset_num_timesteps=False)
    if rule == "exact":
        assert seen == [(44, 1), (88, 2), (132, 3)]
    assert [task for _, task in seen] == list(range(1, len(seen) + 1))
    assert len(seen) >= 2
    for steps, task in seen:  # with the first transition in the new world
        assert newest.index(task) == steps // NUM_ENVS
    resets = [e for e in [*events, *model.events] if e["event"] == "intervention"]
    assert len(resets) == len(seen) * len(model.agent.networks())


def test_nothing_is_announced_without_the_oracle():
    model = SB3Model(compose_run(OVERRIDES).config, changing())
    model.agent.on_task_change = lambda task: pytest.fail("announced")
    model.learn(96)


def test_worlds_without_numbers_are_refused_where_the_agent_needs_them():
    def make():
        return gymnasium.make("Pendulum-v1", max_episode_steps=5)

    words = [*OVERRIDES, "boundary=oracle"]
    SB3Model(compose_run(words).config, DummyVecEnv([make] * NUM_ENVS)).learn(1)
    needy = compose_run([*words, "method=[ewc]"]).config
    with pytest.raises(ValueError, match=r"ewc acts at world changes.*no regime"):
        SB3Model(needy, DummyVecEnv([make] * NUM_ENVS)).learn(1)


@pytest.mark.parametrize("agent", ["sb3_ppo", "sb3_sac"])
def test_sb3s_own_agents_in_our_shell(agent):
    settings = {
        "sb3_ppo": ["agent.rollout_length=16", "agent.minibatch_size=16"],
        "sb3_sac": ["agent.warmup_steps=10", "agent.batch_size=8", "agent.replay_size=1000"],
    }
    words = ["agent.hidden_sizes=[8]", *settings[agent]]
    model = SB3Model(compose_run([f"agent={agent}", *words]).config, worlds()).learn(32)
    assert model.num_timesteps == 32
    assert len(evaluate_policy(model, worlds(), 3, return_episode_rewards=True)[0]) == 3
