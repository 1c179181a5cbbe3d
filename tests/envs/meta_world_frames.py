"""Draws in a process of its own, because OpenGL is chosen when MuJoCo is first imported.

Usage: meta_world_frames.py OUTPUT.npz
"""

import sys

import mujoco
import numpy as np
from meta_world_tools import batch, play, random_actions

from envs.meta_world_video import CAMERAS, Camera

SIZE = 120
TASKS = ("reach-v3", "door-open-v3")


def picture(env, row=0, name="corner2"):
    """Turned frame, raw frame, and whether the camera is upside down."""
    camera = Camera(env, row, name, SIZE, SIZE)
    result = camera.frame(), camera.raw_frame(), camera.is_upside_down
    camera.close()
    return result


def rolled_back(env):
    """The oracle: the camera itself is turned by 180 degrees about its axis before drawing."""
    model, _ = env.physics(0)
    index = model.camera("corner2").id
    quaternion = model.cam_quat[index].copy()
    mujoco.mju_mulQuat(model.cam_quat[index], quaternion, np.array([0.0, 0.0, 0.0, 1.0]))
    raw = picture(env)[1]
    model.cam_quat[index] = quaternion
    return raw


def main(output):
    env = batch(TASKS, autoreset=False)
    env.start_episodes([0, 1], [0, 0])
    play(env, random_actions(10, 2))
    turned, raw, _ = picture(env)
    arrays = {"turned": turned, "raw": raw, "rolled_back": rolled_back(env)}
    arrays["upside_down"] = np.array([name for name in CAMERAS if picture(env, 0, name)[2]])
    arrays["other"] = picture(env, 1)[0]
    cameras = [Camera(env, row, width=SIZE, height=SIZE) for row in (0, 1, 0, 1)]
    arrays["in_turn"] = np.array([camera.frame() for camera in cameras])
    for camera in cameras:
        camera.close()
    snapshot, actions = env.snapshot(), random_actions(20, 2)
    arrays["undrawn"] = np.array([row[0] for row in play(env, actions)])
    env.restore(snapshot)
    arrays["restored"] = picture(env, 1)[0]
    arrays["drawn"] = np.array([row[0] for row in play(env, actions)])
    env.close()
    np.savez(output, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
