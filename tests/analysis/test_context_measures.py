"""What diagnostics say about networks whose contexts use known units."""

import csv
import math
import types

import pytest
import torch
import yaml

from agents.parts import NETWORKS
from analysis import context_data, context_measures, measure
from analysis.context_data import ContextData, measure_layers
from analysis.context_figures import draw, draw_contexts_if_any, unit_order
from analysis.restored import fixed_worlds
from analysis.run_files import NotARun
from configs.compose import compose_run
from configs.run import can_be_measured
from configs.schema import to_plain
from envs.probe import probe_values
from networks import dendritic, k_winners, mlp, xdg
from networks.heads import GaussianPolicy
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")

TASKS, UNITS = 4, 16
SPEC = ContextSpec(TASKS, discrete=True)
LAYER = "window/policy/layers.0"


def policy(module, spec=SPEC, inputs=3, **settings):
    config = module.Config(**{"hidden_sizes": [UNITS], **settings})
    torso = module.build(config, inputs, spec, Streams(0))
    return GaussianPolicy(torso, 2, Initializer(), Streams(0))


def data(count=80):
    ids = torch.arange(count) % TASKS
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), one_hot(ids), ids


def one_hot(ids):
    return torch.nn.functional.one_hot(ids, TASKS).float()


@torch.no_grad()
def disjoint():
    """Context c lets units 4 c to 4 c + 3 pass, all of them positive on every sample."""
    network = policy(xdg, active_fraction=0.25)
    layer = network.torso.layers[0]
    layer.passes[:TASKS] = torch.eye(TASKS).repeat_interleave(4, dim=1).bool()
    layer.linear.bias.fill_(100.0)
    return network


def measured(network, x, context):
    groups, reasons = network.unit_groups(), {}
    features = measure.unit_features(network, x, context, groups)
    row = context_measures.measure("window", "policy", network, groups, features, context, reasons)
    return row, reasons


def test_disjoint_sub_networks():
    x, context, _ = data()
    row, reasons = measured(disjoint(), x, context)
    assert not reasons
    assert row[f"{LAYER}/overlap_across_contexts"] == 0.0
    assert row[f"{LAYER}/overlap_within_contexts"] == pytest.approx(4.0)  # the same 4 of 16
    for context_id in range(TASKS):
        assert row[f"{LAYER}/active_fraction_context_{context_id}"] == 0.25
        assert row[f"{LAYER}/dormant_fraction_context_{context_id}"] == 0.75
        assert 1 <= row[f"{LAYER}/stable_rank_context_{context_id}"] <= 4
    assert row[f"{LAYER}/dormant_fraction_per_context"] == 0.75


def test_a_pooled_rank_adds_up_what_contexts_have_each():
    """Blocks: the rank over all contexts is the sum of theirs, so it is asked for apart."""
    network, (x, context, _) = disjoint(), data()
    with torch.no_grad():
        network.torso.layers[0].linear.weight.zero_()
    row, _ = measured(network, x, context)
    features = measure.unit_features(network, x, context, network.unit_groups())
    ranks = measure.measure_ranks("window", "policy", network.unit_groups(), features, {})
    assert row[f"{LAYER}/stable_rank_per_context"] == 1.0
    assert ranks[f"{LAYER}/stable_rank"] == TASKS


def test_competing_units_are_dormant_only_if_silent_in_every_context():
    """Acceptance 30. A winner of one rare context is silent on 99 % of all samples."""
    network = policy(k_winners, active_fraction=1 / UNITS, context_to_input=True)
    linear = network.torso.layers[0].linear
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(1.0 - torch.arange(float(UNITS)))  # unit 0 wins ...
        linear.weight[5, 3 + 2] = 100.0  # ... except in context 2
    ids = torch.zeros(1000, dtype=torch.int64)
    ids[:10] = 2
    x, context = torch.zeros(1000, 3), one_hot(ids)
    groups = network.unit_groups()
    features = measure.unit_features(network, x, context, groups)

    def dormant(found):
        row = measure.measure_activity("window", "policy", groups, features, {}, found)
        return row[f"{LAYER}/dormant_fraction"]

    assert dormant(None) == 15 / 16
    assert dormant(context_measures.context_ids(network, context)) == 14 / 16


def test_negative_winners_and_duty_cycles():
    network = policy(k_winners, active_fraction=0.25)
    winners = network.torso.layers[0].activation
    x, context, _ = data()
    with torch.no_grad():
        network.torso.layers[0].linear.bias.fill_(-100.0)
    row, _ = measured(network, x, context)
    assert row[f"{LAYER}/negative_winner_fraction"] == 1.0
    assert row[f"{LAYER}/duty_entropy"] == pytest.approx(1.0)
    winners.duty.copy_(torch.eye(4).repeat(1, 4)[0])  # the same four win always
    assert measured(network, x, context)[0][f"{LAYER}/duty_entropy"] == 0.0


