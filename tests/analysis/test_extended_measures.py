"""Measures on request against formulas of numpy; the page of diagnostics names every metric."""

import contextlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from random_worlds import random_step

from agents import ppo, sac
from agents.parts import Parts
from analysis import extended_measures
from analysis.extended_measures import ExtendedMeasures, tangent_kernel_rank
from analysis.measure import weights_of
from analysis.network_measures import NetworkMeasures
from configs.run import LogConfig
from networks import dendritic, mlp
from networks.torso import ContextSpec
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnostics.md"
NUM_ENVS, OBSERVATION, ACTION, NUM_TASKS = 4, 5, 2, 3


class _Probe:
    observations = np.random.default_rng(1).normal(size=(300, OBSERVATION)).astype(np.float32)
    actions = np.random.default_rng(2).normal(size=(300, ACTION)).astype(np.float32)


def make(module, config, network=None, methods=None, context=None):
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=NUM_ENVS,
        network=network or mlp.Config(hidden_sizes=[16, 16]),
        optimizer=adam.Config(learning_rate=1e-3),
        methods=methods or {},
        context=context or ContextSpec(),
        seed=0,
    )
    return module.build(config, parts)


def of_ppo(**kwargs):
    config = ppo.Config(rollout_length=32, num_epochs=2, minibatch_size=16, max_grad_norm=1.0)
    return make(ppo, config, **kwargs)


def of_sac(**kwargs):
    sizes = {"batch_size": 16, "replay_size": 512, "warmup_steps": 16, "steps_per_iteration": 64}
    return make(sac, sac.Config(updates_per_env_step=0.5, **sizes), **kwargs)


def inputs_of(agent):
    context = np.zeros((300, 0), dtype=np.float32)
    return lambda name: agent.network_inputs(name, _Probe.observations, _Probe.actions, context)


def test_weights_and_units_against_numpy():
    agent = of_ppo()
    networks = agent.networks()
    policy = networks["policy"]
    with torch.no_grad():  # two clones and a unit that is never active
        first = policy.unit_groups()[0].layer.linear
        first.weight[1], first.bias[1] = 2 * first.weight[0], 2 * first.bias[0]
        first.weight[2], first.bias[2] = 0.0, -1.0
    reasons = {}
    measures = ExtendedMeasures(inputs_of(agent))
    row = measures.measure(networks, reasons)
    assert set(row) == set(measures.columns(networks))
    assert reasons == {}
    weight = policy.unit_groups()[1].layer.linear.weight.detach().double().numpy()
    sigma = np.linalg.svd(weight, compute_uv=False)
    place = "weights/policy/layers.1"
    assert row[f"{place}/sigma_max"] == pytest.approx(sigma[0])
    assert row[f"{place}/condition"] == pytest.approx(sigma[0] / sigma[-1])
    assert row[f"{place}/weight_rms"] == pytest.approx(np.sqrt((weight**2).mean()))
    gram = weight.T @ weight - np.eye(16)
    assert row[f"{place}/orthogonality"] == pytest.approx((gram**2).sum())

    inputs = torch.from_numpy(_Probe.observations)
    features = torch.relu(first(inputs)).detach().double().numpy()
    alive = features[:, features.any(0)]
    cosines = np.abs(_cosines(alive))
    pairs = cosines[np.triu_indices(alive.shape[1], 1)]
    place = "probe/policy/layers.0"
    assert row[f"{place}/cloned_fraction"] == pytest.approx((pairs > 0.95).mean())
    assert row[f"{place}/cloned_fraction"] >= 1 / 105
    assert row[f"{place}/active_fraction_measured"] == pytest.approx((features > 0).mean())
    scores = features.mean(0) / features.mean()
    assert row[f"{place}/tau_dormant_fraction_0"] == pytest.approx((scores <= 0).mean())
    assert row[f"{place}/tau_dormant_fraction_0.1"] == pytest.approx((scores <= 0.1).mean())


def _cosines(columns):
    lengths = np.linalg.norm(columns, axis=0)
    return columns.T @ columns / np.outer(lengths, lengths)


def test_the_tangent_kernel_of_a_linear_network_is_that_of_its_inputs():
    """One output, gradients (x, 1): K = X X' + 1, whatever the weights."""

    class Linear(torch.nn.Linear):
        def forward(self, inputs, context=None):
            return super().forward(inputs)

    network, generator = Linear(3, 1), torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, generator=generator)
    found = tangent_kernel_rank(network, inputs, None)
    wide = np.concatenate([inputs.double().numpy(), np.ones((64, 1))], axis=1)
    eigenvalues = np.sort(np.linalg.eigvalsh(wide @ wide.T))[::-1][:4]
    shares = eigenvalues / eigenvalues.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert found.stable_rank == 4
    assert network.weight.grad is None


