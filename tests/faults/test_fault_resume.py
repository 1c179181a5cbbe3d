"""Killed runs end in the bits of the undisturbed run: agents x worlds x methods with history.

`k` steps, SIGKILL, and the same command to the end equal the whole run: every array, counter and
random stream of the last checkpoint by its hash, and every byte of the metric rows.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fault_tools import (
    ANT,
    OFTEN,
    QUIET,
    REPOSITORY,
    composed,
    ending,
    in_a_child,
    kill_at,
    newest,
    run,
    run_dir,
)

import train
from analysis.state_files import state_hash

SAC = (
    "agent=sac",
    "agent.batch_size=32",
    "agent.replay_size=700",
    "agent.warmup_steps=128",
    "agent.steps_per_iteration=256",
)
WORLDS = {
    "ppo-ant": (ANT, 1_060),
    "sac-ant": ((*(w for w in ANT if not w.startswith("agent")), *SAC), 1_060),
    "ppo-mt": (
        (
            "experiment=mtppo_smoke",
            "env.benchmark=custom",
            "env.tasks=[reach-v3,drawer-close-v3]",
            "env.horizon=40",
            "env.num_goals=3",
            "env.num_workers=0",
            "network.hidden_sizes=[16,16]",
            "total_steps=640",
            "agent.rollout_length=80",
            "agent.num_epochs=2",
            "agent.minibatch_size=40",
        ),
        350,
    ),
    "sac-mt": (
        (
            "experiment=mt10_smoke",
            "env.benchmark=custom",
            "env.tasks=[reach-v3,drawer-close-v3]",
            "env.horizon=40",
            "env.num_goals=3",
            "env.num_workers=0",
            "network.hidden_sizes=[16,16]",
            "total_steps=640",
            "agent.batch_size=32",
            "agent.replay_size=300",
            "agent.warmup_steps=100",
            "agent.updates_per_env_step=0.25",
            "agent.steps_per_iteration=100",
            "log.final_evaluation=false",
        ),
        350,
    ),
    "sac-mt1": (
        (
            "env=mt1",
            "agent=sac",
            "network=small",
            "env.task=drawer-close-v3",
            "env.horizon=40",
            "env.num_workers=0",
            "total_steps=400",
            "agent.batch_size=32",
            "agent.replay_size=300",
            "agent.warmup_steps=100",
            "agent.steps_per_iteration=100",
            "log.log_every_iterations=1",
        ),
        250,
    ),
}
METHODS = {
    "plain": ("method=[]",),
    "continual_backprop": ("method=[continual_backprop_smoke]",),
    "dendritic_redo": (
        "network=dendritic",
        "network.hidden_sizes=[16,16]",
        "method=[redo]",
        "method.redo.period=10",
        "method.redo.dormancy_threshold=0.3",
        "method.redo.window_samples=64",
    ),
    "snr": (
        "method=[snr]",
        "method.snr.min_silence=5",
        "method.snr.min_records=2",
        "method.snr.refresh_period=20",
    ),
}
# One stays in the default set; the others of it are in tests/training.
QUICK = {("ppo-ant", "continual_backprop")}


def settings(world, method):
    words = [*WORLDS[world][0], *METHODS[method]]
    if method == "dendritic_redo" and world.endswith("ant"):
        words += ["context=friction", "network.num_segments=4"]  # nothing else is announced
    return words


CASES = [
    pytest.param(
        world,
        method,
        id=f"{world}-{method}",
        marks=[
            *([] if (world, method) in QUICK else [pytest.mark.slow]),
            *([] if world.endswith("ant") else [pytest.mark.metaworld]),
        ],
    )
    for world in WORLDS
    for method in METHODS
]


@pytest.mark.parametrize(("world", "method"), CASES)
def test_f01_half_killed_and_half_equals_the_whole(world, method, tmp_path):
    words, kill = settings(world, method), WORLDS[world][1]
    assert run(tmp_path / "whole", words) == train.EXIT_DONE
    often = [*words, OFTEN]
    kill_at(tmp_path / "killed", often, kill)
    steps = newest(tmp_path / "killed").env_steps
    assert 0 < steps < kill  # something was lost, but not everything
    assert run(tmp_path / "killed", often) == train.EXIT_DONE
    assert ending(tmp_path / "killed") == ending(tmp_path / "whole")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root, settings("ppo-ant", "continual_backprop")) == train.EXIT_DONE
    return root


OFTEN_ANT = [*settings("ppo-ant", "continual_backprop"), OFTEN]


@pytest.mark.parametrize(
    "step",
    [768, *(pytest.param(step, marks=pytest.mark.slow) for step in (764, 772, 1_024))],
)
def test_f24_kill_around_a_switch(step, undisturbed, tmp_path):
    """One vector step before, at and after the switch at 768, and at a rollout's end."""
    kill_at(tmp_path, OFTEN_ANT, step)
    assert run(tmp_path, OFTEN_ANT) == train.EXIT_DONE
    assert ending(tmp_path) == ending(undisturbed)
    events = (run_dir(tmp_path) / "events.jsonl").read_text().splitlines()
    assert sum('"switch"' in event for event in events) == 2  # none lost, none doubled