@pytest.mark.parametrize("spec", [SPEC, ContextSpec(3, False, ContextSpec(TASKS, True))])
def test_segments_and_gates_of_known_contexts(spec):
    """Frequent contexts count no more than rare ones, and gates are asked what they are shown."""
    network = policy(dendritic, spec, num_segments=TASKS, active_fraction=1.0)
    layer = network.torso.layers[0]
    with torch.no_grad():
        layer.segments.copy_(9.0 * torch.eye(TASKS).expand(UNITS, TASKS, TASKS))
    x, context, ids = data()
    context = one_hot(torch.where(ids == 3, 3, 0)) if spec is SPEC else context
    context = torch.cat((context, one_hot(torch.tensor([1, 2])))) if spec is SPEC else context
    x = torch.cat((x, x[:2])) if spec is SPEC else x
    if spec is not SPEC:
        context = torch.cat((torch.randn(len(x), 3), context), dim=1)
    row, _ = measured(network, x, context)
    assert row[f"{LAYER}/segment_entropy"] == pytest.approx(math.log(TASKS))
    assert row[f"{LAYER}/never_winning_segments"] == 0.0
    assert row[f"{LAYER}/gate_saturation"] == 1.0  # sigmoid(9)
    if spec is SPEC:
        assert row[f"{LAYER}/segment_overlap"] == pytest.approx(0.0)
    with torch.no_grad():
        layer.segments.copy_(torch.ones(UNITS, TASKS, TASKS))
        layer.segments[:, 1] = 2.0
    row, _ = measured(network, x, context)
    assert row[f"{LAYER}/segment_entropy"] == 0.0
    assert row[f"{LAYER}/never_winning_segments"] == 0.75
    assert row[f"{LAYER}/gate_saturation"] == 0.0


@pytest.mark.parametrize("mode", ["absmax", "absmax_unsigned", "max", "bias"])
def test_segments_that_win_are_those_that_gates_follow(mode):
    """From the gate itself: only the segment that decides gets a gradient."""
    network = policy(dendritic, num_segments=3, gate_mode=mode, active_fraction=1.0)
    layer = network.torso.layers[0]
    x, context, ids = data()
    gates = [layer.modulation(row[None]).sum() for row in torch.eye(TASKS)]
    slopes = torch.stack([torch.autograd.grad(gate, layer.segments)[0] for gate in gates])
    wins = (slopes != 0).any(-1).double()
    assert (wins.sum(2) == 1).all()
    row, _ = measured(network, x, context)
    shares = wins.mean(0)
    entropy = -torch.xlogy(shares, shares).sum(1).mean()
    assert row[f"{LAYER}/segment_entropy"] == pytest.approx(float(entropy))
    never = float((shares == 0).double().mean())
    assert row[f"{LAYER}/never_winning_segments"] == pytest.approx(never)
    (found,) = measure_layers("policy", network, x, context, ids, TASKS)
    assert found.segments is not None
    assert found.segments.wins == pytest.approx(wins.mean(1).numpy())


def test_segments_that_see_zeros_are_measured_with_zeros():
    network = policy(
        dendritic,
        num_segments=3,
        segment_context="zero",
        active_fraction=1.0,
        context_to_input=True,
    )
    x, context, ids = data()
    row, _ = measured(network, x, context)
    assert row[f"{LAYER}/segment_entropy"] == 0.0
    assert row[f"{LAYER}/gate_saturation"] == 0.0
    assert math.isnan(row[f"{LAYER}/segment_overlap"])
    (found,) = measure_layers("policy", network, x, context, ids, TASKS)
    assert found.segments is not None
    assert (found.segments.gates == 0.5).all()
    assert not found.segments.activation.any()


def config_only(folder, *words):
    """A run directory with nothing but its configuration."""
    config = compose_run(["env=slippery_ant", "total_steps=1000", *words]).config
    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
    return config


def test_numbers_of_worlds_are_no_contexts_to_measure(tmp_path, capsys):
    config = config_only(tmp_path, "context=regime", "network=dendritic")
    assert context_data.context_data(tmp_path) is None
    assert draw_contexts_if_any(tmp_path) == []
    assert not capsys.readouterr().err
    assert not can_be_measured(config)
    with pytest.raises(NotARun, match="none of these worlds"):
        fixed_worlds(config, 1)
    assert can_be_measured(config_only(tmp_path, "context=friction"))


def test_numbered_joints_of_the_robot_name_the_contexts(tmp_path, monkeypatch):
    config_only(tmp_path, "env.modifier=joint_paralysis", "context=oracle", "context.source=auto")
    info = types.SimpleNamespace(action_dim=8)
    restored = types.SimpleNamespace(
        agent=None, envs=types.SimpleNamespace(info=info), env_steps=0, close=lambda: None
    )
    monkeypatch.setattr(context_data, "restore", lambda *_: restored)
    monkeypatch.setattr(context_data, "_layers", lambda *_: ())
    data = context_data.context_data(tmp_path)
    assert data is not None
    expected = [f"{value:.2g}" for value in probe_values("joint_paralysis", 8)]
    assert list(data.labels) == expected
    assert len(set(expected)) > 1


