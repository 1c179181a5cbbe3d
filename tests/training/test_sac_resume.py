"""Stopped and continued runs of soft actor-critic end in the same bits, replay included.

Through train.py on both worlds: stops by signal at any vector step (in the middle of an episode and
of an iteration, with the replay exactly full or just cleared), and kills.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train
from analysis.checkpoint import CheckpointStore

REPOSITORY = Path(train.__file__).parent
COMMON = ["log.figures=false", "log.tensorboard=false", "progress=false", "num_threads=1"]
ANT = ["experiment=slippery_ant_sac_smoke", "log.log_every_iterations=1"]
ANT_ORACLE = [*ANT, "boundary=oracle", "agent.keep_last_n=300"]
META_WORLD = [
    "experiment=mt10_smoke",
    "log.final_evaluation=false",
    "total_steps=3000",
    "env.horizon=40",
    "env.num_goals=3",
    "network.hidden_sizes=[16,16]",
    "agent.batch_size=40",
    "agent.replay_size=1500",
    "agent.warmup_steps=500",
    "agent.steps_per_iteration=500",
]
FILES = ("progress.csv", "events.jsonl", "episodes.csv")


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def run(root, words):
    return train.main([*words, *COMMON, f"runs_root={root}"])


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
    "half full, in an iteration": (ANT, 1_540, 1_540),
    "exactly full": (ANT, 4_096, 4_096),
    "full and wrapped": (ANT, 5_000, 4_096),
    "just cleared": ([*ANT_ORACLE, "agent.buffer_on_switch=clear"], 2_072, 24),
    "cut at the switch": ([*ANT_ORACLE, "agent.buffer_on_switch=keep_last_n"], 4_300, 504),
    "tasks, exactly full": (META_WORLD, 1_500, 1_500),
    "tasks, in an episode": (META_WORLD, 1_730, 1_500),
    "tasks, in the warm-up": (META_WORLD, 250, 250),
}


@pytest.mark.parametrize("name", CASES)
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
        stop_at(patch, 1_500)
        assert run(tmp_path / "a", META_WORLD) == train.EXIT_SIGNAL
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert run(tmp_path / "a", META_WORLD) == train.EXIT_DONE
    original = train.Training._restore

    def forgetful(self, state):
        state["agent"]["replay"]["rows"][7] += 1.0
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


@pytest.mark.parametrize(
    ("words", "env_steps"),
    [
        pytest.param(ANT, 3_000, id="ant", marks=pytest.mark.slow),
        pytest.param(META_WORLD, 1_500, id="tasks"),
    ],
)
def test_a_killed_run_goes_on_in_the_same_bits(words, env_steps, undisturbed, tmp_path):
    often = [*words, "log.checkpoint_minutes=0"]
    kill_after(tmp_path, often, env_steps)
    assert not (folder(tmp_path) / "done.json").exists()
    assert env_steps <= newest(tmp_path).env_steps
    assert run(tmp_path, often) == train.EXIT_DONE
    assert ending(tmp_path) == undisturbed(words)


def test_half_and_half_equals_the_whole(undisturbed, tmp_path):
    """A run of k steps, lengthened to 2k, against a run of 2k: the length is no part of SAC."""
    half = [word if word != "total_steps=3000" else "total_steps=1500" for word in META_WORLD]
    where = [f"run_dir={tmp_path}/run"]
    assert run(tmp_path, [*half, *where]) == train.EXIT_DONE
    assert run(tmp_path, [*META_WORLD, *where, "accept_change=true"]) == train.EXIT_DONE
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoints").load_latest()
    steps, state_hash, rows = undisturbed(META_WORLD)
    assert (checkpoint.env_steps, checkpoint.manifest["state_hash"]) == (steps, state_hash)
    for name in ("progress.csv", "episodes.csv"):
        assert (tmp_path / "run" / name).read_bytes() == rows[name], name


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*ANT, "agent.replay_size=32"], "agent.replay_size is 32; give at least agent.batch_size"),
        ([*META_WORLD, "agent.replay_size=40", "agent.batch_size=35"], None),
        (
            [*META_WORLD, "agent.replay_size=39", "agent.batch_size=35"],
            "agent.replay_size=39 is too small for a minibatch of 40 transitions",
        ),
        (
            [*META_WORLD, "agent.task_balanced_batches=independent", "agent.batch_size=45"],
            "agent.batch_size=45 is no multiple of the 10 environments",
        ),
        ([*ANT, "agent.temperature_per_task=true"], "needs a one-hot context"),
        ([*ANT, "agent.buffer_on_switch=clear"], "acts at task changes; set boundary=oracle"),
        ([*ANT, "agent.buffer_on_switch=forget"], "it must be one of keep, clear, keep_last_n"),
        ([*ANT, "agent.warmup_steps=6144"], "leaves nothing of total_steps=6,144"),
        ([*META_WORLD, "agent.critic_clipping=joint"], "which is null; give it a value above 0"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(words, message, tmp_path, capsys):
    if message is None:  # the smallest replay that is enough
        words, expected = [*words, "total_steps=600"], train.EXIT_DONE
    else:
        expected = train.EXIT_CONFIGURATION
    assert run(tmp_path, words) == expected
    error = capsys.readouterr().err
    if message is not None:
        assert message in error
        assert error.count("\n") == 1
        assert not list(Path(tmp_path).glob("*/*/*/seed_0"))


def test_a_checkpoint_of_another_replay_size_is_refused(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 1_000)
        assert run(tmp_path, [*META_WORLD, f"run_dir={tmp_path}/run"]) == train.EXIT_SIGNAL
    other = [*META_WORLD, "agent.replay_size=800", f"run_dir={tmp_path}/run", "accept_change=true"]
    assert run(tmp_path, other) == train.EXIT_CONFIGURATION
    assert "agent.replay_size" in capsys.readouterr().err
    assert np.isfinite(newest_size(tmp_path / "run"))


def newest_size(directory):
    state = CheckpointStore(directory / "checkpoints").load_latest().state
    return int(state["agent"]["replay"]["size"])
