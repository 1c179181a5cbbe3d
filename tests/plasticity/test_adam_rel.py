"""Adam-Rel: what restarting the step counter does to the steps, and nothing without the event."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import equal_bits, generator, policy
from torch import nn

from plasticity.optimizers import adam, adam_rel


@pytest.mark.parametrize("per_unit", [False, True])
def test_multipliers_of_the_steps_after_an_event(per_unit):
    module = nn.Linear(1, 1, bias=False).double()
    config = adam_rel.Config(learning_rate=1e-3, epsilon=0.0)
    optimizer = adam_rel.build(config, module, per_unit_step=per_unit)

    def step():
        before = module.weight.item()
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.step()
        return (before - module.weight.item()) / 1e-3

    step()
    state = optimizer.state[module.weight]
    state["exp_avg"].fill_(1.0)  # the steady state of a constant gradient
    state["exp_avg_sq"].fill_(1.0)
    optimizer.new_objective()
    steps = [step() for _ in range(1000)]
    assert steps[0] == pytest.approx(0.3162, abs=5e-5)
    assert steps[11] == pytest.approx(0.1522, abs=5e-5)
    assert min(steps) == steps[11]
    assert steps[999] == pytest.approx(0.7952, abs=5e-5)
    for count, mean in ((160, 0.272), (250, 0.329), (1000, 0.582)):
        assert sum(steps[:count]) / count == pytest.approx(mean, abs=1e-3)
    assert state["exp_avg"].item() == pytest.approx(1.0)


@pytest.mark.parametrize(("beta1", "beta2", "factor"), [(0.99, 0.99, "10.0"), (0.9, 0.9, "3.2")])
def test_betas_that_would_multiply_the_first_step_are_refused(beta1, beta2, factor):
    with pytest.raises(ValueError, match=f"adam_rel.*by {factor}"):
        adam_rel.Config(beta1=beta1, beta2=beta2)


def test_the_refused_factor_is_what_would_happen():
    parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = adam_rel.AdamRel([parameter], lr=1.0, betas=(0.99, 0.99), eps=0.0)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.state[parameter]["exp_avg"].fill_(1.0)
    optimizer.state[parameter]["exp_avg_sq"].fill_(1.0)
    optimizer.new_objective()
    before = parameter.item()
    optimizer.step()
    assert before - parameter.item() == pytest.approx(10.0)


def test_bounds_of_the_refusal():
    adam_rel.Config(beta1=0.9, beta2=0.99)  # a factor of exactly 1
    adam_rel.Config(beta1=0.0, beta2=0.0)


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_without_the_event_it_is_adam_bit_for_bit(per_unit, mode):
    settings = {"weight_decay": 0.1, "weight_decay_mode": mode}
    nets = [policy() for _ in range(2)]
    optimizers = [
        adam.build(adam.Config(**settings), nets[0], per_unit),
        adam_rel.build(adam_rel.Config(**settings), nets[1], per_unit),
    ]
    for net, optimizer in zip(nets, optimizers, strict=True):
        stream = generator()
        for _ in range(30):
            optimizer.zero_grad()
            net(torch.randn(4, 4, generator=stream)).square().sum().backward()
            optimizer.step()
    assert equal_bits(dict(nets[0].state_dict()), dict(nets[1].state_dict()))
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert equal_bits(*states)


def test_an_event_before_the_first_step_changes_nothing():
    net = policy()
    optimizer = adam_rel.build(adam_rel.Config(), net)
    optimizer.new_objective()
    assert not optimizer.state