def test_a_singular_matrix_and_a_huge_network_have_a_reason(monkeypatch):
    agent = of_ppo()
    networks = {"policy": agent.networks()["policy"]}
    with torch.no_grad():
        networks["policy"].unit_groups()[0].layer.linear.weight.zero_()
        second = networks["policy"].unit_groups()[1].layer.linear.weight.zero_()
        second[0, 0] = 1.0
    monkeypatch.setattr(extended_measures, "MAX_PARAMETERS", 10)
    reasons = {}
    row = ExtendedMeasures(inputs_of(agent)).measure(networks, reasons)
    assert math.isnan(row["weights/policy/layers.0/condition"])
    assert math.isnan(row["weights/policy/layers.1/condition"])
    assert "singular" in reasons["weights/policy/layers.1/condition"]
    assert "measured up to 10" in reasons["probe/policy/all/entk_effective_rank"]
    assert math.isnan(row["probe/policy/all/entk_effective_rank"])


def test_weights_that_a_mask_leaves_out_are_not_averaged():
    network = dendritic.Config(hidden_sizes=[16, 16], weight_density=0.5)
    agent = of_ppo(network=network, context=ContextSpec(NUM_TASKS, discrete=True))
    policy = agent.networks()["policy"]
    weight = weights_of(policy)["layers.1"].double()
    live = weight[weight != 0]
    assert live.numel() == weight.numel() // 2
    row = ExtendedMeasures(None).measure({"policy": policy}, {})
    expected = float(live.square().mean().sqrt())
    assert row["weights/policy/layers.1/weight_rms"] == pytest.approx(expected)


def test_only_saturating_units_have_a_saturated_fraction():
    tanh = of_ppo(network=mlp.Config(hidden_sizes=[16, 16], activation="tanh"))
    columns = ExtendedMeasures(inputs_of(tanh)).columns(tanh.networks())
    assert "probe/policy/layers.0/saturated_fraction" in columns
    assert "probe/policy/layers.0/active_fraction_measured" not in columns
    relu = of_ppo()
    columns = ExtendedMeasures(inputs_of(relu)).columns(relu.networks())
    assert "probe/policy/layers.0/saturated_fraction" not in columns


@pytest.mark.parametrize("make_agent", [of_ppo, of_sac])
def test_measuring_changes_nothing(make_agent):
    agent = make_agent()
    rng, context = np.random.default_rng(0), np.zeros((NUM_ENVS, 0), dtype=np.float32)
    while not agent.update_is_due:
        random_step(agent, rng, context, OBSERVATION)
    before = {name: net.state_dict() for name, net in agent.networks().items()}
    before = {n: {k: v.clone() for k, v in state.items()} for n, state in before.items()}
    stream = torch.get_rng_state()
    ExtendedMeasures(inputs_of(agent)).measure(agent.networks(), {})
    assert torch.equal(torch.get_rng_state(), stream)
    for name, network in agent.networks().items():
        assert all(torch.equal(v, before[name][k]) for k, v in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_rows_hold_them_where_all_ranks_are_due(tmp_path):
    agent = of_ppo()
    log = LogConfig(
        extended=True,
        log_every_iterations=1,
        ranks_every_iterations=1,
        all_ranks_every_iterations=2,
    )
    measures = NetworkMeasures(tmp_path, agent, log, _Probe())
    column = "weights/policy/layers.0/sigma_max"
    assert column in measures.columns()
    held = []
    for iteration in (1, 2, 3):
        measures.before_iteration(iteration * 128, iteration)
        held.append(column in measures.take_row())
    assert held == [True, True, False]
    measures.at_end()
    assert column in measures.take_row()
    assert column not in NetworkMeasures(tmp_path, agent, LogConfig(), _Probe()).columns()


def all_columns(tmp_path):
    """Everything that networks of three kinds and their methods may log."""
    method = {"continual_backprop": continual_backprop.Config(maturity_threshold=2)}
    context = ContextSpec(NUM_TASKS, discrete=True)
    agents = [
        of_ppo(methods=method),
        of_sac(),
        of_ppo(network=mlp.Config(hidden_sizes=[16], activation="tanh")),
        of_ppo(network=dendritic.Config(hidden_sizes=[16, 16]), context=context),
    ]
    log = LogConfig(extended=True, trainability_steps=1_000)
    for agent in agents:
        yield from NetworkMeasures(tmp_path, agent, log, _Probe()).columns()
    for update in agents[0].updates.values():
        yield from update.methods["continual_backprop"].log_values()


def test_the_page_names_every_metric(tmp_path):
    pages = PAGE.read_text() + PAGE.with_name("dendrites.md").read_text()
    named = set(re.findall(r"`([a-z_0-9.<>]+)`", pages))
    metrics = {column.rsplit("/", 1)[-1] for column in all_columns(tmp_path)}
    metrics = {name.removeprefix("centred_") for name in metrics}
    metrics = {re.sub(r"_context_\d+$", "_context_<i>", name) for name in metrics}
    metrics = {re.sub(r"_q\d+$", "_q25", name) for name in metrics}
    metrics = {name for name in metrics if not name.endswith("_per_context")}
    missing = metrics - named - {"utility_q25"}
    assert len(metrics) > 40
    assert not missing


def test_the_code_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert len(printed.getvalue().split()) == 3
