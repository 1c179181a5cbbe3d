"""What every environment of this room promises: a description and one kind of failure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class EnvInfo:
    """What an agent or a recorder needs to know about a batch of environments.

    Attributes:
        name: Human-readable id, for example ``ant-published``.
        num_envs: Number of environments stepped together.
        observation_dim: Length of one observation.
        action_dim: Length of one action.
        action_low: What the simulator clamps controls to, shape (action_dim,).
        action_high: Upper end of the same interval, shape (action_dim,).
        context_dim: Length of ``info["context"]``, or of its first part (see
            ``gate_context_dim``); 0 where nothing is announced.
        max_episode_steps: Steps after which an episode is truncated.
        regime_label: What changes between regimes, used as an axis label.
        step_seconds: Simulated seconds per environment step.
        context_discrete: True when the context is one of ``context_dim`` one-hot vectors (or
            zeros), False when it is any vector of numbers.
        gate_context_dim: Where hidden layers are shown another context than the input: the length
            of theirs, which then stands behind the first ``context_dim`` entries of
            ``info["context"]``. 0 where both see the same.
        gate_context_discrete: The same as ``context_discrete`` for that part.
        num_tasks: Tasks that are stepped side by side, each by equally many environments; 1 where
            all environments have the same task, or share a regime that changes.
        task_names: Names of the tasks that are stepped side by side, by their regime index; empty
            where all environments have the same one.
        tells_success: Whether ``info["episode_success"]`` says of an ended episode if it succeeded
            at any step.
        answers: In supervised problems, what the right action is: ``numbers`` to come close to,
            or one score per class (``classes``). Empty where actions only have rewards.
    """

    name: str
    num_envs: int
    observation_dim: int
    action_dim: int
    action_low: np.ndarray = field(repr=False)
    action_high: np.ndarray = field(repr=False)
    context_dim: int
    max_episode_steps: int
    regime_label: str
    step_seconds: float
    context_discrete: bool = True
    gate_context_dim: int = 0
    gate_context_discrete: bool = True
    num_tasks: int = 1
    answers: str = ""
    task_names: tuple[str, ...] = ()
    tells_success: bool = False


class WorkerError(RuntimeError):
    """A worker raised, died or hangs; its rows are undefined and the batch must not be used."""


class SimulatorError(RuntimeError):
    """The simulation of one environment is not valid any more; the run must not go on.

    Attributes:
        env_index: Which environment of the batch failed.
        reason: One sentence, for example ``BADQVEL: ...``.
        dump: Arrays that reproduce the situation (qpos, qvel, action, last observation,
            integration state, warning counters).
    """

    def __init__(self, env_index: int, reason: str, dump: dict[str, np.ndarray]) -> None:
        super().__init__(f"environment {env_index}: {reason}")
        self.env_index = env_index
        self.reason = reason
        self.dump = dump
