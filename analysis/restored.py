"""Brings the agent of a run back from a checkpoint, with worlds to look at it in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.base import Agent
from analysis.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from analysis.run_files import NotARun, read_config
from configs.build import build_agent, build_environment, resolve_threads
from configs.run import RunConfig, load_run


@dataclass(frozen=True)
class Restored:
    """An agent as it was at a checkpoint, in its own kind of environment but one fixed world.

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


def restore(run_dir: Path, checkpoint: Path | None = None) -> Restored:
    """Build environments and agent of a run and load a checkpoint.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.

    Raises:
        NotARun: The path is not a run directory, or its environment has no friction.
        CheckpointError: There is no checkpoint, it is damaged, or it is of another agent.
        ConfigurationError: The configuration is not one of this version.
    """
    config = load_run(read_config(run_dir))
    store = CheckpointStore(run_dir / "checkpoints")
    loaded = store.load_latest() if checkpoint is None else load_checkpoint(checkpoint)
    if loaded is None:
        raise CheckpointError(f"{run_dir} has no checkpoint yet; train it first")
    if not hasattr(config.env, "fixed_friction"):
        raise NotARun(
            f"{run_dir} was trained on env.kind={config.env.kind}, which has no friction to "
            "choose; its training curves are drawn by: python evaluate.py figures"
        )
    envs, info = fixed_worlds(config, config.env.num_envs)
    agent = build_agent(config, info)
    restored = Restored(
        config, agent, envs, loaded.env_steps, loaded.path.name, tuple(store.problems)
    )
    try:
        agent.load_state_dict(loaded.state["agent"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        restored.close()
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint {loaded.path} does not fit the configuration of {run_dir}: {reason}"
        ) from error
    return restored


def fixed_worlds(config: RunConfig, num_envs: int) -> tuple[Any, Any]:
    """Environments like those of training, in one world, and their description.

    Raises:
        NotARun: The environment has no friction that could be fixed.
    """
    if not hasattr(config.env, "fixed_friction"):
        raise NotARun(
            f"the environment is of kind {config.env.kind}, which has no friction; only runs of "
            "walking robots can be measured at one"
        )
    fixed = replace(config.env, schedule="fixed", switch_rule="exact", num_envs=num_envs)
    return build_environment(replace(config, env=fixed), resolve_threads(config))
