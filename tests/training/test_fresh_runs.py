"""`fresh=true` begins anew once: attempts at the same member of a sweep go on."""

import os
import signal

import pytest

import train
from analysis.checkpoint import CheckpointStore
from configs.sweep import run_member

WORDS = [
    *("experiment=slippery_ant_smoke", "total_steps=1024", "env.switch_interval=512"),
    *(
        "method=[]",
        "agent.num_epochs=1",
        "log.diagnostics=false",
        "log.figures=false",
        "log.tensorboard=false",
    ),
    *("progress=false", "fresh=true"),
]


@pytest.fixture
def stopping(monkeypatch):
    """The first run gets a signal in the middle."""
    step, sent = train.Progress.step, []

    def signalling(self, done):
        step(self, done)
        if done >= 700 and not sent:
            sent.append(done)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train.Progress, "step", signalling)


def folders(root):
    return sorted(path.parent.name for path in root.glob("*/*/*/*/config.yaml"))


def test_an_attempt_of_the_same_sweep_goes_on(stopping, tmp_path, capsys):
    words = [*WORDS, f"runs_root={tmp_path}"]
    assert run_member(words, "the sweep", "one")["code"] == train.EXIT_SIGNAL
    assert "the same command without fresh=true goes on" in capsys.readouterr().out
    row = run_member(words, "the sweep", "one")
    assert (row["code"], row["env_steps"]) == (train.EXIT_DONE, 1024)
    assert "continuing" in capsys.readouterr().out
    assert run_member(words, "the sweep", "one")["code"] == train.EXIT_DONE
    assert "nothing to do" in capsys.readouterr().out
    assert folders(tmp_path) == ["seed_0"]
    assert run_member(words, "the sweep", "another")["code"] == train.EXIT_DONE
    assert folders(tmp_path) == ["seed_0", "seed_0.old-1"]


def test_a_stopped_run_goes_on_without_the_word_as_it_says(stopping, tmp_path, capsys):
    words = [*WORDS, f"runs_root={tmp_path}"]
    assert train.main(words) == train.EXIT_SIGNAL
    assert "the same command without fresh=true goes on" in capsys.readouterr().out
    assert train.main([word for word in words if word != "fresh=true"]) == train.EXIT_DONE
    assert "continuing" in capsys.readouterr().out
    assert folders(tmp_path) == ["seed_0"]
