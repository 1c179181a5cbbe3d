"""Frames are the right way up, drawing changes nothing, and the process ends cleanly."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from meta_world_tools import batch

from analysis.video import RenderingUnavailable, find_backend
from envs.meta_world_video import Camera

pytestmark = pytest.mark.metaworld


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    try:
        backend = find_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    here = Path(__file__).parent
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    result = subprocess.run(
        [sys.executable, str(here / "meta_world_frames.py"), str(path)],
        env={**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def difference(first, second):
    """Mean difference in grey levels."""
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.mark.gl
def test_a_corner_camera_is_turned_and_not_mirrored(drawn):
    assert np.array_equal(drawn["turned"], drawn["raw"][::-1, ::-1])
    assert difference(drawn["turned"], drawn["rolled_back"]) < 2
    assert difference(drawn["raw"][::-1], drawn["rolled_back"]) > 10


@pytest.mark.gl
def test_which_cameras_are_upside_down(drawn):
    assert drawn["upside_down"].tolist() == ["corner", "corner2", "corner3", "corner4"]


@pytest.mark.gl
def test_two_tasks_drawn_in_turn_equal_each_alone(drawn):
    alone = [drawn["turned"], drawn["other"]] * 2
    assert np.array_equal(drawn["in_turn"], np.array(alone))
    assert difference(*alone[:2]) > 1


@pytest.mark.gl
def test_drawing_changes_nothing(drawn):
    assert np.array_equal(drawn["drawn"], drawn["undrawn"])


@pytest.mark.gl
def test_a_restored_row_can_be_drawn_before_its_first_step(drawn):
    assert np.array_equal(drawn["restored"], drawn["other"])


def test_an_unknown_camera_is_refused():
    env = batch(["drawer-close-v3"])
    with pytest.raises(ValueError, match="corner5"):
        Camera(env, 0, "corner5")
    env.close()
