"""Stopped and continued runs of soft actor-critic end in the same bits, replay included.

Through train.py on both worlds: stops by signal at any vector step (in the middle of an episode and
of an iteration, with the replay exactly full or just cleared), and kills.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from words import named_once

import train
from analysis.checkpoint import CheckpointStore
from analysis.state_files import state_hash
from configs.compose import compose_run

REPOSITORY = Path(train.__file__).parent
COMMON = ["log.figures=false", "log.tensorboard=false", "progress=false", "num_threads=1"]
ANT = [
    "experiment=slippery_ant_sac_smoke",
    "total_steps=2048",
    "env.switch_interval=768",
    "agent.batch_size=32",
    "agent.replay_size=1024",
    "agent.warmup_steps=128",
    "agent.steps_per_iteration=256",
    "log.log_every_iterations=1",
]
ANT_ORACLE = [*ANT, "boundary=oracle"]
KEPT = ["agent.buffer_on_switch=keep_last_n", "agent.keep_last_n=300"]
META_WORLD = [
    "experiment=mt10_smoke",
    "env.benchmark=custom",
    "env.tasks=[reach-v3,drawer-close-v3]",
    "env.horizon=40",
    "env.num_goals=3",
    "total_steps=600",
    "network.hidden_sizes=[16,16]",
    "agent.batch_size=32",
    "agent.replay_size=300",
    "agent.warmup_steps=100",
    "agent.updates_per_env_step=0.25",
    "agent.steps_per_iteration=100",
    "log.final_evaluation=false",
]
FILES = ("progress.csv", "events.jsonl", "episodes.csv")


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


@functools.cache
def composed(*words):
    return compose_run([*words, *COMMON])


def run(root, words):
    """What `python train.py <words> runs_root=<root>` does; composing is done once."""
    found = composed(*words)
    return train.run(replace(found, config=replace(found.config, runs_root=str(root))))


def folder(root):
    (found,) = Path(root).glob("*/*/*/seed_0")
    return found


def newest(root):
    return CheckpointStore(folder(root) / "checkpoints").load_latest()


def ending(root):
    """Steps, hash of the whole state and the bytes of all metric rows."""
    checkpoint = newest(root)
    rows = {name: (folder(root) / name).read_bytes() for name in FILES}
    return checkpoint.env_steps, checkpoint.manifest["state_hash"], rows


_undisturbed = {}


@pytest.fixture
def undisturbed(tmp_path_factory):
    """Runs that nobody stops, once for every list of words."""

    def get(words):
        key = tuple(words)
        if key not in _undisturbed:
            root = tmp_path_factory.mktemp("undisturbed")
            assert run(root, words) == train.EXIT_DONE
            _undisturbed[key] = ending(root)
        return _undisturbed[key]

    return get


def stop_at(monkeypatch, env_steps):
    """Send this process a SIGTERM in the vector step that completes `env_steps`."""
    step = train.Progress.step

    def stopping(self, done):
        step(self, done)
        if done == env_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train.Progress, "step", stopping)


CASES = {
    "half full, in an iteration": (ANT, 500, 500),
    "exactly full": (ANT, 1_024, 1_024),
    "full and wrapped": (ANT, 1_700, 1_024),
    "just cleared": ([*ANT_ORACLE, "agent.buffer_on_switch=clear"], 780, 12),
    "cut at the switch": ([*ANT_ORACLE, *KEPT], 1_600, 364),
    "tasks, exactly full": (META_WORLD, 300, 300),
    "tasks, in an episode": (META_WORLD, 346, 300),
    "tasks, in the warm-up": (META_WORLD, 50, 50),
}


SLOW = (
    "half full, in an iteration",
    "full and wrapped",
    "cut at the switch",
    "tasks, in the warm-up",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES]
)
def test_a_stopped_run_goes_on_in_the_same_bits(name, undisturbed, tmp_path, monkeypatch):
    words, env_steps, stored = CASES[name]
    with monkeypatch.context() as patch:
        stop_at(patch, env_steps)
        assert run(tmp_path, words) == train.EXIT_SIGNAL
    stopped = newest(tmp_path)
    assert stopped.env_steps == env_steps
    assert int(stopped.state["agent"]["replay"]["size"]) == stored
    assert run(tmp_path, words) == train.EXIT_DONE
    assert ending(tmp_path) == undisturbed(words)


def test_the_replay_is_part_of_what_is_compared(tmp_path, monkeypatch):
    """One transition changed in the checkpoint leads to another end."""
    with monkeypatch.context() as patch:
        stop_at(patch, 250)
        assert run(tmp_path / "a", META_WORLD) == train.EXIT_SIGNAL
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert run(tmp_path / "a", META_WORLD) == train.EXIT_DONE
    original = train.Training._restore

    def forgetful(self, state):
        state["agent"]["replay"]["rows"][7:200, 0] += 1.0  # a number of the observation
        original(self, state)

    monkeypatch.setattr(train.Training, "_restore", forgetful)
    assert run(tmp_path / "b", META_WORLD) == train.EXIT_DONE
    assert ending(tmp_path / "a")[1] != ending(tmp_path / "b")[1]


def kill_after(root, words, env_steps):
    """Start the run as a process of its own and SIGKILL it after a checkpoint at `env_steps`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "train.py", *words, *COMMON, f"runs_root={root}"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            names = [p.name for p in Path(root).glob("*/*/*/seed_0/checkpoints")]
            steps = [
                int(name[5:17])
                for found in Path(root).glob("*/*/*/seed_0/checkpoints")
                for name in os.listdir(found)
                if name.startswith("step-")
            ]
            if names and any(step >= env_steps for step in steps):
                return
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.01)
        raise AssertionError(f"no checkpoint at {env_steps}")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "env_steps"),
    [
        pytest.param(ANT, 1_100, id="ant"),
        pytest.param(META_WORLD, 300, id="tasks"),
    ],
)
def test_a_killed_run_goes_on_in_the_same_bits(words, env_steps, undisturbed, tmp_path):
    often = [*words, "log.checkpoint_minutes=0"]
    kill_after(tmp_path, often, env_steps)
    assert not (folder(tmp_path) / "done.json").exists()
    assert env_steps <= newest(tmp_path).env_steps
    assert run(tmp_path, often) == train.EXIT_DONE
    assert ending(tmp_path) == undisturbed(words)


