"""Runs whose networks are told about the world: exact resume, evaluation, figures."""

import csv
import json
import shutil

import pytest

import evaluate
import train
from analysis.checkpoint import CheckpointStore

WORDS = [
    "experiment=slippery_ant_smoke",
    "arm=shuffled_context",
    "network=dendrites",
    "network.hidden_sizes=[32,32]",
    "optimizer=adam",
    "method=[]",
    "num_threads=1",
    "progress=false",
    "total_steps=2048",
    "env.switch_interval=1024",
    "env.max_episode_steps=60",
    "log.log_every_iterations=1",
    "log.ranks_every_iterations=1",
    "log.all_ranks_every_iterations=2",
    "log.figures=false",
    "log.tensorboard=false",
]


@pytest.fixture(autouse=True, scope="module")
def _no_reserve():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "reserved_bytes", 0)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    assert train.main([*WORDS, f"runs_root={root}"]) == train.EXIT_DONE
    (config,) = root.glob("**/config.yaml")
    return config.parent


def final(run):
    loaded = CheckpointStore(run / "checkpoints").load_latest()
    files = [(run / name).read_bytes() for name in ("progress.csv", "events.jsonl")]
    return loaded.env_steps, loaded.manifest["state_hash"], files


def test_17_a_run_goes_on_from_a_switch_in_the_same_bits(trained, tmp_path):
    """Acceptance 17, with the state of a shuffled context."""
    root = tmp_path / "runs"
    run = root / trained.relative_to(trained.parents[3])
    shutil.copytree(trained, run)
    (run / "done.json").unlink()
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > 1024:
            shutil.rmtree(path)
    assert CheckpointStore(run / "checkpoints").load_latest().env_steps == 1024
    assert train.main([*WORDS, f"runs_root={root}"]) == train.EXIT_DONE
    assert final(run) == final(trained)


def test_what_is_recorded(trained):
    with (trained / "progress.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    last = rows[-1]
    for network in ("policy", "value"):
        for sample_set in ("window", "probe"):
            layer = f"{sample_set}/{network}/layers.1"
            assert 0.0 <= float(last[f"{layer}/duty_entropy"]) <= 1.0
            assert 0.0 <= float(last[f"{layer}/segment_entropy"]) <= 1.3863
            assert 0.0 <= float(last[f"{layer}/gate_saturation"]) <= 1.0
        assert f"window/{network}/layers.0/segment_entropy" not in last
    events = [json.loads(line) for line in (trained / "events.jsonl").read_text().splitlines()]
    assert not any(event["event"] == "metric_failed" for event in events)


def test_it_can_be_evaluated_at_any_friction(trained, capsys):
    words = ["--episodes", "1", "--frictions", "0.1"]
    assert evaluate.main(["run", str(trained), *words]) == evaluate.EXIT_DONE
    assert "0.1" in capsys.readouterr().out


def test_figures_of_a_checkpoint(trained, capsys):
    assert evaluate.main(["figures", str(trained)]) == evaluate.EXIT_DONE
    out = capsys.readouterr().out
    for name in ("activity", "overlap", "segments", "duty"):
        assert f"contexts_{name}.png" in out
    with (trained / "figures" / "contexts_activity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["context"] for row in rows}) == 10  # frictions of the fixed sample set
    assert all(0.0 <= float(row["active_share"]) <= 1.0 for row in rows)
