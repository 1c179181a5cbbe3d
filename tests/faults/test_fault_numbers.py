"""Numbers that go wrong anywhere end the run at once, loudly, with what explains it."""

import json
import signal
import time

import numpy as np
import pytest
import torch
from fault_tools import ANT, OFTEN, ending, in_a_child, newest, run, run_dir

import train
from agents.returns import generalized_advantages
from agents.update import Update
from analysis.checkpoint import CheckpointStore
from envs.faults import Guard
from envs.simulation import Simulations

WORDS = [*ANT, "method=[continual_backprop_smoke]", OFTEN]
SAC = [
    *(word for word in ANT if not word.startswith("agent")),
    "agent=sac",
    "agent.batch_size=32",
    "agent.replay_size=700",
    "agent.warmup_steps=128",
    "agent.steps_per_iteration=256",
    OFTEN,
]


def crash(root):
    """What the failed run left: status, reason and the dump."""
    done = json.loads((run_dir(root) / "done.json").read_text())
    assert done["status"] == "failed"
    loaded = CheckpointStore(run_dir(root) / "crash").load_latest()
    assert loaded is not None
    assert loaded.state["agent"]  # weights, optimizer and random streams
    assert "replay" not in loaded.state["agent"]
    return done["summary"]["reason"], loaded.state["dump"], loaded.env_steps


def spoil(monkeypatch, owner, name, number, poison):
    """Let `poison` make one call of a method, counted from the start of training.

    Worlds for the probe set are stepped before.
    """
    function, begin, calls, began = getattr(owner, name), train.Training.run, [0], []

    def beginning(self, *arguments):
        began.append(True)
        return begin(self, *arguments)

    def wrapped(*arguments):
        calls[0] += len(began)
        return poison(function, arguments) if calls[0] == number else function(*arguments)

    monkeypatch.setattr(train.Training, "run", beginning)
    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_f14_an_observation_that_is_no_number(value, tmp_path, monkeypatch):
    def poison(read, arguments):
        motion = read(*arguments)
        motion.qpos[2, 4] = value
        return motion

    spoil(monkeypatch, Simulations, "read", 300, poison)
    assert run(tmp_path, WORDS) == train.EXIT_NUMERICAL
    reason, dump, steps = crash(tmp_path)
    assert "environment 2" in reason
    assert "not finite" in reason
    assert {"action", "observation", "integration_state", "env_steps"} <= set(dump)
    assert abs(int(dump["env_steps"][0]) - steps) <= 4
    assert newest(tmp_path).env_steps <= steps  # older checkpoints are untouched
    assert run(tmp_path, WORDS) == train.EXIT_NUMERICAL  # a failure is a result, and final


@pytest.mark.parametrize("value", [-np.inf, pytest.param(np.nan, marks=pytest.mark.slow)])
def test_f14_a_reward_that_is_no_number(value, tmp_path, monkeypatch):
    def poison(after_step, arguments):
        guard, situation, reward = arguments
        spoilt = reward.copy()
        spoilt[1] = value
        return after_step(guard, situation, spoilt)

    spoil(monkeypatch, Guard, "after_step", 200, poison)
    assert run(tmp_path, WORDS) == train.EXIT_NUMERICAL
    reason, dump, _ = crash(tmp_path)
    assert "environment 1" in reason
    assert "reward" in reason
    assert np.isfinite(dump["action"]).all()


def test_f15_a_silent_reset_of_the_simulator(tmp_path, monkeypatch):
    def poison(step, arguments):
        arguments[0].data[3].qvel[0] = 1e11
        return step(*arguments)

    spoil(monkeypatch, Simulations, "step", 250, poison)
    assert run(tmp_path, WORDS) == train.EXIT_NUMERICAL
    reason, dump, steps = crash(tmp_path)
    assert "BADQVEL" in reason
    assert "environment 3" in reason
    assert steps == 250 * 4 - 4  # in that step
    assert dump["integration_state"].shape == (150,)


def test_f16_an_action_that_is_no_number(tmp_path, monkeypatch):
    seen = []

    def poison(before_step, arguments):
        guard, situation = arguments
        situation.actions[0, 5] = np.nan
        seen.extend(guard._simulations.data)
        return before_step(guard, situation)

    spoil(monkeypatch, Guard, "before_step", 100, poison)
    assert run(tmp_path, WORDS) == train.EXIT_NUMERICAL
    reason, dump, _ = crash(tmp_path)
    assert "action is not finite" in reason
    assert np.isnan(dump["action"][5])
    assert all(data.warning.number.sum() == 0 for data in seen)  # the physics never saw it


def test_f17_a_failure_on_a_full_disk_is_a_failure_all_the_same(tmp_path, monkeypatch, capsys):
    def poison(before_step, arguments):
        monkeypatch.setattr(CheckpointStore, "reserved_bytes", 2**60)
        arguments[1].actions[0, 5] = np.nan
        return before_step(*arguments)

    spoil(monkeypatch, Guard, "before_step", 100, poison)
    assert run(tmp_path, WORDS) == train.EXIT_NUMERICAL
    assert "action is not finite" in capsys.readouterr().err
    done = json.loads((run_dir(tmp_path) / "done.json").read_text())
    assert (done["status"], "crash" in done["summary"]) == ("failed", False)


