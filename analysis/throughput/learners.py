"""Learners without a world: agents with a full rollout or replay, whose updates are timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from analysis.throughput.plan import ACTION_DIM, OBSERVATION_DIM

# So small that no weight moves, whatever the number of updates: a rollout that is learnt from
# again and again stays on-policy. What a step costs does not depend on it.
STANDSTILL = 1e-9


def _agent(words: Sequence[str], num_envs: int, num_tasks: int = 0) -> tuple[Any, Any]:
    """Settings and agent of a command line, for the Ant's sizes but without a world."""
    from configs.build import build_agent
    from configs.compose import compose_run
    from envs.base import EnvInfo

    standstill = f"optimizer.learning_rate={STANDSTILL}"
    composed = compose_run(["env=ant", "progress=false", standstill, *words])
    limit = np.ones(ACTION_DIM)
    info = EnvInfo(
        name="none",
        num_envs=num_envs,
        observation_dim=OBSERVATION_DIM,
        action_dim=ACTION_DIM,
        action_low=-limit,
        action_high=limit,
        context_dim=num_tasks,
        max_episode_steps=1_000,
        regime_label="task",
        step_seconds=0.05,
    )
    return composed, build_agent(composed.config, info, 1)


class PPOLearner:
    """An agent of a configuration that learns from one stored rollout again and again.

    Args:
        overrides: Of the command line, for example `method=redo`.
        num_epochs: Passes over the rollout per lap.
        num_tasks: Length of a one-hot context, 0 for none.
        vector_steps: Length of the rollout, which has 16 environments.
    """

    num_envs = 16

    def __init__(
        self,
        overrides: Sequence[str] = (),
        num_epochs: int = 1,
        num_tasks: int = 0,
        vector_steps: int = 128,
    ) -> None:
        composed, self.agent = _agent(
            (
                "boundary=oracle",
                f"agent.num_epochs={num_epochs}",
                f"agent.rollout_length={vector_steps}",
                *overrides,
            ),
            self.num_envs,
            num_tasks,
        )
        transitions = self.num_envs * vector_steps
        self.gradient_steps = num_epochs * transitions // composed.config.agent.minibatch_size
        self._fill(num_tasks)

    def _fill(self, num_tasks: int) -> None:
        """Random numbers in the place of a world; actions are the policy's own."""
        rollout, rng = self.agent.rollout, np.random.default_rng(0)
        context = np.eye(max(1, num_tasks), dtype=np.float32)
        context = context[np.arange(self.num_envs) % max(1, num_tasks), :num_tasks]
        for _ in range(rollout.length):
            self.agent.act(rng.normal(size=rollout.observation.shape[1:]), context, explore=True)
            t = rollout.position
            rollout.reward[t] = rng.normal(size=self.num_envs)
            rollout.next_observation[t] = rng.normal(size=rollout.observation.shape[1:])
            rollout.truncated[t] = rng.random(self.num_envs) < 1e-3
            rollout.position = t + 1

    def lap(self) -> float:
        """One update; returns its gradient steps (of each network)."""
        self.agent.rollout.position = self.agent.rollout.length
        self.agent.update()
        return self.gradient_steps

    def change_task(self, task: int) -> float:
        """Announce a task change; returns its seconds."""
        begin = time.perf_counter()
        self.agent.rollout.position = self.agent.rollout.length
        self.agent.on_task_change(task)
        return time.perf_counter() - begin


