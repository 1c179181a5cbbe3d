"""Continual backprop: hand computation, selection, call order, cost, logs and refusals."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from recycling_nets import (
    Trainer,
    critic,
    equal_bits,
    generator,
    hand_net,
    policy,
    recycler,
    target_of,
)
from torch.utils._python_dispatch import TorchDispatchMode

from networks.units import Recording
from plasticity.methods.continual_backprop import Config, build
from plasticity.optimizers import adam

BATCH = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
FAST = {"replacement_rate": 0.02, "maturity_threshold": 10}


def frozen_sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.0)


class HandRun:
    """The 1-2-1 network with frozen weights, one call at a time."""

    def __init__(self, **settings) -> None:
        self.net = hand_net()
        settings = {"utility_decay": 0.9, "maturity_threshold": 2, "replacement_rate": 0.5,
                    **settings}  # fmt: skip
        self.method = recycler(self.net, **settings)
        self.recording = Recording(self.method.target.unit_groups)
        self.optimizer = frozen_sgd(self.net)
        self.statistics = self.method.statistics["0"]

    def observe(self) -> None:
        with self.recording:
            self.net(BATCH)
        self.method.update_utilities(self.recording.activations)

    def call(self) -> None:
        self.observe()
        self.method.replace_due(self.optimizer)


def assert_near(tensor, values) -> None:
    torch.testing.assert_close(tensor, torch.tensor(values, dtype=tensor.dtype))


@torch.no_grad()
def test_hand_computation():
    run = HandRun(mean_transfer=False, utility="contribution")
    assert_near(run.net(BATCH).flatten(), [2.2, 5.6])
    expected = [[0.4, 0.06], [0.76, 0.114], [1.084, 0.1626]]
    for call, utility in enumerate(expected, start=1):
        run.observe()
        assert_near(run.statistics.utility, utility)
        assert_near(run.statistics.corrected(run.statistics.utility, call), [4.0, 0.6])
        run.method.replace_due(run.optimizer)
        assert len(run.method.pop_touched()) == (0 if call < 3 else 3)
    assert_near(run.net[2].weight.flatten(), [2.0, 0.0])
    assert run.net[0].weight[0].item() == 1.0
    assert abs(run.net[0].weight[1].item()) <= math.sqrt(3.0)
    assert run.net[0].weight[1].item() != pytest.approx(0.1)
    assert run.net[0].bias.tolist() == [0.0, 0.0]
    assert run.net[2].bias.item() == 0.5
    assert run.statistics.utility[1] == 0.0
    assert run.statistics.ages(3).tolist() == [3, 0]
    assert run.method.counters["0"].accumulator == 0.0
    assert_near(run.net(BATCH).flatten(), [2.5, 6.5])
    (event,) = run.method.pop_events()
    assert event.pop("utility") == pytest.approx(0.6)
    assert event == {
        "event": "unit_reset",
        "method": "continual_backprop",
        "network": "net",
        "group": "0",
        "unit": 1,
        "gradient_step": 3,
        "age": 3,
    }
    assert run.method.pop_events() == []


@torch.no_grad()
def test_hand_computation_with_mean_transfer():
    run = HandRun(mean_transfer=True)
    for call in (1, 2, 3):
        run.observe()
        assert_near(run.statistics.corrected(run.statistics.mean, call), [2.0, 0.2])
        run.method.replace_due(run.optimizer)
    assert run.net[2].bias.item() == pytest.approx(-0.1)
    assert_near(run.net(BATCH).flatten(), [1.9, 5.9])
    assert run.net(BATCH).mean().item() == pytest.approx(3.9)
    assert run.statistics.mean[1] == 0.0


@torch.no_grad()
def test_strict_counting_waits_for_the_fourth_call():
    run = HandRun(count_mode="accumulate_strict")
    renewed = []
    for _ in range(4):
        run.call()
        renewed.append(len(run.method.pop_events()))
    assert renewed == [0, 0, 0, 1]
    assert run.method.counters["0"].accumulator == 1.0


@torch.no_grad()
def test_raw_key_penalises_units_that_have_just_matured():
    """A unit of age 11 has 1 - .99^11 = 10 % of its utility in the raw average."""
    chosen = {}
    for key in ("corrected", "raw"):
        method = recycler(hand_net(), rank_key=key, maturity_threshold=10)
        statistics = method.statistics["0"]
        old, new = 1.0 - 0.99**1000, 1.0 - 0.99**11
        statistics.utility.copy_(torch.tensor([2.0 * old, 3.0 * new]))
        statistics.born[1] = 1000 - 11
        chosen[key] = statistics.select(1, 1000, 10, generator()).units.item()
    assert chosen == {"corrected": 0, "raw": 1}


@torch.no_grad()
def test_selection_respects_maturity_ties_and_overflow():
    net = policy((6, 6))
    statistics = recycler(net).statistics["layers.0"]
    statistics.utility.copy_(torch.tensor([0.0, 1.0, 1.0, torch.inf, 1.0, 5.0]))
    statistics.born.copy_(torch.tensor([95, 0, 0, 0, 0, 0]))  # unit 0 is too young
    order = [statistics.select(k, 100, 50, generator()).units.tolist() for k in (1, 2, 3, 5)]
    assert order == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 5, 3]]


def test_no_unit_is_renewed_before_it_is_mature_and_none_is_missed():
    net = policy((16, 16))
    method = recycler(net, **FAST)
    trainer = Trainer(net, method, adam.build(adam.Config(), net))
    last, ages = {}, []
    for step in range(1, 401):
        trainer.step()
        for event in method.pop_events():
            key = (event["group"], event["unit"])
            assert event["gradient_step"] == step
            assert event["age"] == step - last.get(key, 0)
            ages.append(event["age"])
            last[key] = step
        for name, counter in method.counters.items():  # the host's count equals the device's
            mature = (method.statistics[name].ages(step) > 10).sum().item()
            assert counter.eligible == mature
    assert len(ages) == sum(c.replaced_total for c in method.counters.values()) > 100
    assert min(ages) >= 11


def test_replacing_everything_every_call_uses_each_unit_once_per_maturity():
    net = policy((4, 4))
    method = recycler(net, replacement_rate=1.0, maturity_threshold=3)
    Trainer(net, method, adam.build(adam.Config(), net)).run(8)
    steps = [event["gradient_step"] for event in method.pop_events()]
    assert sorted(set(steps)) == [4, 8]
    assert len(steps) == 16


def test_edit_happens_after_the_optimizer_step():
    net = policy((16, 16))
    method = recycler(net, **FAST)
    optimizer = adam.build(adam.Config(learning_rate=1e-2), net)
    trainer = Trainer(net, method, optimizer)
    order = []
    optimizer.register_step_post_hook(lambda *_: order.append("step"))
    renew = method.recycle
    method.recycle = lambda *arguments: (order.append("edit"), renew(*arguments))  # type: ignore
    for _ in range(60):
        trainer.step()
        for event in method.pop_events():
            reader = {"layers.0": net.torso.layers[1].linear, "layers.1": net.mean}[event["group"]]
            assert (reader.weight[:, event["unit"]] == 0.0).all()
    assert "edit" in order
    assert all(order[i - 1] == "step" for i, what in enumerate(order) if what == "edit")


def test_other_passes_change_no_state():
    net = policy((16, 16))
    method = recycler(net, **FAST)
    trainer = Trainer(net, method, adam.build(adam.Config(), net))
    trainer.run(30)
    before = method.state_dict()
    recorded = {name: h.clone() for name, h in trainer.recording.activations.items()}
    for index in range(1_000):
        net(torch.randn(1 + index % 7, 4, generator=generator(index)))
    net(torch.randn(3, 4)).sum().backward()  # nor does a backward pass
    assert equal_bits(method.state_dict(), before)
    assert equal_bits(trainer.recording.activations, recorded)


class CountOperations(TorchDispatchMode):
    """Counts tensor operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_common_call_is_three_operations_per_relu_group_and_asks_the_device_nothing():
    """Nothing is due in 97 % of calls: then no selection, no draw, no host sync."""
    net = policy((64, 64))
    method = recycler(net, maturity_threshold=3, replacement_rate=1e-5)
    optimizer = adam.build(adam.Config(), net)
    trainer = Trainer(net, method, optimizer)
    trainer.run(10)  # units are eligible, none is due
    with CountOperations() as counted:
        method.after_step(trainer.recording.activations, optimizer)
    names = [name for name in counted.names if name != "aten::detach"]
    assert method.counters["layers.0"].eligible == 64
    # |h| of a ReLU is h itself; one operation for all groups together.
    assert len(names) == 2 * 3 + 1, names
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::sort"} & set(names)


