"""States right after a reset, so that the next reset to the same goal costs a copy.

A reset simulates the hand twice for 50 steps, about as long as thirty to sixty steps of an episode.
It depends on task and goal only, never on the history, so its outcome can be kept. The kept state
is complete (``meta_world_snapshot``), hence what follows is the same bit for bit.
"""

from __future__ import annotations

import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.meta_world_snapshot import TaskState, capture, restore

Key = tuple[str, str, bool, bytes]


class ResetCache:
    """At most one state of about 8 kB per task and goal, shared by all copies of a task.

    It is no part of a snapshot: a continued run fills it again.
    """

    def __init__(self) -> None:
        self._states: dict[Key, tuple[TaskState, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def recall(self, key: Key, env: SawyerXYZEnv) -> np.ndarray | None:
        """Put a task into a kept state; returns the observation, None if there is no such state."""
        kept = self._states.get(key)
        if kept is None:
            return None
        # The one attribute that a reset leaves as the last step made it, in every task. With the
        # kept one, the state would tell when the cache was filled.
        stable = env._last_stable_obs
        restore(env, kept[0])
        env._last_stable_obs = stable
        return kept[1]

    def keep(self, key: Key, env: SawyerXYZEnv, observation: np.ndarray) -> None:
        """Remember the state of a task that has just been reset."""
        self._states[key] = (capture(env), observation)
