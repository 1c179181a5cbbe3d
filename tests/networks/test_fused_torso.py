"""The hand-written pass of hidden layers below several heads, against autograd."""

import pytest
import torch

from agents.parts import Parts
from networks import dendritic, mlp
from networks.fused_torso import FusedTorso
from networks.heads import SquashedGaussianPolicy
from networks.torso import ContextSpec
from plasticity.optimizers import adam

ROWS, INPUTS = 12, 7


def policy(network=None, context=None):
    network = network or mlp.Config(hidden_sizes=[20, 16, 8])
    parts = Parts(
        observation_dim=INPUTS, action_dim=3, num_envs=1, optimizer=adam.Config(),
        network=network, context=context or ContextSpec(),
    )  # fmt: skip
    law, streams = parts.head_initializer, parts.streams.child("actor")
    return SquashedGaussianPolicy(parts.torso("actor", INPUTS, 6), 3, law, streams)


def backwards(first, second):
    """Both pieces of work, the second one first: neither may need the other."""
    result = second()
    return first(), result


@pytest.mark.parametrize("run", [lambda a, b: (a(), b()), backwards])
def test_values_and_gradients_are_those_of_autograd(run):
    network = policy()
    torso = FusedTorso(network, ROWS)
    for seed in (0, 1):  # the second time in buffers that have been used
        x = torch.randn(ROWS, INPUTS, generator=torch.Generator().manual_seed(seed))
        network.zero_grad()
        mean, log_std = network(x)
        (mean.sin().sum() + log_std.exp().sum()).backward()
        expected = {name: p.grad.clone() for name, p in network.named_parameters()}
        network.zero_grad()
        features = torso.forward(x).detach().requires_grad_()
        assert torch.equal(features, torso.features)
        torch.testing.assert_close(features.detach(), network.torso(x, None).detach())
        mean, log_std = network.moments_of(features, None)
        (mean.sin().sum() + log_std.exp().sum()).backward()
        torso.backward(x, features.grad, run)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


def test_activations_carry_the_names_of_the_unit_groups():
    network = policy()
    torso = FusedTorso(network, ROWS)
    torso.forward(torch.randn(ROWS, INPUTS))
    assert list(torso.activations) == [group.name for group in network.unit_groups()]
    assert [len(a[0]) for a in torso.activations.values()] == [20, 16, 8]


def test_only_plain_layers_are_supported():
    assert FusedTorso.supports(policy())
    assert FusedTorso.supports(policy(context=ContextSpec(4, True)))  # appended by the caller
    for network in (
        mlp.Config(hidden_sizes=[8], layer_norm=True),
        mlp.Config(hidden_sizes=[8], activation="tanh"),
        dendritic.Config(hidden_sizes=[16]),
    ):
        assert not FusedTorso.supports(policy(network, ContextSpec(4, True)))
