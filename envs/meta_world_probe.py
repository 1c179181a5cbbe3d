"""A fixed set of samples of every task, on which diagnostics are compared between runs."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from envs.meta_world_choice import WARM_UP, row_stream
from envs.meta_world_goals import Goals, load_goals
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import ACTION_DIM
from envs.meta_world_vector import MetaWorldVec
from envs.probe import STEPS_BETWEEN_SAMPLES, Probe

PROBE_SEED = 0
NUM_EPISODES = 10
SAMPLES_PER_EPISODE = 10


@dataclass(frozen=True)
class TaskProbe(Probe):
    """Pairs of all tasks, 100 each, in task order.

    Attributes:
        contexts: One-hot task of every pair, shape (num_samples, T), or (num_samples, 0); float32.
    """

    contexts: np.ndarray


@functools.lru_cache(maxsize=8)
def probe_set(tasks: tuple[str, ...], hide_task_id: bool = False) -> TaskProbe:
    """Collect pairs with uniform random actions: every fifth of 50 steps from each of goals 0-9.

    Depends on the task list only; never on the run's seeds, goals, copies or agent. Kept in memory.

    Args:
        tasks: Task names.
        hide_task_id: Leave the contexts empty, as the environments do.
    """
    goals = load_goals(tasks, PROBE_SEED)
    pairs = [_pairs(goals, index) for index in range(len(tasks))]
    observations, actions = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    num_samples = NUM_EPISODES * SAMPLES_PER_EPISODE
    contexts = np.repeat(np.eye(len(tasks), dtype=np.float32), num_samples, axis=0)
    digest = hashlib.sha256()
    for array in (observations, actions):
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    contexts = contexts[:, :0] if hide_task_id else contexts
    return TaskProbe(observations, actions, digest.hexdigest(), contexts)


def _pairs(goals: Goals, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations (100, 39) and actions (100, 4) of one task; one task is in memory at a time."""
    generator = row_stream(PROBE_SEED, WARM_UP, index, 0)
    length = SAMPLES_PER_EPISODE * STEPS_BETWEEN_SAMPLES
    env = MetaWorldVec(
        Settings(goals.tasks, active=(index,), horizon=length, autoreset=False), goals
    )
    observations, actions = [], []
    for goal in range(NUM_EPISODES):
        observation = env.start_episodes([0], [goal])
        for step in range(1, length + 1):
            action = generator.uniform(-1.0, 1.0, (1, ACTION_DIM)).astype(np.float32)
            if step % STEPS_BETWEEN_SAMPLES == 0:
                observations.append(observation)
                actions.append(action)
            observation = env.step(action)[0]
    env.close()
    return np.concatenate(observations), np.concatenate(actions)
