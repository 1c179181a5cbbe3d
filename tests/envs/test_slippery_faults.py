"""What happens when numbers go wrong, and what stepping on threads may not change."""

import gc
import logging
import subprocess
import sys
import threading
import time

import mujoco
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from envs.base import SimulatorError
from envs.locomotion import Config, make
from envs.robots import ROBOTS, load_model
from envs.simulation import WARNING_NAMES, WarningLog
from envs.stepping import Stepper, flushes_denormals

BADCTRL = WARNING_NAMES.index("BADCTRL")


def build(num_envs=3, num_threads=1, **settings):
    config = Config(num_envs=num_envs, schedule="fixed", **settings)
    env, _ = make(config, total_steps=10**6, num_threads=num_threads)
    env.reset()
    env.step(np.zeros((num_envs, 8)))
    return env


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_action_fails_before_the_physics(bad):
    for on_simulator_reset in ("fail", "count"):
        env = build(on_simulator_reset=on_simulator_reset)
        times = [data.time for data in env.simulations.data]
        last = env.last_observation
        actions = np.zeros((3, 8))
        actions[1, 4] = bad
        with pytest.raises(SimulatorError, match="action is not finite") as caught:
            env.step(actions)
        assert caught.value.env_index == 1
        assert np.array_equal(caught.value.dump["action"], actions[1], equal_nan=True)
        assert np.array_equal(caught.value.dump["observation"], last[1])
        assert [data.time for data in env.simulations.data] == times
        assert all(data.warning.number[BADCTRL] == 0 for data in env.simulations.data)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_blow_up_fails_with_a_reason_and_a_dump(num_threads):
    env = build(num_threads=num_threads)
    env.simulations.data[2].qvel[0] = 1e11
    with pytest.raises(SimulatorError, match="BADQVEL x1") as caught:
        env.step(np.zeros((3, 8)))
    error = caught.value
    assert error.env_index == 2
    assert {"qpos", "qvel", "action", "observation", "integration_state"} <= error.dump.keys()
    assert error.dump["integration_state"].shape == (150,)
    assert all(isinstance(value, np.ndarray) for value in error.dump.values())


def test_blow_up_can_be_counted():
    env = build(on_simulator_reset="count")
    last = env.last_observation
    env.simulations.data[2].qvel[0] = 1e11
    observation, reward, terminated, truncated, info = env.step(np.zeros((3, 8)))
    assert info["unstable"].tolist() == [False, False, True]
    assert terminated.tolist() == [False, False, True]
    assert not truncated.any()
    assert reward[2] == 0.0
    assert info["episode_length"][2] == 2
    assert np.array_equal(info["next_observation"][2], last[2])
    assert np.isfinite(observation).all()
    assert env.num_simulator_resets == 1
    _, _, terminated, _, info = env.step(np.zeros((3, 8)))
    assert not info["unstable"].any()
    assert not terminated.any()
    assert env.snapshot()["num_simulator_resets"] == 1


def test_a_reset_that_leaves_no_warning_is_seen_by_the_clock():
    env = build()
    env.simulations.data[0].time = -1.0
    with pytest.raises(SimulatorError, match="time did not increase"):
        env.step(np.zeros((3, 8)))


def test_overflowing_state_is_unstable_even_before_mujoco_notices():
    env = build(on_simulator_reset="count")
    original = env.simulations.read

    def poisoned():
        motion = original()
        motion.qvel[1, 3] = np.inf
        return motion

    env.simulations.read = poisoned
    _, reward, terminated, _, info = env.step(np.zeros((3, 8)))
    assert info["unstable"].tolist() == [False, True, False]
    assert terminated[1]
    assert np.isfinite(reward).all()
    assert np.isfinite(info["next_observation"]).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_reward_that_overflows_is_a_failure():
    actions = np.zeros((3, 8))
    actions[1] = 1e200
    with pytest.raises(SimulatorError, match=r"environment 1: .* the reward is not finite"):
        build().step(actions)
    _, reward, terminated, _, info = build(on_simulator_reset="count").step(actions)
    assert info["unstable"].tolist() == terminated.tolist() == [False, True, False]
    assert np.isfinite(reward).all()


