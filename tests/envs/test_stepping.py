"""Who steps which simulation, and that it does not matter."""

import signal
import threading
import time
from collections import deque

import mujoco
import numpy as np
import pytest

from envs.locomotion import Config, make
from envs.stepping import Stepper, claim


def test_the_own_share_comes_first_and_then_what_others_have_left():
    shares = [deque("abc"), deque("def"), deque("gh")]
    assert list(claim(shares, 1)) == ["d", "e", "f", "h", "g", "c", "b", "a"]
    assert list(claim(shares, 0)) == []


def test_what_another_thread_has_begun_is_not_taken_again():
    shares = [deque("ab"), deque("cd")]
    slow, quick = claim(shares, 0), claim(shares, 1)
    assert next(slow) == "a"
    assert list(quick) == ["c", "d", "b"]
    assert list(slow) == []


def test_many_threads_take_everything_exactly_once():
    shares = [deque(range(k * 5_000, (k + 1) * 5_000)) for k in range(4)]
    taken = [[] for _ in shares]
    threads = [
        threading.Thread(target=lambda k=k: taken[k].extend(claim(shares, k))) for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for each in taken for number in each) == list(range(20_000))


@pytest.mark.parametrize("num_threads", [2, 3])
def test_a_thread_that_sleeps_is_helped_and_changes_nothing(num_threads):
    alone, _ = make(Config(num_envs=6, schedule="fixed"), 1_000)
    helped, _ = make(Config(num_envs=6, schedule="fixed"), 1_000, num_threads=num_threads)
    awake = threading.Event()
    first_task = helped.simulations._stepper._tasks[0]
    original = first_task.put

    class Late:
        """Hands over the work only when the others have done it."""

        def put(self, task):
            threading.Thread(target=lambda: (awake.wait(5.0), original(task))).start()

    helped.simulations._stepper._tasks[0] = Late()
    rng = np.random.default_rng(0)
    alone.reset(), helped.reset()
    bell = helped.simulations._stepper._bell

    class Bell:
        """Wakes the sleeper as soon as the calling thread has nothing left to do."""

        empty, get_nowait, put = bell.empty, bell.get_nowait, bell.put

        def get(self, timeout):
            awake.set()
            return bell.get(timeout=timeout)

    helped.simulations._stepper._bell = Bell()
    for _ in range(20):
        awake.clear()
        actions = rng.normal(size=(6, 8))
        one, two = alone.step(actions), helped.step(actions)
        for a, b in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    helped.simulations._stepper._tasks[0] = type("Stop", (), {"put": staticmethod(original)})()
    alone.close(), helped.close()


class Slow:
    """A simulation's control that takes its time, and notes when it is written and by whom."""

    def __init__(self, seconds):
        self.seconds, self.is_written = seconds, False

    def __setitem__(self, key, value):
        time.sleep(self.seconds)
        self.is_written = True


@pytest.mark.parametrize("seconds", [(0.05, 0.6), (0.6, 0.6)], ids=["waiting", "stepping"])
def test_an_interrupt_leaves_no_thread_at_work(seconds):
    """Where the interrupt arrives: in the wait for the other thread, or in the own part before."""
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    controls = [Slow(taken) for taken in seconds]
    simulations = [
        (model, mujoco.MjData(model), control, np.zeros(0), np.zeros(1)) for control in controls
    ]
    stepper = Stepper(simulations, 1, False, num_threads=2)
    earlier = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            stepper.step()
        assert controls[1].is_written
        for control in controls:
            control.is_written = False
        stepper.step()
        assert all(control.is_written for control in controls)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)
        stepper.close()
