"""Modulation, context masks, residual blocks and heads per context."""

import pytest
import torch
from torch import nn

from networks import film, mlp, multi_head, simba, xdg
from networks.heads import GaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec

TASKS = ContextSpec(4, discrete=True)
SIZES = {"hidden_sizes": [24, 16]}


def data(batch=20, inputs=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 4, (batch,), generator=generator)
    return torch.randn(batch, inputs, generator=generator), ids, nn.functional.one_hot(ids, 4)


# Modulation --------------------------------------------------------------------------------


def test_modulation_starts_as_the_plain_perceptron():
    x, ids, _ = data()
    plain = mlp.build(mlp.Config(**SIZES), 5, ContextSpec(), Streams(0))
    torch.testing.assert_close(
        film.build(film.Config(**SIZES), 5, TASKS, Streams(0))(x, ids), plain(x), rtol=0, atol=0
    )


@pytest.mark.parametrize("layer_norm", [False, True])
def test_modulation_equals_its_formula(layer_norm):
    config = film.Config(hidden_sizes=[6], layer_norm=layer_norm)
    for context in (TASKS, ContextSpec(4)):
        torso = film.build(config, 5, context, Streams(0)).double()
        layer = torso.layers[0]
        nn.init.normal_(layer.modulation.weight)
        x, ids, one_hot = data()
        x, vector = x.double(), one_hot.double()
        scale, shift = layer.modulation.weight[:6].T[ids], layer.modulation.weight[6:].T[ids]
        values = x @ layer.linear.weight.T + layer.linear.bias
        if layer_norm:
            values = nn.functional.layer_norm(values, (6,))
        expected = torch.relu((1 + scale) * values + shift)
        torch.testing.assert_close(torso(x, vector), expected, rtol=0, atol=1e-12)
        if context.discrete:
            assert torch.equal(torso(x, ids), torso(x, vector))
        zero = torch.zeros_like(vector)
        torch.testing.assert_close(torso(x, zero), torch.relu(values), rtol=0, atol=1e-12)


def test_renewed_units_are_not_modulated():
    torso = film.build(film.Config(**SIZES), 5, TASKS, Streams(0))
    layer, units = torso.layers[1], torch.tensor([3, 7])
    nn.init.normal_(layer.modulation.weight)
    before = layer.modulation.weight.detach().clone()
    touched = layer.reset_units(units, torch.Generator().manual_seed(0))
    rows = touched[-1].indices.tolist()
    assert sorted(rows) == [3, 7, 19, 23]
    assert touched[-1].parameter is layer.modulation.weight
    others = [i for i in range(32) if i not in rows]
    assert (layer.modulation.weight[rows] == 0).all()
    assert torch.equal(layer.modulation.weight[others], before[others])


# Context masks -----------------------------------------------------------------------------


def test_each_context_lets_a_fixed_share_of_units_pass():
    torso = xdg.build(xdg.Config(hidden_sizes=[50, 50]), 5, TASKS, Streams(0))
    x, ids, one_hot = data(400)
    features = torso(x, ids)
    assert torch.equal(features, torso(x, one_hot.float()))
    for layer in torso.layers:
        assert layer.passes[:4].sum(1).tolist() == [10] * 4
        assert not torch.equal(layer.passes[0], layer.passes[1])
    for context in range(4):
        silent = ~torso.layers[1].passes[context]
        assert (features[ids == context][:, silent] == 0).all()
    again = xdg.build(xdg.Config(hidden_sizes=[50, 50]), 5, TASKS, Streams(0))
    assert torch.equal(again.layers[0].passes, torso.layers[0].passes)


def test_silenced_units_learn_nothing():
    torso = xdg.build(xdg.Config(hidden_sizes=[50]), 5, TASKS, Streams(0))
    x, _, _ = data(100)
    torso(x, torch.full((100,), 2)).sum().backward()
    learning = (torso.layers[0].linear.weight.grad != 0).any(1)
    assert not (learning & ~torso.layers[0].passes[2]).any()
    assert learning.sum() == 10


# Residual blocks ---------------------------------------------------------------------------


def test_residual_network_equals_its_formula():
    torso = simba.build(
        simba.Config(width=8, num_blocks=2, expansion=3), 5, ContextSpec(), Streams(0)
    ).double()
    x = torch.randn(9, 5, dtype=torch.float64)
    stream = x @ torso.embedding.weight.T + torso.embedding.bias
    for block in torso.blocks:
        hidden = nn.functional.layer_norm(stream, (8,)) @ block.hidden.linear.weight.T
        stream = stream + torch.relu(hidden) @ block.output.weight.T
    torch.testing.assert_close(torso(x), nn.functional.layer_norm(stream, (8,)), rtol=0, atol=1e-12)
    assert torso.output_dim == 8
    groups = torso.unit_groups((nn.Linear(8, 1),))
    assert [(group.name, group.num_units) for group in groups] == [
        ("blocks.0", 24),
        ("blocks.1", 24),
    ]
    gram = torso.embedding.weight.T @ torso.embedding.weight
    torch.testing.assert_close(gram, torch.eye(5).double(), rtol=0, atol=1e-6)


