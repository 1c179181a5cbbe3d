"""Values of the activations, and which networks take which."""

from __future__ import annotations

import math

import pytest
import torch

from networks import continual_world, dendritic, film, simba
from networks.activations import (
    ACTIVATIONS,
    PAIRED,
    SmoothLeaky,
    activation,
    activation_name,
    any_activation,
    values_per_unit,
)
from networks.mlp import Config, build
from networks.streams import Streams
from networks.torso import ContextSpec

Z = torch.linspace(-3.0, 3.0, 24, dtype=torch.float64).reshape(4, 6)


def test_crelu_gives_both_halves():
    h = any_activation("crelu")(Z)
    assert h.shape == (4, 12)
    assert torch.equal(h[:, :6] - h[:, 6:], Z)
    assert torch.equal(h[:, :6] + h[:, 6:], Z.abs())
    assert (h >= 0.0).all()


def test_fourier_pairs_lie_on_the_unit_circle():
    h = any_activation("deep_fourier")(Z)
    torch.testing.assert_close(h[:, :6].square() + h[:, 6:].square(), torch.ones_like(Z))
    assert torch.equal(h[:, :6], Z.sin())


def test_smooth_leaky_values():
    function = any_activation("smooth_leaky")
    points = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    values = function(points)
    assert values.tolist() == pytest.approx([0.0, 0.876442, -0.223558], abs=1e-6)
    values.sum().backward()
    assert points.grad[0].item() == pytest.approx(0.55)


@pytest.mark.parametrize("slope", [0.01, 0.1, 0.3])
def test_smooth_leaky_slopes(slope):
    x = torch.tensor([-50.0, 0.0, 50.0], dtype=torch.float64, requires_grad=True)
    any_activation("smooth_leaky", slope)(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([slope, 0.5 * (1.0 + slope), 1.0])
    far = SmoothLeaky(slope)(torch.tensor(100.0, dtype=torch.float64)).item()
    assert far == pytest.approx(100.0 - (1.0 - slope) * math.log(2.0) / 5.0)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *PAIRED])
def test_names_and_numbers_of_values(name):
    module = any_activation(name)
    assert activation_name(module) == name
    assert module(Z).shape[1] == values_per_unit(name) * Z.shape[1]


def test_unknown_names_are_refused():
    for function in (activation, any_activation):
        with pytest.raises(ValueError, match=r"activation is 'rleu'; choose one of relu"):
            function("rleu")


@pytest.mark.parametrize("name", PAIRED)
def test_networks_that_cannot_read_pairs_refuse_them(name):
    for module in (film, simba):
        with pytest.raises(ValueError, match="two values per unit"):
            module.Config(activation=name)
    with pytest.raises(ValueError, match=f"activation is '{name}'"):
        dendritic.Config(activation=name)


@pytest.mark.parametrize("name", PAIRED)
def test_layers_keep_their_features_and_halve_their_units(name):
    torso = build(Config(hidden_sizes=[8, 6], activation=name), 5, ContextSpec(), Streams(0))
    assert [tuple(layer.linear.weight.shape) for layer in torso.layers] == [(4, 5), (3, 8)]
    assert torso.output_dim == 6
    assert torso(torch.randn(7, 5)).shape == (7, 6)


def test_layer_norm_stands_before_the_pair_is_made():
    config = Config(hidden_sizes=[8], activation="crelu", layer_norm=True)
    torso = build(config, 5, ContextSpec(), Streams(0))
    h = torso(torch.randn(7, 5))
    z = h[:, :4] - h[:, 4:]
    torch.testing.assert_close(z.mean(1), torch.zeros(7), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(z.var(1, unbiased=False), torch.ones(7), atol=1e-3, rtol=0.0)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"\[8, 7\]; crelu makes 2 features .* even"):
        Config(hidden_sizes=[8, 7], activation="crelu")
    with pytest.raises(ValueError, match="activation_slope"):
        Config(activation_slope=1.0)

    for name in ("relu", "tanh", "crelu"):
        with pytest.raises(
            ValueError, match=f"=0.2 would do nothing with network.activation={name}"
        ):
            Config(activation=name, activation_slope=0.2)


@pytest.mark.parametrize(("name", "own"), [("smooth_leaky", 0.1), ("leaky_relu", 0.01)])
def test_the_slope_reaches_the_layers(name, own):
    below = torch.tensor([[-50.0]], dtype=torch.float64, requires_grad=True)
    for given in (None, 0.0, 0.1, 0.3):
        config = Config(hidden_sizes=[4], activation=name, activation_slope=given)
        torso = build(config, 2, ContextSpec(), Streams(0))
        slope = torch.autograd.grad(torso.layers[0].activation(below).sum(), below)[0]
        assert slope.item() == pytest.approx(own if given is None else given)
        assert config.activation_slope == (own if given is None else given)


@pytest.mark.parametrize(("slope", "used"), [(None, 0.01), (0.2, 0.2)])
def test_the_network_of_continual_world_takes_the_slope_where_it_is_leaky(slope, used):
    config = continual_world.Config(
        hidden_sizes=[4, 4], activation="leaky_relu", activation_slope=slope, separate_heads=False
    )
    first, second = continual_world.build(config, 2, ContextSpec(), Streams(0)).layers
    assert isinstance(first.activation, torch.nn.Tanh)
    assert second.activation.negative_slope == used


def test_what_has_no_slope_records_what_older_runs_did():
    assert Config().activation_slope == 0.1
    assert Config(activation_slope=0.1) == Config()