KINDS = [k for k in NETWORKS.names() if k not in ("linear", "convolutional", "resnet")]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_what_is_measured(kind):
    module = NETWORKS.get(kind)
    small = {"width": 8, "num_blocks": 2} if kind == "simba" else {"hidden_sizes": [UNITS, 12]}
    torso = module.build(module.Config(**small), 3, SPEC, Streams(0))
    network = GaussianPolicy(torso, 2, Initializer(), Streams(0))
    x, context, _ = data()
    row, reasons = measured(network, x, context)
    declared = context_measures.columns("window", "policy", network, network.unit_groups())
    assert set(row) == set(declared)
    assert len(declared) == len(set(declared)) > 0
    assert not reasons


def test_what_is_not_finite_is_nan_with_a_reason():
    network, (x, context, _) = disjoint(), data()
    groups, reasons = network.unit_groups(), {}
    features = measure.unit_features(network, x, context, groups)
    features[groups[0].name][0] = math.nan
    row = context_measures.measure("window", "policy", network, groups, features, context, reasons)
    unknown = f"{LAYER}/stable_rank_per_context"
    assert math.isnan(row[unknown])
    assert unknown in reasons


def test_nothing_is_measured_without_contexts():
    for spec, context in ((ContextSpec(), None), (ContextSpec(1, True), torch.ones(80, 1))):
        network = policy(mlp, spec)
        x, _, _ = data()
        assert measured(network, x, context) == ({}, {})
        assert not context_measures.columns("window", "policy", network, network.unit_groups())


def test_a_context_that_is_not_there_is_nan_with_a_reason():
    network, (x, context, ids) = disjoint(), data()
    row, reasons = measured(network, x[ids != 2], context[ids != 2])
    name = f"{LAYER}/stable_rank_context_2"
    assert math.isnan(row[name])
    assert name in reasons
    assert row[f"{LAYER}/dormant_fraction_per_context"] == 0.75
    shown_nothing, _ = measured(network, x, torch.zeros_like(context))
    assert math.isnan(shown_nothing[f"{LAYER}/stable_rank_per_context"])


def test_measuring_changes_nothing():
    network = policy(dendritic, num_segments=3)
    x, context, _ = data()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    measured(network, x, context)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# Figures -----------------------------------------------------------------------------------


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_figures_and_their_numbers(tmp_path):
    x, context, ids = data()
    gated = policy(dendritic, num_segments=TASKS, active_fraction=0.25)
    with torch.no_grad():
        gated.torso.layers[0].segments.copy_(9.0 * torch.eye(TASKS).expand(UNITS, TASKS, TASKS))
    layers = [
        *measure_layers("policy", disjoint(), x, context, ids, TASKS),
        *measure_layers("value", gated, x, context, ids, TASKS),
    ]
    labels = ("reach", "push", "pick", "door")
    written = draw(ContextData(labels, "task", 1_000, tuple(layers)), tmp_path / "figures")
    names = {path.name for path in written}
    assert names == {
        f"contexts_{name}.{kind}"
        for name in ("activity", "overlap", "segments", "duty")
        for kind in ("png", "svg", "csv")
    }
    folder = tmp_path / "figures"
    assert all((folder / name).stat().st_size > 100 for name in names)
    for row in rows_of(folder / "contexts_activity.csv"):
        if row["network"] == "policy":
            own = labels.index(row["context"]) == int(row["unit"]) // 4
            assert float(row["active_share"]) == float(own)
            assert (float(row["mean_value"]) > 0) == own
    for row in rows_of(folder / "contexts_overlap.csv"):
        if row["network"] == "policy":
            same = row["context"] == row["other"]
            assert float(row["overlap_to_chance"]) == (4.0 if same else 0.0)
            assert float(row["cosine_distance"]) == pytest.approx(0.0 if same else 1.0, abs=0.05)
    segments = rows_of(folder / "contexts_segments.csv")
    assert len(segments) == TASKS * TASKS
    for row in segments:
        decides = labels.index(row["context"]) == int(row["segment"])
        assert float(row["win_share"]) == float(decides)
        assert float(row["mean_activation"]) == (9.0 if decides else 0.0)
    duty = rows_of(folder / "contexts_duty.csv")
    assert [row["network"] for row in duty] == ["value"] * UNITS
    assert {float(row["if_all_won_alike"]) for row in duty} == {0.25}


def test_units_of_one_context_stand_together():
    activity = torch.eye(4).repeat(1, 5).numpy()  # unit i belongs to context i modulo 4
    order = unit_order(activity)
    assert (order % 4).tolist() == sorted((order % 4).tolist())
    assert sorted(order.tolist()) == list(range(20))
    assert len(unit_order(activity, 8)) == 8
    silent = torch.zeros(2, 3).numpy()
    silent[1, 0] = 1.0
    assert unit_order(silent)[0] == 0  # units that are never active come last