def test_residual_network_takes_the_context_at_its_input():
    torso = simba.build(simba.Config(width=8), 5, TASKS, Streams(0))
    x, ids, one_hot = data()
    assert torch.equal(torso(x, ids), torso(x, one_hot.float()))
    assert not torch.allclose(torso(x, ids), torso(x, (ids + 1) % 4))
    with pytest.raises(ValueError, match="built for 4"):
        torso(x, torch.zeros(20, 3))


# Heads per context -------------------------------------------------------------------------


def multi_policy(seed=0):
    streams = Streams(seed)
    torso = multi_head.build(multi_head.Config(**SIZES), 5, TASKS, streams)
    return GaussianPolicy(torso, 3, Initializer(), streams)


def test_every_sample_is_read_by_the_head_of_its_context():
    policy = multi_policy()
    x, ids, one_hot = data()
    features, output = policy.torso(x), policy(x, ids)
    assert policy.mean.weight.shape == (12, 16)
    for row, context in enumerate(ids.tolist()):
        rows = slice(3 * context, 3 * context + 3)
        expected = policy.mean.weight[rows] @ features[row] + policy.mean.bias[rows]
        torch.testing.assert_close(output[row], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(policy(x, one_hot.float()), output, rtol=0, atol=0)


def test_other_heads_get_no_gradient():
    policy = multi_policy()
    x, _, _ = data()
    policy(x, torch.full((20,), 2)).sum().backward()
    touched = (policy.mean.weight.grad != 0).any(1).nonzero().flatten().tolist()
    assert touched == [6, 7, 8]
    assert policy.mean.bias.grad.tolist() == [0.0] * 6 + [20.0] * 3 + [0.0] * 3


@pytest.mark.parametrize("kind", ["lecun_uniform", "xavier_uniform", "orthogonal"])
def test_each_head_is_drawn_as_if_it_were_the_only_one(kind):
    law = Initializer(kind)
    torso = multi_head.build(multi_head.Config(**SIZES), 5, TASKS, Streams(0))
    heads = torso.head(3, law, Streams(0), "mean")
    plain = mlp.build(mlp.Config(**SIZES), 5, TASKS, Streams(0)).head(3, law, Streams(0), "mean")
    assert torch.equal(heads.weight[:3], plain.weight)
    assert len({tuple(block.flatten().tolist()) for block in heads.weight.split(3)}) == 4
    if kind == "orthogonal":
        for block in heads.weight.split(3):
            torch.testing.assert_close(block @ block.T, 2 * torch.eye(3), rtol=0, atol=1e-5)


def test_renewing_a_unit_cuts_it_from_every_head():
    policy = multi_policy()
    policy.unit_groups()[1].forget_units(torch.tensor([5]))
    assert (policy.mean.weight[:, 5] == 0).all()
    assert (policy.mean.weight[:, [4, 6]] != 0).all()


def test_a_value_function_with_heads_per_context():
    torso = multi_head.build(multi_head.Config(**SIZES), 5, TASKS, Streams(0))
    value = ValueFunction(torso, Initializer(), Streams(0))
    x, ids, _ = data()
    assert value(x, ids).shape == (20,)
    with pytest.raises(ValueError, match="one head per context"):
        value(x)
    with pytest.raises(ValueError, match="4 heads"):
        value(x, torch.zeros(20, 5))


# Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [film, xdg, multi_head])
def test_a_context_is_required(module):
    with pytest.raises(ValueError, match="acts on a context"):
        module.build(module.Config(), 5, ContextSpec(), Streams(0))


@pytest.mark.parametrize("module", [xdg, multi_head])
def test_a_finite_number_of_contexts_is_required(module):
    with pytest.raises(ValueError, match="finite number of contexts"):
        module.build(module.Config(), 5, ContextSpec(3), Streams(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: film.Config(hidden_sizes=[0]), "hidden_sizes"),
        (lambda: film.Config(activation="k_winners"), "activation"),
        (lambda: xdg.Config(active_fraction=0.0), "active_fraction"),
        (lambda: simba.Config(num_blocks=0), "num_blocks is 0"),
        (lambda: simba.Config(expansion=0), "expansion is 0"),
        (lambda: multi_head.Config(hidden_sizes=[]), "hidden_sizes"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
