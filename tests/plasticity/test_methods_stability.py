"""EWC and SI against their formulas."""

import pytest
import torch
from recycling_nets import generator, policy, target_of
from torch import nn

from networks.heads import SquashedGaussianPolicy
from networks.initializers import Initializer
from networks.mlp import Config as MLPConfig
from networks.mlp import build as build_mlp
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Touched
from plasticity.importance import fisher_diagonal
from plasticity.method import InputSource, Target
from plasticity.methods import ewc, si

LOSS = torch.tensor(1.0)


def scalar(value=0.0):
    """A network of one weight."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.fill_(value)
    return module


def with_inputs(module, inputs):
    def draw(size, stream):
        return inputs[torch.randint(len(inputs), (size,), generator=stream)], None

    return Target("policy", module, (), generator(), inputs=InputSource(draw, 8))


# EWC -------------------------------------------------------------------------------------------


def test_ewc_penalty():
    module = scalar()
    # On inputs of 10 the gradient of the output by the weight is 10, so F = 100.
    target = with_inputs(module, torch.full((4, 1), 10.0, dtype=torch.float64))
    method = ewc.build(ewc.Config(strength=2.0, num_samples=4), target)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    method.on_task_change(1, optimizer)
    assert method.penalty(LOSS) is None  # nothing has been learnt
    method.after_step({}, optimizer)
    method.on_task_change(1, optimizer)
    assert method.penalty(LOSS).item() == 0.0
    with torch.no_grad():
        module.weight.fill_(0.1)
    penalty = method.penalty(LOSS)
    assert penalty.item() == pytest.approx(1.0)
    penalty.backward()
    assert module.weight.grad.item() == pytest.approx(20.0)
    method.on_task_change(2, optimizer)
    assert method._importance[0].item() == pytest.approx(200.0)  # gamma = 1 adds up
    assert method.penalty(LOSS).item() == 0.0


def test_ewc_frees_renewed_entries():
    module = scalar()
    target = with_inputs(module, torch.ones(4, 1, dtype=torch.float64))
    method = ewc.build(ewc.Config(num_samples=4), target)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    method.after_step({}, optimizer)
    method.on_task_change(1, optimizer)
    with torch.no_grad():
        module.weight.fill_(5.0)
    touched = [Touched(module.weight, 0, torch.tensor([0]))]
    method.notice_edits(touched, renewed=False)
    assert method.penalty(LOSS).item() > 0.0
    method.notice_edits(touched, renewed=True)
    assert method.penalty(LOSS).item() == 0.0
    assert not method._importance[0].any()
    with torch.no_grad():
        module.weight.fill_(-3.0)
    assert method.penalty(LOSS).item() == 0.0


def test_fisher_of_a_gaussian_policy():
    """Dendrites, acceptance 27. Linear mean, unit spread: F of a weight is E[x^2], of a bias 1."""
    network = policy(inputs=3)
    network.torso = nn.Identity()  # type: ignore[assignment]
    network.mean = nn.Linear(3, 2)  # type: ignore[assignment]
    network.forward = lambda x, context=None: network.mean(x)  # type: ignore[method-assign]
    with torch.no_grad():
        network.log_std.fill_(0.5)
    x = torch.tensor([[1.0, 2.0, 0.0]]).repeat(4000, 1)
    parameters = [network.mean.weight, network.mean.bias]
    weight, bias = fisher_diagonal(network, parameters, x, None, generator(1))
    precision = torch.exp(torch.tensor(-1.0))  # 1 / std^2
    expected = precision * torch.tensor([[1.0, 4.0, 0.0]]).repeat(2, 1)
    torch.testing.assert_close(weight, expected, rtol=0.08, atol=0)
    torch.testing.assert_close(bias, precision.repeat(2), rtol=0.08, atol=0)


def test_fisher_of_a_squashed_policy_is_that_of_its_log_density():
    torso = build_mlp(MLPConfig(hidden_sizes=[8]), 3, ContextSpec(), Streams(0))
    network = SquashedGaussianPolicy(torso, 2, Initializer("lecun_uniform"), Streams(0))
    parameters = list(network.parameters())
    x = torch.randn(5, 3, generator=generator(2))
    found = fisher_diagonal(network, parameters, x, None, generator(3))
    stream, expected = generator(3), [torch.zeros_like(p) for p in parameters]
    for row in x.split(1):
        mean, log_std = network(row, None)
        normal = torch.distributions.Normal(mean, log_std.exp())
        noise = torch.randn(mean.shape, generator=stream)
        action = (mean + log_std.exp() * noise).detach()
        squashed = torch.distributions.TransformedDistribution(
            normal, torch.distributions.TanhTransform(cache_size=1)
        )
        scalar = squashed.log_prob(torch.tanh(action)).sum()
        for total, gradient in zip(expected, torch.autograd.grad(scalar, parameters), strict=True):
            total += gradient.square() / 5
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_ewc_acts_on_the_policy_by_default():
    names = {n: ewc.build(ewc.Config(), with_name(n)).active for n in ("policy", "actor", "value")}
    assert names == {"policy": True, "actor": True, "value": False}


def with_name(name):
    target = with_inputs(policy(), torch.zeros(4, 4))
    return Target(name, target.module, (), target.generator, inputs=target.inputs)


# SI --------------------------------------------------------------------------------------------


class Descent:
    """Plain gradient descent on (w - 1)^2 / 2, with the method's hooks in their order."""

    def __init__(self, rate=0.5, **settings):
        self.module = scalar()
        self.method = si.build(
            si.Config(**settings), Target("policy", self.module, (), generator())
        )
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=rate)

    def step(self):
        loss = 0.5 * (self.module.weight - 1.0).square().sum()
        penalty = self.method.penalty(loss.detach())
        self.optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        self.method.after_backward()
        self.optimizer.step()
        self.method.after_step({}, self.optimizer)


