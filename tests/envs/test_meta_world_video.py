"""Frames are the right way up, and drawing changes nothing."""

import mujoco
import numpy as np
import pytest
from meta_world_tools import batch, play, random_actions

from envs.meta_world_video import CAMERAS, Camera

pytestmark = [pytest.mark.metaworld, pytest.mark.gl]

SIZE = 120
TASKS = ("reach-v3", "door-open-v3")


@pytest.fixture
def env():
    env = batch(TASKS, autoreset=False)
    env.start_episodes([0, 1], [0, 0])
    play(env, random_actions(10, 2))
    try:
        Camera(env, 0, width=16, height=16).close()
    except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
        env.close()
        pytest.skip(f"no OpenGL: {error}")
    yield env
    env.close()


def picture(env, row=0, name="corner2", kind="frame"):
    camera = Camera(env, row, name, SIZE, SIZE)
    try:
        return getattr(camera, kind)().astype(int), camera.is_upside_down
    finally:
        camera.close()


def rolled_back(env, row):
    """The oracle: a camera that was turned by 180 degrees about its own axis before drawing."""
    model, _ = env.physics(row)
    index = model.camera("corner2").id
    quaternion = model.cam_quat[index].copy()
    half_turn = np.array([0.0, 0.0, 0.0, 1.0])
    mujoco.mju_mulQuat(model.cam_quat[index], quaternion, half_turn)
    try:
        return picture(env, row, kind="raw_frame")[0]
    finally:
        model.cam_quat[index] = quaternion


def test_a_corner_camera_is_turned_and_not_mirrored(env):
    (frame, turned), (raw, _) = picture(env), picture(env, kind="raw_frame")
    assert turned
    assert np.array_equal(frame, raw[::-1, ::-1])
    upright = rolled_back(env, 0)
    assert np.abs(frame - upright).mean() < 2
    assert np.abs(raw[::-1] - upright).mean() > 10


def test_which_cameras_are_upside_down(env):
    turned = {name for name in CAMERAS if picture(env, name=name)[1]}
    assert turned == {"corner", "corner2", "corner3", "corner4"}


def test_two_tasks_drawn_in_turn_equal_each_alone(env):
    alone = [picture(env, row)[0] for row in (0, 1)]
    cameras = [Camera(env, row, width=SIZE, height=SIZE) for row in (0, 1)]
    for _ in range(2):
        for camera, expected in zip(cameras, alone, strict=True):
            assert np.array_equal(camera.frame(), expected)
    for camera in cameras:
        camera.close()
    assert not np.array_equal(*alone)


def test_drawing_changes_nothing(env):
    snapshot, actions = env.snapshot(), random_actions(20, 2)
    expected = play(env, actions)
    env.restore(snapshot)
    picture(env, 1)
    for row, other in zip(play(env, actions), expected, strict=True):
        assert np.array_equal(row[0], other[0])


def test_a_restored_row_can_be_drawn_before_its_first_step(env):
    expected, _ = picture(env, 1)
    other = batch(TASKS, autoreset=False)
    other.restore(env.snapshot())
    assert np.array_equal(picture(other, 1)[0], expected)
    other.close()


def test_an_unknown_camera_is_refused(env):
    with pytest.raises(ValueError, match="corner5"):
        Camera(env, 0, "corner5")
