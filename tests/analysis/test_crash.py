"""What is kept of runs that fail, also where there is no room for it."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from analysis.checkpoint import CheckpointStore
from analysis.crash import end_failed_run
from analysis.run_directory import RunDirectory

STATE: dict[str, Any] = {
    "updates": {"policy": {"weight": torch.tensor([math.nan, 1.0])}},
    "generators": {"explore": torch.arange(4, dtype=torch.uint8)},
    "replay": {"size": 100, "position": 0, "rows": torch.zeros(100, 50)},
}


@pytest.fixture
def directory(tmp_path):
    with RunDirectory.open(tmp_path, "run", {"seed": 0}) as opened:
        yield opened


def fail(directory):
    agent: Any = SimpleNamespace(state_dict=lambda: dict(STATE))
    end_failed_run(directory, agent, 12, "it broke", {"network": "policy"}, {"parameters": 2})


def test_weights_and_streams_are_kept_and_the_replay_is_not(directory, monkeypatch, capsys):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    fail(directory)
    loaded = CheckpointStore(directory.path / "crash").load_latest()
    assert loaded is not None
    assert set(loaded.state["agent"]) == {"updates", "generators"}
    assert math.isnan(loaded.state["agent"]["updates"]["policy"]["weight"][0])
    assert loaded.state["dump"] == {"network": "policy"}
    size = sum(file.stat().st_size for file in loaded.path.iterdir())
    assert size < STATE["replay"]["rows"].nbytes / 2
    done = json.loads((directory.path / "done.json").read_text())
    expected = {"env_steps": 12, "reason": "it broke", "crash": loaded.path.name, "parameters": 2}
    assert (done["status"], done["summary"]) == ("failed", expected)
    assert f"at step 12: it broke; see {loaded.path}" in capsys.readouterr().err


def test_a_full_disk_costs_the_dump_and_not_the_verdict(directory, monkeypatch, capsys):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 2**60)
    fail(directory)
    done = json.loads((directory.path / "done.json").read_text())
    expected = {"env_steps": 12, "reason": "it broke", "parameters": 2}
    assert (done["status"], done["summary"]) == ("failed", expected)
    assert CheckpointStore(directory.path / "crash").paths() == []
    assert "not saved" in capsys.readouterr().err
