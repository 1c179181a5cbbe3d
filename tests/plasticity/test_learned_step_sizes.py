"""IDBD and Autostep: the published equations, and the tracking problem they were made for."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from recycling_nets import policy
from torch import nn

from networks.units import Touched
from plasticity.optimizer_state import apply_policy
from plasticity.optimizers import autostep, idbd

KINDS = {"idbd": idbd, "autostep": autostep}
UNCLIPPED = {"max_grad_norm": None}


def linear(values, bias=False):
    module = nn.Linear(len(values), 1, bias=bias).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([values]))
    return module


def learn_from(module, optimizer, inputs, target):
    """One step on (y - w x)^2 / 2, told the true curvature; returns the error before it."""
    x = torch.as_tensor(inputs, dtype=torch.float64)
    with torch.no_grad():
        error = float(target) - (module.weight[0] @ x)
        module.weight.grad = -(error * x)[None]
        optimizer.give_curvature(module.weight, x.square())
        optimizer.step()
    return float(error)


def published_idbd(w, alpha, h, x, target, theta):
    """Sutton 1992, Figure 2, one weight after the other."""
    error = target - sum(a * b for a, b in zip(w, x, strict=True))
    for i, xi in enumerate(x):
        alpha[i] = math.exp(math.log(alpha[i]) + theta * error * xi * h[i])
        w[i] += alpha[i] * error * xi
        h[i] = h[i] * max(1.0 - alpha[i] * xi * xi, 0.0) + alpha[i] * error * xi


def published_autostep(w, alpha, h, x, target, mu, tau, v):
    """Mahmood et al. 2012, Table 1."""
    error = target - sum(a * b for a, b in zip(w, x, strict=True))
    for i, xi in enumerate(x):
        size = abs(error * xi * h[i])
        v[i] = max(size, v[i] + alpha[i] * xi * xi * (size - v[i]) / tau)
        if v[i] != 0.0:
            alpha[i] *= math.exp(mu * error * xi * h[i] / v[i])
    bound = max(sum(a * xi * xi for a, xi in zip(alpha, x, strict=True)), 1.0)
    for i, xi in enumerate(x):
        alpha[i] /= bound
        w[i] += alpha[i] * error * xi
        h[i] = h[i] * (1.0 - alpha[i] * xi * xi) + alpha[i] * error * xi


def test_idbd_equals_the_published_equations():
    rng, start = np.random.default_rng(0), [0.5, -1.0, 0.0]
    module = linear(start)
    optimizer = idbd.build(
        idbd.Config(learning_rate=0.3, meta_learning_rate=0.1, **UNCLIPPED), module
    )
    w, alpha, h = list(start), [0.3] * 3, [0.0] * 3
    for _ in range(60):
        x, target = rng.normal(size=3), rng.normal()
        learn_from(module, optimizer, x, target)
        published_idbd(w, alpha, h, x.tolist(), target, 0.1)
        assert module.weight[0].tolist() == pytest.approx(w, rel=1e-10)
        assert optimizer.step_sizes(module.weight)[0].tolist() == pytest.approx(alpha, rel=1e-10)
    assert max(alpha) < 0.2  # they have learned: noise makes them small


@pytest.mark.parametrize("tau", [1e4, 5.0])
def test_autostep_equals_the_published_equations(tau):
    rng, start = np.random.default_rng(0), [0.5, -1.0, 0.0]
    module = linear(start)
    config = autostep.Config(learning_rate=0.4, meta_learning_rate=0.1, time_scale=tau)
    optimizer = autostep.build(config, module)
    w, alpha, h, v = list(start), [0.4] * 3, [0.0] * 3, [0.0] * 3
    for _ in range(60):
        x, target = rng.normal(size=3), rng.normal()
        learn_from(module, optimizer, x, target)
        published_autostep(w, alpha, h, x.tolist(), target, 0.1, tau, v)
        assert module.weight[0].tolist() == pytest.approx(w, rel=1e-10)
        assert optimizer.step_sizes(module.weight)[0].tolist() == pytest.approx(alpha, rel=1e-10)
    assert max(alpha) < 0.4  # the bound on the sum has acted


def test_two_steps_by_hand():
    """g = 2, d = 1: w .2, h .2; then log_gain = .5 x 2 x .2 = .2."""
    module = linear([0.0])
    optimizer = idbd.build(
        idbd.Config(learning_rate=0.1, meta_learning_rate=0.5, **UNCLIPPED), module
    )
    for expected in (0.2, 0.2 + 0.1 * math.exp(0.2) * 2.0):
        module.weight.grad = torch.full_like(module.weight, -2.0)
        optimizer.give_curvature(module.weight, torch.ones(1, dtype=torch.float64))
        optimizer.step()
        assert module.weight.item() == pytest.approx(expected)
    trace = 0.2 * (1.0 - 0.1 * math.exp(0.2)) + 0.2 * math.exp(0.2)
    assert optimizer.state[module.weight]["trace"].item() == pytest.approx(trace)


def test_curvature_that_nobody_gives_is_the_corrected_mean_squared_gradient():
    """Gradients 3 then 1, decay .5: means 9 and (0.5 x 4.5 + 0.5) / .75 = 11/3."""
    module = linear([0.0])
    config = idbd.Config(
        learning_rate=0.01, meta_learning_rate=0.0, curvature_decay=0.5, **UNCLIPPED
    )
    optimizer, trace = idbd.build(config, module), 0.0
    for gradient, curvature in ((3.0, 9.0), (1.0, 11.0 / 3.0)):
        module.weight.grad = torch.full_like(module.weight, gradient)
        optimizer.step()
        trace = trace * (1.0 - 0.01 * curvature) - 0.01 * gradient
        assert optimizer.state[module.weight]["trace"].item() == pytest.approx(trace)


def test_curvature_is_given_for_one_step_only():
    module = linear([0.0])
    optimizer = idbd.build(idbd.Config(learning_rate=0.01, curvature_decay=0.5), module)
    for _ in range(2):
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.give_curvature(module.weight, torch.full_like(module.weight, 100.0))
        optimizer.step()
    assert optimizer.state[module.weight]["trace"].item() == pytest.approx(-0.01, rel=1e-2)
    assert optimizer.state[module.weight]["curvature"].item() == 0.0
    optimizer.step()
    assert optimizer.state[module.weight]["curvature"].item() == pytest.approx(0.5, rel=1e-5)
    assert optimizer.state[module.weight]["trace"].item() < -0.0199


@pytest.mark.parametrize("meta_learning_rate", [0.0, 1e-2])
def test_without_learning_of_step_sizes_it_is_plain_gradient_descent(meta_learning_rate):
    net, twin = policy(), policy()
    config = idbd.Config(learning_rate=0.1, meta_learning_rate=meta_learning_rate, **UNCLIPPED)
    ours = idbd.build(config, net)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    stream = torch.Generator().manual_seed(0)
    for _ in range(5):
        for left, right in zip(net.parameters(), twin.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=stream)
            right.grad = left.grad.clone()
        ours.step()
        theirs.step()
    for left, right in zip(net.parameters(), twin.parameters(), strict=True):
        equal = torch.allclose(left, right, rtol=1e-5, atol=1e-6)
        assert equal == (meta_learning_rate == 0.0)


def test_logarithms_change_and_fall_within_bounds():
    """A violent gradient changes a step size by e^2 at most, and none falls below e^-10."""
    module = linear([0.0])
    optimizer = idbd.build(idbd.Config(learning_rate=1.0, meta_learning_rate=1e6), module)
    gains = []
    for sign in (1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0):
        module.weight.grad = torch.full_like(module.weight, sign)
        optimizer.give_curvature(module.weight, torch.zeros_like(module.weight))
        optimizer.step()
        optimizer.state[module.weight]["trace"].fill_(-sign)
        gains.append(math.log(optimizer.step_sizes(module.weight).item()))
    assert gains[:2] == [0.0, 2.0]
    assert gains[2:] == pytest.approx([0.0, -2.0, -4.0, -6.0, -8.0, -10.0, -10.0, -10.0])


class Tracking:
    """20 normal inputs; the target is the signed sum of 5, one sign flips every 20 steps."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.weights = np.r_[np.ones(5), np.zeros(15)]
        self.time = 0

    def next(self):
        if self.time and self.time % 20 == 0:
            self.weights[self.rng.integers(5)] *= -1.0
        self.time += 1
        x = self.rng.normal(size=20)
        return x, float(self.weights @ x)


