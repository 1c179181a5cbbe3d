"""Learners flush denormal numbers to zero; the physics between them must not notice."""

import sys
import threading

import mujoco
import numpy as np
import pytest
import torch

from agents.learner_threads import LearnerThreads, flushed_denormals
from envs.locomotion import Config, make

pytestmark = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="no such flag on this processor"
)

TINY = 1e-309  # m/s; below 2.2e-308 a double is denormal


def flushes(smallest=sys.float_info.min):
    return smallest * 0.5 == 0.0


def where_and_whether():
    return threading.current_thread() is threading.main_thread(), flushes()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_learners_flush_and_the_calling_thread_does_so_no_longer_than_they_run(num_threads):
    threads = LearnerThreads(num_threads)
    first, second = threads.run(where_and_whether, where_and_whether)
    assert first == (True, True)
    assert second == (num_threads == 1, True)
    assert not flushes()

    def fail():
        raise ArithmeticError("a loss that is not finite")

    with pytest.raises(ArithmeticError):
        threads.run(fail, flushes)
    assert not flushes()
    threads.close()


def test_a_thread_that_flushed_before_goes_on_doing_so():
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals():
            assert flushes()
        assert flushes()
    finally:
        torch.set_flush_denormal(False)


SLIDER = """
<mujoco><option gravity="0 0 0"/><worldbody><body>
  <joint type="slide" axis="1 0 0"/><geom type="sphere" size="0.1"/>
</body></worldbody></mujoco>
"""


def drift(flushed):
    """Where a body gets that is pushed by next to nothing."""
    model = mujoco.MjModel.from_xml_string(SLIDER)
    data = mujoco.MjData(model)
    data.qvel[0] = TINY
    torch.set_flush_denormal(flushed)
    try:
        mujoco.mj_step(model, data, 50)
    finally:
        torch.set_flush_denormal(False)
    return float(data.qpos[0])


def test_flushing_would_change_the_bits_of_the_physics():
    """The control of the test below: there is something to notice."""
    assert drift(False) > 0.0
    assert drift(True) == 0.0


def play(num_physics_threads, learners):
    """Everything that comes out of 100 steps between which learners run, as bytes."""
    config = Config(num_envs=4, switch_interval=120, max_episode_steps=30)
    env, _ = make(config, 10**6, num_threads=num_physics_threads)
    rows = [env.reset()[0].tobytes()]
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(100, 4, 8)):
        if learners is not None:
            assert learners.run(flushes, flushes) == (True, True)
        observation, reward, _, _, info = env.step(actions)
        rows += [array.tobytes() for array in (observation, reward, info["next_observation"])]
    rows.append(env.simulations.states().tobytes())
    env.close()
    return rows


@pytest.mark.parametrize("num_physics_threads", [1, 2])
@pytest.mark.parametrize("num_learner_threads", [1, 2])
def test_physics_bits_are_equal_with_and_without_learners(num_learner_threads, num_physics_threads):
    """The learners have run before the environment starts threads, which inherit the flag."""
    learners = LearnerThreads(num_learner_threads)
    learners.run(flushes, flushes)
    assert play(num_physics_threads, learners) == play(1, None)
    learners.close()
