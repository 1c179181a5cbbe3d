"""UPGD: gates, noise, decay and what it leaves alone, against hand computation and a loop."""

from __future__ import annotations

import math

import pytest
import torch
from recycling_nets import equal_bits, generator, policy
from scipy.special import expit
from torch import nn

from agents.update import load_optimizer_state, optimizer_state
from plasticity.optimizer_state import forget_parameters
from plasticity.optimizers import adam, upgd

PLAIN = {"base": "gradient", "noise_std": 0.0, "weight_decay": 0.0}


def three(values=(1.0, 2.0, -1.0)):
    module = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([values]))
    return module


def test_hand_computation():
    module = three()
    optimizer = upgd.build(upgd.Config(learning_rate=0.01, **PLAIN), module)
    module.weight.grad = torch.tensor([[-1.0, 0.5, 0.0]], dtype=torch.float64)
    optimizer.step()
    assert module.weight[0].tolist() == pytest.approx([1.0026894, 1.9963447, -1.0], abs=1e-7)
    gates = 1.0 - optimizer.gates(module.weight)[0]
    assert gates.tolist() == pytest.approx([0.731059, 0.268941, 0.5], abs=1e-6)


def test_several_steps_of_the_adam_base_equal_a_loop_from_the_equations():
    config = upgd.Config(learning_rate=0.01, lr_factor=2.0, noise_std=0.0, utility_decay=0.9)
    module = three()
    optimizer = upgd.build(config, module)
    theta, m, v, u = [1.0, 2.0, -1.0], [0.0] * 3, [0.0] * 3, [0.0] * 3
    stream = generator()
    for t in range(1, 9):
        grad = torch.randn(3, generator=stream).double()
        module.weight.grad = grad[None].clone()
        optimizer.step()
        for i, g in enumerate(grad.tolist()):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
            u[i] = 0.9 * u[i] - 0.1 * g * theta[i]
        corrected = [value / (1 - 0.9**t) for value in u]
        largest = max(*corrected, 1e-12)
        for i in range(3):
            direction = (m[i] / (1 - 0.9**t)) / (math.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
            theta[i] *= 1.0 - 0.01 * 1e-3
            theta[i] -= 2.0 * 0.01 * direction * (1.0 - expit(corrected[i] / largest))
        assert module.weight[0].tolist() == pytest.approx(theta, rel=1e-10)


def test_the_maximum_is_taken_over_all_gated_parameters():
    module = nn.Linear(1, 1).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.fill_(1.0)
    optimizer = upgd.build(upgd.Config(**PLAIN), module)
    module.weight.grad = torch.full_like(module.weight, -4.0)
    module.bias.grad = torch.full_like(module.bias, -1.0)
    optimizer.step()
    assert optimizer.gates(module.bias).item() == pytest.approx(1.0 - expit(0.25))
    assert optimizer.gates(module.weight).item() == pytest.approx(1.0 - expit(1.0))


def test_only_harmful_weights_still_rank_the_right_way():
    """All utilities are negative: the most harmful weight must move most."""
    module = three()
    optimizer = upgd.build(upgd.Config(**PLAIN), module)
    module.weight.grad = torch.tensor([[1.0, 0.1, -1e-14]], dtype=torch.float64)
    optimizer.step()
    gates = optimizer.gates(module.weight)[0].tolist()
    assert gates == sorted(gates, reverse=True)
    assert gates[0] == pytest.approx(1.0)


def test_noise_has_its_own_stream_and_the_stated_size():
    def run(seed, noise_std=1.0):
        torch.manual_seed(0)
        module = nn.Linear(200, 200, bias=False)
        before = module.weight.detach().clone()
        config = upgd.Config(**{**PLAIN, "noise_std": noise_std}, learning_rate=0.1)
        optimizer = upgd.build(config, module, generator=generator(seed))
        state = torch.get_rng_state()
        module.weight.grad = torch.zeros_like(module.weight)
        optimizer.step()
        assert torch.equal(torch.get_rng_state(), state)
        return module.weight.detach() - before

    moved = run(1)
    assert moved.std().item() == pytest.approx(0.1 * 0.5, rel=0.02)  # the gate of utility 0 is 1/2
    assert torch.equal(moved, run(1))
    assert not torch.equal(moved, run(2))
    assert not run(1, noise_std=0.0).any()


def test_without_noise_nothing_is_drawn_and_noise_needs_a_source():
    stream = generator()
    before = stream.get_state()
    net = policy()
    optimizer = upgd.build(upgd.Config(noise_std=0.0), net, generator=stream)
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(stream.get_state(), before)
    with pytest.raises(ValueError, match="noise_std"):
        upgd.build(upgd.Config(), net)


def test_log_std_and_norms_get_the_plain_step_of_adam():
    net, twin = policy(layer_norm=True), policy(layer_norm=True)
    ours = upgd.build(upgd.Config(learning_rate=1e-2), net, generator=generator())
    theirs = adam.build(adam.Config(learning_rate=1e-2), twin)
    stream = generator()
    for _ in range(5):
        for left, right in zip(net.parameters(), twin.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=stream)
            right.grad = left.grad.clone()
        ours.step()
        theirs.step()
    for (name, left), right in zip(net.named_parameters(), twin.parameters(), strict=True):
        plain = name == "log_std" or ".norm." in name
        assert torch.allclose(left, right, atol=1e-6) == plain, name


def test_a_missing_gradient_leaves_a_parameter_alone():
    net = policy()
    optimizer = upgd.build(upgd.Config(), net, generator=generator())
    before = net.log_std.detach().clone()
    bias = net.mean.bias.detach().clone()
    net.mean.weight.grad = torch.ones_like(net.mean.weight)
    optimizer.step()
    assert torch.equal(net.log_std, before)
    assert torch.equal(net.mean.bias, bias)


def test_resume_continues_the_noise():
    def start(seed):
        net = policy(seed=seed)
        return net, upgd.build(upgd.Config(noise_std=0.1), net, generator=generator(seed))

    def advance(net, optimizer, steps, stream):
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.randn(4, 4, generator=stream)).square().sum().backward()
            optimizer.step()

    (net, optimizer), (other, theirs), stream = start(0), start(5), generator(3)
    advance(net, optimizer, 5, stream)
    other.load_state_dict(net.state_dict())
    load_optimizer_state(theirs, optimizer_state(optimizer))
    position = stream.get_state()
    advance(net, optimizer, 5, stream)
    stream.set_state(position)
    advance(other, theirs, 5, stream)
    assert equal_bits(dict(net.state_dict()), dict(other.state_dict()))