SHORT, PUBLISHED = (8_000, 6_000), (20_000, 10_000)  # steps before and while measuring


@functools.cache
def least_mean_squares(length):
    """Mean squared error of the best of many fixed step sizes, in the last steps."""
    steps, measured = length
    problem, rates = Tracking(), np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08])
    w, total = np.zeros((len(rates), 20)), np.zeros(len(rates))
    for step in range(steps + measured):
        x, target = problem.next()
        error = target - w @ x
        w += (rates * error)[:, None] * x
        if step >= steps:
            total += error**2
    return (total / measured).min(), rates[total.argmin()]


@functools.cache
def tracked(kind, length):
    """Mean squared error in the last steps, and step sizes at the end."""
    steps, measured = length
    module, problem = linear([0.0] * 20), Tracking()
    config = KINDS[kind].Config(learning_rate=0.05, meta_learning_rate=1e-2, **UNCLIPPED)
    optimizer, total = KINDS[kind].build(config, module), 0.0
    for step in range(steps + measured):
        error = learn_from(module, optimizer, *problem.next())
        total += error**2 * (step >= steps)
    return total / measured, optimizer.step_sizes(module.weight)[0].numpy()


def test_the_best_fixed_step_size_is_as_published():
    error, rate = least_mean_squares(PUBLISHED)
    assert error == pytest.approx(3.5, abs=0.3)
    assert rate in (0.03, 0.04, 0.05)


