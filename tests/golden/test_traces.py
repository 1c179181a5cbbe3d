"""Golden traces: what the first row of short runs said once; no refactor or fast path moves it.

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
PPO = ["experiment=slippery_ant_smoke", "total_steps=1024"]
SAC = [  # few steps of the first row follow a gradient step, so no last bit has time to grow
    "experiment=slippery_ant_sac_smoke",
    "total_steps=2048",
    "agent.warmup_steps=960",
]
CASES = {
    "ppo": [*PPO, "arm=standard"],
    "ppo_continual_backprop": [
        *PPO,
        "method.continual_backprop.maturity_threshold=3",
        "method.continual_backprop.replacement_rate=0.05",
    ],
    "ppo_layer_norm_redo": [*PPO, "arm=redo", "network=layer_norm", "method.redo.period=16"],
    "sac": [*SAC, "method=[]"],
    "sac_continual_backprop": SAC,
}
# Sums in another order, by another library or CPU, differ in the last bits and drift apart slowly;
# a wrong formula is off by far more within these few gradient steps.
TOLERANCE = 2e-3


def trace(words, root):
    """Selected numbers of the first row that a run logs.

    Later rows would compare the simulator, in which a last bit of an action grows within an
    episode, instead of the learner.
    """
    code = train.main([*words, *QUIET, "log.log_every_iterations=1", f"runs_root={root}"])
    assert code == 0
    (path,) = Path(root).glob("*/*/*/seed_*/progress.csv")
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["env_steps"] != "0"]
    return {name: float(value) for name, value in rows[0].items() if _kept(name) and value}


def _kept(name):
    return (
        name.startswith(("window/", "weights/"))
        or name.endswith("/replaced_total")
        or name
        in (
            "env_steps",
            "reward_per_step",
            "actor_loss",
            "critic_loss",
            "policy_loss",
            "value_loss",
            "q_mean",
            "temperature",
        )
    )


def golden():
    return json.loads(TRACES.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def check(row, known):
    missing = set(known) - set(row)
    assert not missing, f"no longer logged: {sorted(missing)}"
    for name, value in known.items():
        nearly = 1e-7 if name.startswith("weights/") else 1e-4  # some are that small themselves
        assert row[name] == pytest.approx(value, rel=TOLERANCE, abs=nearly), name


@pytest.mark.parametrize("name", CASES)
def test_a_short_run_logs_what_it_always_logged(name, tmp_path):
    check(trace(CASES[name], tmp_path), golden()[name])


@pytest.mark.parametrize("name", ["ppo", "ppo_continual_backprop"])
def test_the_plain_path_logs_the_same(name, tmp_path):
    check(trace([*CASES[name], "agent.fast_path=false"], tmp_path), golden()[name])


def test_a_trace_knows_another_learning_rate(tmp_path):
    row = trace([*CASES["ppo"], "optimizer.learning_rate=1.02e-4"], tmp_path)
    weights = {k: v for k, v in golden()["ppo"].items() if k.startswith("weights/")}
    with pytest.raises(AssertionError, match=r"^weights/"):
        check(row, weights)


def test_traces_of_recycling_recycle():
    for name in ("ppo_continual_backprop", "sac_continual_backprop"):
        replaced = [v for k, v in golden()[name].items() if k.endswith("/replaced_total")]
        assert sum(replaced) > 0, name


if __name__ == "__main__":
    CheckpointStore.reserved_bytes = 0
    traces = {}
    for case, case_words in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            traces[case] = trace(case_words, folder)
    TRACES.write_text(json.dumps(traces, indent=1) + "\n", encoding="utf-8")