def test_the_noise_goes_on_where_a_reset_left_no_other_state():
    net = policy()
    optimizer = upgd.build(upgd.Config(noise_std=0.1), net, generator=generator())
    net(torch.ones(4, 4)).square().sum().backward()
    optimizer.step()
    forget_parameters(optimizer, net.parameters())
    other = upgd.build(upgd.Config(noise_std=0.1), policy(), generator=generator())
    load_optimizer_state(other, optimizer_state(optimizer))
    assert torch.equal(other.shared_state()["noise"], optimizer.shared_state()["noise"])
    assert not other.state


def test_a_restarted_weight_is_judged_as_a_new_one():
    module = three((1.0, 1.0, 1.0))
    config = upgd.Config(**PLAIN, learning_rate=1e-9, utility_decay=0.9)
    optimizer = upgd.build(config, module)
    for _ in range(20):
        module.weight.grad = torch.tensor([[-1.0, -1.0, -1.0]], dtype=torch.float64)
        optimizer.step()
    column = torch.tensor([1])
    optimizer.zero_entries(module.weight, 1, column)
    optimizer.restart_entries(module.weight, 1, column)
    assert optimizer.gates(module.weight)[0, 1].item() == 0.5
    optimizer.step()
    # Corrected utilities are averages of -g theta = 1 whatever their age.
    gates = optimizer.gates(module.weight)[0]
    torch.testing.assert_close(gates, gates[0].expand(3), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"lr_factor": -1.0},
        {"base": "sgd"},
        {"beta1": 1.0},
        {"utility_decay": 1.0},
        {"noise_std": -1.0},
        {"weight_decay": -1.0},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(settings))}"):
        upgd.Config(**settings)
