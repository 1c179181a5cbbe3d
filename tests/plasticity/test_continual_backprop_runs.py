"""Continual backprop inside training runs: isolation, SAC's networks and targets, exact resume."""

from __future__ import annotations

import copy

import pytest
import torch
from recycling_nets import (
    Trainer,
    critic,
    equal_bits,
    generator,
    parameters_of,
    policy,
    recycler,
    target_of,
)

from agents.update import clone
from plasticity.methods.continual_backprop import Config, build, converted_rates
from plasticity.optimizers import adam
from plasticity.recycling import mirror_edits

FAST = {"replacement_rate": 0.02, "maturity_threshold": 10}


def train(method_settings, steps=300, planned=None):
    """Weights, losses' generator states and global generator state after a short training."""
    torch.manual_seed(123)
    net = policy((16, 16))
    method = None
    if method_settings is not None:
        method = recycler(net, planned=planned, **method_settings)
    optimizer = adam.build(adam.Config(), net)
    trainer = Trainer(net, method, optimizer)
    noise = []
    for _ in range(steps):
        noise.append(torch.randn(()).item())  # action noise from the global stream
        trainer.step()
    states = (torch.get_rng_state(), trainer.data.get_state(), noise)
    return net, method, states, clone(optimizer.state_dict()["state"])


def test_zero_rate_is_bit_identical_to_no_method():
    plain, _, plain_states, plain_optimizer = train(None)
    net, method, states, optimizer = train({"replacement_rate": 0.0})
    assert equal_bits(parameters_of(plain), parameters_of(net))
    assert equal_bits(plain_states, states)
    assert equal_bits(plain_optimizer, optimizer)
    assert method.needs == frozenset()
    assert method.state_dict() == {}
    assert method.statistics == {}
    assert method.log_values() == {}
    assert torch.equal(method.target.generator.get_state(), generator(0).get_state())
    method.load_state_dict({})
    method.after_step({}, None)  # type: ignore[arg-type]
    assert method.pop_touched() == []


def test_maturity_beyond_the_run_is_bit_identical_to_no_method():
    plain, _, plain_states, _ = train(None)
    net, method, states, _ = train({"maturity_threshold": 10_000})
    assert equal_bits(parameters_of(plain), parameters_of(net))
    assert equal_bits(plain_states, states)
    assert method.needs == {"activations"}


@pytest.mark.parametrize("count_mode", ["accumulate", "bernoulli"])
def test_renewals_draw_from_no_other_stream(count_mode):
    _, _, plain_states, _ = train(None)
    net, method, states, _ = train({**FAST, "count_mode": count_mode})
    assert equal_bits(plain_states, states)
    assert len(method.pop_events()) > 50
    other, _, _, _ = train({**FAST, "count_mode": count_mode})
    assert equal_bits(parameters_of(net), parameters_of(other))  # and seeded runs are equal


def critic_trainer(name, seed, **settings):
    net = critic(seed=seed)
    method = build(Config(**{**FAST, **settings}), target_of(net, name, seed))
    return net, method, Trainer(net, method, adam.build(adam.Config(), net), seed)


def test_twin_critics_and_actor_are_independent():
    """Training and recycling the three in turn gives the same bits as each one alone."""

    def start():
        actor = policy(seed=3)
        method = recycler(actor, seed=3, name="actor", **FAST)
        actor_trainer = Trainer(actor, method, adam.build(adam.Config(), actor), 3)
        return [critic_trainer(f"critic_{k}", k)[2] for k in (1, 2)] + [actor_trainer]

    together, alone = start(), start()
    for _ in range(100):
        for trainer in together:
            trainer.step()
    for trainer in alone:
        trainer.run(100)
    for left, right in zip(together, alone, strict=True):
        assert equal_bits(parameters_of(left.module), parameters_of(right.module))
        assert len(left.method.pop_events()) > 10
    first, second = (trainer.method.pop_events for trainer in alone[:2])
    assert [e["unit"] for e in first()] != [e["unit"] for e in second()]


def test_actor_loss_through_a_critic_changes_no_critic_state():
    net, method, trainer = critic_trainer("critic_1", 1)
    trainer.run(50)
    before, activations = method.state_dict(), trainer.recording.activations
    actor = policy(actions=4)
    net(actor(torch.randn(8, 4))).mean().backward()
    assert equal_bits(method.state_dict(), before)
    assert trainer.recording.activations is activations