def test_log_values():
    net = policy((16, 16))
    method = recycler(net, **FAST)
    Trainer(net, method, adam.build(adam.Config(), net)).run(100)
    values = method.log_values()
    keys = ["eligible", "accumulator", "replaced_total"]
    keys += [f"{what}_q{level}" for what in ("age", "utility") for level in (25, 50, 75)]
    assert set(values) == {f"layers.{layer}/{key}" for layer in (0, 1) for key in keys}
    events = [e for e in method.pop_events() if e["group"] == "layers.0"]
    assert values["layers.0/replaced_total"] == len(events) > 10
    assert 0.0 <= values["layers.0/accumulator"] < 1.0
    ages = method.statistics["layers.0"].ages(100).double()
    assert values["layers.0/age_q50"] == ages.quantile(0.5).item()
    assert 0.0 < values["layers.0/utility_q25"] < values["layers.0/utility_q75"]


def test_announcement():
    net = policy((256, 256), inputs=4)
    text = recycler(net, planned=1_562_400, name="policy").announcement()
    for words in ("policy", "10,001", "1,562,400", "39,804"):
        assert words in text
    assert text.endswith("(optimizer_state=keep, target_edit=copy)")
    drifting = recycler(net, target_edit="drift", optimizer_state="zero_moments").announcement()
    assert "unknown" in drifting
    assert drifting.endswith("(optimizer_state=zero_moments, target_edit=drift)")
    assert "off" in recycler(net, replacement_rate=0.0).announcement()


