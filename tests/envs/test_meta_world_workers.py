"""Workers give the same arrays as one process, and a failed worker is never overlooked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from meta_world_tools import assert_same, batch, goal_of, play, random_actions

from envs.base import SimulatorError, WorkerError
from envs.meta_world_goals import load_goals
from envs.meta_world_rows import RowSpec
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import COSTLY_TASKS, MT10
from envs.meta_world_vector import MetaWorldVec
from envs.meta_world_workers import ONE_THREAD, WorkerPool, balance

pytestmark = pytest.mark.metaworld

TASKS = ("drawer-close-v3", "push-v3")


def spec(task):
    return RowSpec(task, [[0.0]], "v2", 500, True, False, "uniform", True, 0, (0, 0, 0))


def processes(env):
    return [worker._process for worker in env._rows._workers]


@pytest.fixture(scope="module")
def pair():
    """Two workers, one row each; tests that break workers make their own."""
    env = batch(TASKS, num_workers=2, horizon=40, run_seed=3, goal_order="cycle")
    yield env
    env.close()


def test_workers_give_the_same_arrays_as_one_process(pair):
    actions = random_actions(100, 2)
    local = batch(TASKS, horizon=40, run_seed=3, goal_order="cycle")
    results = []
    for env in (local, pair):
        observation, info = env.reset()
        results.append([observation, info["goal_index"], *env.reset(np.array([False, True]))[:1]])
        results[-1] += [play(env, actions)]
    for a, b in zip(results[0][:3], results[1][:3], strict=True):
        assert np.array_equal(a, b)
    assert_same(results[0][3], results[1][3])
    assert local.observation_space == pair.observation_space
    saved, other = local.snapshot(), pair.snapshot()
    assert sorted(saved) == sorted(other)
    assert all(np.array_equal(saved[key], other[key]) for key in saved)
    local.close()


@pytest.mark.slow
def test_two_and_five_workers_give_the_same_arrays_for_two_episodes():
    actions = random_actions(1200, 10)
    goals = load_goals(MT10, 0)
    results = []
    for num_workers in (0, 2, 5):
        env = MetaWorldVec(Settings(MT10, run_seed=1), goals, num_workers)
        env.reset()
        results.append(play(env, actions))
        env.close()
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_rows_stop_and_start_in_workers(pair):
    pair.reset(seed=8)
    first = pair.start_episodes([1, 0], [4, 2])
    pair.stop_episodes([0])
    observation, reward, _, _, info = pair.step(np.ones((2, 4)))
    assert info["active"].tolist() == [False, True]
    assert info["goal_index"].tolist() == [2, 4]
    assert np.array_equal(observation[0], first[0])
    assert reward[0] == 0.0
    assert not np.array_equal(observation[1], first[1])


def test_a_damaged_snapshot_is_refused_and_the_workers_live_on(pair):
    pair.reset()
    snapshot = pair.snapshot()
    with pytest.raises(ValueError, match="goal 99"):
        pair.restore({**snapshot, "row_1_goal_index": 99})
    pair.restore(snapshot)
    pair.step(np.zeros((2, 4)))


def test_rows_in_workers_cannot_be_seen(pair):
    with pytest.raises(ValueError, match="num_workers=0"):
        pair.physics(0)


def test_signals_meant_for_the_run_do_not_end_the_workers(pair):
    for process in processes(pair):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    pair.reset()
    pair.step(np.zeros((2, 4)))


def test_a_worker_computes_on_one_thread_whatever_the_run_does(monkeypatch):
    """No torch at all, and libraries of linear algebra that are told before they start."""
    for variable in ONE_THREAD:
        monkeypatch.setenv(variable, "4")
    env = batch(TASKS[:1], num_workers=1)
    try:
        env.reset()
        (process,) = processes(env)
        place = Path(f"/proc/{process.pid}")
        told = dict(
            entry.split(b"=", 1) for entry in (place / "environ").read_bytes().split(b"\0") if entry
        )
        assert {told[variable.encode()] for variable in ONE_THREAD} == {b"1"}
        assert "libtorch" not in (place / "maps").read_text()
    finally:
        env.close()


def test_a_killed_worker_is_reported_and_the_other_one_ends():
    env = batch(("drawer-close-v3", "window-open-v3"), num_workers=2)
    env.reset()
    first, second = processes(env)
    first.kill()
    with pytest.raises(WorkerError, match=r"rows \[0\] is gone \(exit code -9"):
        env.step(np.zeros((2, 4)))
    env.close()
    assert second.poll() == 0


def test_an_error_in_a_worker_comes_with_its_traceback():
    env = batch(("drawer-close-v3",), num_workers=1)
    with pytest.raises(WorkerError, match=r"KeyError: 7") as caught:
        env._rows._call({0: b"a[[7, null]]"})
    assert "meta_world_group.py" in str(caught.value)
    env.close()


def test_a_goal_that_a_task_cannot_have_is_refused_by_its_worker():
    bad = RowSpec(
        "drawer-close-v3",
        [(goal_of("drawer-close-v3") + 1).tolist()],
        *("v2", 500, True, False, "uniform", True, 0, (0, 0, 0)),
    )
    with pytest.raises(ValueError, match="no goal of drawer-close-v3"):
        WorkerPool([bad], 1)


def test_a_worker_reports_what_blew_up():
    env = batch(("drawer-close-v3",), num_workers=1, on_simulator_reset="fail")
    env.reset()
    snapshot = env.snapshot()
    spoilt = np.array(snapshot["row_0_integration"])
    spoilt[1:40] = 1e12
    env.restore({**snapshot, "row_0_integration": spoilt})
    with pytest.raises(SimulatorError, match="environment 0") as caught:
        env.step(np.zeros((1, 4)))
    assert caught.value.dump["goal"].shape == (3,)
    env.close()


def test_workers_end_with_their_parent():
    """The parent is killed without a chance to say anything."""
    script = (
        "from meta_world_tools import batch\n"
        "env = batch(('drawer-close-v3',), num_workers=1)\n"
        "print(env._rows._workers[0]._process.pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(worker):
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    status = Path(f"/proc/{pid}/status")
    try:
        return "zombie" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_rows_are_dealt_out_by_cost():
    tasks = [*COSTLY_TASKS][:2] + ["drawer-close-v3"] * 4
    shares = balance([spec(task) for task in tasks], 2)
    assert sorted(index for share in shares for index in share) == list(range(6))
    assert [len(share) for share in shares] == [3, 3]
    assert all(sum(index < 2 for index in share) == 1 for share in shares)