def test_si_path_importance_and_penalty():
    """Dendrites, acceptance 26."""
    run = Descent()
    run.step()  # g = -1, dw = .5
    assert run.method._path[0].item() == pytest.approx(0.5)
    run.step()  # g = -.5, dw = .25
    assert run.method._path[0].item() == pytest.approx(0.625)
    assert run.method.penalty(LOSS) is None
    run.method.on_task_change(1, run.optimizer)
    importance = 0.625 / (0.75**2 + 0.1)
    assert run.method._importance[0].item() == pytest.approx(importance)
    assert run.method._path[0].item() == 0.0
    assert run.method.penalty(LOSS).item() == 0.0
    with torch.no_grad():
        run.module.weight.add_(0.2)
    assert run.method.penalty(LOSS).item() == pytest.approx(0.1 * importance * 0.04)


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_si_leaves_its_own_penalty_out_of_the_path(gradient):
    """Dendrites, acceptance 28."""
    run = Descent(gradient=gradient, strength=2.0)
    run.step()
    run.method.on_task_change(1, run.optimizer)
    with torch.no_grad():
        run.module.weight.fill_(0.6)
    importance = run.method._importance[0].item()
    run.step()
    total = (0.6 - 1.0) + 2.0 * 2.0 * importance * 0.1
    moved = -0.5 * total
    expected = -(total if gradient == "total" else -0.4) * moved
    assert run.method._path[0].item() == pytest.approx(expected)


def test_si_may_leave_the_first_task_unprotected():
    run = Descent(first_task=2)
    run.step()
    run.method.on_task_change(1, run.optimizer)
    run.step()
    assert run.method.penalty(LOSS) is None
    run.method.on_task_change(2, run.optimizer)
    assert run.method.penalty(LOSS).item() == 0.0
    assert run.method._importance[0].item() > 0.0


def test_si_counts_no_edit_as_learning_and_frees_renewed_entries():
    """Dendrites, acceptance 28."""
    run = Descent()
    run.step()
    run.method.on_task_change(1, run.optimizer)
    touched = [Touched(run.module.weight, 0, torch.tensor([0]))]
    run.method.after_backward()
    with torch.no_grad():
        run.module.weight.fill_(7.0)
    run.method.notice_edits(touched, renewed=True)
    run.method.after_step({}, run.optimizer)
    assert not run.method._path[0].any()
    assert not run.method._importance[0].any()
    assert run.method.penalty(LOSS).item() == 0.0
    with torch.no_grad():
        run.module.weight.fill_(9.0)
    assert run.method.penalty(LOSS).item() == 0.0


@pytest.mark.parametrize("module", [ewc, si])
def test_without_announcements_a_period_consolidates(module):
    config = module.Config(at_task_change=False, period=3)
    network = policy()
    inputs = torch.randn(16, 4, generator=generator(1))
    method = module.build(config, with_inputs(network, inputs))
    assert not method.uses_task_boundary
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(1, 7):
        network(inputs).square().sum().backward()
        method.after_backward()
        optimizer.step()
        method.after_step({}, optimizer)
        assert method.count == step // 3
    assert [event["gradient_step"] for event in method.pop_events()] == [3, 6]
    assert target_of(network).name == "net"