def test_warnings_write_no_file_and_do_not_flood(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    env = build(num_envs=1, on_simulator_reset="count")
    with caplog.at_level(logging.WARNING, logger="envs.simulation"):
        for _ in range(30):
            env.simulations.data[0].qvel[0] = 1e11
            env.step(np.zeros((1, 8)))
    assert env.num_simulator_resets == 30
    assert 1 <= len(caplog.records) <= 10
    assert "QVEL" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_warning_log_opens_a_new_window_each_minute(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = WarningLog(per_minute=2)
    with caplog.at_level(logging.WARNING, logger="envs.simulation"):
        for now[0] in (0.0, 1.0, 2.0, 59.0, 60.0, 61.0, 62.0):
            log(f"at {now[0]}")
    assert [record.args[0] for record in caplog.records] == [
        "at 0.0", "at 1.0", "at 60.0", "at 61.0",
    ]  # fmt: skip


def test_misuse_is_refused():
    env, _ = make(Config(num_envs=2), 1000)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((2, 8)))
    with pytest.raises(ResetNeeded):
        env.snapshot()
    env.reset()
    with pytest.raises(ValueError, match=r"expected \(2, 8\)"):
        env.step(np.zeros((3, 8)))
    with pytest.raises(ValueError, match="options"):
        env.reset(options={"friction": 1.0})
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.step(np.zeros((2, 8)))
    with pytest.raises(ValueError, match="num_threads=0"):
        make(Config(num_envs=2), 1000, num_threads=0)
    with pytest.raises(ValueError, match="total_steps=0"):
        make(Config(num_envs=2), 0)


@pytest.mark.parametrize(("num_envs", "num_threads"), [(1, 2), (5, 2), (5, 3), (8, 4)])
def test_threads_do_not_change_a_bit(num_envs, num_threads):
    config = Config(num_envs=num_envs, switch_interval=200, max_episode_steps=30)
    single, _ = make(config, 10**6, num_threads=1)
    several, _ = make(config, 10**6, num_threads=num_threads)
    assert np.array_equal(single.reset()[0], several.reset()[0])
    for actions in np.random.default_rng(0).uniform(-1, 1, size=(100, num_envs, 8)):
        expected, got = single.step(actions), several.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(expected[:4], got[:4], strict=True))
    several.close()


def physics_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("physics-")]


def test_threads_end_with_the_environment():
    before = len(physics_threads())
    env = build(num_envs=4, num_threads=4)
    assert len(physics_threads()) == before + 3
    env.close()
    assert len(physics_threads()) == before


def test_threads_end_with_a_forgotten_environment():
    before = set(physics_threads())
    env = build(num_envs=4, num_threads=4)
    started = set(physics_threads()) - before
    del env
    gc.collect()
    for thread in started:
        thread.join(timeout=5.0)
    assert len(started) == 3
    assert not any(thread.is_alive() for thread in started)


def test_a_failure_on_another_thread_reaches_the_caller():
    model = load_model(ROBOTS["ant", "published"])
    data = [mujoco.MjData(model) for _ in range(2)]
    rows = [np.zeros(8), np.zeros(3)]  # the second does not fit the controls
    simulations = [(model, d, d.ctrl, row, np.zeros(1)) for d, row in zip(data, rows, strict=True)]
    stepper = Stepper(simulations, num_substeps=5, contact_forces=False, num_threads=2)
    for step in (1, 2):
        with pytest.raises(ValueError, match="broadcast"):
            stepper.step()
        assert data[0].time == pytest.approx(0.05 * step)
    stepper.close()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="no such flag on this processor")
def test_flushed_denormals_are_refused_where_physics_runs():
    env = build(num_envs=2, num_threads=2)
    torch.set_flush_denormal(True)
    try:
        assert flushes_denormals()
        with pytest.raises(RuntimeError, match="set_flush_denormal"):
            env.step(np.zeros((2, 8)))
        late, _ = make(Config(num_envs=2, schedule="fixed"), 100, num_threads=2)
    finally:
        torch.set_flush_denormal(False)
    assert not flushes_denormals()
    late.reset()
    with pytest.raises(RuntimeError, match="new threads inherit"):
        late.step(np.zeros((2, 8)))
    env.step(np.zeros((2, 8)))


def test_python_overhead_per_environment():
    """Everything but the physics takes at most 5 microseconds per environment."""
    env = build(num_envs=16)

    class Nothing:
        def step(self):
            env.simulations._clocks += 0.05

        def close(self):
            pass

    env.simulations._stepper.close()
    env.simulations._stepper = Nothing()
    actions = np.zeros((16, 8))
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(20):
            env.step(actions)
        best = min(best, (time.perf_counter() - start) / (20 * 16))
    assert best < 5e-6


def test_importing_the_room_is_cheap():
    code = (
        "import sys, envs; assert not {'torch', 'mujoco'} & set(sys.modules), 'heavy';"
        "import envs.locomotion, envs.physics, envs.probe; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
