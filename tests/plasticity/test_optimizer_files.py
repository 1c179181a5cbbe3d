"""What every optimizer file promises: resume, recyclers, masks of gradients, seeds."""

from __future__ import annotations

import inspect

import pytest
import torch
from recycling_nets import equal_bits, generator, parameters_of, policy, recycler

from agents.parts import OPTIMIZERS
from agents.update import Update, clone, load_optimizer_state, optimizer_state
from plasticity.optimizer_state import POLICIES

KINDS = OPTIMIZERS.names()
EAGER = {"maturity_threshold": 8, "replacement_rate": 0.2}


def make(kind, seed=0, per_unit=False, **settings):
    module, net = OPTIMIZERS.get(kind), policy(seed=seed)
    config = module.Config(learning_rate=1e-2, **settings)
    optimizer = module.build(config, net, per_unit_step=per_unit, generator=generator(seed))
    return net, optimizer


def advance(update, steps, stream):
    for _ in range(steps):
        x = torch.randn(8, 4, generator=stream)
        with update.recording():
            y = update.network(x)
        update.step(((y - x[:, :2]).square() + update.network.log_std).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_signature_kind_and_frozen_settings(kind):
    module = OPTIMIZERS.get(kind)
    assert module.Config().kind == kind
    with pytest.raises(AttributeError):
        module.Config().learning_rate = 1.0
    assert list(inspect.signature(module.build).parameters) == [
        "config",
        "module",
        "per_unit_step",
        "generator",
    ]
    with pytest.raises(ValueError, match="no trainable parameter"):
        module.build(module.Config(), policy().requires_grad_(False), generator=generator())


@pytest.mark.parametrize("kind", KINDS)
def test_holds_exactly_the_trainable_parameters(kind):
    net, optimizer = make(kind)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy_name", POLICIES)
def test_resume_around_a_recycling_is_exact(kind, policy_name):
    def start(seed):
        net, optimizer = make(kind, seed, per_unit=policy_name == "per_unit_step")
        method = recycler(net, seed, name="policy", optimizer_state=policy_name, **EAGER)
        return Update("policy", net, optimizer, {"cb": method})

    whole, other, stream = start(0), start(3), generator(1)
    advance(whole, 12, stream)
    saved, position = clone(whole.state_dict()), stream.get_state()
    assert whole.pop_events()
    advance(whole, 12, stream)
    stream.set_state(position)
    other.load_state_dict(saved)
    advance(other, 12, stream)
    assert equal_bits(clone(whole.state_dict()), clone(other.state_dict()))
    assert whole.pop_events()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_state_is_plain_and_not_shared(kind):
    net, optimizer = make(kind)
    update = Update("policy", net, optimizer, {})
    advance(update, 3, generator())
    saved = optimizer_state(optimizer)
    before = clone(saved)
    advance(update, 3, generator())
    assert equal_bits(saved, before)

    def leaves(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from leaves(item)
        else:
            yield value

    assert all(isinstance(leaf, torch.Tensor | int | bool) for leaf in leaves(saved))
    load_optimizer_state(optimizer, saved)
    advance(update, 3, generator())
    assert equal_bits(saved, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy_name", POLICIES)
def test_renewed_units_keep_their_new_values_and_everything_still_learns(kind, policy_name):
    net, optimizer = make(kind, per_unit=policy_name == "per_unit_step")
    method = recycler(net, name="policy", optimizer_state=policy_name, **EAGER)
    update, stream = Update("policy", net, optimizer, {"cb": method}), generator(1)
    advance(update, 8, stream)
    before = parameters_of(net)
    advance(update, 1, stream)
    units = [e["unit"] for e in update.pop_events() if e["group"] == "layers.1"]
    assert units
    assert (net.mean.weight[:, units] == 0.0).all()
    fresh = net.torso.layers[1].linear.weight[units].detach().clone()
    assert not torch.allclose(fresh, before["torso.layers.1.linear.weight"][units], atol=0.05)
    x = torch.randn(8, 4, generator=stream)
    update.network(x).square().mean().backward()
    before = parameters_of(net)
    optimizer.step()
    # Two steps of the learning rate at most, and far from the old weights.
    moved = net.torso.layers[1].linear.weight[units] - fresh
    assert moved.abs().max() < 0.1
    method = None
    advance(Update("policy", net, optimizer, {}), 20, stream)
    still = [name for name, p in parameters_of(net).items() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_bits(kind):
    states = []
    for _ in range(2):
        net, optimizer = make(kind)
        advance(Update("policy", net, optimizer, {}), 10, generator())
        states.append(parameters_of(net))
    assert equal_bits(*states)


@pytest.mark.parametrize("kind", KINDS)
def test_keep_leaves_the_optimizer_alone(kind):
    net, optimizer = make(kind)
    method = recycler(net, name="policy", optimizer_state="keep", **EAGER)
    update, stream = Update("policy", net, optimizer, {"cb": method}), generator()
    advance(update, 8, stream)
    after_optimizer = []
    plain = optimizer.step

    def step():
        plain()
        after_optimizer.append(clone(optimizer.state_dict()["state"]))

    optimizer.step = step
    advance(update, 1, stream)
    assert update.pop_events()
    assert equal_bits(after_optimizer[0], clone(optimizer.state_dict()["state"]))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_moments_edits_the_listed_entries_only(kind):
    net, optimizer = make(kind)
    method = recycler(net, name="policy", optimizer_state="zero_moments", **EAGER)
    update, stream = Update("policy", net, optimizer, {"cb": method}), generator()
    advance(update, 8, stream)
    advance(update, 1, stream)
    units = sorted(e["unit"] for e in update.pop_events() if e["group"] == "layers.1")
    for name, value in optimizer.state[net.mean.weight].items():
        if isinstance(value, torch.Tensor) and value.shape == net.mean.weight.shape:
            zero = [i for i in range(16) if (value[:, i] == 0.0).all()]
            assert zero == units, name