@pytest.mark.parametrize("kind", list(KINDS))
def test_finds_the_relevant_inputs_and_tracks_better_than_any_fixed_step_size(kind):
    error, sizes = tracked(kind, SHORT)
    assert error < 0.7 * least_mean_squares(SHORT)[0]
    assert sizes[:5].min() > 4.0 * sizes[5:].max()


@pytest.mark.slow
def test_numbers_of_idbd_are_the_published_ones():
    """Error 1.5 against 3.5, step sizes of 0.13 +- .015 against less than 0.007 and falling."""
    error, sizes = tracked("idbd", PUBLISHED)
    assert error == pytest.approx(1.5, abs=0.15)
    assert sizes[:5].mean() == pytest.approx(0.13, abs=0.015)
    assert sizes[5:].max() < 0.0075


@pytest.mark.parametrize("kind", list(KINDS))
def test_renewed_entries_start_anew_and_others_go_on(kind):
    net = policy((8, 8))
    optimizer = KINDS[kind].build(KINDS[kind].Config(learning_rate=0.05), net)
    stream = torch.Generator().manual_seed(0)
    for _ in range(6):
        optimizer.zero_grad()
        net(torch.randn(16, 4, generator=stream)).square().mean().backward()
        optimizer.step()
    weight, column = net.mean.weight, torch.tensor([3])
    before = {n: v.clone() for n, v in optimizer.state[weight].items() if torch.is_tensor(v)}
    learned = optimizer.step_sizes(weight).clone()
    optimizer.zero_entries(weight, 1, column)
    others = [0, 1, 2, 4, 5, 6, 7]
    assert (optimizer.step_sizes(weight)[:, 3] == 0.05).all()
    assert torch.equal(optimizer.step_sizes(weight)[:, others], learned[:, others])
    for name in optimizer.memory:
        assert not optimizer.state[weight][name][:, 3].any()
        assert torch.equal(optimizer.state[weight][name][:, others], before[name][:, others])
    # From here on the entry behaves as in a new optimizer.
    optimizer.zero_grad()
    weight.grad = torch.full_like(weight, 1e-3)
    optimizer.step()
    trace = optimizer.state[weight]["trace"][:, 3]
    torch.testing.assert_close(trace, torch.full_like(trace, -0.05e-3))
    curvature = optimizer.state[weight]["curvature"][:, 3]
    torch.testing.assert_close(curvature, torch.full_like(curvature, 1e-9))


