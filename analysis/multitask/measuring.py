"""Measures agents on the tasks and goals of a run, in environments of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.multitask.evaluation import checked_goals, deterministic_policy, run_goals
from analysis.multitask.records import RUN_SEED, Evaluation, kind_of
from analysis.provenance import describe_environment
from configs.build import with_context
from configs.run import ENVIRONMENTS, RunConfig
from envs.contexts.layer import ContextLayer, LearningProvider
from envs.snapshots import Snapshot


class Evaluator:
    """Separate environments of a run's tasks; training environments never notice.

    A simulation that blows up ends its own episode, whatever `on_simulator_reset` says for
    training: measuring must not decide about a run.

    Args:
        config: Of the run, whose environments are of a kind that can be evaluated. Contexts come
            from the same layer as in training, begun anew for every evaluation; those that are
            learnt have to be adopted first.
        rows_per_task: Episodes of a task at a time. It fixes the batch of the policy, so results
            may depend on it in their last bits, and from there grow apart.
        num_threads: As for training; results do not depend on it, nor on `env.num_workers`.

    Raises:
        ValueError: A setting is out of range, or the goals cannot be used.
    """

    def __init__(self, config: RunConfig, rows_per_task: int = 1, num_threads: int = 1) -> None:
        env = config.env
        counted = replace(env, on_simulator_reset="count")
        envs = ENVIRONMENTS.get(env.kind).make_evaluation(counted, rows_per_task, num_threads)
        self.envs, self.info = with_context(config, envs, envs.info)
        is_layered = isinstance(self.envs, ContextLayer)
        self._first_contexts = self.envs.provider.snapshot() if is_layered else None
        self._untrained = self._first_contexts
        self._rows_per_task = rows_per_task
        self.tasks: tuple[str, ...] = tuple(env.task_names)
        self.num_goals: int = env.num_goals
        self._goal_policy = goal_policy(env)

    def adopt(self, snapshot: Snapshot) -> None:
        """Show contexts as they have been learnt by now; nothing to do where none are learnt.

        Args:
            snapshot: Of the environments of training, or of their contexts alone.

        Raises:
            ValueError: It is of another kind of context.
        """
        if self._untrained is not None and isinstance(self.envs.provider, LearningProvider):
            self.envs.provider.restore(self._untrained, self.envs.env)
            self.envs.adopt(snapshot)
            self._first_contexts = self.envs.provider.snapshot()

    def measure(
        self,
        model: Any,
        about: dict[str, Any],
        goals: Iterable[int] | None = None,
        *,
        cut_at_success: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Evaluation | None:
        """Run one deterministic episode per task and goal.

        Args:
            model: See `deterministic_policy`; it stays as it is.
            about: What is measured, plain values with run, seed and env_steps.
            goals: Goal indices, None for all.
            cut_at_success: End episodes at their first success.
            is_stopped: Asked before every step; True abandons the evaluation.

        Returns:
            The evaluation, None if abandoned.

        Raises:
            ValueError: A goal does not exist.
            RuntimeError: Contexts are learnt, and those of the run have not been adopted.
            SimulatorError: An action is not finite.
        """
        chosen = checked_goals(range(self.num_goals) if goals is None else goals, self.num_goals)
        if self._first_contexts is not None:  # no evaluation depends on the one before
            self._refuse_untrained()
            self.envs.provider.restore(self._first_contexts, self.envs.env)
        outcomes = run_goals(
            deterministic_policy(model),
            self.envs,
            len(self.tasks),
            chosen,
            cut_at_success=cut_at_success,
            is_stopped=is_stopped,
        )
        if outcomes is None:
            return None
        manifest = {
            **self.envs.manifest,
            "benchmark": self.info.name,
            "goal_policy": self._goal_policy,
            "episodes": outcomes.success.size,
            "rows_per_task": self._rows_per_task,
            "policy": "deterministic",
            "cut_at_success": cut_at_success,
        }
        return Evaluation(self.tasks, outcomes, kind_of(outcomes, self.num_goals), manifest, about)

    def _refuse_untrained(self) -> None:
        if self._first_contexts is self._untrained and isinstance(
            self.envs.provider, LearningProvider
        ):
            raise RuntimeError(
                "the contexts of this run are learnt, and the evaluation would show untrained "
                "ones; give the state of its environments to Evaluator.adopt first"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What an agent must have been trained with to be measured here."""
        manifest = self.envs.manifest
        same = ("reward_version", "horizon", "num_goals", "goal_sha256")
        return {
            "environment": self.info.name,
            "tasks": ",".join(self.tasks),
            **{key: manifest[key] for key in same},
        }

    def close(self) -> None:
        """Release the environments."""
        self.envs.close()


def goal_policy(env: Any) -> str:
    """Where the goals of a run come from: every run's seed, one seed for all, or a file."""
    if env.goal_manifest is not None:
        return "file"
    return RUN_SEED if env.goal_seed is None else "fixed seed"


def describe_measured(
    config: RunConfig, run_dir: Path, env_steps: int, checkpoint: str
) -> dict[str, Any]:
    """What was measured and with which software, as plain values."""
    environment = describe_environment()
    return {
        "run": "/".join(run_dir.resolve().parts[1:][-4:]),
        "agent": config.agent.kind,
        "network": config.network.kind,
        "methods": list(config.method),
        "seed": config.seed,
        "world_seed": getattr(config.env, "world_seed", config.seed),
        "total_steps": config.total_steps,
        "env_steps": env_steps,
        "checkpoint": checkpoint,
        "commit": environment["commit"],
        "packages": environment["packages"],
    }
