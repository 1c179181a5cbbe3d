"""Between the actions of a squashing policy, in [-1, 1], and the controls of a world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ActionRange:
    """The affine map of [-1, 1] onto the bounds of every action; nothing where these are +-1.

    Networks and replay stay in [-1, 1], so that learning does not depend on the units of a world.

    Args:
        low: Lower bounds, one per action; None for -1.
        high: Upper bounds; None for 1.

    Raises:
        ValueError: A bound is not finite, or an interval is empty.
    """

    def __init__(self, low: Sequence[float] | None, high: Sequence[float] | None) -> None:
        self._scale: np.ndarray | None = None
        if low is None or high is None:
            return
        bottom, top = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if not (np.isfinite(bottom).all() and np.isfinite(top).all() and (bottom < top).all()):
            raise ValueError(
                f"actions lie between {bottom.tolist()} and {top.tolist()}, but this agent "
                "squashes its actions and needs finite bounds; choose agent=ppo, or bound them"
            )
        if (bottom == -1.0).all() and (top == 1.0).all():
            return
        self._scale = ((top - bottom) / 2.0).astype(np.float32)
        self._centre = ((top + bottom) / 2.0).astype(np.float32)

    def to_world(self, action: np.ndarray) -> np.ndarray:
        """Actions (N, act) in [-1, 1] as controls of the world."""
        return action if self._scale is None else action * self._scale + self._centre

    def from_world(self, control: np.ndarray) -> np.ndarray:
        """Controls (N, act) of the world as actions in [-1, 1]."""
        return control if self._scale is None else (control - self._centre) / self._scale
