"""Our worlds for stable-baselines3: its own agents train on them, its wrappers accept them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment with SAME_STEP autoreset as a stable-baselines3 `VecEnv`.

    Every step reports what SB3 reads: `terminal_observation` and `TimeLimit.truncated` where an
    episode ended, and the `episode` entry that its Monitor would add, so that SB3's logs and
    `evaluate_policy` count whole episodes. Where episodes can succeed, their end also reports
    `is_success`: whether any of their steps did. An announced context is appended to the
    observation, because SB3 knows no second input; `regime` and `regime_value` stand in every info.

    Actions are clipped to the bounds before they reach the environment: SB3 samples from an
    unbounded Gaussian but accepts bounded action spaces only. The reward therefore charges the
    clipped action, and returns compare with those of agents under the same clipping only.

    Args:
        envs: The environments; closed together with this adapter.

    Raises:
        ValueError: The environments reset in another way, or have spaces that are not vectors.
    """

    def __init__(self, envs: VectorEnv) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"the environments have autoreset_mode={mode}; build them with "
                "AutoresetMode.SAME_STEP, the only one in which no step is lost"
            )
        observations, actions = envs.single_observation_space, envs.single_action_space
        for name, space in (("observation", observations), ("action", actions)):
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise ValueError(f"the {name} space is {space}; it must be a Box of one dimension")
        assert isinstance(observations, Box)
        assert isinstance(actions, Box)
        self.envs = envs
        self.context_dim = _context(envs).shape[1]
        super().__init__(envs.num_envs, _with_context(observations, self.context_dim), actions)
        self._low, self._high = actions.low, actions.high
        self._actions = np.zeros((envs.num_envs, *actions.shape), dtype=np.float32)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self._start = time.monotonic()

    def reset(self) -> np.ndarray:
        """Start new episodes.

        Returns:
            Observations with the context behind them, (N, obs + C), a fresh array.
        """
        observation, _ = self.envs.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return self._joined(observation, _context(self.envs))

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions (N, act) of the next `step_wait`; they are clipped to the bounds."""
        self._actions = np.clip(actions, self._low, self._high)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Advance every environment by one step.

        Returns:
            observation (N, obs + C), where an episode ended the next one's first; reward (N,)
            float32; whether the episode ended (N,); one info per environment.
        """
        observation, reward, terminated, truncated, info = self.envs.step(self._actions)
        self._returns += reward
        self._lengths += 1
        infos = self._regimes(info)
        ended = np.logical_or(terminated, truncated)
        for index in np.flatnonzero(ended).tolist():
            self._end_episode(index, info, infos[index])
            infos[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
        joined = self._joined(observation, info.get("context", _context(self.envs)))
        return joined, np.asarray(reward, dtype=np.float32), ended, infos

    def _regimes(self, info: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One info per environment, with the world of the transition where there is one."""
        if "regime" not in info:
            return [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        pairs = zip(info["regime"].tolist(), info["regime_value"].tolist(), strict=True)
        return [
            {"TimeLimit.truncated": False, "regime": regime, "regime_value": value}
            for regime, value in pairs
        ]

    def _end_episode(self, index: int, info: Mapping[str, Any], entry: dict[str, Any]) -> None:
        """Add the last observation and the account of an episode; begin the next account."""
        contexts = info.get("next_context", _context(self.envs))
        entry["terminal_observation"] = self._joined(info["final_obs"][index], contexts[index])
        entry["episode"] = {
            "r": round(float(self._returns[index]), 6),
            "l": int(self._lengths[index]),
            "t": round(time.monotonic() - self._start, 6),
        }
        if "episode_success" in info:
            entry["is_success"] = bool(info["episode_success"][index])
        self._returns[index] = 0.0
        self._lengths[index] = 0

    def _joined(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        if not self.context_dim:
            return np.array(observation, dtype=self.observation_space.dtype)
        return np.concatenate((observation, context), axis=-1).astype(self.observation_space.dtype)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Attribute of the batch, once per environment asked for."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: the environments are one object and share their attributes."""
        raise NotImplementedError(
            f"cannot set {attr_name!r} of single environments, they are stepped as one batch; set "
            "it on .envs"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: the environments are one object and have no methods of their own."""
        raise NotImplementedError(
            f"cannot call {method_name!r} of single environments, they are stepped as one batch; "
            "call it on .envs"
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Only Monitor counts as present: its `episode` entries are reported here."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


def _context(envs: VectorEnv) -> np.ndarray:
    """What is announced about the next transition, (N, C); C is 0 for foreign environments."""
    context = getattr(envs, "context", None)
    return np.zeros((envs.num_envs, 0), dtype=np.float32) if context is None else context


def _with_context(space: Box, context_dim: int) -> Box:
    if not context_dim:
        return space
    dtype = space.dtype
    bound = np.full(context_dim, np.inf)
    low = np.concatenate((space.low, -bound)).astype(dtype)
    high = np.concatenate((space.high, bound)).astype(dtype)
    return Box(low, high, dtype=dtype.type)  # type: ignore[union-attr]
