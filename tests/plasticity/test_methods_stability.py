"""EWC and SI against their formulas."""

import pytest
import torch
from recycling_nets import generator, policy, recycler, target_of
from torch import nn

from networks.heads import SquashedGaussianPolicy
from networks.initializers import Initializer
from networks.mlp import Config as MLPConfig
from networks.mlp import build as build_mlp
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, Touched
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


def test_fisher_of_one_weight_by_the_published_number(monkeypatch):
    """Dendrites, acceptance 27: policy N(w x, 1), x in {1, 3}, analytic F = (1 + 9) / 2 = 5.

    The noise of sampled actions enters as its square, whose mean is 1; here it is +-1 exactly.
    """
    network = policy(inputs=1, actions=1).double()
    network.torso = nn.Identity()  # type: ignore[assignment]
    network.mean = scalar(0.7)  # type: ignore[assignment]
    network.forward = lambda x, context=None: network.mean(x)  # type: ignore[method-assign]
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    weight = [network.mean.weight]
    (sampled,) = fisher_diagonal(network, weight, x.repeat(2000, 1), None, generator(1))
    assert sampled.item() == pytest.approx(5.0, rel=0.06)
    randn = torch.randn
    monkeypatch.setattr(
        "plasticity.importance.torch.randn", lambda *size, **kw: randn(*size, **kw).sign()
    )
    (exact,) = fisher_diagonal(network, weight, x, None, generator(1))
    assert exact.item() == pytest.approx(5.0, abs=1e-12)


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


def test_si_on_two_weights_by_the_published_numbers():
    """Dendrites, acceptance 26: L = (2 a^2 + .5 b^2) / 2 from (1, 1), three steps of .1."""
    module = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.fill_(1.0)
    method = si.build(si.Config(), Target("policy", module, (), generator()))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    curvature = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        (0.5 * curvature * module.weight.square()).sum().backward()
        method.after_backward()
        optimizer.step()
        method.after_step({}, optimizer)
    assert module.weight.flatten().tolist() == pytest.approx([0.512, 0.857375], abs=1e-12)
    assert method._path[0].flatten().tolist() == pytest.approx([0.81984, 0.06792516], abs=5e-9)
    method.on_task_change(1, optimizer)
    importance = method._importance[0].flatten().tolist()
    assert importance == pytest.approx([2.42452919, 0.56443484], abs=5e-9)
    with torch.no_grad():
        module.weight.zero_()
    module.weight.grad = None
    penalty = method.penalty(LOSS)
    assert penalty.item() == pytest.approx(0.1050487258, abs=5e-11)
    penalty.backward()
    gradient = module.weight.grad.flatten().tolist()
    assert gradient == pytest.approx([-0.24827179, -0.09678646], abs=5e-9)


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


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_si_keeps_the_gradient_of_the_loss_alone(gradient):
    """Dendrites, acceptance 28: of a whole network, in the presence of a strong penalty."""
    network, x = policy().double(), torch.randn(16, 4, generator=generator(1)).double()
    method = si.build(si.Config(strength=5.0, gradient=gradient), target_of(network, "policy"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)

    def loss():
        return (network(x) - x[:, :2].sin()).square().mean()

    for step in range(8):
        plain = torch.autograd.grad(loss(), list(method._references.parameters), allow_unused=True)
        value = loss()
        penalty = method.penalty(value.detach())
        optimizer.zero_grad()
        (value if penalty is None else value + penalty).backward()
        method.after_backward()
        kept = list(zip(method._gradient, plain, strict=True))
        apart = max(float((a - b).abs().max()) for a, b in kept if b is not None)
        if step > 5:  # one step after the consolidation the penalty pulls
            assert max(float(b.abs().max()) for b in plain if b is not None) < 10.0
            assert (apart < 1e-12) == (gradient == "task")
        optimizer.step()
        method.after_step({}, optimizer)
        if step == 4:
            method.on_task_change(1, optimizer)


def test_si_does_not_pull_at_a_unit_that_was_replaced():
    """Dendrites, acceptance 28: continual backprop renews, the penalty's gradient there is 0."""
    network, x = policy().double(), torch.randn(16, 4, generator=generator(1)).double()
    method = si.build(si.Config(strength=5.0), target_of(network, "policy"))
    renewal = recycler(network, replacement_rate=1.0 / 16, maturity_threshold=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    recording = Recording(network.unit_groups())
    for step in range(6):
        with recording:
            loss = (network(x) - x[:, :2].sin()).square().sum()
        optimizer.zero_grad()
        loss.backward()
        method.after_backward()
        optimizer.step()
        renewal.after_step(recording.activations, optimizer)
        touched = renewal.pop_touched()  # in the end, those after the consolidation
        method.notice_edits(touched, renewed=True)
        method.after_step({}, optimizer)
        if step == 4:
            method.on_task_change(1, optimizer)
    assert touched
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    optimizer.zero_grad()
    method.penalty(LOSS).backward()
    pulled = 0
    for parameter in method._references.parameters:
        renewed = torch.zeros_like(parameter, dtype=torch.bool)
        for entry in touched:
            if entry.parameter is parameter:
                renewed.index_fill_(entry.dim, entry.indices, True)
        assert (parameter.grad[renewed] == 0).all()
        pulled += int((parameter.grad[~renewed] != 0).sum())
    assert pulled > 100


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
