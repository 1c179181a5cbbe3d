"""Writing a friction into a model, and proving that contacts really use it."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np


def write_friction(model: mujoco.MjModel, friction: float) -> None:
    """Give all geoms the sliding friction ``friction``.

    All geoms, because a contact uses the element-wise maximum of its two geoms: lowering only the
    floor or only the body changes nothing. Columns 1 and 2 (torsional, rolling) stay as they are.
    """
    model.geom_friction[:, 0] = friction


def contact_mismatch(data: mujoco.MjData, friction: float) -> str | None:
    """Compare every active contact with the friction that should hold.

    Returns:
        None if both tangential coefficients of every contact equal ``friction`` exactly, otherwise
        one sentence that says which contact does not.
    """
    measured = np.asarray(data.contact.friction)[:, :2]
    wrong = np.flatnonzero((measured != friction).any(axis=1))
    if wrong.size == 0:
        return None
    first = int(wrong[0])
    geoms = np.asarray(data.contact.geom)[first].tolist()
    return (
        f"contact {first} between geoms {geoms[0]} and {geoms[1]} has friction "
        f"{measured[first].tolist()}, but the schedule says {friction}"
    )


class AppliedFriction:
    """Frictions of a batch: writes them, and checks the first contacts after every change.

    Args:
        models: One model per environment, or a single one that all share.
        data: One ``MjData`` per environment.
    """

    def __init__(self, models: Sequence[mujoco.MjModel], data: Sequence[mujoco.MjData]) -> None:
        self._models, self._data = models, data
        self._written = np.full(len(data), np.nan)
        self.unchecked = np.zeros(len(data), dtype=bool)
        """Environments that had no contact since their friction changed, shape (N,)."""

    def write(self, friction: np.ndarray) -> None:
        """Write one friction per environment, shape (N,); a shared model takes the first.

        Raises:
            ValueError: If environments with a shared model are given different frictions.
        """
        if len(self._models) < len(friction) and (friction != friction[0]).any():
            raise ValueError(
                f"frictions {friction.tolist()} differ, but the environments share a model; build "
                "them with switch_rule=episode_end."
            )
        for model, value in zip(self._models, friction.tolist(), strict=False):
            write_friction(model, value)
        self.unchecked |= friction != self._written
        self._written[:] = friction

    def violation(self) -> tuple[int, str] | None:
        """Look at the first contacts since the last change; call after every step.

        Returns:
            None, or the environment and a sentence that says which contact is wrong.
        """
        if not self.unchecked.any():
            return None
        for index in np.flatnonzero(self.unchecked).tolist():
            if self._data[index].ncon == 0:
                continue
            mismatch = contact_mismatch(self._data[index], float(self._written[index]))
            if mismatch is not None:
                return index, mismatch
            self.unchecked[index] = False
        return None
