"""Our agents as models of stable-baselines3: its callbacks and `evaluate_policy` accept them.

This is the one file of the room that looks at configurations and checkpoints, because a model of
that library is an agent, its settings and its files in one object.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    unwrap_vec_normalize,
)
from torch import Tensor

from agents.base import Agent, Transition
from agents.sb3_shape import Shape
from analysis.adoption import adopt
from analysis.checkpoint import CheckpointStore, inspect_checkpoint
from configs.build import build_agent, refuse_idle_optimizer
from configs.run import RunConfig, load_run
from configs.schema import load, to_plain

Callback = BaseCallback | list[BaseCallback] | Callable[..., bool] | None


class SB3Model:
    """An agent of this suite behind the interface of `BaseAlgorithm`.

    As in stable-baselines3, actions are clipped to the bounds of the action space before the
    environment sees them; the agent learns from what it sampled.

    With boundary=oracle the agent is told of a new world when the first transition in it has been
    observed: when the `regime` in the infos rises above all before.

    Args:
        config: Settings of the run; `env` in it is not used, the environments are given.
        env: Environments to train on: `envs.sb3.SB3VecEnv`, any `VecEnv` of that library, or a
            single environment of Gymnasium, which is monitored and made one as there. None for a
            model that only predicts, which then needs `shape`.
        agent: An agent to show; None builds a new one from `config`.
        shape: What the agent is built for; read from `env` by default.

    Attributes:
        agent: The agent.
        num_timesteps: Environment steps learnt from.
        logger: SB3's logger, silent until `set_logger`.
        ep_info_buffer: The last 100 `episode` entries.
        events: What methods did in the newest vector step and the update after it, one dict per
            renewed unit and the like; callbacks find those of the step before theirs.

    Raises:
        ValueError: Neither environments nor a shape, or the two differ; or a new agent would have
            an optimizer that never acts.
    """

    def __init__(
        self,
        config: RunConfig,
        env: VecEnv | gymnasium.Env | None = None,
        *,
        agent: Agent | None = None,
        shape: Shape | None = None,
    ) -> None:
        env = None if env is None else _as_vec_env(env)
        if shape is None:
            if env is None:
                raise ValueError("give the environments, or the shape that the agent is built for")
            shape = Shape.of(env)
        self.config, self.shape = config, shape
        if agent is None:
            agent = build_agent(config, shape)
            refuse_idle_optimizer(agent)
        self.agent = agent
        self.num_timesteps = 0
        self.ep_info_buffer: deque[dict[str, Any]] = deque(maxlen=100)
        self.events: list[dict[str, Any]] = []
        self.env: VecEnv | None = None
        self._low = np.array(shape.action_low, dtype=np.float32)
        self._high = np.array(shape.action_high, dtype=np.float32)
        self._logger = Logger(folder=None, output_formats=[])
        self._observation: np.ndarray | None = None
        self._newest_world: int | None = None
        if env is not None:
            self.set_env(env)

    # Accessors of the library ---------------------------------------------------------------

    @property
    def logger(self) -> Logger:
        """SB3's logger."""
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Write to this logger from now on."""
        self._logger = logger

    def get_env(self) -> VecEnv | None:
        """Environments to train on."""
        return self.env

    def set_env(self, env: VecEnv | gymnasium.Env) -> None:
        """Train on other environments of the same shape; they are reset when learning starts.

        Raises:
            ValueError: The shape differs, or half a rollout of the old environments is stored.
        """
        vec_env = _as_vec_env(env)
        given = Shape.of(vec_env)
        if given != self.shape:
            raise ValueError(f"the agent was built for {self.shape}, the environments are {given}")
        if _is_mid_rollout(self.agent):
            raise ValueError("the agent holds half a rollout; learn until it is complete first")
        self.env, self._observation, self._newest_world = vec_env, None, None

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """The normalising wrapper of the environments, if there is one."""
        return None if self.env is None else unwrap_vec_normalize(self.env)

    # Acting ---------------------------------------------------------------------------------

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, clipped to their bounds; training is untouched. See `Agent.predict`.

        Args:
            observation: (N, obs + C), or (obs + C,) for a single environment.
            state: Returned as it is.
            episode_start: Not used.
            deterministic: True returns the mode of the policy, False a sample.

        Returns:
            Actions, (N, act) or (act,) float32; and `state`.
        """
        batch, context = self._split(np.atleast_2d(observation))
        if deterministic:
            action = self.agent.act(batch, context, explore=False)
        else:
            action = self.agent.sample(batch, context)
        action = np.clip(action, self._low, self._high)
        return (action if np.ndim(observation) > 1 else action[0]), state

    def _split(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Observations (N, obs) and contexts (N, C), float32."""
        size = self.shape.observation_dim
        if observation.shape[-1] != size + self.shape.shown_dim:
            raise ValueError(
                f"an observation has {observation.shape[-1]} numbers, the agent was built for "
                f"{size} and a context of {self.shape.shown_dim}"
            )
        return observation[..., :size], observation[..., size:].astype(np.float32)

    # Learning -------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Callback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SB3Model:
        """Train; whole rollouts are collected, so the last one may exceed `total_timesteps`.

        Args:
            total_timesteps: Environment steps to learn from.
            callback: One callback, several, or a function of (locals, globals) that returns False
                to stop. Locals are `self`, `total_timesteps`, `actions`, `new_obs`, `rewards`,
                `dones` and `infos`.
            log_interval: Iterations between writes of the logger, None for never.
            tb_log_name: Not used; choose the folder with `set_logger`.
            reset_num_timesteps: Count from 0; false goes on counting, in the running episodes.
            progress_bar: Not used; add SB3's `ProgressBarCallback`.

        Returns:
            This model.

        Raises:
            ValueError: The model has no environments, or the agent acts at world changes and the
                environments do not say which world they are in.
        """
        env, agent = self.env, self.agent
        if env is None:
            raise ValueError("the model has no environments; call set_env first")
        if reset_num_timesteps:
            self.num_timesteps = 0
        total_timesteps += self.num_timesteps
        # A rollout that a callback broke off goes on where it stopped.
        if self._observation is None or (reset_num_timesteps and not _is_mid_rollout(agent)):
            self._observation = cast(np.ndarray, env.reset())
        hooks = _one_callback(callback)
        hooks.init_callback(cast(Any, self))
        hooks.on_training_start({"self": self, "total_timesteps": total_timesteps}, {})
        goes_on = True
        while goes_on and (self.num_timesteps < total_timesteps or _is_mid_rollout(agent)):
            if not _is_mid_rollout(agent):
                hooks.on_rollout_start()
            hooks.update_locals(self._step(env))
            goes_on = hooks.on_step()
            if agent.update_is_due or not _is_mid_rollout(agent):
                hooks.on_rollout_end()
            # Also after a callback said stop: a full rollout has no room for the next step.
            if agent.update_is_due:
                iteration = agent.iteration
                self._record(agent.update())
                if log_interval and agent.iteration // log_interval > iteration // log_interval:
                    self.dump_logs()
            self.events = agent.pop_events()  # nobody else does, and they would pile up
        hooks.on_training_end()
        return self

    def _step(self, env: VecEnv) -> dict[str, Any]:
        """One vector step: act, simulate, observe; returns what callbacks may look at."""
        assert self._observation is not None
        observation, context = self._split(self._observation)
        action = self.agent.act(observation, context, explore=True)
        clipped = np.clip(action, self._low, self._high)
        new_obs, rewards, dones, infos = env.step(clipped)
        new_obs = cast(np.ndarray, new_obs)
        successor = np.array(new_obs)
        for index in np.flatnonzero(dones).tolist():
            successor[index] = infos[index]["terminal_observation"]
        truncated = dones & np.array([bool(i.get("TimeLimit.truncated")) for i in infos])
        regime = np.array([int(info.get("regime", 0)) for info in infos])
        next_observation, next_context = self._split(successor)
        self.agent.observe(
            Transition(
                observation,
                action,
                rewards,
                next_observation,
                dones & ~truncated,
                truncated,
                context,
                next_context,
                regime,
            )
        )
        self._observation = new_obs
        self._announce(infos)
        self.num_timesteps += env.num_envs
        self.ep_info_buffer.extend(info["episode"] for info in infos if "episode" in info)
        return {
            "actions": clipped,
            "new_obs": new_obs,
            "rewards": rewards,
            "dones": dones,
            "infos": infos,
        }

    def _announce(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Tell the agent of a new world, where the run announces worlds."""
        if self.config.boundary != "oracle":
            return
        if not all("regime" in info for info in infos):
            if needy := self.agent.methods_that_need_boundaries():
                raise ValueError(
                    f"{', '.join(needy)} acts at world changes, which boundary=oracle announces, "
                    "but the infos of these environments have no regime, the number of the world; "
                    "use envs.sb3.SB3VecEnv, or choose another method and boundary=none"
                )
            return
        newest = max(int(info["regime"]) for info in infos)
        if self._newest_world is not None and newest > self._newest_world:
            self.agent.on_task_change(newest)
        self._newest_world = max(newest, self._newest_world or 0)

    def _record(self, statistics: Mapping[str, Tensor]) -> None:
        for name, value in statistics.items():
            self._logger.record(f"train/{name}", float(value))

    def dump_logs(self, iteration: int = 0) -> None:
        """Write what was recorded since the last time, with the mean of the last episodes."""
        if self.ep_info_buffer:
            returns = [episode["r"] for episode in self.ep_info_buffer]
            lengths = [episode["l"] for episode in self.ep_info_buffer]
            self._logger.record("rollout/ep_rew_mean", float(np.mean(returns)))
            self._logger.record("rollout/ep_len_mean", float(np.mean(lengths)))
        self._logger.record("time/total_timesteps", self.num_timesteps)
        self._logger.dump(step=self.num_timesteps)

    # Files ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Save agent and settings, without pickle; what the path held before is replaced.

        Args:
            path: A folder; a suffix `.zip`, which SB3's callbacks append, is dropped.

        Returns:
            The folder.

        Raises:
            ValueError: The folder holds the checkpoints of a run.
            StorageError: The disk refused.
        """
        folder = _folder(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        store = CheckpointStore(folder, keep=1)
        for existing in store.paths():
            if "shape" not in inspect_checkpoint(existing)["metadata"]:
                raise ValueError(f"{folder} holds checkpoints of a run; save the model elsewhere")
        metadata = {"config": to_plain(self.config), "shape": asdict(self.shape)}
        state = {"agent": self.agent.state_dict()}
        saved = store.save(self.num_timesteps, state, metadata=metadata)
        for existing in store.paths():
            if existing != saved:
                shutil.rmtree(existing)
        return folder

    @classmethod
    def load(cls, path: str | Path, env: VecEnv | None = None) -> SB3Model:
        """Build the agent of a saved model and restore it.

        A model saved in the middle of a rollout forgets that rollout and starts its random
        streams and counters anew, because the environments it belongs to are not saved.

        Args:
            path: What `save` was given.
            env: Environments to go on training on; None to predict only.

        Raises:
            ValueError: There is no model, or its settings or shape do not fit.
            CheckpointError: The files are damaged.
        """
        loaded = CheckpointStore(_folder(path)).load_latest()
        if loaded is None or "shape" not in loaded.manifest["metadata"]:
            raise ValueError(f"{_folder(path)} holds no saved model")
        metadata = loaded.manifest["metadata"]
        config, shape = load_run(metadata["config"]), load(Shape, metadata["shape"])
        model = cls(config, agent=build_agent(config, shape), shape=shape)
        adopt(model.agent, loaded.state["agent"])
        if _is_mid_rollout(model.agent):
            model.agent = build_agent(model.config, model.shape)
            model.agent.transplant(loaded.state["agent"], ())
        model.num_timesteps = loaded.env_steps
        if env is not None:
            model.set_env(env)
        return model


def _is_mid_rollout(agent: Agent) -> bool:
    """Whether only the successors of what is stored may follow; a replay takes anything."""
    return not agent.learns_from_replay and not agent.is_at_quiet_point


def _folder(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix == ".zip" else path


def _one_callback(callback: Callback) -> BaseCallback:
    if isinstance(callback, list):
        return CallbackList(callback)
    return callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)


def _as_vec_env(env: VecEnv | gymnasium.Env) -> VecEnv:
    """A batch of one, as stable-baselines3 makes it, around a single environment."""
    if isinstance(env, VecEnv):
        return env
    if isinstance(env, gymnasium.Env):
        return DummyVecEnv([lambda: Monitor(env)])
    raise TypeError(
        f"the environments are {type(env).__name__}; give a VecEnv of stable-baselines3, such as "
        "SB3VecEnv(gym.make_vec(...)), or one environment of Gymnasium"
    )