def test_target_receives_the_same_edit_or_drifts():
    tau = 0.005
    for mode in ("copy", "drift"):
        net, method, trainer = critic_trainer("critic_1", 1, target_edit=mode)
        target = copy.deepcopy(net)
        while True:
            trainer.step()
            touched = method.pop_touched()
            old = parameters_of(target)
            if method.mirrors_targets:
                mirror_edits(touched, net, target)
            if touched:
                break
        assert method.mirrors_targets == (mode == "copy")
        (event, *_) = [e for e in method.pop_events() if e["group"] == "layers.0"]
        unit = event["unit"]
        row = target.torso.layers[0].linear.weight[unit]
        if mode == "copy":
            assert torch.equal(row, net.torso.layers[0].linear.weight[unit])
            assert (target.torso.layers[1].linear.weight[:, unit] == 0.0).all()
            continue
        assert equal_bits(parameters_of(target), old)
        with torch.no_grad():
            for _ in range(138):
                for theirs, ours in zip(target.parameters(), net.parameters(), strict=True):
                    theirs.lerp_(ours, tau)
        keep = (1.0 - tau) ** 138
        assert keep == pytest.approx(0.5, abs=2e-3)  # the half-life
        for name, online in net.named_parameters():
            expected = keep * old[name] + (1.0 - keep) * online
            torch.testing.assert_close(dict(target.named_parameters())[name], expected)


@pytest.mark.parametrize(
    ("updates", "maturity", "rate"),
    [(0.078125, 10_000, 1e-4), (0.1, 12_800, 7.8125e-5), (1.0, 128_000, 7.8125e-6)],
)
def test_conversion_to_other_update_ratios(updates, maturity, rate):
    assert converted_rates(updates) == (maturity, pytest.approx(rate, rel=1e-12))
    assert maturity * rate == pytest.approx(1.0)


def test_conversion_refuses_impossible_ratios():
    for ratio in (0.0, -1.0, 1e-6, float("nan")):
        with pytest.raises(ValueError, match="updates_per_env_step"):
            converted_rates(ratio)


VARIANTS = [
    {},
    {"count_mode": "bernoulli", "utility": "adaptable_contribution"},
    {"utility": "random", "optimizer_state": "zero_moments"},
    {"optimizer_state": "per_unit_step", "mean_transfer": True, "rank_key": "raw"},
    {"count_mode": "accumulate_strict", "utility": "feature_by_input", "utility_decay": 0.0},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(map(str, s.values())) or "0")
def test_resume_is_exact(settings):
    per_unit = settings.get("optimizer_state") == "per_unit_step"

    def start(seed):
        net = policy((16, 16), seed=seed)
        method = recycler(net, seed=seed, **FAST, **settings)
        optimizer = adam.build(adam.Config(), net, per_unit_step=per_unit)
        return Trainer(net, method, optimizer, seed)

    def save(trainer):
        return clone(
            {
                "net": trainer.module.state_dict(),
                "optimizer": trainer.optimizer.state_dict(),
                "data": trainer.data.get_state(),
            }
        ) | {"method": trainer.method.state_dict()}

    whole = start(0)
    whole.run(47)
    saved = save(whole)
    frozen = copy.deepcopy(saved)
    renewed_before = sum(c.replaced_total for c in whole.method.counters.values())
    whole.run(47)
    assert equal_bits(saved, frozen)  # what was saved does not follow the live state
    renewed = sum(c.replaced_total for c in whole.method.counters.values())
    assert renewed > renewed_before > 0
    other = start(7)
    other.module.load_state_dict(saved["net"])
    state = saved["optimizer"]["state"]
    groups = other.optimizer.state_dict()["param_groups"]
    other.optimizer.load_state_dict(
        {"state": {int(k): v for k, v in state.items()}, "param_groups": groups}
    )
    other.data.set_state(saved["data"])
    other.method.load_state_dict(saved["method"])
    other.run(47)
    assert equal_bits(save(whole), save(other))


def test_state_is_plain_and_refuses_another_configuration():
    net = policy((16, 16))
    method = recycler(net, **FAST)
    Trainer(net, method, adam.build(adam.Config(), net)).run(20)
    state = method.state_dict()

    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return type(value) in (int, float, torch.Tensor)

    assert plain(state)
    with pytest.raises(ValueError, match="configured differently"):
        recycler(policy((16, 16, 16)), **FAST).load_state_dict(state)
    with pytest.raises(ValueError, match="configured differently"):
        recycler(net, replacement_rate=0.0).load_state_dict(state)
    with pytest.raises(ValueError, match="configured differently"):
        method.load_state_dict({})
