"""Gradients, relative updates, distances and churn as a recorder sees them."""

import copy
import math

import numpy as np
import pytest
import torch
from random_worlds import random_step

from agents import ppo, sac
from agents.parts import Parts
from analysis.learning_measures import LearningMeasures, feature_norms
from analysis.measure import measure_weights, unit_features, weight_columns, weights_of
from analysis.network_measures import NetworkMeasures
from analysis.step_watch import WATCHED_STEPS
from configs.compose import compose_run
from configs.run import NETWORKS, LogConfig
from networks import dendritic, mlp
from networks.heads import GaussianPolicy
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.methods import redo
from plasticity.optimizers import adam
from plasticity.recycling import incoming_linears

NUM_ENVS, OBSERVATION, ACTION, NUM_TASKS = 4, 5, 2, 3
PPO = ppo.Config(rollout_length=32, num_epochs=2, minibatch_size=16)
SAC = sac.Config(
    batch_size=16,
    replay_size=512,
    warmup_steps=16,
    updates_per_env_step=0.5,
    steps_per_iteration=64,
)


def make(agent="ppo", network=None, methods=None, max_grad_norm=None, seed=0):
    module, config = {"ppo": (ppo, PPO), "sac": (sac, SAC)}[agent]
    config = copy.copy(config)
    object.__setattr__(config, "max_grad_norm", max_grad_norm)
    network = network or mlp.Config(hidden_sizes=[16, 16])
    has_context = isinstance(network, dendritic.Config)
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=NUM_ENVS,
        network=network,
        optimizer=adam.Config(learning_rate=1e-3),
        methods=methods or {},
        context=ContextSpec(NUM_TASKS, discrete=True) if has_context else ContextSpec(),
        seed=seed,
    )
    return module.build(config, parts)


def fill(agent, rng, context):
    """Interact until gradient steps are due."""
    while not agent.update_is_due:
        random_step(agent, rng, context, OBSERVATION)


def iterate(agent, measures, count=1, seed=0, context=None):
    """Run iterations, each of them measured; the last row."""
    rng, row = np.random.default_rng(seed), {}
    context = np.zeros((NUM_ENVS, 0), dtype=np.float32) if context is None else context
    for _ in range(count):
        iteration = agent.iteration + 1
        fill(agent, rng, context)
        measures.follow()
        measures.begin()
        while agent.iteration < iteration:
            fill(agent, rng, context)
            agent.update()
        row = measures.finish({})
    return row


def probe_inputs(agent):
    """Inputs of every network on 40 samples."""
    rng = np.random.default_rng(7)
    samples = rng.normal(size=(40, OBSERVATION)), rng.normal(size=(40, ACTION))
    return lambda name: agent.network_inputs(name, *samples, np.zeros((40, 0), dtype=np.float32))


class Spy:
    """Keeps what every gradient step saw, for formulas written out below."""

    def __init__(self, update, inner):
        self.update, self.inner, self.steps = update, inner, []
        update.observer = self

    def before_step(self):
        network = self.update.network
        self.gradients = {n: p.grad.clone() for n, p in network.named_parameters()}
        self.weights = {n: p.detach().clone() for n, p in network.named_parameters()}
        self.inner.before_step()

    def after_step(self):
        after = {n: p.detach().clone() for n, p in self.update.network.named_parameters()}
        self.steps.append((self.gradients, self.weights, after))
        self.inner.after_step()
        if self.update.observer is None and len(self.steps) < WATCHED_STEPS:
            raise AssertionError("stopped too early")


def test_a_layer_that_starts_at_zero_has_no_relative_update_and_says_why():
    agent = make()
    with torch.no_grad():
        agent.updates["policy"].network.torso.layers[1].linear.weight.zero_()
    measures = LearningMeasures(agent, None)
    rng, reasons = np.random.default_rng(0), {}
    fill(agent, rng, np.zeros((NUM_ENVS, 0), dtype=np.float32))
    measures.follow()
    measures.begin()
    agent.update()
    row = measures.finish(reasons)
    name = "weights/policy/layers.1/update_ratio"
    assert math.isnan(row[name])
    assert "weights were 0" in reasons[name]
    assert math.isfinite(row["weights/policy/layers.0/update_ratio"])


