"""Laws of initial weights, against closed forms, torch's own initialisers and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from networks import continual_world, film, mlp, simba
from networks.activations import ACTIVATIONS, PAIRED
from networks.gated_layer import K_WINNERS
from networks.initializers import Initializer, hidden_law
from networks.streams import Streams
from networks.torso import ContextSpec


def draw(kind: str, rows: int, columns: int, seed: int = 0, gain: float | None = None):
    like = torch.empty(rows, columns, dtype=torch.float64)
    return Initializer(kind, gain).weight_rows(like, rows, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("fan_in", "bound"), [(27, 1 / 3), (105, 0.169031), (111, 0.164399)])
def test_lecun_bound(fan_in, bound):
    assert Initializer("lecun_uniform").bound(fan_in) == pytest.approx(bound, abs=1e-6)
    weight = draw("lecun_uniform", 256, fan_in)
    assert weight.abs().max() <= bound + 1e-6
    assert weight.abs().mean() == pytest.approx(bound / 2, rel=0.02)


def test_lecun_mean_of_the_reference_hidden_layer():
    assert draw("lecun_uniform", 256, 256).abs().mean() == pytest.approx(0.0541266, rel=0.01)


@pytest.mark.parametrize("kind", ["lecun_uniform", "kaiming_uniform", "xavier_uniform", "pytorch"])
def test_redrawn_rows_follow_the_law_of_the_layer(kind):
    law = Initializer(kind)
    like = torch.empty(64, 48)
    whole = law.weight_rows(like, 64, torch.Generator().manual_seed(1))
    rows = torch.cat(
        [law.weight_rows(like, 2, torch.Generator().manual_seed(s)) for s in range(2, 60)]
    )
    assert stats.ks_2samp(whole.flatten().numpy(), rows.flatten().numpy()).pvalue > 1e-3


def test_torch_agrees_on_the_bounds():
    weight = torch.empty(300, 200)
    torch.nn.init.xavier_uniform_(weight)
    bound = Initializer("xavier_uniform").bound(200, 300)
    assert weight.abs().max() <= bound
    assert weight.abs().max() == pytest.approx(bound, rel=1e-3)
    torch.nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    assert weight.abs().max() == pytest.approx(Initializer("kaiming_uniform").bound(200), rel=1e-3)


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (16, 16)])
def test_orthogonal_matrix_is_scaled_and_orthonormal(shape):
    weight = draw("orthogonal", *shape, gain=1.5) / 1.5
    small = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    np.testing.assert_allclose(small.numpy(), np.eye(min(shape)), atol=1e-12)


def test_masked_fan_in_widens_the_law():
    like = torch.empty(10, 100)
    rows = Initializer("lecun_uniform").weight_rows(
        like, 10, torch.Generator().manual_seed(0), fan_in=25
    )
    assert rows.abs().max() > math.sqrt(3 / 100)
    assert rows.abs().max() <= math.sqrt(3 / 25)


def test_unknown_law_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        Initializer("lecun")


# What reads the layer -----------------------------------------------------------------------

GAINS = {
    "tanh": 5 / 3,
    "sigmoid": 1.0,
    "identity": 1.0,
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
}
TASKS = ContextSpec(3, discrete=True)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *PAIRED, K_WINNERS])
def test_the_gain_of_kaiming_is_that_of_the_activation(name):
    law = hidden_law("kaiming_uniform", name)
    assert law.scale == pytest.approx(GAINS.get(name, math.sqrt(2)), abs=1e-12)
    if name in ("relu", "elu", "swish"):  # bit for bit what it was
        assert law == Initializer("kaiming_uniform")
    if name in ("relu", "tanh", "sigmoid", "leaky_relu"):
        assert law.scale == pytest.approx(torch.nn.init.calculate_gain(name), abs=1e-12)
    for other in ("lecun_uniform", "orthogonal", "pytorch"):
        assert hidden_law(other, name) == Initializer(other)


def test_a_leaky_slope_counts():
    law = hidden_law("kaiming_uniform", "leaky_relu", 0.2)
    assert law.scale == pytest.approx(math.sqrt(2 / 1.04))
    settings = {"activation": "leaky_relu", "initializer": "kaiming_uniform"}
    config = mlp.Config(hidden_sizes=[4], activation_slope=0.2, **settings)
    assert mlp.build(config, 20, ContextSpec(), Streams(0)).layers[0].initializer == law


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "leaky_relu", "elu", "swish", "relu"])
def test_learners_start_from_and_are_renewed_by_the_law_of_their_activation(name):
    """The six learners of slowly-changing regression."""
    config = mlp.Config(hidden_sizes=[500], activation=name, initializer="kaiming_uniform")
    layer = mlp.build(config, 20, ContextSpec(), Streams(0)).layers[0]
    bound = GAINS.get(name, math.sqrt(2)) * math.sqrt(3 / 20)
    assert 0.999 * bound < layer.linear.weight.abs().max().item() <= bound * (1 + 1e-6)
    first = layer.linear.weight.clone()
    layer.reset_units(torch.arange(500), torch.Generator().manual_seed(1))
    assert not (layer.linear.weight == first).any()
    assert 0.999 * bound < layer.linear.weight.abs().max().item() <= bound * (1 + 1e-6)
    assert not layer.linear.bias.any()


def test_arms_with_one_activation_share_their_first_weights():
    settings = {"activation": "tanh", "initializer": "kaiming_uniform"}
    plain = mlp.build(
        mlp.Config(hidden_sizes=[8], context_to_input=False, **settings), 5, TASKS, Streams(0)
    )
    gated = film.build(film.Config(hidden_sizes=[8], **settings), 5, TASKS, Streams(0))
    assert torch.equal(plain.layers[0].linear.weight, gated.layers[0].linear.weight)
    block = simba.build(
        simba.Config(width=8, num_blocks=1, **settings), 5, TASKS, Streams(0)
    ).blocks[0]
    assert block.hidden.laws.weight.scale == 5 / 3
    assert block.output.laws[0] == Initializer("kaiming_uniform")  # no activation behind it


def test_the_network_of_continual_world_keeps_one_law():
    config = continual_world.Config(
        hidden_sizes=[8, 8], activation="leaky_relu", initializer="kaiming_uniform"
    )
    for layer in continual_world.build(config, 5, TASKS, Streams(0)).layers:
        assert layer.initializer == Initializer("kaiming_uniform")
