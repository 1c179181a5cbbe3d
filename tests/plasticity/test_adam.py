"""Adam, AdamW, NS-Adam and the per-unit variant against torch and closed forms."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import equal_bits, generator, policy
from torch import nn

from plasticity.optimizers import adam
from plasticity.optimizers.per_unit_adam import PerUnitAdam


class One(nn.Module):
    def __init__(self, value=1.0, dtype=torch.float64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1), value, dtype=dtype))


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [("decoupled", [0.99999, 0.99998, 0.99997]), ("coupled", [0.999, 0.998, 0.997])],
)
def test_decay_closed_form(mode, expected, per_unit):
    config = adam.Config(learning_rate=1e-3, weight_decay=1e-2, weight_decay_mode=mode)
    one = One()
    optimizer = adam.build(config, one, per_unit_step=per_unit)
    one.weight.grad = torch.zeros_like(one.weight)
    for value in expected:
        optimizer.step()
        assert one.weight.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("per_unit", [False, True])
def test_constant_gradient(per_unit):
    """The broken Adam of the public code gives .99968, .99883, .99735 here."""
    one = One()
    optimizer = adam.build(adam.Config(learning_rate=0.1, epsilon=0.0), one, per_unit)
    one.weight.grad = torch.ones_like(one.weight)
    for value in (0.9, 0.8, 0.7):
        optimizer.step()
        assert one.weight.item() == pytest.approx(value, abs=1e-12)


def test_equal_betas_never_step_further_than_the_learning_rate():
    lr = 1e-3
    weight = nn.Parameter(torch.zeros(64, dtype=torch.float64))
    module = nn.Module()
    module.weight = weight
    config = adam.Config(learning_rate=lr, beta1=0.99, beta2=0.99)
    optimizer = adam.build(config, module)
    stream, largest = generator(), 0.0
    for _ in range(5_000):
        noise = torch.randn(64, generator=stream, dtype=torch.float64)
        weight.grad = noise / torch.randn(64, generator=stream, dtype=torch.float64)  # Cauchy
        before = weight.detach().clone()
        optimizer.step()
        largest = max(largest, (weight.detach() - before).abs().max().item())
    assert 0.5 * lr < largest <= lr * (1 + 1e-6)


@pytest.mark.parametrize(
    ("betas", "first", "twelfth"), [((0.9, 0.999), 3.1891, 6.5708), ((0.99, 0.99), 0.1099, None)]
)
def test_gradient_jump(betas, first, twelfth):
    one = One(0.0)
    config = adam.Config(learning_rate=1e-3, beta1=betas[0], beta2=betas[1])
    optimizer = adam.build(config, one)
    ratios = []
    for step in range(20_012):
        one.weight.grad = torch.full_like(one.weight, 1.0 if step < 20_000 else 1000.0)
        before = one.weight.item()
        optimizer.step()
        if step >= 20_000:
            ratios.append((before - one.weight.item()) / 1e-3)
    assert ratios[0] == pytest.approx(first, abs=2e-4)
    if twelfth is None:
        assert max(ratios) < 1.0
    else:
        assert ratios[11] == pytest.approx(twelfth, abs=2e-4)
        assert max(ratios) == ratios[11]


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_per_unit_adam_equals_torch_without_resets(dtype, rtol, mode, decay):
    reference, ours = policy().to(dtype), policy().to(dtype)
    kind = torch.optim.AdamW if mode == "decoupled" else torch.optim.Adam
    theirs = kind(reference.parameters(), lr=1e-3, weight_decay=decay, foreach=False)
    config = adam.Config(learning_rate=1e-3, weight_decay=decay, weight_decay_mode=mode)
    mine = adam.build(config, ours, per_unit_step=True)
    assert isinstance(mine, PerUnitAdam)
    stream = generator()
    for _ in range(300):
        for left, right in zip(reference.parameters(), ours.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=stream).to(dtype)
            right.grad = left.grad.clone()
        theirs.step()
        mine.step()
    for left, right in zip(reference.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(right, left, rtol=rtol, atol=rtol)


def test_after_a_restart_entries_follow_a_fresh_adam():
    torch.manual_seed(0)
    lr, shape = 1e-2, (4, 5)
    plain = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    mixed = nn.Parameter(plain.detach().clone())
    undisturbed, ours = torch.optim.Adam([plain], lr=lr), PerUnitAdam([mixed], lr=lr)

    def step(*pairs):
        grad = torch.randn(shape, dtype=torch.float64)
        for parameter, optimizer in pairs:
            parameter.grad = grad.clone()
            optimizer.step()

    for _ in range(40):
        step((plain, undisturbed), (mixed, ours))

    def restart(dim, index):
        for moment in ("exp_avg", "exp_avg_sq"):
            ours.state[mixed][moment].index_fill_(dim, torch.tensor([index]), 0.0)
        ours.restart_entries(mixed, dim, torch.tensor([index]))
        fresh = nn.Parameter(mixed.detach().clone())
        return fresh, torch.optim.Adam([fresh], lr=lr)

    row = restart(0, 2)
    for _ in range(30):
        step((plain, undisturbed), (mixed, ours), row)
    column = restart(1, 3)
    for _ in range(30):
        step((plain, undisturbed), (mixed, ours), row, column)
    in_row = torch.zeros(shape, dtype=torch.bool)
    in_row[2] = True
    in_column = torch.zeros(shape, dtype=torch.bool)
    in_column[:, 3] = True
    for mask, reference in (
        (in_column, column[0]),  # the later restart wins where both apply
        (in_row & ~in_column, row[0]),
        (~in_row & ~in_column, plain),
    ):
        torch.testing.assert_close(mixed[mask], reference[mask], rtol=1e-10, atol=1e-12)
    steps = ours.steps(mixed)
    assert steps[0, 0] == 100
    assert steps[2, 0] == 60
    assert steps[2, 3] == steps[0, 3] == 30


def test_per_unit_state_round_trip():
    torch.manual_seed(0)
    nets = [policy(), policy()]
    optimizers = [adam.build(adam.Config(), net, per_unit_step=True) for net in nets]
    stream = generator()

    def step(*which):
        grads = [torch.randn(p.shape, generator=stream) for p in nets[0].parameters()]
        for index in which:
            for p, grad in zip(nets[index].parameters(), grads, strict=True):
                p.grad = grad.clone()
            optimizers[index].step()

    for _ in range(5):
        step(0)
    first = nets[0].torso.layers[0].linear.weight
    optimizers[0].restart_entries(first, 0, torch.tensor([3]))
    step(0)
    saved = optimizers[0].state_dict()
    live = {t.data_ptr() for s in optimizers[0].state.values() for t in s.values()
            if isinstance(t, torch.Tensor)}  # fmt: skip
    stored = {t.data_ptr() for s in saved["state"].values() for t in s.values()
              if isinstance(t, torch.Tensor)}  # fmt: skip
    assert not live & stored
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(saved)
    assert optimizers[1].state[nets[1].torso.layers[0].linear.weight]["row_start"].dtype == (
        torch.int64
    )
    for _ in range(5):
        step(0, 1)
    assert equal_bits(nets[0].state_dict(), nets[1].state_dict())
    assert equal_bits(optimizers[0].state_dict()["state"], optimizers[1].state_dict()["state"])
    assert not equal_bits(saved["state"], optimizers[1].state_dict()["state"])


def decays(config, module) -> dict[str, float]:
    names = {id(p): name for name, p in module.named_parameters()}
    return {
        names[id(p)]: group["weight_decay"]
        for group in adam.parameter_groups(config, module)
        for p in group["params"]
    }


def test_decay_by_role():
    net = policy(layer_norm=True)
    everything = decays(adam.Config(weight_decay=0.1), net)
    assert set(everything.values()) == {0.1}
    weights_only = decays(
        adam.Config(weight_decay=0.1, wd_on_biases=False, wd_on_log_std=False), net
    )
    matrices = {name for name, p in net.named_parameters() if p.dim() == 2}
    assert {name for name, decay in weights_only.items() if decay == 0.1} == matrices
    assert decays(adam.Config(weight_decay=0.1, wd_on_biases=False), net)["log_std"] == 0.1

    class Dendritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segments = nn.Parameter(torch.ones(2, 2, 2))
            self.log_temperature = nn.Parameter(torch.zeros(()))
            self.weight = nn.Parameter(torch.ones(2, 2))

    assert decays(adam.Config(weight_decay=0.1), Dendritic()) == {
        "weight": 0.1,
        "segments": 0.0,
        "log_temperature": 0.0,
    }


def test_positions_in_the_state_do_not_depend_on_decay():
    net = policy(layer_norm=True)
    orders = [
        [id(p) for group in adam.parameter_groups(config, net) for p in group["params"]]
        for config in (
            adam.Config(),
            adam.Config(weight_decay=0.1),
            adam.Config(weight_decay=0.1, wd_on_biases=False),
            adam.Config(weight_decay=0.1, wd_on_biases=False, wd_on_log_std=False),
        )
    ]
    assert all(order == orders[0] for order in orders)
    assert len(adam.parameter_groups(adam.Config(), net)) == 1  # one fused call


def test_frozen_parameters_are_left_out():
    net = policy()
    net.log_std.requires_grad_(False)
    assert "log_std" not in decays(adam.Config(), net)
    with pytest.raises(ValueError, match="no trainable"):
        adam.build(adam.Config(), net.requires_grad_(False))


@pytest.mark.parametrize("per_unit", [False, True])
def test_scalar_parameters_work(per_unit):
    module = nn.Module()
    module.log_temperature = nn.Parameter(torch.zeros(()))
    optimizer = adam.build(adam.Config(learning_rate=0.5), module, per_unit)
    module.log_temperature.grad = torch.ones(())
    optimizer.step()
    assert module.log_temperature.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_the_usual_optimizer_gives_the_bits_of_torch_fused(mode):
    reference, ours = policy(), policy()
    kind = torch.optim.AdamW if mode == "decoupled" else torch.optim.Adam
    theirs = kind(reference.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    mine = adam.build(adam.Config(weight_decay=0.1, weight_decay_mode=mode), ours)
    assert not isinstance(mine, PerUnitAdam)
    stream = generator()
    for _ in range(20):
        for left, right in zip(reference.parameters(), ours.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=stream)
            right.grad = left.grad.clone()
        theirs.step()
        mine.step()
    assert equal_bits(reference.state_dict(), ours.state_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
        ({"epsilon": -1e-8}, "epsilon"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay_mode": "l2"}, "coupled, decoupled"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        adam.Config(**settings)
