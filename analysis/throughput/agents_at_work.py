"""Whole training runs under the clock: ours, and that of stable-baselines3 at equal settings."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.throughput.window import Window

CHECKPOINTS = 3


class Finished(Exception):
    """Leaves the training loop once the window has ended."""


class Budget:
    """Adds up the time spent in some methods of live objects.

    Attributes:
        seconds: Name -> seconds so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, name: str, owner: Any, method: str) -> None:
        """Add the time of every call of `owner.method` to `name`."""
        original, seconds = getattr(owner, method), self.seconds
        seconds.setdefault(name, 0.0)

        @functools.wraps(original)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            try:
                return original(*arguments, **keywords)
            finally:
                seconds[name] += time.perf_counter() - begin

        setattr(owner, method, timed)


def measure_suite(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, float]:
    """Time our training loop, recorder included.

    Args:
        settings: `overrides` of the command line, `seconds`, `min_laps`, `extra_lap`, and
            `profile`: also report where the time goes and what a checkpoint costs.
        wait: See `Window`.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _measure_suite(settings, wait, Path(folder))


def _measure_suite(
    settings: Mapping[str, Any], wait: Callable[[], None], folder: Path
) -> dict[str, float]:
    from analysis.interruption import Interruption
    from analysis.progress import Progress
    from analysis.run_directory import RunDirectory
    from configs.compose import compose_run
    from train import Training

    composed = compose_run([*settings["overrides"], "progress=false"])
    with RunDirectory.open(folder, "run", composed.plain) as directory:
        training = Training(composed, directory)
        agent, envs = training.agent, training.envs
        budget = Budget()
        if settings["profile"]:
            _watch(budget, training)
        policy = agent.updates["policy"]

        def counters() -> dict[str, float]:
            steps = {"env_steps": envs.env_steps, "gradient_steps": policy.num_steps}
            return {**steps, **budget.seconds}

        window = Window(
            wait, counters, settings["seconds"], settings["min_laps"], settings["extra_lap"]
        )
        update = agent.update

        def update_and_note() -> Any:
            statistics = update()
            if window.lap():
                raise Finished
            return statistics

        agent.update = update_and_note
        with contextlib.suppress(Finished):
            training.run(Interruption(), Progress(0, enabled=False))
        result = window.result()
        if settings["profile"]:
            agent.update = update
            result["checkpoint"] = _checkpoint_seconds(training)
            result["checkpoint_period"] = composed.config.log.checkpoint_minutes * 60.0
        training.close()
        return result


def _watch(budget: Budget, training: Any) -> None:
    for name, owner, method in (
        ("act", training.agent, "act"),
        ("simulate", training.envs, "step"),
        ("store", training.agent, "observe"),
        ("learn", training.agent, "update"),
        ("events", training.recorder, "step"),
        ("diagnostics", training.recorder, "before_update"),
        ("log", training.recorder, "after_update"),
    ):
        budget.watch(name, owner, method)


def _checkpoint_seconds(training: Any) -> float:
    """Median seconds of a checkpoint in the middle of a rollout."""
    seconds = []
    for _ in range(CHECKPOINTS):
        begin = time.perf_counter()
        training.checkpoint(pinned=False)
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[CHECKPOINTS // 2]


def measure_sb3(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, float]:
    """Time the training loop of SB3's PPO on Gymnasium's Ant-v4 in a DummyVecEnv.

    Args:
        settings: `num_envs`, `rollout_size` (transitions), `num_epochs`, `minibatch_size`,
            `hidden_sizes`, `learning_rate`, `num_threads`, `seconds`, `min_laps`, `extra_lap`.
        wait: See `Window`.
    """
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(settings["num_threads"])
    num_envs = settings["num_envs"]
    minibatches = settings["rollout_size"] // settings["minibatch_size"]
    envs = make_vec_env("Ant-v4", n_envs=num_envs, seed=0)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=settings["rollout_size"] // num_envs,
        batch_size=settings["minibatch_size"],
        n_epochs=settings["num_epochs"],
        learning_rate=settings["learning_rate"],
        ent_coef=0.0,
        vf_coef=1.0,
        max_grad_norm=1e9,
        policy_kwargs={
            "net_arch": {"pi": settings["hidden_sizes"], "vf": settings["hidden_sizes"]},
            "activation_fn": torch.nn.ReLU,
        },
        seed=0,
        device="cpu",
    )
    window = Window(
        wait,
        lambda: {
            "env_steps": model.num_timesteps,
            "gradient_steps": model._n_updates * minibatches,  # SB3 counts epochs
        },
        settings["seconds"],
        settings["min_laps"],
        settings["extra_lap"],
    )

    class Laps(BaseCallback):
        """A rollout starts right after the update of the one before."""

        finished = False

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                self.finished = window.lap()

        def _on_step(self) -> bool:
            return not self.finished

    model.learn(10**12, Laps())
    envs.close()
    return window.result()