def test_autostep_never_promises_more_than_one():
    """Sum of alpha d after every step, however large the inputs and the first step size."""
    rng, module = np.random.default_rng(0), linear([0.0] * 4)
    optimizer = autostep.build(autostep.Config(learning_rate=100.0), module)
    for _ in range(50):
        x = rng.normal(size=4) * 10.0 ** rng.integers(-2, 4)
        learn_from(module, optimizer, x, x.sum())
        assert float(optimizer.step_sizes(module.weight)[0] @ torch.tensor(x**2)) < 1.0 + 1e-9
    assert torch.isfinite(module.weight).all()


@pytest.mark.parametrize("policy_of_method", ["zero_moments", "per_unit_step"])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_first_step_of_renewed_entries_promises_no_more_than_one(policy_of_method, dim):
    """With the count of 500 steps the curvature of a first gradient would be .003 of it."""
    module, stream = linear([0.0] * 4), torch.Generator().manual_seed(0)
    optimizer = autostep.build(autostep.Config(learning_rate=1.0), module)
    for _ in range(500):
        module.weight.grad = torch.randn(1, 4, generator=stream, dtype=torch.float64)
        optimizer.step()
    every = torch.arange(module.weight.shape[dim])
    apply_policy(policy_of_method, optimizer, [Touched(module.weight, dim, every)])
    module.weight.grad = torch.full_like(module.weight, 3.0)
    optimizer.step()
    promised = optimizer.step_sizes(module.weight) * module.weight.grad.square()
    assert float(promised.sum()) == pytest.approx(1.0)  # 36 if nothing were scaled down


def test_gradients_are_clipped_together():
    """Norm 5 of two parameters becomes 1; a norm below 1 stays."""
    for size, factor in ((1.0, 0.2), (0.1, 1.0)):
        module = linear([0.0], bias=True)
        with torch.no_grad():
            module.bias.zero_()
        module.weight.grad = torch.full_like(module.weight, 3.0 * size)
        module.bias.grad = torch.full_like(module.bias, 4.0 * size)
        idbd.build(idbd.Config(learning_rate=0.1), module).step()
        assert module.weight.item() == pytest.approx(-0.3 * size * factor, rel=1e-5)
        assert module.bias.item() == pytest.approx(-0.4 * size * factor, rel=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_schedule_scales_all_step_sizes_alike(kind):
    module = linear([0.0, 0.0])
    optimizer = KINDS[kind].build(KINDS[kind].Config(learning_rate=0.1), module)
    for _ in range(5):
        learn_from(module, optimizer, [1.0, 0.5], 1.0)
    before = optimizer.step_sizes(module.weight)
    optimizer.param_groups[0]["lr"] = 0.05
    torch.testing.assert_close(optimizer.step_sizes(module.weight), 0.5 * before)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("idbd", {"learning_rate": 0.0}),
        ("idbd", {"meta_learning_rate": -1.0}),
        ("autostep", {"curvature_decay": 1.0}),
        ("autostep", {"time_scale": 0.5}),
        ("idbd", {"max_grad_norm": 0.0}),
    ],
)
def test_bad_settings_are_refused(kind, settings):
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(settings))}"):
        KINDS[kind].Config(**settings)
