"""TRAC: its scale against published arithmetic, its offset, and edits made by others."""

from __future__ import annotations

import math

import pytest
import scipy.special
import torch
from recycling_nets import generator, policy
from torch import nn

from plasticity.optimizers import trac
from plasticity.optimizers.trac import erfi


def one(value=0.0):
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, value)
    return module


def constant(module, optimizer, steps, gradient=1.0):
    for _ in range(steps):
        module.weight.grad = torch.full_like(module.weight, gradient)
        optimizer.step()


def grown(net, steps=60, learning_rate=1e-2):
    """An optimizer whose scale has left its start."""
    optimizer = trac.build(trac.Config(learning_rate=learning_rate), net)
    x = torch.randn(16, 4, generator=generator(), dtype=next(net.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - 3.0).square().mean().backward()
        optimizer.step()
    assert optimizer.scale > 1e-3
    return optimizer


def test_scale_of_a_constant_gradient():
    module = one()
    optimizer = trac.build(trac.Config(learning_rate=1e-3, epsilon=0.0), module)
    scales = []
    for _ in range(50):
        constant(module, optimizer, 1)
        scales.append(optimizer.scale.item())
    assert scales[0] == pytest.approx(1.005823e-7, rel=1e-6)
    assert scales[9] == pytest.approx(7.527529e-7, rel=1e-6)
    assert scales[49] == pytest.approx(0.661714, rel=1e-5)
    assert module.weight.item() == pytest.approx(-scales[49] * 0.05, rel=1e-12)


def test_equals_a_loop_from_the_equations():
    module = nn.Linear(3, 2).double()
    reference = [p.detach().clone() for p in module.parameters()]
    config = trac.Config(learning_rate=1e-3, discounts=[0.9, 0.999], initial_scale=1e-3)
    optimizer = trac.build(config, module)
    twins = [torch.zeros_like(p, requires_grad=True) for p in module.parameters()]
    base = torch.optim.Adam(twins, lr=1e-3)  # its parameters are the offsets
    sigma, variance, stream = [1e-8, 1e-8], [0.0, 0.0], generator()
    for _ in range(30):
        product = 0.0
        for parameter, offset in zip(module.parameters(), twins, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=stream).double() + 0.5
            offset.grad = parameter.grad.clone()
            product += float((offset.detach() * offset.grad).sum())
        optimizer.step()
        base.step()
        scale = 0.0
        for j, discount in enumerate((0.9, 0.999)):
            sigma[j] = discount * sigma[j] - product
            variance[j] = discount**2 * variance[j] + product**2
            ratio = sigma[j] / (math.sqrt(2.0 * variance[j]) + 1e-8)
            scale += 1e-3 * scipy.special.erfi(ratio) / scipy.special.erfi(math.sqrt(0.5))
        scale = max(scale, 0.0)
        for start, offset, parameter in zip(reference, twins, module.parameters(), strict=True):
            torch.testing.assert_close(parameter, start + scale * offset.detach(), rtol=1e-9,
                                       atol=0.0)  # fmt: skip


def test_erfi_equals_scipy():
    x = torch.cat((torch.linspace(-26.0, 26.0, 2001), torch.tensor([1e-12, 5.9999, 6.0001])))
    x = x.double()
    expected = torch.from_numpy(scipy.special.erfi(x.numpy()))
    torch.testing.assert_close(erfi(x), expected, rtol=1e-12, atol=1e-300)


def test_nearly_frozen_at_the_start():
    net = policy()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = trac.build(trac.Config(learning_rate=0.1), net)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, old in zip(net.parameters(), before, strict=True):
        assert (p - old).abs().max() < 1e-6


def test_the_offset_survives_a_scale_of_zero():
    """Gradients along the offset switch the scale off; turning around brings it back."""
    module = one(2.0)
    optimizer = trac.build(trac.Config(learning_rate=1e-2), module)
    constant(module, optimizer, 45)
    assert module.weight.item() < 2.0 - 1e-3
    constant(module, optimizer, 5, gradient=-1e4)
    assert optimizer.scale.item() == 0.0
    assert module.weight.item() == 2.0
    offset = optimizer.state[module.weight]["offset"].item()
    assert offset < -0.05  # the steps made so far are not forgotten


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edits_of_others_survive_and_move_nothing_else(dtype):
    net, twin = policy().to(dtype), policy().to(dtype)
    ours, theirs = grown(net), grown(twin)
    weight, other = net.mean.weight, twin.mean.weight
    assert torch.equal(weight, other)
    before = other[:, 3].detach().clone()
    with torch.no_grad():
        weight[:, 3] = 0.0  # a recycler without a word to the optimizer
    for parameters, optimizer in ((net.parameters(), ours), (twin.parameters(), theirs)):
        for p in parameters:
            p.grad = torch.full_like(p, 0.1)
        optimizer.step()
    rest = [i for i in range(weight.shape[1]) if i != 3]
    assert torch.equal(weight[:, rest], other[:, rest])
    # The edited entries make the step of the others, from where they were put.
    torch.testing.assert_close(weight[:, 3], other[:, 3] - before, rtol=1e-4, atol=1e-6)
    assert (weight[:, 3] != 0.0).all()


def test_zero_entries_start_anew_from_the_new_values():
    net = policy()
    optimizer = grown(net)
    weight = net.torso.layers[0].linear.weight
    state = optimizer.state[weight]
    reference = state["reference"].clone()
    rows = torch.tensor([1, 4])
    with torch.no_grad():
        weight[rows] = 7.0
    optimizer.zero_entries(weight, 0, rows)
    for name in ("exp_avg", "exp_avg_sq", "offset"):
        assert [i for i in range(16) if (state[name][i] == 0.0).all()] == [1, 4]
    assert (state["reference"][rows] == 7.0).all()
    rest = [i for i in range(16) if i not in (1, 4)]
    assert torch.equal(state["reference"][rest], reference[rest])


def test_forgetting_everything_restarts_the_tuners():
    net = policy()
    optimizer = grown(net)
    scale = optimizer.scale.item()
    optimizer.forget_parameters([net.log_std])
    assert optimizer.scale.item() == scale
    optimizer.forget_parameters(list(net.parameters()))
    assert optimizer.scale.item() == 0.0
    assert optimizer.sigma.tolist() == [1e-8] * 6


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"initial_scale": 0.0},
        {"beta2": 1.0},
        {"epsilon": -1.0},
        {"discounts": []},
        {"discounts": [0.9, 1.0]},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(settings))}"):
        trac.Config(**settings)