class SACLearner:
    """Our SAC with a full replay of random transitions.

    Args:
        hidden_sizes: Of all networks.
        batch_size: Rows per gradient step.
        num_threads: Learner threads.
        device: `cpu` or `cuda`.
        sizes: Observation, action and one-hot context.
        methods: Method id -> configuration.
        fast_path: As `agent.fast_path`.
        capture: As `agent.capture`.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int],
        batch_size: int,
        num_threads: int = 1,
        device: str = "cpu",
        sizes: tuple[int, int, int] = (39, 4, 0),
        methods: Any = None,
        fast_path: bool = True,
        capture: str = "auto",
    ) -> None:
        from agents import sac
        from agents.parts import Parts
        from networks import mlp
        from networks.torso import ContextSpec
        from plasticity.optimizers import adam

        observation, action, context = sizes
        parts = Parts(
            observation_dim=observation,
            action_dim=action,
            num_envs=10,
            network=mlp.Config(hidden_sizes=list(hidden_sizes)),
            optimizer=adam.Config(learning_rate=3e-4),
            methods=methods or {},
            context=ContextSpec(context, discrete=context > 0),
            total_steps=10**9,
            num_threads=num_threads,
        )
        config = sac.Config(
            batch_size=batch_size,
            replay_size=REPLAY_SIZE,
            warmup_steps=0,
            device=device,  # type: ignore[arg-type]
            fast_path=fast_path,
            capture=capture,  # type: ignore[arg-type]
        )
        self.agent: Any = sac.build(config, parts)
        _fill_replay(self.agent, observation, action, context)

    def lap(self) -> float:
        """One gradient step of every network."""
        self.agent._gradient_step()
        return 1.0


def _fill_replay(agent: Any, observation: int, action: int, context: int) -> None:
    """Random transitions in the place of a world."""
    from agents.base import Transition

    rng, size = np.random.default_rng(0), REPLAY_SIZE
    tasks = np.eye(max(1, context), dtype=np.float32)[np.arange(size) % max(1, context)]
    tasks = tasks[:, :context]
    agent.replay.add(
        Transition(
            rng.normal(size=(size, observation)).astype(np.float32),
            np.tanh(rng.normal(size=(size, action))).astype(np.float32),
            rng.normal(size=size),
            rng.normal(size=(size, observation)).astype(np.float32),
            np.zeros(size, dtype=bool),
            np.zeros(size, dtype=bool),
            tasks,
            tasks,
            np.zeros(size, dtype=np.int64),
        )
    )


class PresetSACLearner:
    """SAC of a configuration that learns from one stored replay again and again.

    Args:
        overrides: Of the command line, for example `method=redo`.

    Attributes:
        updates_per_env_step: Gradient steps per environment step of the configuration.
    """

    num_envs = 16

    def __init__(self, overrides: Sequence[str] = ()) -> None:
        words = ("agent=sac", "boundary=oracle", f"agent.replay_size={REPLAY_SIZE}")
        words += ("agent.warmup_steps=0", f"agent.temperature_learning_rate={STANDSTILL}")
        composed, self.agent = _agent((*words, *overrides), self.num_envs)
        self.updates_per_env_step = float(composed.config.agent.updates_per_env_step)
        _fill_replay(self.agent, OBSERVATION_DIM, ACTION_DIM, 0)

    def lap(self) -> float:
        """One gradient step of every network."""
        self.agent._gradient_step()
        return 1.0

    def change_task(self, task: int) -> float:
        """Announce a task change; returns its seconds."""
        begin = time.perf_counter()
        self.agent.on_task_change(task)
        return time.perf_counter() - begin


REPLAY_SIZE = 20_000


class SB3Learner:
    """SB3's SAC with a full replay of random transitions.

    Args:
        hidden_sizes: Of all networks.
        batch_size: Rows per gradient step.
        num_threads: Threads of torch.
        sizes: Observation and action.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int],
        batch_size: int,
        num_threads: int = 1,
        sizes: tuple[int, int] = (39, 4),
    ) -> None:
        from stable_baselines3 import SAC

        self._num_threads, self._batch_size = num_threads, batch_size
        self._model = SAC(
            "MlpPolicy",
            _silent_world(*sizes),
            batch_size=batch_size,
            buffer_size=REPLAY_SIZE,
            learning_starts=0,
            policy_kwargs={"net_arch": list(hidden_sizes)},
            device="cpu",
            seed=0,
        )
        self._model._setup_learn(1)
        buffer, rng = self._model.replay_buffer, np.random.default_rng(0)
        assert buffer is not None
        for name in ("observations", "next_observations", "rewards"):
            array = getattr(buffer, name)
            array[:] = rng.normal(size=array.shape)
        buffer.actions[:] = np.tanh(rng.normal(size=buffer.actions.shape))  # type: ignore[attr-defined]
        buffer.full = True

    def lap(self) -> float:
        """One gradient step of every network."""
        torch.set_num_threads(self._num_threads)
        try:
            self._model.train(1, self._batch_size)
        finally:
            torch.set_num_threads(1)
        return 1.0


def _silent_world(observation_dim: int, action_dim: int) -> Any:
    """A world that only tells SB3 the sizes."""
    import gymnasium

    class Silent(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (observation_dim,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return np.zeros(observation_dim, np.float32), {}

    return Silent()