def test_a_run_too_short_to_fire_is_refused():
    net = policy()
    with pytest.raises(ValueError, match=r"could never fire.*10,000.*maturity_threshold"):
        recycler(net, planned=10_000)
    recycler(net, planned=10_001)
    recycler(net, planned=5, replacement_rate=0.0)


def test_networks_select_where_the_method_acts():
    config = Config(networks=["policy", "critics"])
    assert config.networks == ["policy", "critic_1", "critic_2"]
    assert build(config, target_of(policy(), "policy")).active
    assert not build(config, target_of(critic(), "value")).active


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"replacement_rate": 1.5}, "replacement_rate"),
        ({"replacement_rate": float("nan")}, "replacement_rate"),
        ({"maturity_threshold": -1}, "maturity_threshold"),
        ({"utility_decay": 1.0}, "utility_decay"),
        ({"utility": "contribtion"}, "adaptable_contribution"),
        ({"rank_key": "none"}, "corrected, raw"),
        ({"count_mode": "poisson"}, "accumulate_strict"),
        ({"optimizer_state": "reset"}, "keep, zero_moments, per_unit_step"),
        ({"out_aggregate": "max"}, "mean, sum"),
        ({"networks": ["polcy"]}, "policy"),
        ({"networks": []}, "networks"),
        ({"target_edit": "both"}, "copy, drift"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Config(**settings)


def test_networks_that_cannot_be_recycled_are_refused():
    net = policy()
    target = target_of(net)
    empty = copy.copy(target)
    object.__setattr__(empty, "unit_groups", ())
    with pytest.raises(ValueError, match="no hidden units"):
        build(Config(), empty)
    object.__setattr__(empty, "unit_groups", (target.unit_groups[0],) * 2)
    with pytest.raises(ValueError, match="share a name"):
        build(Config(), empty)
    headless = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1, bias=False)
    )
    with pytest.raises(ValueError, match="mean_transfer"):
        recycler(headless, mean_transfer=True)


def test_missing_activations_and_unfit_optimizers_are_refused():
    net = policy()
    optimizer = adam.build(adam.Config(), net)
    with pytest.raises(ValueError, match="recording"):
        recycler(net).after_step({}, optimizer)
    wide = {name: torch.ones(2, 17) for name in ("layers.0", "layers.1")}
    with pytest.raises(ValueError, match="16 units"):
        recycler(net).after_step(wide, optimizer)
    fit = {name: torch.ones(2, 16) for name in ("layers.0", "layers.1")}
    with pytest.raises(ValueError, match="per_unit_step"):
        recycler(net, optimizer_state="per_unit_step").after_step(fit, optimizer)
