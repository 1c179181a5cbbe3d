"""Penalties against numbers worked out by hand."""

import math
import warnings

import pytest
import torch
from recycling_nets import policy, target_of
from torch import nn

from networks.initializers import Initializer
from networks.mlp import Config as MLPConfig
from networks.mlp import build as build_mlp
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Touched
from plasticity.method import InputSource, Target
from plasticity.methods import c_chain, l2_init, parseval, spectral, wasserstein_init
from plasticity.methods.parseval import parseval_distance

LOSS = torch.tensor(1.0)


def linear(weight):
    """A network of one matrix, its head a zero that no method sees."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def attached(module, config, build):
    generator = torch.Generator().manual_seed(0)
    return build(config, Target("policy", module, (), generator))


def hidden(weight):
    """The same matrix as a hidden layer."""
    head = nn.Linear(len(weight), 1, bias=False, dtype=torch.float64)
    return nn.Sequential(linear(weight), nn.ReLU(), head)


# L2-Init ---------------------------------------------------------------------------------------


def drifted(reduction="sum", decoupled=False):
    module = linear([[0.0, 0.0]])
    config = l2_init.Config(strength=0.01, reduction=reduction, decoupled=decoupled)
    method = attached(module, config, l2_init.build)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0]]))
    return module, method


def test_l2_init_is_squared():
    module, method = drifted()
    penalty = method.penalty(LOSS)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.25)
    torch.testing.assert_close(module.weight.grad, torch.tensor([[0.06, 0.08]]).double())
    assert drifted("mean")[1].penalty(LOSS).item() == pytest.approx(0.125)


def test_l2_init_is_exactly_0_at_the_start():
    method = attached(policy(), l2_init.Config(), l2_init.build)
    assert method.penalty(LOSS).item() == 0.0
    assert attached(policy(), l2_init.Config(strength=0.0), l2_init.build).penalty(LOSS) is None


def test_l2_init_decoupled_moves_by_the_learning_rate_times_the_gradient():
    module, method = drifted(decoupled=True)
    assert not method.adds_penalty
    assert method.penalty(LOSS) is None
    method.after_step({}, torch.optim.SGD(module.parameters(), lr=0.1))
    expected = torch.tensor([[3.0 - 0.006, 4.0 - 0.008]]).double()
    torch.testing.assert_close(module.weight.detach(), expected)


def test_l2_init_leaves_log_std_alone():
    network = policy()
    method = attached(network, l2_init.Config(strength=1.0), l2_init.build)
    with torch.no_grad():
        network.log_std.fill_(3.0)
    assert method.penalty(LOSS).item() == 0.0


@pytest.mark.parametrize(("theta0", "expected"), [("renewed", 16.0), ("original", 25.0)])
def test_l2_init_of_renewed_entries(theta0, expected):
    module = linear([[0.0, 0.0]])
    method = attached(module, l2_init.Config(strength=1.0, theta0=theta0), l2_init.build)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0]]))
    touched = [Touched(module.weight, 1, torch.tensor([0]))]
    method.notice_edits(touched, renewed=False)
    assert method.penalty(LOSS).item() == 25.0
    method.notice_edits(touched, renewed=True)
    assert method.penalty(LOSS).item() == expected


# Wasserstein-Init ------------------------------------------------------------------------------


def test_wasserstein_init_compares_sorted_entries():
    module = linear([[3.0, 1.0, 2.0]])
    method = attached(module, wasserstein_init.Config(strength=1.0), wasserstein_init.build)
    other = attached(module, l2_init.Config(strength=1.0), l2_init.build)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 3.0, 2.0]]))
    assert method.penalty(LOSS).item() == 0.0
    assert other.penalty(LOSS).item() == 8.0
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 3.0, 7.0]]))  # (1, 3, 7) against (1, 2, 3)
    penalty = method.penalty(LOSS)
    penalty.backward()
    assert penalty.item() == 17.0
    torch.testing.assert_close(module.weight.grad, torch.tensor([[0.0, 2.0, 8.0]]).double())


# Parseval --------------------------------------------------------------------------------------


def parseval_on(weight, strength=1e-3):
    module = hidden(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module, attached(module, parseval.Config(strength=strength), parseval.build)


@pytest.mark.parametrize(("units", "expected"), [(64, 0.064), (128, 0.032), (256, 0.016)])
def test_parseval_at_the_identity(units, expected):
    module, method = parseval_on(torch.eye(units))
    penalty = method.penalty(LOSS)
    penalty.backward()
    assert penalty.item() == pytest.approx(expected)
    gradient = -4e-3 * (64 / units) ** 2 * torch.eye(units, dtype=torch.float64)
    torch.testing.assert_close(module[0].weight.grad, gradient)
    _, at_rest = parseval_on(math.sqrt(2.0) * torch.eye(units, dtype=torch.float64))
    assert at_rest.penalty(LOSS).item() < 1e-25


def test_parseval_uses_the_smaller_gram_matrix():
    weight = torch.randn(256, 27, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight.requires_grad_(True)
    large = (weight @ weight.T - 2.0 * torch.eye(256)).square().sum()
    small = parseval_distance(weight, 2.0)
    assert large.item() - small.item() == pytest.approx(916.0)
    (first,), (second,) = (torch.autograd.grad(value, weight) for value in (large, small))
    torch.testing.assert_close(first, second)


def test_parseval_warns_unless_weights_start_orthogonal():
    with pytest.warns(UserWarning, match=r"starts at .* network\.initializer=orthogonal"):
        attached(policy(), parseval.Config(), parseval.build)
    config = MLPConfig(hidden_sizes=[64, 64], initializer="orthogonal")
    torso = build_mlp(config, 27, ContextSpec(), Streams(0))
    module = nn.Sequential(torso, nn.Linear(64, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method = attached(module, parseval.Config(), parseval.build)
    assert method.penalty(LOSS).item() < 1e-10


def test_lecun_uniform_starts_at_the_expected_parseval_penalty():
    generator = torch.Generator().manual_seed(0)
    weight = Initializer("lecun_uniform").weight_rows(torch.empty(256, 256), 256, generator)
    _, method = parseval_on(weight)
    assert method.penalty(LOSS).item() == pytest.approx(0.0320, rel=0.03)


# Spectral --------------------------------------------------------------------------------------


def test_spectral_of_a_diagonal():
    module = linear([[2.0, 0.0], [0.0, 1.0]])
    method = attached(module, spectral.Config(strength=1.0), spectral.build)
    for _ in range(50):
        penalty = method.penalty(LOSS)
    penalty.backward()
    assert penalty.item() == pytest.approx(9.0, abs=1e-9)
    expected = torch.tensor([[24.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(module.weight.grad, expected, atol=1e-9, rtol=0)


def test_spectral_terms_of_biases_and_gains():
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for layer in (module[0], module[3]):
            layer.weight.zero_()[0, 0] = 1.0  # the largest singular value is 1
            layer.bias.zero_()
        module[0].bias.copy_(torch.tensor([1.0, 1.0]))
        module[1].weight.copy_(torch.tensor([1.0, -2.0]))
    method = attached(module, spectral.Config(strength=1.0), spectral.build)
    assert method.penalty(LOSS).item() == pytest.approx(2.0**2 + (4.0 - 1.0) ** 2)


# C-CHAIN ---------------------------------------------------------------------------------------


def churning(network, **settings):
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))

    def draw(size, generator):
        return inputs[torch.randint(64, (size,), generator=generator)], None

    target = target_of(network, "policy")
    target = Target("policy", network, target.unit_groups, target.generator, None, None,
                    InputSource(draw, 16))  # fmt: skip
    return c_chain.build(c_chain.Config(**settings), target), inputs


def test_c_chain_coefficient():
    config = c_chain.Config(warmup_steps=200, window_steps=200)
    coefficient = c_chain.Coefficient(config, torch.device("cpu"))
    for _ in range(199):
        coefficient.add(torch.tensor(-0.02), torch.tensor(1e-4))
        assert coefficient.value.item() == 100.0
    coefficient.add(torch.tensor(0.02), torch.tensor(1e-4))
    assert coefficient.value.item() == pytest.approx(9.999, abs=1e-3)
    for _ in range(200):  # a whole window later nothing of the old losses is left
        coefficient.add(torch.tensor(0.04), torch.tensor(1e-4))
    assert coefficient.value.item() == pytest.approx(19.998, abs=1e-3)


def test_c_chain_penalises_the_last_update():
    network = policy()
    method, _ = churning(network, initial_coefficient=2.0)
    assert method.penalty(LOSS) is None  # nothing has been updated yet
    method.after_backward()
    assert method.penalty(LOSS).item() == 0.0  # the same weights
    with torch.no_grad():
        network.mean.bias += torch.tensor([1.0, 0.0])
    penalty = method.penalty(LOSS)
    assert penalty.item() == pytest.approx(2.0 * 0.5)  # mean of 1 and 0
    penalty.backward()
    assert network.log_std.grad is None
    method.after_backward()
    assert method.penalty(LOSS).item() == 0.0


def test_c_chain_keeps_one_copy_of_the_parameters():
    network = policy()
    method, _ = churning(network)
    size = sum(parameter.numel() for parameter in network.parameters())
    assert method._previous.numel() == size
    storages = {view.untyped_storage().data_ptr() for view in method._views.values()}
    assert storages == {method._previous.untyped_storage().data_ptr()}


def test_c_chain_gives_its_copy_the_same_edit():
    network = policy()
    method, _ = churning(network)
    method.after_backward()
    touched = network.torso.layers[0].reset_units(torch.tensor([0, 3]), torch.Generator())
    assert method.penalty(LOSS).item() > 0.0
    method.notice_edits(touched, renewed=True)
    assert method.penalty(LOSS).item() == 0.0


def test_c_chain_needs_stored_inputs():
    with pytest.raises(ValueError, match="needs stored inputs"):
        attached(policy(), c_chain.Config(), c_chain.build)
