"""Slow Python parts of Meta-World replaced by equal ones, in subclasses of its task classes.

Nothing is patched: the stock and the fast class of a task live side by side in one process. The
physics takes the same steps bit for bit, and every observation, reward and info stays within 1e-12
of stock. What is replaced: contacts and quaternions (here), the step around the physics
(``meta_world_fast_step``), and helpers of the rewards (``meta_world_fast_rewards``).
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import functools
import math

import mujoco
import numpy as np
from metaworld import envs as stock
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.meta_world_fast_rewards import fast_reward_methods
from envs.meta_world_fast_step import FastStep

_GEOM, _BODY, _SITE = (
    mujoco.mjtObj.mjOBJ_GEOM,
    mujoco.mjtObj.mjOBJ_BODY,
    mujoco.mjtObj.mjOBJ_SITE,
)

QUATERNION_SOURCES: dict[type[SawyerXYZEnv], tuple[int, str, int]] = {
    stock.SawyerReachEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerReachWallEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerPushEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerPushWallEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerPushBackEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerPickPlaceEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerPickPlaceWallEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerShelfPlaceEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerSweepIntoGoalEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerLeverPullEnvV3: (_GEOM, "objGeom", 4),
    stock.SawyerCoffeePullEnvV3: (_GEOM, "mug", 4),
    stock.SawyerCoffeePushEnvV3: (_GEOM, "mug", 4),
    stock.SawyerPlateSlideEnvV3: (_GEOM, "puck", 4),
    stock.SawyerPlateSlideSideEnvV3: (_GEOM, "puck", 4),
    stock.SawyerPlateSlideBackEnvV3: (_GEOM, "puck", 4),
    stock.SawyerPlateSlideBackSideEnvV3: (_GEOM, "puck", 4),
    stock.SawyerDoorEnvV3: (_GEOM, "handle", 4),
    stock.SawyerDoorCloseEnvV3: (_GEOM, "handle", 4),
    stock.SawyerPegInsertionSideEnvV3: (_SITE, "pegGrasp", 4),
    stock.SawyerSoccerEnvV3: (_BODY, "soccer_ball", 4),
    stock.SawyerStickPullEnvV3: (_BODY, "stick", 8),
    stock.SawyerStickPushEnvV3: (_BODY, "stick", 8),
}
"""Where a task takes the rotation matrix of its object from, and how many numbers it makes of it:
with eight, the second object has none and four zeros follow."""


class FastContacts:
    """Asks MuJoCo's contact arrays whether the gripper holds an object.

    Upstream walks all contacts in Python four times per step, for ``info["grasp_success"]`` only.
    """

    model: mujoco.MjModel
    data: mujoco.MjData

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both pads press on the geom (forces above 0)."""
        contact = self.data.contact
        geoms = contact.geom
        if not len(geoms):
            return False
        of_object = (geoms == object_geom_id).any(axis=1)
        if not of_object.any():
            return False
        pairs, addresses = geoms[of_object], contact.efc_address[of_object]
        for pad in ("leftpad_geom", "rightpad_geom"):
            pad_id = mujoco.mj_name2id(self.model, _GEOM, pad)
            touching = addresses[(pairs == pad_id).any(axis=1)]
            # Added one by one as upstream does, so that the sign of the sum is the same.
            if not sum(self.data.efc_force[touching].tolist()) > 0:
                return False
        return True


class FastQuaternion:
    """Turns the object's rotation matrix into a quaternion without scipy."""

    model: mujoco.MjModel
    data: mujoco.MjData
    _quaternion_source: tuple[int, str, int]

    def _get_quat_objects(self) -> np.ndarray:
        kind, name, size = self._quaternion_source
        matrices = {
            _GEOM: self.data.geom_xmat,
            _BODY: self.data.xmat,
            _SITE: self.data.site_xmat,
        }[kind]
        matrix = matrices[mujoco.mj_name2id(self.model, kind, name)]
        result = np.zeros(size)
        result[:4] = quaternion(matrix.tolist())
        return result


def quaternion(matrix: list[float]) -> tuple[float, float, float, float]:
    """Quaternion (x, y, z, w) of a rotation matrix, with the branch that scipy takes.

    Args:
        matrix: Nine numbers, row by row.

    Source: Shepperd, "Quaternion from rotation matrix" (1978), as in
        ``scipy.spatial.transform.Rotation.from_matrix``.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix
    trace = m00 + m11 + m22
    largest = max(m00, m11, m22, trace)
    if m00 == largest:
        x, y, z, w = 1 - trace + 2 * m00, m10 + m01, m20 + m02, m21 - m12
    elif m11 == largest:
        x, y, z, w = m01 + m10, 1 - trace + 2 * m11, m21 + m12, m02 - m20
    elif m22 == largest:
        x, y, z, w = m02 + m20, m12 + m21, 1 - trace + 2 * m22, m10 - m01
    else:
        x, y, z, w = m21 - m12, m02 - m20, m10 - m01, 1 + trace
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm


@functools.cache
def fast_class(task_class: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    """The fast subclass of a stock task class; the same one for every call."""
    bases: tuple[type, ...] = (FastContacts, FastStep, task_class)
    # Tasks store their class's name; snapshots must not depend on the path.
    namespace: dict[str, object] = {"__module__": __name__}
    namespace.update(fast_reward_methods(task_class, replaced=vars(FastStep)))
    if task_class in QUATERNION_SOURCES:
        bases = (FastQuaternion, *bases)
        namespace["_quaternion_source"] = QUATERNION_SOURCES[task_class]
    return type(task_class.__name__, bases, namespace)