@pytest.mark.parametrize("words", [WORDS, SAC], ids=["ppo", "sac"])
@pytest.mark.parametrize(
    "value", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("what", ["gradient", "weight"])
def test_f17_a_gradient_or_weight_that_is_no_number(words, value, what, tmp_path, monkeypatch):
    """Within one update phase, and no checkpoint is saved after it."""
    steps = []

    def poison(see_gradients, arguments):
        (update,) = arguments
        parameter = next(iter(update.network.parameters()))
        steps.append(update.num_steps)
        with torch.no_grad():
            (parameter.grad if what == "gradient" else parameter).view(-1)[3] = value
        return see_gradients(update)

    spoil(monkeypatch, Update, "see_gradients", 21, poison)
    assert run(tmp_path, words) == train.EXIT_NUMERICAL
    reason, dump, _ = crash(tmp_path)
    if "network" in dump:
        assert "is not finite; the run stops here" in reason
        assert dump["network"] in reason
    else:  # soft actor-critic acts before its next check
        assert "action is not finite" in reason
    assert steps
    state = newest(tmp_path).state["agent"] if list(run_dir(tmp_path).glob("checkpoints/*")) else {}
    for update in state.get("updates", {}).values():
        assert all(torch.isfinite(value).all() for value in update["network"].values())


@pytest.mark.slow
def test_f27_a_clock_that_jumps(tmp_path, monkeypatch):
    """The wall clock goes back an hour at every look; speed and active time stay sane."""
    now = [2e9]

    def jumping():
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    assert run(tmp_path, WORDS) == train.EXIT_DONE
    header, *lines = (run_dir(tmp_path) / "timing.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert all(float(row["steps_per_second"]) > 0 for row in rows)
    seconds = [float(row["active_seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 600


@pytest.mark.slow
def test_f21_memory_of_a_device_that_runs_out(tmp_path, monkeypatch, capsys):
    text = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"

    def poison(see_gradients, arguments):
        raise torch.OutOfMemoryError(text)

    with monkeypatch.context() as patch:
        spoil(patch, Update, "see_gradients", 100, poison)
        assert run(tmp_path / "a", WORDS) == train.EXIT_FAILED
    error = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in error
    assert "checkpoint" in error
    assert not (run_dir(tmp_path / "a") / "done.json").exists()
    assert run(tmp_path / "a", WORDS) == train.EXIT_DONE
    assert run(tmp_path / "b", WORDS) == train.EXIT_DONE
    assert ending(tmp_path / "a") == ending(tmp_path / "b")


def test_f26_both_flags_at_once_do_not_bootstrap():
    """Rewards 1, values 10: an end that is also a time-out is worth its reward alone."""
    ones, tens = np.ones((1, 3)), np.full((1, 3), 10.0)
    terminated, truncated = np.array([[True, True, False]]), np.array([[False, True, True]])
    advantages = generalized_advantages(ones, tens, tens, terminated, truncated, 0.5, 0.9)
    assert advantages.ravel().tolist() == [1 - 10, 1 - 10, 1 + 0.5 * 10 - 10]


def test_f20_a_replay_larger_than_memory_is_refused_at_the_start(tmp_path, capsys):
    words = [*SAC, "agent.replay_size=1000000000000"]
    assert run(tmp_path, words) == train.EXIT_CONFIGURATION
    assert "bytes" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*/*/seed_0"))


# Signals ----------------------------------------------------------------------------------------


SLOW_SIGNALS = [
    pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT)
]


def signals_at(monkeypatch, env_steps, *numbers):
    step, moments = train.Progress.step, []

    def signalling(self, done):
        step(self, done)
        if done == env_steps:
            moments.append(time.process_time())
            for number in numbers:
                signal.raise_signal(number)

    monkeypatch.setattr(train.Progress, "step", signalling)
    return moments


@pytest.mark.parametrize("number", [signal.SIGUSR1, *SLOW_SIGNALS])
def test_f07_a_signal_saves_and_exits_with_75(number, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        moments = signals_at(patch, 900, number)
        assert run(tmp_path / "a", WORDS) == train.EXIT_SIGNAL
        assert time.process_time() - moments[0] < 5  # of the processor: others may use it, too
    assert "the same command goes on" in capsys.readouterr().out
    assert newest(tmp_path / "a").env_steps == 900  # in the middle of a rollout
    assert run(tmp_path / "a", WORDS) == train.EXIT_DONE
    if number == signal.SIGTERM:
        assert run(tmp_path / "b", WORDS) == train.EXIT_DONE
        assert ending(tmp_path / "a") == ending(tmp_path / "b")


def test_f07_the_second_signal_ends_at_once(tmp_path, monkeypatch):
    signals_at(monkeypatch, 900, signal.SIGUSR1, signal.SIGTERM)
    assert in_a_child(lambda: run(tmp_path, WORDS)) == 128 + signal.SIGTERM
    assert newest(tmp_path).env_steps == 768  # nothing more was saved
