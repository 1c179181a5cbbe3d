"""Frames of one row, the right way up.

Meta-World's four corner cameras are rolled by 180 degrees. Their frames are turned by 180 degrees;
a vertical flip, which is sometimes used instead, would exchange left and right.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import mujoco
import numpy as np

from envs.meta_world_snapshot import STATE_SPEC
from envs.meta_world_vector import MetaWorldVec
from envs.schedules import one_of

CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")


class Camera:
    """Looks at one row; keep only one open at a time and close it before the process ends.

    Frames are drawn from a copy of the simulation, so that drawing changes nothing, and so that a
    restored row can be drawn before its first step.

    Args:
        env: Environments with ``num_workers=0``.
        row: Which row.
        camera: One of ``CAMERAS``.
        width: Pixels.
        height: Pixels.

    Raises:
        ValueError: If the camera is unknown or the rows live in worker processes.
    """

    def __init__(
        self,
        env: MetaWorldVec,
        row: int = 0,
        camera: str = "corner2",
        width: int = 480,
        height: int = 480,
    ) -> None:
        one_of("camera", camera, CAMERAS)
        self._model, self._data = env.physics(row)
        self._camera = camera
        self._copy = mujoco.MjData(self._model)
        self._state = np.empty(mujoco.mj_stateSize(self._model, STATE_SPEC))
        off_screen = self._model.vis.global_
        off_screen.offwidth = max(off_screen.offwidth, width)
        off_screen.offheight = max(off_screen.offheight, height)
        self._look()
        # Decided once: a camera on the hand may tilt a little during an episode.
        self.is_upside_down = bool(self._copy.camera(camera).xmat.reshape(3, 3)[2, 1] < 0)
        self._renderer = mujoco.Renderer(self._model, height, width)

    def _look(self) -> None:
        mujoco.mj_getState(self._model, self._data, self._state, STATE_SPEC)
        mujoco.mj_setState(self._model, self._copy, self._state, STATE_SPEC)
        mujoco.mj_forward(self._model, self._copy)

    def raw_frame(self) -> np.ndarray:
        """The frame as the camera sees it, shape (height, width, 3), uint8."""
        self._look()
        self._renderer.update_scene(self._copy, camera=self._camera)
        return self._renderer.render()

    def frame(self) -> np.ndarray:
        """The frame with the floor below, shape (height, width, 3), uint8."""
        frame = self.raw_frame()
        return frame[::-1, ::-1].copy() if self.is_upside_down else frame

    def close(self) -> None:
        """Release the OpenGL context."""
        self._renderer.close()
