"""Output that nobody can read: training goes on without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from configs.output import output_may_fail

REPOSITORY = Path(train.__file__).parent
SMOKE = [
    *("experiment=slippery_ant_smoke", "method=[]", "total_steps=1024", "env.switch_interval=512"),
    *("agent.num_epochs=1", "log.diagnostics=false", "log.figures=false", "log.tensorboard=false"),
    "log.plain_seconds=0.001",
]


def test_a_broken_pipe_silences_one_stream_and_leaves_the_other(capfd, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with output_may_fail():
            for _ in range(3):
                print("x" * 100_000, flush=True)
            print("still here", file=sys.stderr)
        assert sys.stdout is stdout
        print("what the interpreter writes at its end")  # lands nowhere and raises nothing
    assert capfd.readouterr().err == "still here\n"


def test_what_can_be_read_is_left_alone(capfd):
    with output_may_fail(), output_may_fail():
        print("to read")
        sys.stdout.writelines(["a", "b\n"])
        assert not sys.stdout.isatty()
    assert capfd.readouterr().out == "to read\nab\n"


def test_a_process_without_output_stays_without(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with output_may_fail():
        print("to nobody")
    assert sys.stdout is None


@pytest.mark.parametrize("words", [[], ["-m", "hydra/launcher=basic", "seed=0"]])
def test_a_run_whose_output_is_refused_finishes(words, tmp_path):
    command = [sys.executable, "train.py", *words, *SMOKE, f"runs_root={tmp_path}"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=full,
            stderr=full,
            timeout=300,
            check=False,
        )
    assert done.returncode == train.EXIT_DONE
    assert list(tmp_path.glob("*/*/*/seed_0/done.json"))


def test_a_skipped_checkpoint_that_cannot_be_told_stops_nothing(tmp_path, monkeypatch):
    from analysis.checkpoint import CheckpointStore, StorageFullError

    save, refused = CheckpointStore.save, []

    def refusing(self, *arguments, **options):
        if not refused:
            refused.append(True)
            raise StorageFullError("full", self.directory)
        return save(self, *arguments, **options)

    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(CheckpointStore, "save", refusing)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        words = [*SMOKE, "log.checkpoint_minutes=0", f"runs_root={tmp_path}"]
        assert train.main(words) == train.EXIT_DONE
        monkeypatch.undo()
    assert refused
