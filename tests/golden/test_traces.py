"""Golden traces: what short runs logged once, which a refactor or a fast path must not move.

Rewrite them after a change that is meant to move them, and say so in the commit:

    python tests/golden/test_traces.py
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import pytest

if __name__ == "__main__":  # beside the rooms, not inside the tests
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from analysis.checkpoint import CheckpointStore

TRACES = Path(__file__).parent / "traces.json"
QUIET = ["log.figures=false", "log.tensorboard=false", "progress=false", "num_threads=1"]
PPO = ["experiment=slippery_ant_smoke", "total_steps=2048", "env.switch_interval=1024"]
SAC = ["experiment=slippery_ant_sac_smoke", "total_steps=2048", "env.switch_interval=1024"]
CASES = {
    "ppo": [*PPO, "arm=standard"],
    "ppo_continual_backprop": PPO,
    "ppo_layer_norm_redo": [*PPO, "arm=redo", "network=layer_norm", "method.redo.period=16"],
    "sac": [*SAC, "method=[]"],
    "sac_continual_backprop": SAC,
}
# Sums in another order, by another library or CPU, differ in the last bits and drift apart slowly;
# a wrong formula is off by far more within these few gradient steps.
TOLERANCE = 2e-3


def trace(words, root):
    """Selected numbers of every row that a run logs."""
    code = train.main([*words, *QUIET, "log.log_every_iterations=1", f"runs_root={root}"])
    assert code == 0
    (path,) = Path(root).glob("*/*/*/seed_*/progress.csv")
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if _kept(k) and v} for row in rows]


def _kept(name):
    return name.startswith(("window/", "weights/")) or name in (
        "env_steps",
        "reward_per_step",
        "actor_loss",
        "critic_loss",
        "policy_loss",
        "value_loss",
        "q_mean",
        "temperature",
    )


def golden():
    return json.loads(TRACES.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def check(rows, expected):
    assert len(rows) == len(expected)
    for row, known in zip(rows, expected, strict=True):
        missing = set(known) - set(row)
        assert not missing, f"no longer logged: {sorted(missing)}"
        for name, value in known.items():
            assert row[name] == pytest.approx(value, rel=TOLERANCE, abs=1e-4), (
                name,
                known["env_steps"],
            )


@pytest.mark.parametrize("name", CASES)
def test_a_short_run_logs_what_it_always_logged(name, tmp_path):
    check(trace(CASES[name], tmp_path), golden()[name])


@pytest.mark.parametrize("name", ["ppo", "ppo_continual_backprop", "sac"])
def test_the_plain_path_logs_the_same(name, tmp_path):
    check(trace([*CASES[name], "agent.fast_path=false"], tmp_path), golden()[name])


def test_a_trace_knows_another_learning_rate(tmp_path):
    rows = trace([*CASES["ppo"], "optimizer.learning_rate=3e-4"], tmp_path)
    with pytest.raises(AssertionError):
        check(rows, golden()["ppo"])


if __name__ == "__main__":
    CheckpointStore.reserved_bytes = 0
    traces = {}
    for case, case_words in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            traces[case] = trace(case_words, folder)
    TRACES.write_text(json.dumps(traces, indent=1) + "\n", encoding="utf-8")
