"""What renewing units does to the optimizer: exact entries, drifts and step sizes."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import Trainer, equal_bits, generator, hand_net, policy, recycler
from torch import nn

from agents.update import clone
from networks.units import Touched
from plasticity.optimizer_state import apply_policy, check_policy, rehearse_policy
from plasticity.optimizers import adam
from plasticity.optimizers.per_unit_adam import PerUnitAdam
from plasticity.recycling import renew

EQUAL, USUAL = (0.99, 0.99), (0.9, 0.999)


def settled(optimizer_type, betas, steps=20_000, lr=1e-4):
    """A 2 x 3 weight after a long constant gradient of 1, with moments at their steady state."""
    weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    optimizer = optimizer_type([weight], lr=lr, betas=betas)
    weight.grad = torch.ones_like(weight)
    for _ in range(steps):
        optimizer.step()
    return weight, optimizer


@pytest.mark.parametrize(("betas", "drift"), [(EQUAL, -0.0197195), (USUAL, -0.0009045)])
def test_keep_lets_old_moments_move_a_zeroed_column(betas, drift):
    weight, optimizer = settled(torch.optim.Adam, betas)
    before = clone(optimizer.state_dict()["state"][0])
    with torch.no_grad():
        weight[:, 1] = 0.0
    apply_policy("keep", optimizer, [Touched(weight, 1, torch.tensor([1]))])
    assert equal_bits(clone(optimizer.state_dict()["state"][0]), before)
    weight.grad = torch.zeros_like(weight)
    for _ in range(1_000):
        optimizer.step()
    assert weight[0, 1].item() == pytest.approx(drift, rel=1e-4)


@pytest.mark.parametrize(
    ("betas", "multipliers"),
    [
        (USUAL, {1: 3.16228, 12: 6.56852, 100: 3.24080, 1_000: 1.25758}),
        (EQUAL, {1: 0.1, 10: 0.309221, 100: 0.796221}),
    ],
)
def test_zero_moments_scales_the_next_steps(betas, multipliers):
    lr = 1e-4
    weight, optimizer = settled(torch.optim.Adam, betas, lr=lr)
    apply_policy("zero_moments", optimizer, [Touched(weight, 1, torch.tensor([1]))])
    for step in range(1, max(multipliers) + 1):
        before = weight.detach().clone()
        optimizer.step()
        ratio = (before - weight.detach()) / lr
        if step in multipliers:
            assert ratio[0, 1].item() == pytest.approx(multipliers[step], rel=2e-5)
        assert ratio[0, 0].item() == pytest.approx(1.0, rel=1e-6)  # survivors keep their rate


@pytest.mark.parametrize("betas", [EQUAL, USUAL])
def test_per_unit_step_is_neutral(betas):
    lr = 1e-4
    weight, optimizer = settled(PerUnitAdam, betas, steps=2_000, lr=lr)
    apply_policy("per_unit_step", optimizer, [Touched(weight, 0, torch.tensor([1]))])
    for _ in range(20):
        before = weight.detach().clone()
        optimizer.step()
        ratio = (before - weight.detach()) / lr
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-6, atol=0)


@pytest.mark.parametrize("policy_name", ["keep", "zero_moments", "per_unit_step"])
def test_exactly_the_listed_entries_change(policy_name):
    net = policy((16, 16), layer_norm=True)
    per_unit = policy_name == "per_unit_step"
    optimizer = adam.build(adam.Config(), net, per_unit_step=per_unit)
    Trainer(net, None, optimizer).run(5)
    before = {p: clone(optimizer.state[p]) for p in net.parameters() if p in optimizer.state}
    groups = net.unit_groups()
    method = recycler(net)
    selections = [method.statistics[g.name].select(2, 99_999, 10_000, generator()) for g in groups]
    touched = renew(selections, generator())
    apply_policy(policy_name, optimizer, touched)
    names = {id(p): name for name, p in net.named_parameters()}
    edited = {names[id(entry.parameter)] for entry in touched}
    assert {name for name in edited if "norm" in name} != set()
    assert "mean.weight" in edited
    assert "log_std" not in edited
    for parameter, old in before.items():
        new = optimizer.state[parameter]
        listed = torch.zeros_like(parameter, dtype=torch.bool)
        for entry in touched:
            if entry.parameter is parameter:
                listed.index_fill_(entry.dim, entry.indices, True)
        for moment in ("exp_avg", "exp_avg_sq"):
            if policy_name == "keep":
                assert torch.equal(new[moment], old[moment])
            else:
                assert torch.equal(new[moment], old[moment].masked_fill(listed, 0.0))
        assert new["step"] == old["step"]
        if per_unit:
            steps = optimizer.steps(parameter)  # type: ignore[attr-defined]
            assert torch.equal(steps, torch.where(listed, 0, 5))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_zeroed_column_stays_zero_under_zero_gradient(decay):
    net = hand_net()
    optimizer = adam.build(adam.Config(weight_decay=decay), net)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(50):
        optimizer.step()
    method = recycler(net)
    selection = method.statistics["0"].select(1, 99_999, 10_000, generator())
    apply_policy("zero_moments", optimizer, renew([selection], generator()))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        optimizer.step()
    column = net[2].weight[:, selection.units]
    assert torch.equal(column, torch.zeros_like(column))


@pytest.mark.parametrize("policy_name", ["zero_moments", "per_unit_step"])
def test_sgd_momentum_is_zeroed(policy_name):
    weight = nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    apply_policy(policy_name, optimizer, [Touched(weight, 1, torch.tensor([2]))])
    buffer = optimizer.state[weight]["momentum_buffer"]
    assert buffer.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]


def test_policies_that_cannot_be_carried_out_are_refused():
    weight = nn.Parameter(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="per_unit_step=True"):
        check_policy("per_unit_step", torch.optim.Adam([weight]))

    class Odd(torch.optim.SGD):
        pass

    odd = Odd([weight], lr=0.1)
    odd.state[weight]["importance"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="zero_entries"):
        apply_policy("zero_moments", odd, [Touched(weight, 0, torch.tensor([0]))])


def test_optimizers_may_define_their_own_edit():
    calls = []

    class Own(torch.optim.SGD):
        def zero_entries(self, parameter, dim, indices):
            calls.append((dim, indices.tolist()))

    weight = nn.Parameter(torch.zeros(2, 3))
    own = Own([weight], lr=0.1)
    own.state[weight]["importance"] = torch.zeros(2, 3)
    apply_policy("zero_moments", own, [Touched(weight, 1, torch.tensor([0, 2]))])
    assert calls == [(1, [0, 2])]


class Remembering(torch.optim.Optimizer):
    """Keeps something for every weight, under a name that nobody knows."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["own"] = torch.zeros_like(parameter)


@pytest.mark.parametrize(
    ("policy", "named"), [("zero_moments", "zero_entries"), ("per_unit_step", "restart_entries")]
)
def test_a_policy_that_an_optimizer_cannot_carry_out_is_refused_before_any_step(policy, named):
    with pytest.raises(ValueError, match=named):
        rehearse_policy(policy, lambda layer: Remembering(layer.parameters()))
    rehearse_policy("keep", lambda layer: Remembering(layer.parameters()))


def test_trying_a_policy_out_draws_from_no_stream():
    before = torch.get_rng_state()
    rehearse_policy("zero_moments", lambda layer: torch.optim.Adam(layer.parameters()))
    assert torch.equal(torch.get_rng_state(), before)