@pytest.mark.parametrize("preset", ["convolutional_digits", "resnet_digits"])
def test_units_of_image_networks_have_gradients(preset):
    config = compose_run(["env=class_increments", "agent=supervised", f"network={preset}"]).config
    torso = NETWORKS.get(config.network.kind).build(config.network, 64, ContextSpec(), Streams(0))
    network = GaussianPolicy(torso, 2, Initializer(), Streams(0))
    for group in network.unit_groups():
        rows = [linear.weight.shape[0] for linear in incoming_linears(group)]
        assert group.num_units in rows


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_gradients_and_updates_follow_their_formulas(agent):
    agent = make(agent)
    measures = LearningMeasures(agent, None)
    original = {name: watch.begin for name, watch in measures.watches.items()}
    spies = {}

    def begin(name):
        original[name]()
        spies[name] = Spy(agent.updates[name], measures.watches[name])

    for name, watch in measures.watches.items():
        watch.begin = lambda name=name: begin(name)
    row = iterate(agent, measures)
    assert spies.keys() == measures.watches.keys()
    for name, spy in spies.items():
        assert len(spy.steps) == WATCHED_STEPS
        norms = [
            math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients.values()))
            for gradients, _, _ in spy.steps
        ]
        assert row[f"gradients/{name}/all/grad_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
        key = "torso.layers.1.linear.weight"
        ratios = [
            ((after[key] - before[key]).norm() / before[key].norm()).item()
            for _, before, after in spy.steps
        ]
        found = row[f"weights/{name}/layers.1/update_ratio"]
        assert found == pytest.approx(np.mean(ratios), rel=1e-5)
        magnitude = sum(gradients[key].abs() for gradients, _, _ in spy.steps) / WATCHED_STEPS
        per_unit = magnitude.mean(1)
        share = (per_unit <= 0.01 * per_unit.mean()).double().mean().item()
        assert row[f"gradients/{name}/layers.1/grama_dormant"] == share
        weight = dict(agent.networks()[name].named_parameters())[key].detach()
        relative = magnitude.norm(dim=1) / weight.norm(dim=1)
        stagnant = (relative < 0.25 * relative.mean()).double().mean().item()
        assert row[f"gradients/{name}/layers.1/rua_stagnant"] == stagnant
        gradient = measures.watches[name].unit_gradients("layers.1")
        assert torch.allclose(gradient, per_unit, rtol=1e-5)


def test_nobody_watches_between_two_measurements():
    agent = make()
    measures = LearningMeasures(agent, None)
    iterate(agent, measures)
    assert all(update.observer is None for update in agent.updates.values())
    assert agent.updates["policy"].num_steps > WATCHED_STEPS


def test_distances_are_from_the_first_weights_and_weigh_all_weights_alike():
    agent = make()
    measures = LearningMeasures(agent, None)
    start = {n: copy.deepcopy(weights_of(network)) for n, network in agent.networks().items()}
    assert set(measures.distances().values()) == {0.0}
    row = iterate(agent, measures, count=2)
    for name, network in agent.networks().items():
        moved = {k: w - start[name][k] for k, w in weights_of(network).items()}
        for layer, difference in moved.items():
            expected = difference.double().pow(2).mean().sqrt().item()
            assert row[f"weights/{name}/{layer}/distance_from_init"] == pytest.approx(expected)
        every = torch.cat([d.flatten() for d in moved.values()]).double()
        expected = every.pow(2).mean().sqrt().item()
        assert row[f"weights/{name}/all/distance_from_init"] == pytest.approx(expected)


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_churn_is_the_change_over_one_iteration_on_fixed_samples(agent):
    agent = make(agent)
    inputs = probe_inputs(agent)
    measures = LearningMeasures(agent, inputs)
    iterate(agent, measures)
    before = {name: copy.deepcopy(network) for name, network in agent.networks().items()}
    row = iterate(agent, measures, seed=1)
    for name, network in agent.networks().items():
        with torch.no_grad():
            old, new = before[name](*inputs(name)), network(*inputs(name))
        if name in ("policy", "actor"):
            if isinstance(old, tuple):
                (old, old_std), (new, new_std) = old, new
            else:
                old_std, new_std = before[name].log_std.detach(), network.log_std.detach()
            p = torch.distributions.Normal(old.double(), old_std.double().exp())
            q = torch.distributions.Normal(new.double(), new_std.double().exp())
            kl = torch.distributions.kl_divergence(p, q).sum(1).mean().item()
            assert row[f"probe/{name}/all/policy_churn"] == pytest.approx(kl, rel=1e-6)
            mse = ((new - old).double() ** 2).mean().item()
            assert row[f"probe/{name}/all/policy_churn_mse"] == pytest.approx(mse, rel=1e-6)
            assert kl > 0
        else:
            churn = (new - old).double().abs().mean().item()
            assert row[f"probe/{name}/all/value_churn"] == pytest.approx(churn, rel=1e-6)


def test_clipping_is_reported_only_where_it_is_configured():
    plain = LearningMeasures(make(), None)
    assert not any("clip_share" in column for column in plain.columns())
    for limit, share in ((1e-6, 1.0), (1e6, 0.0)):
        agent = make(max_grad_norm=limit)
        measures = LearningMeasures(agent, None)
        row = iterate(agent, measures)
        assert row["gradients/value/all/clip_share"] == share
        assert row["gradients/value/all/grad_norm"] > 1e-3  # before clipping


def test_feature_norms_by_hand():
    agent = make()
    network = agent.networks()["policy"]
    groups = network.unit_groups()
    x = torch.randn(30, OBSERVATION, generator=torch.Generator().manual_seed(0))
    features = unit_features(network, x, None, groups)
    row = feature_norms("window", "policy", groups, features, {})
    hidden = torch.relu(network.torso.layers[0].linear(x))
    expected = hidden.double().pow(2).sum(1).sqrt().mean().item()
    assert row["window/policy/layers.0/feature_norm"] == pytest.approx(expected, rel=1e-6)
    assert list(row) == [
        "window/policy/layers.0/feature_norm",
        "window/policy/layers.1/feature_norm",
    ]


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_every_column_is_declared_and_filled(agent):
    agent = make(agent)
    measures = LearningMeasures(agent, probe_inputs(agent))
    columns = measures.columns()
    row = iterate(agent, measures)
    assert sorted(row) == sorted(columns)
    assert all(math.isfinite(value) for value in row.values())


def test_dendritic_layers_are_measured_on_their_live_weights():
    network = dendritic.Config(hidden_sizes=[16, 16], weight_density=0.5, active_fraction=0.5)
    agent = make(network=network)
    measures = LearningMeasures(agent, None)
    context = np.eye(NUM_TASKS, dtype=np.float32)[np.arange(NUM_ENVS) % NUM_TASKS]
    row = iterate(agent, measures, context=context)
    assert 0 <= row["gradients/policy/layers.0/grama_dormant"] <= 1
    watch, layer = measures.watches["policy"], agent.policy.unit_groups()[1].layer
    gradient, mask = watch.unit_gradients("layers.1"), layer.linear.mask
    held = watch._magnitudes["layers.1/0"] / WATCHED_STEPS
    assert (held[~mask] == 0).all()
    assert torch.allclose(gradient, held.sum(1) / mask.sum(1), rtol=1e-5)


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_watching_changes_nothing(agent):
    def trained(watched):
        one = make(agent, methods={"redo": redo.Config(period=4, dormancy_threshold=0.3)})
        measures = LearningMeasures(one, probe_inputs(one))
        if not watched:
            measures.begin = lambda: None
        iterate(one, measures, count=3)
        return one.state_dict()["updates"]

    left, right = trained(True), trained(False)
    for name in left:
        for key, tensor in left[name]["network"].items():
            assert torch.equal(tensor, right[name]["network"][key])


def test_an_iteration_under_way_is_continued_exactly():
    """SAC may be saved between two gradient steps of one iteration."""

    def begin(agent, measures, rng):
        context = np.zeros((NUM_ENVS, 0), dtype=np.float32)
        fill(agent, rng, context)
        measures.follow()
        measures.begin()
        for _ in range(3):
            agent.update()
            fill(agent, rng, context)

    def end(agent, measures, rng):
        context, iteration = np.zeros((NUM_ENVS, 0), dtype=np.float32), agent.iteration + 1
        while agent.iteration < iteration:
            fill(agent, rng, context)
            agent.update()
        return measures.finish({})

    first = make("sac")
    measures, rng = LearningMeasures(first, probe_inputs(first)), np.random.default_rng(0)
    begin(first, measures, rng)
    saved, state, draws = first.state_dict(), measures.state_dict(), copy.deepcopy(rng)
    assert 0 < state["watches"]["actor"]["count"] < WATCHED_STEPS
    row = end(first, measures, rng)
    second = make("sac", seed=1)
    second.load_state_dict(saved)
    again = LearningMeasures(second, probe_inputs(second))
    again.load_state_dict(state)
    assert end(second, again, draws) == row


class _Probe:
    observations = np.random.default_rng(1).normal(size=(300, OBSERVATION)).astype(np.float32)
    actions = np.random.default_rng(2).normal(size=(300, ACTION)).astype(np.float32)


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_a_whole_row_has_exactly_the_declared_columns(agent, tmp_path):
    agent = make(agent)
    measures = NetworkMeasures(tmp_path, agent, LogConfig(unit_histories=True), _Probe())
    context, rng = np.zeros((NUM_ENVS, 0), dtype=np.float32), np.random.default_rng(0)
    fill(agent, rng, context)
    measures.before_iteration(100, 1)
    while agent.iteration < 1:
        fill(agent, rng, context)
        agent.update()
    measures.after_iteration(128, row_is_due=True)
    assert measures.reasons == {}
    row = measures.take_row()
    assert sorted(row) == sorted(measures.columns())
    measures.at_end()
    last = measures.take_row()
    assert set(last) < set(row)
    assert not any(column.startswith(("window/", "gradients/")) for column in last)


def test_distances_do_not_count_weights_that_a_mask_leaves_out():
    network = dendritic.Config(hidden_sizes=[16, 16], weight_density=0.5, active_fraction=0.5)
    agent = make(network=network)
    measures = LearningMeasures(agent, None)
    kept = {}
    for layer, weight in weights_of(agent.policy).items():
        kept[layer] = weight != 0.0  # masked weights are stored as 0, no other one is
        weight[kept[layer]] += 0.5
    row = measures.distances()
    assert kept["layers.1"].double().mean().item() == 0.5
    for layer in kept:
        assert row[f"weights/policy/{layer}/distance_from_init"] == pytest.approx(0.5)
    assert row["weights/policy/all/distance_from_init"] == pytest.approx(0.5)


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_segments_have_a_magnitude_of_their_own(density):
    network = dendritic.Config(
        hidden_sizes=[16, 16], segment_density=density, num_segments=2, active_fraction=0.5
    )
    policy = make(network=network).policy
    before = measure_weights("policy", policy)
    segments = policy.torso.layers[1].segments.detach()
    segments[segments != 0.0] = -3.0
    row = measure_weights("policy", policy)
    changed = {column for column in row if row[column] != before[column]}
    assert changed == {"weights/policy/layers.1/segment_magnitude"}  # the last layer alone has some
    assert row["weights/policy/layers.1/segment_magnitude"] == pytest.approx(3.0)
    assert set(row) <= set(weight_columns("policy", policy))


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_weights_that_a_mask_leaves_out_are_not_averaged(density):
    network = dendritic.Config(hidden_sizes=[16, 16], weight_density=density, active_fraction=0.5)
    policy = make(network=network).policy
    row = measure_weights("policy", policy)
    total, count = 0.0, 0
    for layer, weight in weights_of(policy).items():
        kept = weight[weight != 0.0]  # masked weights are stored as 0, no other one is
        assert row[f"weights/policy/{layer}/weight_magnitude"] == pytest.approx(
            float(kept.abs().mean())
        )
        total, count = total + float(kept.abs().sum()), count + kept.numel()
    assert row["weights/policy/all/weight_magnitude"] == pytest.approx(total / count)


def test_dormancy_by_gradient_is_that_of_the_watched_steps_also_after_a_continuation(tmp_path):
    network = mlp.Config(hidden_sizes=[16, 16], activation="leaky_relu")
    choices, context = LogConfig(), np.zeros((NUM_ENVS, 0), dtype=np.float32)

    def row_of(agent, measures, rng, iteration):
        fill(agent, rng, context)
        measures.before_iteration(100 * iteration, iteration)
        while agent.iteration < iteration:
            fill(agent, rng, context)
            agent.update()
        measures.after_iteration(100 * iteration, row_is_due=True)
        return measures.take_row()

    first, rng = make(network=network), np.random.default_rng(0)
    measures = NetworkMeasures(tmp_path, first, choices, _Probe())
    row = row_of(first, measures, rng, 1)
    assert measures.reasons == {}  # the first row has gradients, too
    parts = [f"policy/layers.{index}" for index in range(2)]
    for sample_set in ("window", "probe"):
        for part in parts:
            found = row[f"{sample_set}/{part}/dormant_fraction"]
            assert found == row[f"gradients/{part}/grama_dormant"]
        total = row[f"{sample_set}/policy/all/dormant_fraction"]
        assert total == pytest.approx(np.mean([row[f"gradients/{p}/grama_dormant"] for p in parts]))
    saved, state, draws = first.state_dict(), measures.state_dict(), copy.deepcopy(rng)
    expected = row_of(first, measures, rng, 2)
    second = make(network=network, seed=1)
    second.load_state_dict(saved)
    again = NetworkMeasures(tmp_path, second, choices, _Probe())
    again.load_state_dict(state)
    assert row_of(second, again, draws, 2) == expected
    for each in (measures, again):
        each.at_end()
    assert (last := measures.take_row()) == again.take_row()
    assert not math.isnan(last["probe/policy/all/dormant_fraction"])
