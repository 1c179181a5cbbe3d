"""Disks that fill up, directories that vanish, and two processes that want the same one."""

import json
import os
import shutil
import time
from collections import namedtuple

import pytest
from fault_tools import (
    ANT,
    OFTEN,
    composed,
    ending,
    in_a_child,
    kill_at,
    newest,
    run,
    run_dir,
    store,
)

import train
from analysis.append_file import AppendFile
from analysis.checkpoint import inspect_checkpoint
from analysis.run_directory import RunDirectory, RunLocked

WORDS = [*ANT, "method=[continual_backprop_smoke]", OFTEN]
USAGE = namedtuple("usage", "total used free")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root, WORDS) == train.EXIT_DONE
    return root


def fill_disk(monkeypatch, saves):
    """No free space for the saves with these numbers; None for all from the second on."""
    count = [0]

    def usage(path):
        count[0] += 1
        full = count[0] > 1 if saves is None else count[0] in saves
        return USAGE(10**12, 0, 0 if full else 10**12)

    monkeypatch.setattr(shutil, "disk_usage", usage)


@pytest.mark.slow
def test_f04_training_goes_on_while_the_disk_is_full(undisturbed, tmp_path, monkeypatch, capsys):
    fill_disk(monkeypatch, {2, 3, 5})
    assert run(tmp_path, WORDS) == train.EXIT_DONE
    assert capsys.readouterr().err.count("checkpoint skipped, training goes on") == 3
    assert ending(tmp_path) == ending(undisturbed)