@pytest.mark.slow
def test_half_and_half_equals_the_whole(tmp_path):
    """A run of k steps, lengthened to 2k, against a run of 2k: the length is no part of SAC."""
    half = [word if word != "total_steps=600" else "total_steps=300" for word in META_WORLD]
    where = [f"run_dir={tmp_path}/run"]
    assert run(tmp_path, [*half, *where]) == train.EXIT_DONE
    assert run(tmp_path, [*META_WORLD, *where, "accept_change=true"]) == train.EXIT_DONE
    lengthened = CheckpointStore(tmp_path / "run" / "checkpoints").load_latest()
    assert run(tmp_path / "whole", META_WORLD) == train.EXIT_DONE
    whole, rows = newest(tmp_path / "whole"), ending(tmp_path / "whole")[2]
    assert lengthened.env_steps == whole.env_steps == 600
    for part in ("agent", "env", "loop"):  # the recorder knows of the accepted change
        assert state_hash(lengthened.state[part]) == state_hash(whole.state[part]), part
    for name in ("progress.csv", "episodes.csv"):
        assert (tmp_path / "run" / name).read_bytes() == rows[name], name


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*ANT, "agent.replay_size=31"], "agent.replay_size is 31; give at least agent.batch_size"),
        ([*META_WORLD, "agent.replay_size=40", "agent.batch_size=39"], None),
        (
            [*META_WORLD, "agent.replay_size=39", "agent.batch_size=39"],
            "agent.replay_size=39 is too small for a minibatch of 40 transitions",
        ),
        (
            [*META_WORLD, "agent.task_balanced_batches=independent", "agent.batch_size=45"],
            "agent.batch_size=45 is no multiple of the 2 environments",
        ),
        ([*ANT, "agent.temperature_per_task=true"], "needs a one-hot context"),
        ([*ANT, "agent.buffer_on_switch=clear"], "acts at task changes; set boundary=oracle"),
        ([*ANT, "agent.buffer_on_switch=forget"], "it must be one of keep, clear, keep_last_n"),
        ([*ANT, "agent.warmup_steps=2048"], "leaves nothing of total_steps=2,048"),
        ([*META_WORLD, "agent.critic_clipping=joint"], "which is null; give it a value above 0"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(words, message, tmp_path, capsys):
    arguments = [*named_once(words), *COMMON, f"runs_root={tmp_path}"]
    # None: the smallest replay that is enough
    expected = train.EXIT_DONE if message is None else train.EXIT_CONFIGURATION
    assert train.main(arguments) == expected
    error = capsys.readouterr().err
    if message is not None:
        assert message in error
        assert error.count("\n") == 1
        assert not list(Path(tmp_path).glob("*/*/*/seed_0"))


def test_a_checkpoint_of_another_replay_size_is_refused(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 200)
        assert run(tmp_path, [*META_WORLD, f"run_dir={tmp_path}/run"]) == train.EXIT_SIGNAL
    other = [*META_WORLD, "agent.replay_size=250", f"run_dir={tmp_path}/run", "accept_change=true"]
    assert run(tmp_path, other) == train.EXIT_CONFIGURATION
    assert "agent.replay_size" in capsys.readouterr().err
    assert np.isfinite(newest_size(tmp_path / "run"))


def newest_size(directory):
    state = CheckpointStore(directory / "checkpoints").load_latest().state
    return int(state["agent"]["replay"]["size"])