def test_f28_rows_after_the_checkpoint_are_cut(undisturbed, tmp_path):
    """A run that logs far beyond its newest checkpoint, and is killed there."""
    rare = settings("ppo-ant", "continual_backprop")  # checkpoints at switches only
    kill_at(tmp_path, rare, 1_300)
    logged = list(csv.DictReader((run_dir(tmp_path) / "progress.csv").open()))
    assert newest(tmp_path).env_steps == 768 < int(logged[-1]["env_steps"])
    assert run(tmp_path, rare) == train.EXIT_DONE
    steps = [int(row["env_steps"]) for row in csv.DictReader(_open(tmp_path, "progress.csv"))]
    assert steps == sorted(set(steps))
    assert ending(tmp_path) == ending(undisturbed)


def _open(root, name):
    return (run_dir(root) / name).read_text().splitlines()


@pytest.mark.slow
def test_f08_the_same_command_continues_in_the_same_directory(undisturbed, tmp_path):
    for restarts, step in enumerate((400, 900, 1_500), start=1):
        kill_at(tmp_path, OFTEN_ANT, step)
        assert len(list(tmp_path.glob("*/*/*/seed_*"))) == 1
        assert (run_dir(tmp_path) / "restarts.json").exists() == (restarts > 1)
    assert run(tmp_path, OFTEN_ANT) == train.EXIT_DONE
    timing = list(csv.DictReader(_open(tmp_path, "timing.csv")))
    assert int(timing[-1]["restarts"]) == 3
    assert ending(tmp_path) == ending(undisturbed)


