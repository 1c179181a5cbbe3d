"""Methods that edit weights by a formula, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from recycling_nets import LECUN, Trainer, parameters_of, policy, target_of
from torch import nn

from networks import dendritic, film, simba
from networks.heads import ValueFunction
from networks.initializers import Initializer
from networks.k_winners import Config as KWinnersConfig
from networks.k_winners import build as build_k_winners
from networks.mlp import Config as MLPConfig
from networks.mlp import build as build_mlp
from networks.readouts import Readout
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.method import Target
from plasticity.methods import fire, hare_tortoise, nap, shrink_perturb, weight_clipping
from plasticity.methods.fire import polar_factor


def sgd(module):
    return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)


def alone(module):
    return Target("policy", module, (), torch.Generator().manual_seed(0))


# Normalize-and-Project -------------------------------------------------------------------------


def normalised(activation="relu"):
    config = MLPConfig(hidden_sizes=[16, 16], layer_norm=True, activation=activation)
    torso = build_mlp(config, 4, ContextSpec(), Streams(0))
    return ValueFunction(torso, Initializer("lecun_uniform"), Streams(0, "head/"))


def test_nap_scales_a_matrix_back():
    network = normalised()
    weight = network.torso.layers[0].linear.weight
    with torch.no_grad():
        weight.zero_()[0, 0] = 1.0
    method = nap.build(nap.Config(), target_of(network))
    with torch.no_grad():
        weight.zero_()[0, :2] = torch.tensor([3.0, 4.0])
    method.after_step({}, sgd(network))
    torch.testing.assert_close(weight[0, :2].detach(), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_nap_keeps_sizes_over_a_thousand_updates(activation):
    network = normalised(activation)
    method = nap.build(nap.Config(), target_of(network))
    layers = [layer.linear for layer in network.torso.layers]
    before = [layer.weight.norm().item() for layer in layers]
    head = network.value.weight.norm().item()
    trainable = [p for p in network.parameters() if p.requires_grad]
    trainer = Trainer(network, None, torch.optim.Adam(trainable, lr=1e-2))
    for _ in range(1000):
        trainer.step()
        method.after_step({}, trainer.optimizer)
    after = [layer.weight.norm().item() for layer in layers]
    assert after == pytest.approx(before, rel=1e-5)
    assert network.value.weight.norm().item() != pytest.approx(head, rel=1e-2)
    for layer in network.torso.layers:
        assert not layer.linear.bias.any()
        size = layer.norm.weight.square().sum() + layer.norm.bias.square().sum()
        if activation == "relu":
            assert size.item() == pytest.approx(16.0, rel=1e-5)
        else:
            assert size.item() != pytest.approx(16.0, rel=1e-5)


def test_nap_changes_outputs_only_through_the_epsilon_of_the_normalisation():
    network = normalised()
    method = nap.build(nap.Config(project_norms=False), target_of(network))
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in network.torso.layers:
            layer.linear.weight.mul_(3.0)
        before = network(x)
        method.after_step({}, sgd(network))
        after = network(x)
    assert ((after - before).norm() / before.norm()).item() < 1e-3


@pytest.mark.parametrize(
    ("network", "scales"),
    [
        (dendritic.Config(hidden_sizes=[16], active_fraction=0.5, layer_norm=True), True),
        (
            dendritic.Config(
                hidden_sizes=[16], active_fraction=0.5, layer_norm=True, gate_mode="bias"
            ),
            False,
        ),
        (film.Config(hidden_sizes=[16], layer_norm=True), False),
    ],
    ids=["gate", "added_bias", "film"],
)
def test_nap_scales_gains_only_where_nothing_is_added_behind_them(network, scales):
    """Act(norm(x) + c) is no multiple of itself when the norm is scaled and c is not."""
    build = dendritic.build if isinstance(network, dendritic.Config) else film.build
    streams, context = Streams(0), ContextSpec(3, discrete=True)
    module = ValueFunction(build(network, 4, context, streams), LECUN, streams)
    method = nap.build(nap.Config(), target_of(module))
    norm = module.torso.layers[0].norm
    with torch.no_grad():
        norm.weight.fill_(2.0)
    method.after_step({}, sgd(module))
    size = norm.weight.square().sum() + norm.bias.square().sum()
    assert (size.item() == pytest.approx(16.0, rel=1e-5)) == scales
    assert (norm.weight < 2.0).all()  # it decays where it is not scaled


def test_nap_without_normalisation_is_refused():
    streams = Streams(0)
    torso = simba.build(simba.Config(width=8), 4, ContextSpec(), streams)
    with pytest.raises(ValueError, match=r"no such key, choose one that has \(network=mlp\)"):
        nap.build(nap.Config(), target_of(ValueFunction(torso, LECUN, streams)))
    with pytest.raises(ValueError, match=r"needs LayerNorm .* set network\.layer_norm=true, or"):
        nap.build(nap.Config(), target_of(policy(), "policy"))
    with pytest.raises(ValueError, match=r"\(value_network\.layer_norm=true where values have"):
        nap.build(nap.Config(), target_of(policy(), "value"))


# Shrink and perturb ----------------------------------------------------------------------------


class OneLayer(nn.Module):
    """Weights of the standard uniform law, scaled to unit variance."""

    def __init__(self, size):
        super().__init__()
        self.layer = Readout(size, size)
        law = Initializer("uniform", math.sqrt(3.0))
        self.layer.draw(law, law, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "expected", "tolerance"),
    [
        ({"shrink": 0.5, "noise": 0.5}, math.sqrt(0.5), 0.01),
        ({"shrink": 0.8, "variance_preserving": True}, 1.0, 0.01),
    ],
)
def test_shrink_perturb_spread(settings, expected, tolerance):
    module = OneLayer(1000)
    method = shrink_perturb.build(shrink_perturb.Config(**settings), alone(module))
    method.on_task_change(1, sgd(module))
    assert module.layer.weight.std().item() == pytest.approx(expected, rel=tolerance)


def test_soft_shrink_perturb_settles_at_its_stationary_spread():
    module = OneLayer(60)
    with torch.no_grad():
        module.layer.weight.zero_()
    config = shrink_perturb.Config(
        shrink=0.999, noise=0.001, period=1, at_task_change=False, target_edit="drift"
    )
    method = shrink_perturb.build(config, alone(module))
    optimizer, squares = sgd(module), []
    for step in range(8000):
        method.after_step({}, optimizer)
        if step >= 3000 and step % 100 == 0:
            squares.append(module.layer.weight.detach().square().mean())
    assert torch.stack(squares).mean().sqrt().item() == pytest.approx(0.02237, rel=0.02)
    assert method.pop_events() == []
    assert method.pop_touched() == []


def test_variance_preserving_factors():
    for shrink, epsilon in ((0.8, 0.6), (0.999, 0.04471), (1 - 1e-6, 1.414e-3)):
        config = shrink_perturb.Config(shrink=shrink, variance_preserving=True)
        assert config.epsilon == pytest.approx(epsilon, rel=1e-3)


def test_shrink_perturb_draws_from_each_layers_own_law_and_spares_the_rest():
    network = policy(sizes=(32, 32), layer_norm=True)
    with torch.no_grad():
        network.log_std.fill_(0.7)
        network.torso.layers[0].norm.weight.fill_(1.5)
    method = shrink_perturb.build(shrink_perturb.Config(shrink=0.0, noise=1.0), target_of(network))
    before = parameters_of(network)
    method.on_task_change(1, sgd(network))
    after = parameters_of(network)
    for layer in (network.torso.layers[0].linear, network.torso.layers[1].linear, network.mean):
        bound = math.sqrt(3.0 / layer.in_features)  # LeCun uniform
        assert 0.9 * bound < layer.weight.abs().max().item() <= bound
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("weight") and "norm" not in name}
    assert len(method.pop_events()) == 1
    first = after["mean.weight"]
    method.on_task_change(2, sgd(network))
    assert not torch.equal(first, network.mean.weight)  # a fresh draw every time


def test_published_shrink_perturb_adds_normal_noise_of_one_size_everywhere():
    network = policy(sizes=(256, 256))
    settings = {"shrink": 1.0, "noise": 0.01, "law": "normal", "period": 1}
    config = shrink_perturb.Config(**settings, at_task_change=False, target_edit="drift")
    method = shrink_perturb.build(config, target_of(network))
    before = parameters_of(network)
    method.after_step({}, sgd(network))
    after = parameters_of(network)
    for name, old in before.items():
        noise = after[name] - old
        if name == "log_std":
            assert not noise.any()
        elif noise.numel() > 1000:  # whatever the spread of its layer
            assert noise.std().item() == pytest.approx(0.01, rel=0.1)
            assert abs(noise.mean().item()) < 0.001
        else:
            assert noise.all()
    with pytest.raises(ValueError, match="law=normal"):
        shrink_perturb.Config(law="normal", variance_preserving=True)


def test_noise_of_shrink_perturb_spares_masked_weights():
    config = KWinnersConfig(hidden_sizes=[40, 40], active_fraction=0.25, weight_density=0.5)
    torso = build_k_winners(config, 8, ContextSpec(), Streams(0))
    network = ValueFunction(torso, Initializer("lecun_uniform"), Streams(0, "head/"))
    settings = {"shrink": 1.0, "noise": 1.0, "law": "normal", "period": 1}
    config = shrink_perturb.Config(**settings, at_task_change=False, target_edit="drift")
    method = shrink_perturb.build(config, target_of(network))
    linear = network.torso.layers[1].linear
    method.after_step({}, sgd(network))
    assert (linear.weight != 0).sum(1).tolist() == [20] * 40
    assert torch.equal(linear.weight != 0, linear.mask.bool())


def test_soft_form_with_copied_targets_is_refused():
    with pytest.raises(ValueError, match="set target_edit=drift"):
        shrink_perturb.Config(period=1)
    config = shrink_perturb.Config(period=12, clock="env_step")
    network = policy()
    target = replace(target_of(network), gradient_steps_per_env_step=0.125)
    with pytest.raises(ValueError, match="set target_edit=drift"):  # rounded to every step
        shrink_perturb.build(replace(config, period=11), target)
    assert shrink_perturb.build(replace(config, period=13), target).period == 2
    assert shrink_perturb.build(replace(config, period=8, target_edit="drift"), target).period == 1
    with pytest.raises(ValueError, match="give at least 8, or set clock=gradient_step"):
        shrink_perturb.build(replace(config, period=7, target_edit="drift"), target)


# FIRE ------------------------------------------------------------------------------------------


def test_polar_factor_of_a_diagonal():
    weight = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(
        polar_factor(weight, 20), torch.eye(2, dtype=torch.float64), atol=1e-12, rtol=0
    )
    expected = torch.diag(torch.tensor([0.99999977, 0.95254762], dtype=torch.float64))
    torch.testing.assert_close(polar_factor(weight, 3), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.001, 0.058), (0.01, 0.529), (0.02, 0.849), (0.03, 0.968)]
)
def test_ten_iterations_leave_small_singular_values_behind(ratio, expected):
    rest = math.sqrt(1.0 - ratio**2)
    factor = polar_factor(torch.diag(torch.tensor([rest, ratio], dtype=torch.float64)), 10)
    assert factor[1, 1].item() == pytest.approx(expected, abs=6e-4)


def test_fire_gives_equal_singular_values_and_spares_biases_and_heads():
    network = policy(sizes=(256, 64))
    with torch.no_grad():
        for layer in network.torso.layers:
            layer.linear.bias.fill_(0.3)
    method = fire.build(fire.Config(), target_of(network))
    before = parameters_of(network)
    method.on_task_change(1, sgd(network))
    values = torch.linalg.svdvals(network.torso.layers[1].linear.weight.detach().double())
    assert (values - 0.5).abs().max().item() < 1e-3  # sqrt(64 / 256)
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"torso.layers.0.linear.weight", "torso.layers.1.linear.weight"}
    assert {id(entry.parameter) for entry in method.pop_touched()} == {
        id(layer.linear.weight) for layer in network.torso.layers
    }


# Weight clipping -------------------------------------------------------------------------------


def test_weight_clipping_bounds_by_fan_in_and_spares_log_std():
    network = policy(sizes=(256, 256))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(9.0)
    method = weight_clipping.build(weight_clipping.Config(), target_of(network))
    method.after_step({}, sgd(network))
    first, second = (layer.linear for layer in network.torso.layers)
    for layer in (second, network.mean):
        assert layer.weight.unique().tolist() == [0.1875]
        assert layer.bias.unique().tolist() == [0.1875]
    assert first.weight.unique().tolist() == [1.5]  # 3 / sqrt(4)
    assert network.log_std.unique().tolist() == [9.0]
    spared = weight_clipping.build(weight_clipping.Config(clip_heads=False), target_of(network))
    with torch.no_grad():
        network.mean.weight.fill_(-9.0)
        second.weight.fill_(-9.0)
    spared.after_step({}, sgd(network))
    assert network.mean.weight.unique().tolist() == [-9.0]
    assert second.weight.unique().tolist() == [-0.1875]


def test_weight_clipping_reaches_convolutions_and_heads_that_start_at_zero():
    network = nn.Sequential(nn.Conv2d(2, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        network[3].weight.zero_()
    method = weight_clipping.build(weight_clipping.Config(kappa=2.0), target_of(network))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(-7.0)
    method.after_step({}, sgd(network))
    for layer, fan_in in ((network[0], 2 * 25), (network[3], 12)):
        for parameter in layer.parameters():
            torch.testing.assert_close(
                parameter.detach(), torch.full_like(parameter, -2.0 / math.sqrt(fan_in))
            )


# Hare and tortoise -----------------------------------------------------------------------------


def test_the_tortoise_follows_and_takes_over():
    module = nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    method = hare_tortoise.build(hare_tortoise.Config(period=50), alone(module))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    for step in range(1, 50):
        method.after_step({}, sgd(module))
        for slow in method._slow:
            torch.testing.assert_close(slow, torch.full_like(slow, 1.0 - 0.999**step))
        assert module.weight.unique().tolist() == [1.0]
    method.after_step({}, sgd(module))
    for slow, parameter in zip(method._slow, module.parameters(), strict=True):
        assert torch.equal(slow, parameter)
        torch.testing.assert_close(slow, torch.full_like(slow, 1.0 - 0.999**50))
    assert len(method.pop_events()) == 1
