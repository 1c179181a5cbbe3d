"""The arrays through which rows and batch exchange numbers, over any memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.meta_world_tasks import ACTION_DIM, OBSERVATION_DIM


@dataclass(frozen=True)
class Block:
    """The arrays through which rows and batch exchange numbers, N rows each.

    ``action`` is written by the batch, clipped to [-1, 1]; everything else by the rows.
    """

    action: np.ndarray
    observation: np.ndarray
    next_observation: np.ndarray
    reward: np.ndarray
    truncated: np.ndarray
    success: np.ndarray
    episode_success: np.ndarray
    episode_return: np.ndarray
    episode_length: np.ndarray
    goal_index: np.ndarray
    unstable: np.ndarray
    active: np.ndarray

    @staticmethod
    def layout(num_rows: int) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of every array."""
        return {
            "action": ((num_rows, ACTION_DIM), np.float32),
            "observation": ((num_rows, OBSERVATION_DIM), np.float32),
            "next_observation": ((num_rows, OBSERVATION_DIM), np.float32),
            "reward": ((num_rows,), np.float32),
            "truncated": ((num_rows,), np.bool_),
            "success": ((num_rows,), np.bool_),
            "episode_success": ((num_rows,), np.bool_),
            "episode_return": ((num_rows,), np.float64),
            "episode_length": ((num_rows,), np.int64),
            "goal_index": ((num_rows,), np.int32),
            "unstable": ((num_rows,), np.bool_),
            "active": ((num_rows,), np.bool_),
        }

    @classmethod
    def num_bytes(cls, num_rows: int) -> int:
        """Size of the memory for ``over``; each array starts at a multiple of 64 bytes."""
        return sum(_padded(shape, dtype) for shape, dtype in cls.layout(num_rows).values())

    @classmethod
    def over(cls, buffer: Any, num_rows: int) -> Block:
        """Arrays over writable memory of ``num_bytes``."""
        arrays, start = {}, 0
        for name, (shape, dtype) in cls.layout(num_rows).items():
            arrays[name] = np.ndarray(shape, dtype, buffer, start)
            start += _padded(shape, dtype)
        return cls(**arrays)


def _padded(shape: tuple[int, ...], dtype: type) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // 64) * 64
