"""Self-normalised resets: what counts as silent, percentiles, limits, and exact resume."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import (
    Trainer,
    assert_resumes,
    equal_bits,
    parameters_of,
    policy,
    still,
    target_of,
)

from plasticity.methods.snr import Config, build
from plasticity.optimizers import adam
from plasticity.silences import SilenceRecord


def attach(net, planned=None, seed=0, **settings):
    return build(Config(**settings), target_of(net, "policy", seed, planned))


def call(method, optimizer, first, batch=4):
    """One step: unit i of layer 0 fires on one sample where first[i] is true."""
    h = torch.zeros(batch, len(first))
    h[1] = torch.tensor(first, dtype=torch.float32)
    method.after_backward()
    method.after_step({"layers.0": h, "layers.1": torch.ones(batch, 3)}, optimizer)
    return [(event["group"], event["unit"]) for event in method.pop_events()]


def record_of(method, name="layers.0"):
    return method.groups[name]


def test_regular_units_have_the_floor_as_limit_and_are_renewed_exactly_there():
    """Unit 0 fires every fifth update for 100 records, then never again."""
    net = policy((2, 3))
    method, optimizer = attach(net, refresh_period=500), still(net)
    for step in range(1, 501):
        assert call(method, optimizer, [step % 5 == 0, True]) == []
    assert record_of(method).histogram[0].sum() == 100
    assert record_of(method).limit.tolist() == [100, 100]
    renewed = [step for step in range(1, 201) if call(method, optimizer, [False, True])]
    assert renewed == [100]  # and then it is a new unit without records


def test_before_fifty_records_only_the_maximum_counts():
    net = policy((2, 3))
    method, optimizer = attach(net, max_silence=300, refresh_period=10), still(net)
    for _ in range(49):
        call(method, optimizer, [True, True])
    fired = [step for step in range(1, 400) if call(method, optimizer, [False, True])]
    assert fired == [300]


def test_a_unit_is_measured_by_its_own_past():
    """Two units fall silent together; the one that often was silent for long gets more time."""
    net = policy((2, 3))
    method = attach(net, min_silence=5, max_silence=1000, refresh_period=600)
    optimizer = still(net)
    for step in range(1, 601):
        call(method, optimizer, [step % 2 == 0, step % 10 == 0])
    assert record_of(method).limit[0] == 5
    assert 9 <= record_of(method).limit[1] <= 10  # silences of 9, classes a few per cent wide
    events = [unit for _ in range(12) for _, unit in call(method, optimizer, [False, False])]
    assert events == [0, 1]


def test_limits_equal_the_percentile_of_a_loop():
    torch.manual_seed(0)
    record = SilenceRecord(3, 1, 64, torch.device("cpu"))  # so few that every class is one length
    assert record.upper_edges.tolist()[:20] == list(range(1, 21))
    past: list[list[int]] = [[], [], []]
    running = [0, 0, 0]
    chance = torch.tensor([0.5, 0.2, 0.1])
    for _ in range(3000):
        heard = torch.rand(3) < chance
        record.count(~heard)
        for unit in range(3):
            if heard[unit]:
                past[unit].append(running[unit])
            running[unit] = 0 if heard[unit] else running[unit] + 1
    assert record.silence.tolist() == running
    record.refresh(0.05, 50)
    for unit in range(3):
        ordered = sorted(past[unit])
        expected = ordered[-(-95 * len(ordered) // 100) - 1]  # the least that 95 % do not exceed
        limit = record.limit[unit].item()
        assert limit == (expected if expected <= 20 else pytest.approx(expected, abs=1))


def test_looking_only_when_a_unit_can_be_due_misses_nothing():
    torch.manual_seed(1)
    record = SilenceRecord(8, 3, 20, torch.device("cpu"))
    chance = torch.linspace(0.05, 0.9, 8)
    looks, step_of_events = 0, 0
    for step in range(1, 800):
        record.count(torch.rand(8) > chance)
        if step % 100 == 0:
            record.refresh(0.1, 10)
        truth = (record.silence >= record.limit).nonzero().flatten()
        looks += record._steps_to_look <= 0
        due = record.due()
        assert (due is None and not len(truth)) or torch.equal(due, truth)
        if due is not None:
            record.clear(due, step)
            step_of_events += 1
    assert step_of_events > 20
    assert looks < 700


def test_silent_means_silent_on_the_whole_minibatch():
    net = policy((2, 3))
    method = attach(net)
    call(method, still(net), [True, False])
    assert record_of(method).silence.tolist() == [0, 1]
    call(method, still(net), [False, True])
    assert record_of(method).silence.tolist() == [1, 0]
    assert record_of(method).histogram.sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("activation", ["tanh", "smooth_leaky", "crelu", "deep_fourier"])
def test_units_that_are_never_silent_are_judged_by_their_gradients(activation):
    net = policy((6, 6), activation=activation)
    method = attach(net, gradient_threshold=0.01)
    assert method.needs == frozenset()
    units = record_of(method).silence.numel()
    assert units == (3 if activation in ("crelu", "deep_fourier") else 6)
    for linear in (layer.linear for layer in net.torso.layers):
        linear.weight.grad = torch.ones_like(linear.weight)
        linear.weight.grad[1] = 1e-3
    method.after_backward()
    method.after_step({}, still(net))
    assert record_of(method).silence.tolist() == [0, 1, *([0] * (units - 2))]
    for layer in net.torso.layers:  # a step without any gradient says nothing
        layer.linear.weight.grad.zero_()
    before = record_of(method).state_dict()
    method.after_backward()
    method.after_step({}, still(net))
    assert equal_bits(record_of(method).state_dict(), before)
    with pytest.raises(ValueError, match="after_backward"):
        method.after_step({}, still(net))


def test_winners_may_be_negative():
    net = policy((2, 3))
    method = attach(net)
    group = next(iter(method.target.unit_groups))
    object.__setattr__(group, "activation", "k_winners")
    h = torch.tensor([[-1.0, 0.0], [0.0, 0.0]])
    assert method._silent(group, {"layers.0": h}).tolist() == [False, True]
    object.__setattr__(group, "activation", "relu")
    assert method._silent(group, {"layers.0": h}).tolist() == [True, True]


def test_never_is_bit_identical_to_no_method():
    nets = [policy((16, 16)) for _ in range(2)]
    for net, method in ((nets[0], None), (nets[1], attach(nets[1], tail_probability=0.0))):
        Trainer(net, method, adam.build(adam.Config(), net)).run(50)
    assert equal_bits(parameters_of(nets[0]), parameters_of(nets[1]))
    assert attach(nets[1], tail_probability=0.0).state_dict() == {}


EAGER = {"min_silence": 1, "max_silence": 12, "min_records": 3, "refresh_period": 8}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_resume_is_exact_and_edits_reach_the_optimizer(activation):
    def start(seed):
        net = policy((16, 16), seed=seed, activation=activation)
        method = attach(net, seed=seed, gradient_threshold=0.5, **EAGER)
        return Trainer(net, method, adam.build(adam.Config(), net), seed)

    whole, other = start(0), start(7)
    whole.run(21)
    assert_resumes(whole, other)
    assert whole.method.resets_optimizer == "entries"


def test_log_values_and_announcement():
    net = policy((2, 3))
    method = attach(net)
    call(method, still(net), [True, False])
    values = method.log_values()
    assert values["layers.0/longest_silence"] == 1.0
    assert values["layers.0/median_limit"] == 10_000.0
    assert values["layers.0/replaced_total"] == 0
    assert "98%" in method.announcement()
    assert method.announcement().endswith("(optimizer_state=zero_moments, target_edit=copy)")


@pytest.mark.parametrize(
    "settings",
    [
        {"tail_probability": 1.0},
        {"gradient_threshold": -1.0},
        {"min_silence": 0},
        {"max_silence": 99},
        {"min_records": 0},
        {"refresh_period": 0},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"method.snr.{next(iter(settings))}"):
        Config(**settings)


def test_a_run_too_short_is_refused_and_the_bound_is_tight():
    with pytest.raises(ValueError, match=r"snr could never fire.*step 1,000"):
        attach(policy(), planned=999)
    config = Config(**{**EAGER, "min_silence": 4, "max_silence": 100})
    net = policy((2, 3))
    method, optimizer = build(config, target_of(net)), still(net)
    steps = [s for s in range(1, 20) if call(method, optimizer, [s <= config.min_records, True])]
    assert steps[0] == config.first_possible_step == 8
