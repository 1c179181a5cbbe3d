"""Our direct Adam gives torch's own bits and shares its saved state."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from plasticity.optimizers import adam
from plasticity.optimizers.direct_adam import DirectAdam


def make(kind, seed=0, **settings):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    return network, kind(network.parameters(), lr=1e-2, betas=(0.9, 0.99), **settings)


def advance(network, optimizer, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(4, 5, generator=generator)).square().sum().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("decoupled", "theirs"), [(False, torch.optim.Adam), (True, torch.optim.AdamW)]
)
def test_equals_torch_bit_for_bit(decay, decoupled, theirs):
    ours = advance(*make(DirectAdam, decoupled=decoupled, weight_decay=decay), 50)
    reference = advance(*make(theirs, fused=True, weight_decay=decay), 50)
    assert torch.equal(ours, reference)


def test_state_moves_between_ours_and_torch():
    network, optimizer = make(DirectAdam)
    advance(network, optimizer, 10)
    other, torch_optimizer = make(torch.optim.Adam, fused=True)
    other.load_state_dict(network.state_dict())
    torch_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    a = advance(network, optimizer, 10, seed=2)
    assert torch.equal(a, advance(other, torch_optimizer, 10, seed=2))


def test_a_parameter_without_gradient_or_state_starts_afresh():
    network, optimizer = make(DirectAdam)
    advance(network, optimizer, 3)
    weight = network[0].weight
    optimizer.state.pop(weight)
    advance(network, optimizer, 1)
    assert optimizer.state[weight]["step"] == 1
    assert optimizer.state[network[2].weight]["step"] == 4
    network[0].bias.grad = None
    before = network[0].bias.detach().clone()
    optimizer.step()
    assert torch.equal(network[0].bias, before)


def test_the_optimizer_preset_builds_it():
    network = nn.Linear(3, 2)
    assert isinstance(adam.build(adam.Config(), network), DirectAdam)


def test_step_counters_are_joined_again_after_the_state_was_loaded():
    network, optimizer = make(DirectAdam)
    advance(network, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    advance(network, optimizer, 2)
    optimizer.load_state_dict(saved)
    advance(network, optimizer, 1)
    assert [float(state["step"]) for state in optimizer.state.values()] == [4.0] * 4
    assert saved["state"][0]["step"] == 3  # what was saved is not part of the live state


def test_the_counter_of_one_parameter_can_be_set_alone():
    network, optimizer = make(DirectAdam)
    advance(network, optimizer, 3)
    optimizer.state[network[0].weight]["step"].zero_()
    advance(network, optimizer, 1)
    assert [float(optimizer.state[p]["step"]) for p in network.parameters()] == [1, 4, 4, 4]


def test_groups_count_apart():
    network, _ = make(DirectAdam)
    groups = [{"params": [network[0].weight]}, {"params": [network[2].weight], "lr": 0.0}]
    optimizer = DirectAdam(groups, lr=1e-2)
    before = network[2].weight.detach().clone()
    advance(network, optimizer, 2)
    network[2].weight.grad = None
    optimizer.step()
    assert optimizer.state[network[0].weight]["step"] == 3
    assert optimizer.state[network[2].weight]["step"] == 2
    assert torch.equal(network[2].weight, before)


def test_hooks_on_steps_are_called():
    network, optimizer = make(DirectAdam)
    advance(network, optimizer, 1)
    calls = []
    before = optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    after = optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    everywhere = register_optimizer_step_post_hook(lambda *_: calls.append("everywhere"))
    advance(network, optimizer, 1)
    for handle in (before, after):
        handle.remove()
    advance(network, optimizer, 1)
    everywhere.remove()
    advance(network, optimizer, 1)
    assert calls == ["before", "after", "everywhere", "everywhere"]
    assert optimizer.state[network[0].weight]["step"] == 4
