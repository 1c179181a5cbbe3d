"""Brings the agent of a run back from a checkpoint, with worlds to look at it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.base import Agent
from analysis.adoption import NoFit, adopt
from analysis.checkpoint import CheckpointError, CheckpointStore, LoadedCheckpoint, load_checkpoint
from analysis.chosen_checkpoint import checkpoint_at
from analysis.multitask.measuring import Evaluator
from analysis.run_files import NotARun, read_config
from configs.build import build_agent, build_environment, resolve_threads, with_context
from configs.run import ENVIRONMENTS, RunConfig, can_visit_goals, load_run
from envs.contexts.layer import ContextLayer
from envs.schedules import fixed_settings
from envs.snapshots import Snapshot


@dataclass(frozen=True)
class Restored:
    """An agent as it was at a checkpoint, in its own stream, or its own robot in one fixed world.

    Attributes:
        config: Of its run.
        agent: The agent.
        envs: As many environments as in training, because sampling agents act for that many.
        env_steps: Environment steps that the agent has learned from.
        checkpoint: Name of the checkpoint.
        problems: One sentence per damaged checkpoint that was passed over.
    """

    config: RunConfig
    agent: Agent
    envs: Any
    env_steps: int
    checkpoint: str
    problems: tuple[str, ...]

    @property
    def about(self) -> dict[str, Any]:
        """What was restored, as plain values."""
        return {"checkpoint": self.checkpoint, "env_steps": self.env_steps}

    def close(self) -> None:
        """Release threads."""
        self.agent.close()
        self.envs.close()


@dataclass(frozen=True)
class RestoredOnTasks:
    """An agent as it was at a checkpoint, with separate environments of its tasks.

    Attributes:
        config: Of its run.
        agent: The agent.
        evaluator: The environments, with contexts as they were learnt by then.
        trained_in: State of the environments of training.
        env_steps: Environment steps that the agent has learned from.
        checkpoint: Name of the checkpoint.
        problems: One sentence per damaged checkpoint that was passed over.
    """

    config: RunConfig
    agent: Agent
    evaluator: Evaluator
    trained_in: Snapshot
    env_steps: int
    checkpoint: str
    problems: tuple[str, ...]

    def close(self) -> None:
        """Release threads and environments."""
        self.agent.close()
        self.evaluator.close()


def has_tasks(run_dir: Path) -> bool:
    """Whether a run is measured on the goals of its tasks, not at frictions.

    Raises:
        NotARun: The path is not a run directory, or its kind of environment does not exist.
    """
    kind = str(read_config(run_dir)["env"].get("kind"))
    try:
        return can_visit_goals(kind)
    except ValueError as error:
        raise NotARun(f"{run_dir} has env.kind={kind}: {error}") from error


def restore(run_dir: Path, checkpoint: Path | None = None) -> Restored:
    """Build environments and agent of a run and load a checkpoint.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.

    Raises:
        NotARun: The path is not a run directory, or its environment has no friction.
        CheckpointError: There is no checkpoint, it is damaged, or it is of another agent or world.
        ConfigurationError: The configuration is not one of this version.
    """
    config, loaded, problems = _load(run_dir, checkpoint)
    if not hasattr(config.env, "fixed_friction"):
        raise NotARun(
            f"{run_dir} was trained on env.kind={config.env.kind}, which has no friction to "
            "choose; its training curves are drawn by: python evaluate.py figures"
        )
    envs, info = fixed_worlds(config, config.env.num_envs)
    try:
        _refuse_other_worlds(run_dir, loaded, {"environment": info.name})
        if isinstance(envs, ContextLayer):
            envs.adopt(loaded.state["env"])
        agent = _revive(run_dir, config, info, loaded)
    except (CheckpointError, ValueError):
        envs.close()
        raise
    return Restored(config, agent, envs, loaded.env_steps, loaded.path.name, problems)


def learns_from_answers(config: RunConfig) -> bool:
    """Whether a run is on a stream of examples, not in worlds with rewards."""
    return hasattr(ENVIRONMENTS.get(config.env.kind), "GIVES_ANSWERS")


def restore_on_stream(run_dir: Path, checkpoint: Path | None = None) -> Restored:
    """Build the stream of examples and the agent of a run, both as they were at a checkpoint.

    Raises:
        NotARun: The path is not a run directory, or was trained on no such stream.
        CheckpointError: There is no checkpoint, it is damaged, or it is of another agent or stream.
        ConfigurationError: The configuration is not one of this version, or its files are missing.
    """
    config, loaded, problems = _load(run_dir, checkpoint)
    if not learns_from_answers(config):
        raise NotARun(
            f"{run_dir} was trained on env.kind={config.env.kind}, which is no stream of examples"
        )
    return _as_it_was(run_dir, config, loaded, problems)


def load_agent(run_dir: Path | str, step: int | None = None) -> Restored:
    """The agent of any run and its environments, both as they were at a checkpoint.

    For measurements of one's own. The next action answers `envs.last_observation`, (N, obs), and
    `envs.context`, (N, C); `close` releases threads. Nothing is written.

    Args:
        run_dir: Run directory.
        step: Environment steps of the checkpoint, None for the newest one that is intact.

    Raises:
        NotARun: The path is not a run directory.
        CheckpointError: There is no checkpoint, none at this step (the message lists what there
            is), or it is damaged or of another agent or world.
        ConfigurationError: The configuration is not one of this version, or its files are missing.
    """
    path = Path(run_dir)
    read_config(path)
    checkpoint = None if step is None else checkpoint_at(path, step)
    return _as_it_was(path, *_load(path, checkpoint))


def _as_it_was(
    run_dir: Path, config: RunConfig, loaded: LoadedCheckpoint, problems: tuple[str, ...]
) -> Restored:
    """Agent and environments of a run at a checkpoint, in the middle of whatever they did."""
    envs, info = build_environment(config)
    try:
        _refuse_other_worlds(run_dir, loaded, {"environment": info.name})
        envs.reset()
        _go_on(envs, run_dir, loaded)
        agent = _revive(run_dir, config, info, loaded)
    except (CheckpointError, ValueError):
        envs.close()
        raise
    return Restored(config, agent, envs, loaded.env_steps, loaded.path.name, problems)


def _go_on(envs: Any, run_dir: Path, loaded: LoadedCheckpoint) -> None:
    try:
        envs.restore(loaded.state["env"])
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {loaded.path} does not fit the environments of {run_dir}: {error}"
        ) from error


def restore_on_tasks(
    run_dir: Path, checkpoint: Path | None = None, rows_per_task: int | None = None
) -> RestoredOnTasks:
    """Build the agent of a run, separate environments of its tasks, and load a checkpoint.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.
        rows_per_task: See `Evaluator`; None takes that of the run's own evaluations.

    Raises:
        NotARun: The path is not a run directory.
        CheckpointError: There is no checkpoint, it is damaged, or it is of another agent, task
            list, reward version, horizon or list of goals.
        ConfigurationError: The configuration is not one of this version.
    """
    config, loaded, problems = _load(run_dir, checkpoint)
    rows = config.log.evaluation_rows_per_task if rows_per_task is None else rows_per_task
    evaluator = Evaluator(config, rows, resolve_threads(config))
    try:
        _refuse_other_worlds(run_dir, loaded, evaluator.identity)
        evaluator.adopt(loaded.state["env"])
        rows_in_training = len(config.env.task_names) * config.env.copies
        rows_in_training = getattr(config.env, "num_rows", rows_in_training)  # of sequences
        info = replace(evaluator.info, num_envs=rows_in_training)
        agent = _revive(run_dir, config, info, loaded)
    except (CheckpointError, ValueError):
        evaluator.close()
        raise
    worlds, steps = loaded.state["env"], loaded.env_steps
    return RestoredOnTasks(config, agent, evaluator, worlds, steps, loaded.path.name, problems)


def _load(
    run_dir: Path, checkpoint: Path | None
) -> tuple[RunConfig, LoadedCheckpoint, tuple[str, ...]]:
    config = load_run(read_config(run_dir))
    store = CheckpointStore(run_dir / "checkpoints")
    loaded = store.load_latest() if checkpoint is None else load_checkpoint(checkpoint)
    if loaded is None:
        raise CheckpointError(f"{run_dir} has no checkpoint yet; train it first")
    if "env" not in loaded.state or "agent" not in loaded.state:
        raise CheckpointError(f"{loaded.path} holds no agent with its environments")
    trained_on_tasks, walks = "tasks" in loaded.state["env"], hasattr(config.env, "fixed_friction")
    if (walks and trained_on_tasks) or (can_visit_goals(config.env.kind) and not trained_on_tasks):
        _refuse_other_worlds(run_dir, loaded, {"environment": f"env.kind={config.env.kind}"})
    return config, loaded, tuple(store.problems)


def _refuse_other_worlds(
    run_dir: Path, loaded: LoadedCheckpoint, expected: Mapping[str, Any]
) -> None:
    """Results would carry the wrong label.

    Raises:
        CheckpointError: The checkpoint was saved in other environments than those of the run.
    """
    found = loaded.state["env"]
    for key, value in expected.items():
        if found.get(key) != value:
            raise CheckpointError(
                f"checkpoint {loaded.path} was trained with {key}={_short(found.get(key))}, but "
                f"{run_dir} has {_short(value)}; evaluate it with the directory of its own run"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _revive(run_dir: Path, config: RunConfig, info: Any, loaded: LoadedCheckpoint) -> Agent:
    agent = build_agent(config, info)
    try:
        adopt(agent, loaded.state["agent"])
    except NoFit as error:
        agent.close()
        raise CheckpointError(
            f"checkpoint {loaded.path} does not fit the configuration of {run_dir}: {error}"
        ) from error
    return agent


def fixed_worlds(config: RunConfig, num_envs: int) -> tuple[Any, Any]:
    """Environments like those of training, in one world, and their description.

    Raises:
        NotARun: The environment has no friction that could be fixed, or the networks were told
            the number of the world, which a friction of its own does not have.
    """
    if not hasattr(config.env, "fixed_friction"):
        raise NotARun(
            f"the environment is of kind {config.env.kind}, which has no friction; only runs of "
            "walking robots can be measured at one"
        )
    if getattr(config.context, "source", None) == "regime":
        raise NotARun(
            "its networks were told the numbers of the worlds (context.source=regime), and a "
            "friction chosen now is none of these worlds; its training curves are drawn by: "
            "python evaluate.py figures"
        )
    fixed = replace(config.env, **{**fixed_settings(config.env), "num_envs": num_envs})
    module = ENVIRONMENTS.get(config.env.kind)
    envs, info = module.make(fixed, config.total_steps, resolve_threads(config))
    return with_context(config, envs, info)  # what is told keeps the scale of training
