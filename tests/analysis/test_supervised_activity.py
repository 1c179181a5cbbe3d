"""The figure of hidden activations per task: against numbers made by hand and by a plain loop."""

import csv
import json

import numpy as np
import pytest
import torch
from words import named_once

import evaluate
import train
from analysis import supervised_results
from analysis.checkpoint import CheckpointStore
from analysis.context_data import context_data
from analysis.restored import restore_on_stream
from analysis.run_files import NotARun
from analysis.supervised_activity import numbers, shared_activity

TASKS, UNITS = 3, 40
WORDS = [
    "experiment=permuted_digits",
    f"env.num_tasks={TASKS}",
    "env.num_epochs=1",
    "env.num_envs=96",
    f"total_steps={TASKS * (16 * 96 + 4 * 96)}",
    f"network.hidden_sizes=[{UNITS},{UNITS}]",
    "log.diagnostics=false",
    "progress=false",
    "num_threads=1",
]


SHORT = [f"total_steps={2 * (16 * 96 + 4 * 96)}"]


def make_run(root, arm, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "reserved_bytes", 0)
        words = [*WORDS, f"arm={arm}", f"runs_root={root}", *words]
        assert train.main(named_once(words)) == train.EXIT_DONE


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root, "permuted_mlp")
    make_run(root, "permuted_dendrites", "network.active_fraction=0.25")
    return root


def run_of(root, network):
    (config,) = root.glob(f"**/supervised-{network}-*/seed_0/config.yaml")
    return config.parent


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_shared_activity_is_a_jaccard_index_of_sets_and_counts_how_often():
    sets = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert shared_activity(sets) == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert shared_activity(np.full((4, 5), 0.3)) == pytest.approx(1.0)
    assert shared_activity(np.array([[0.5, 0.1], [0.25, 0.3]])) == pytest.approx(0.35 / 0.8)


def test_map_and_overlaps_equal_a_plain_loop_over_examined_images(root):
    """Competing units of the first layer, from its own formula, with inferred prototypes."""
    run = run_of(root, "permuted_dendrites")
    data = context_data(run)
    assert data is not None
    assert (data.labels, data.kind) == (("0", "1", "2"), "task")
    restored = restore_on_stream(run)
    layer, tasks = restored.agent.networks()["predictor"].torso.layers[0], restored.envs.problem
    active = []
    for task in range(TASKS):
        inputs, told = tasks.examination(task, TASKS)
        brute = ((inputs[:, None] - tasks.tasks.prototypes[None]) ** 2).sum(-1).argmin(1)
        assert np.array_equal(told, tasks.tasks.prototypes[brute])
        with torch.no_grad():
            x, c = torch.from_numpy(inputs).double(), torch.from_numpy(told).double()
            drive = x @ layer.linear.weight.double().T + layer.linear.bias.double()
            each = torch.einsum("ujc,bc->buj", layer.segments.double(), c)
            strongest = each.gather(2, each.abs().argmax(2, keepdim=True))[..., 0]
            gated = drive * torch.sigmoid(strongest)
        won = torch.zeros_like(gated).scatter_(1, gated.topk(UNITS // 4).indices, 1.0)
        active.append(won.numpy())
    shares = np.array([rows.mean(0) for rows in active])
    np.testing.assert_allclose(data.layers[0].activity, shares, atol=3e-3)  # ties of rounding
    found = numbers(data.layers[0])
    assert found["active"] == pytest.approx(0.25)
    assert found["used"] == pytest.approx((shares.max(0) > 0.01).mean())
    assert found["shared"] == pytest.approx(shared_activity(shares), abs=2e-3)
    across = np.mean([(a * b).mean() for a in active[0] for b in active[1]]) / 0.25**2
    assert data.layers[0].overlap[0, 1] == pytest.approx(across, abs=1e-2)
    restored.close()


def test_command_writes_table_maps_and_figure(root, tmp_path, capsys):
    assert supervised_results.main(["activity", str(root), "--out", str(tmp_path)]) == 0
    assert "permuted_dendrites | layers.1 | 1 |" in capsys.readouterr().out
    for name in ("activity.png", "activity.svg"):
        assert (tmp_path / name).stat().st_size > 5_000
    overlap = {(row["network"], row["layer"]): row for row in rows_of(tmp_path / "overlap.csv")}
    assert set(overlap) == {
        (network, f"layers.{depth}")
        for network in ("permuted_mlp", "permuted_dendrites")
        for depth in (0, 1)
    }
    assert float(overlap["permuted_dendrites", "layers.1"]["active"]) == 0.25
    maps = rows_of(tmp_path / "activity.csv")
    assert len(maps) == 2 * 2 * TASKS
    for row in maps:
        if row["network"] == "permuted_dendrites":
            shares = [float(row[f"unit_{unit}"]) for unit in range(UNITS)]
            assert sum(shares) == pytest.approx(UNITS / 4, abs=0.02)


@pytest.mark.parametrize(("control", "shown"), [("zero", "same"), ("constant", "source")])
@pytest.mark.filterwarnings("ignore:network.active_fraction")
def test_figures_show_what_a_control_of_contexts_shows(control, shown, tmp_path):
    words = [f"context={control}", f"context.input={shown}", "env.num_tasks=2", *SHORT]
    make_run(tmp_path, "permuted_dendrites", *words, "network.hidden_sizes=[20,20]")
    data = context_data(run_of(tmp_path, "permuted_dendrites"))
    assert data is not None
    for layer in data.layers:
        assert layer.segments is not None
        found = layer.segments.gates
        if control == "zero":
            assert (found == 0.5).all()
        else:  # learnt, and the same for every task
            assert np.ptp(found, axis=0).max() < 1e-6
            assert np.ptp(found) > 0.01


def test_contexts_of_another_width_are_refused(root):
    restored = restore_on_stream(run_of(root, "permuted_dendrites"))
    images, agent = np.zeros((2, 64), dtype=np.float32), restored.agent
    _, nobody = agent.network_inputs("predictor", images, images, np.zeros((2, 0)))
    assert nobody is not None
    assert nobody.shape == (2, 64)
    with pytest.raises(ValueError, match=r"contexts have 10 entries, .* learned from 64"):
        agent.network_inputs("predictor", images, images, np.zeros((2, 10)))
    restored.close()


def test_evaluate_draws_the_same_for_one_run(root, capsys):
    run = run_of(root, "permuted_mlp")
    assert evaluate.main(["figures", str(run)]) == evaluate.EXIT_DONE
    assert "contexts_activity.png" in capsys.readouterr().out
    rows = rows_of(run / "figures" / "contexts_activity.csv")
    assert {row["layer"] for row in rows} == {"layers.0", "layers.1"}
    assert {row["context"] for row in rows} == {"0", "1", "2"}


def test_runs_that_have_no_such_figure(root, tmp_path, capsys):
    other = tmp_path / "group" / "env" / "supervised-mlp-x" / "seed_0"
    other.mkdir(parents=True)
    settings = {"agent": {"kind": "ppo"}, "env": {"kind": "locomotion"}, "network": {}}
    (other / "config.yaml").write_text(json.dumps(settings | {"method": {}}))
    (other / "done.json").write_text("{}")
    assert supervised_results.main(["activity", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "number of tasks" in capsys.readouterr().err
    with pytest.raises(NotARun):
        restore_on_stream(tmp_path / "nowhere")