def test_f04_the_third_refusal_in_a_row_ends_the_run(undisturbed, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        fill_disk(patch, None)
        assert run(tmp_path, WORDS) == train.EXIT_STORAGE
    assert "MiB free" in capsys.readouterr().err
    checkpoints = run_dir(tmp_path) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000000256"]
    assert run(tmp_path, WORDS) == train.EXIT_DONE  # nothing is lost
    assert ending(tmp_path) == ending(undisturbed)


def test_f04_a_refused_save_at_a_switch_is_tried_again_after_a_while(tmp_path, monkeypatch, capsys):
    """One second per vector step: rollouts take 64 of them, and the disk is full for 200."""
    now, step, usual = [0.0], train.Progress.step, train.SaveClock

    def ticking(self, done):
        step(self, done)
        now[0] += 1.0

    monkeypatch.setattr(train.Progress, "step", ticking)
    monkeypatch.setattr(train, "SaveClock", lambda minutes: usual(minutes, lambda: now[0]))
    fill_disk(monkeypatch, {1, 2})
    words = [*ANT, "method=[]", "log.diagnostics=false", "env.switch_interval=768"]
    assert run(tmp_path, words) == train.EXIT_DONE
    assert capsys.readouterr().err.count("checkpoint skipped, training goes on") == 2
    saved = {p.name: inspect_checkpoint(p)["pinned"] for p in store(tmp_path).paths()}
    assert saved == {"step-000000001792": True, "step-000000002048": False}


@pytest.mark.parametrize(
    "name", ["progress.csv", pytest.param("events.jsonl", marks=pytest.mark.slow)]
)
def test_f05_a_full_disk_in_a_log_leaves_no_half_line(
    name, undisturbed, tmp_path, monkeypatch, capsys
):
    append, write = AppendFile.append, os.write

    def part_then_full(descriptor, data):
        if len(data) <= 3:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data)[:3])

    def failing(self, line):
        if self.path.name != name or self.lines < 3:
            return append(self, line)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", part_then_full)
            return append(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(AppendFile, "append", failing)
        assert run(tmp_path, WORDS) == train.EXIT_STORAGE
    assert f"{name}: No space left" in capsys.readouterr().err
    assert (run_dir(tmp_path) / name).read_bytes().endswith(b"\n")
    assert run(tmp_path, WORDS) == train.EXIT_DONE
    assert ending(tmp_path) == ending(undisturbed)


def at_step(monkeypatch, env_steps, action):
    step = train.Progress.step

    def acting(self, done):
        step(self, done)
        if done == env_steps:
            action()

    monkeypatch.setattr(train.Progress, "step", acting)


def test_f06_a_directory_that_is_gone_ends_the_run(tmp_path, monkeypatch, capsys):
    """The next save notices; nothing is made where the directory was."""
    moved = tmp_path / "elsewhere"
    at_step(monkeypatch, 600, lambda: run_dir(tmp_path / "runs").rename(moved))
    assert run(tmp_path / "runs", WORDS) == train.EXIT_STORAGE
    assert "No such file" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*/*/*/seed_0"))
    assert (moved / "checkpoints" / "step-000000000512").is_dir()


def test_f06_a_directory_that_became_read_only_ends_the_run(tmp_path, monkeypatch, capsys):
    """As root every mode is writable, so the kernel's answer is given for it."""
    mkdir = os.mkdir

    def read_only(path, *arguments, **options):
        if ".tmp-" in str(path):
            raise OSError(30, "Read-only file system")
        mkdir(path, *arguments, **options)

    at_step(monkeypatch, 600, lambda: monkeypatch.setattr(os, "mkdir", read_only))
    assert run(tmp_path, WORDS) == train.EXIT_STORAGE
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert "skipped" not in error  # waiting would not help
    assert newest(tmp_path).env_steps == 512


def test_f09_a_second_process_is_refused_within_a_second(tmp_path, capsys):
    kill_at(tmp_path, WORDS, 300)
    found = composed(*WORDS)
    with RunDirectory.open(tmp_path, found.relative_directory, found.plain):
        start = time.monotonic()
        assert in_a_child(lambda: run(tmp_path, WORDS)) == train.EXIT_CONFIGURATION
        assert time.monotonic() - start < 1.0
    assert run(tmp_path, WORDS) == train.EXIT_DONE


@pytest.mark.parametrize("same", [True, False])
def test_f10_fifty_runs_started_together(same, tmp_path):
    """Deviation: runs are named by their settings, so fifty equal ones want one directory."""
    gate, open_gate = os.pipe()
    answers, answer = os.pipe()
    end, keep_open = os.pipe()
    children = []
    for number in range(50):
        child = os.fork()
        if child == 0:
            code = b"?"
            try:
                os.close(open_gate)
                os.close(keep_open)
                os.read(gate, 1)  # until the parent closes its end
                seed = 0 if same else number
                with RunDirectory.open(tmp_path, f"g/e/a/seed_{seed}", {"seed": seed}):
                    os.write(answer, b"+")
                    os.read(end, 1)
                code = b""
            except RunLocked:
                code = b"-"
            finally:
                os.write(answer, code)
                os._exit(0)
        children.append(child)
    os.close(answer)
    os.close(open_gate)
    seen = b""
    while len(seen) < 50:
        seen += os.read(answers, 50)
    os.close(keep_open)
    for child in children:
        os.waitpid(child, 0)
    for descriptor in (gate, answers, end):
        os.close(descriptor)
    assert sorted(seen) == sorted(b"+" + b"-" * 49 if same else b"+" * 50)
    assert len(list(tmp_path.glob("g/e/a/seed_*"))) == (1 if same else 50)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(("packages", "mujoco"), id="f12-package"),
        pytest.param(("cpu", "model"), id="f13-processor", marks=pytest.mark.slow),
        pytest.param(("num_threads",), id="f13-threads", marks=pytest.mark.slow),
        pytest.param(("cuda_device",), id="f22-device", marks=pytest.mark.slow),
    ],
)
def test_f12_f13_f22_another_machine_withdraws_the_claim(place, undisturbed, tmp_path, capsys):
    kill_at(tmp_path, WORDS, 300)
    assert newest(tmp_path).manifest["metadata"]["bit_exact"] is True
    path = run_dir(tmp_path) / "environment.json"
    stored = json.loads(path.read_text())
    entry = stored
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = "another one"
    path.write_text(json.dumps(stored))
    kill_at(tmp_path, WORDS, 900)
    assert newest(tmp_path).manifest["metadata"]["bit_exact"] is False
    assert run(tmp_path, WORDS) == train.EXIT_DONE
    assert f"not as at the start, results may differ in bits: {'.'.join(place)}" in (
        capsys.readouterr().err
    )
    assert newest(tmp_path).manifest["metadata"]["bit_exact"] is False
    assert len(list(path.parent.glob("environment-*.json"))) >= 1
    assert ending(tmp_path) == ending(undisturbed)  # it was the same machine after all