@pytest.mark.slow
def test_f01_twenty_kills_at_random_moments(tmp_path):
    """SIGKILL by the clock: in physics, in gradient steps, in the middle of a save."""
    words = [word for word in OFTEN_ANT if not word.startswith(("total_steps", "env.switch"))]
    words += ["total_steps=40960", "env.switch_interval=8192"]
    assert run(tmp_path / "whole", words) == train.EXIT_DONE
    start = time.monotonic()
    assert in_a_child(lambda: run(tmp_path / "clock", words)) == train.EXIT_DONE
    whole_seconds = time.monotonic() - start
    rng, kills, attempts = np.random.default_rng(0), 0, 0
    while kills < 20:
        child = os.fork()
        if child == 0:
            os._exit(run(tmp_path / "killed", words))
        time.sleep(whole_seconds * (0.01 + rng.exponential(0.03)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        attempts += 1
        assert attempts < 30, "the run ends before it can be killed"
    assert run(tmp_path / "killed", words) == train.EXIT_DONE
    assert ending(tmp_path / "killed") == ending(tmp_path / "whole")
    lived = list(csv.DictReader(_open(tmp_path / "killed", "timing.csv")))
    assert int(lived[-1]["restarts"]) >= 15  # the first kills may come before the directory


@pytest.mark.slow
def test_a_lost_stream_would_be_noticed(undisturbed, tmp_path, monkeypatch):
    """The comparison sees a single random number that was not brought back."""
    kill_at(tmp_path, OFTEN_ANT, 1_060)
    original = train.Training._restore

    def forgetful(self, state):
        original(self, state)
        self.agent.act(self.observation, self.context, explore=True)  # draws once too often

    monkeypatch.setattr(train.Training, "_restore", forgetful)
    assert run(tmp_path, OFTEN_ANT) == train.EXIT_DONE
    assert ending(tmp_path)[1] != ending(undisturbed)[1]


@pytest.mark.slow
def test_f01_a_sweep_killed_in_the_middle_is_completed_by_the_same_command(tmp_path):
    """Launcher and members get a SIGKILL together; finished members are left alone."""
    words = [*settings("ppo-ant", "continual_backprop"), *QUIET, OFTEN, "seed=0,1,2,3"]

    def command(root):
        return [sys.executable, "train.py", "-m", *words, f"runs_root={root}"]

    killed = subprocess.Popen(
        command(tmp_path / "killed"),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    try:
        while not list((tmp_path / "killed").glob("*/*/*/seed_*/done.json")):
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
    assert 1 <= len(finished) < 4
    done = subprocess.run(
        command(tmp_path / "killed"), cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == train.EXIT_DONE, done.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    for seed in range(4):
        whole = tmp_path / "whole" / str(seed)
        assert run(whole, [*settings("ppo-ant", "continual_backprop"), f"seed={seed}"]) == 0
        member = tmp_path / "one" / str(seed)
        (found,) = (tmp_path / "killed").glob(f"*/*/*/seed_{seed}")
        shutil.copytree(found, member / found.relative_to(tmp_path / "killed"))
        assert ending(member) == ending(whole), seed


def test_f07_the_last_row_after_a_stop_shows_the_penalty_of_the_step_before(tmp_path):
    """The run ends between two updates, so nothing after the resume computes it anew."""
    words = [*ANT, "method=[l2_init]", "total_steps=600"]
    assert run(tmp_path / "whole", words) == train.EXIT_DONE
    whole = ending(tmp_path / "whole")
    last = list(csv.DictReader(_open(tmp_path / "whole", "progress.csv")))[-1]
    assert int(last["env_steps"]) == 600
    assert float(last["l2_init/policy/penalty"]) > 0

    def stopped() -> int:
        step = train.Progress.step

        def signalling(self, done):
            step(self, done)
            if done == 592:
                os.kill(os.getpid(), signal.SIGTERM)

        train.Progress.step = signalling  # type: ignore[method-assign]
        return run(tmp_path / "stopped", words)

    assert in_a_child(stopped) == train.EXIT_SIGNAL
    assert run(tmp_path / "stopped", words) == train.EXIT_DONE
    assert ending(tmp_path / "stopped") == whole


def test_f11_an_accepted_change_is_told_although_the_run_was_killed(tmp_path):
    """The resume cuts events.jsonl back to a checkpoint from before the change."""
    short = [*ANT, "method=[]", "log.diagnostics=false", "total_steps=600"]
    assert run(tmp_path / "whole", short) == train.EXIT_DONE
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    def longer(root):
        return [*short[:-1], "total_steps=1024", "accept_change=true", f"run_dir={run_dir(root)}"]

    assert run(tmp_path / "whole", longer(tmp_path / "whole")) == train.EXIT_DONE
    for _ in range(2):
        kill_at(tmp_path / "killed", longer(tmp_path / "killed"), 700)
    assert run(tmp_path / "killed", longer(tmp_path / "killed")) == train.EXIT_DONE
    events = [json.loads(line) for line in _open(tmp_path / "killed", "events.jsonl")]
    told = [event["setting"] for event in events if event["event"] == "setting_changed"]
    assert told == ["total_steps: 600 -> 1024"]
    assert ending(tmp_path / "killed") == ending(tmp_path / "whole")


def test_a_hash_computed_again_is_the_same(undisturbed):
    loaded = newest(undisturbed)
    assert state_hash(loaded.state) == loaded.manifest["state_hash"]
    assert composed(*settings("ppo-ant", "plain")).config.method == {}
