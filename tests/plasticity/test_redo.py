"""ReDo: what it recycles, when, from which samples, and that it resumes exactly."""

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

from agents.update import clone
from plasticity.methods.redo import ActivityWindow, Config, build
from plasticity.optimizers import adam


def attach(net, planned=None, seed=0, **settings):
    return build(Config(**settings), target_of(net, "policy", seed, planned))


def activations(first, second=None, batch=4):
    """Constant activations; the second layer is fully active unless given."""
    values = {"layers.0": first, "layers.1": second or [1.0] * 3}
    return {name: torch.tensor(v).repeat(batch, 1) for name, v in values.items()}


def test_hand_computation():
    net = policy((4, 3))
    method, before = attach(net, period=1, dormancy_threshold=0.1), parameters_of(net)
    method.after_step(activations([4.0, 0.0, 1.0, 3.0]), still(net))
    (event,) = method.pop_events()
    assert (event["group"], event["unit"], event["utility"]) == ("layers.0", 1, 0.0)
    assert (event["method"], event["gradient_step"], event["age"]) == ("redo", 1, 1)
    changed = (net.torso.layers[0].linear.weight != before["torso.layers.0.linear.weight"]).any(1)
    assert changed.tolist() == [False, True, False, False]
    assert (net.torso.layers[1].linear.weight[:, 1] == 0.0).all()


def test_threshold_is_inclusive():
    net = policy((4, 3))
    method = attach(net, period=1, dormancy_threshold=0.5)
    method.after_step(activations([4.0, 0.0, 0.875, 3.125]), still(net))  # scores 2, 0, .4375, ..
    assert [event["unit"] for event in method.pop_events()] == [1, 2]


def test_silent_layer_is_renewed_whole_without_nan():
    net = policy((4, 3))
    method = attach(net, period=1, dormancy_threshold=0.0)
    method.after_step(activations([0.0] * 4), still(net))
    assert [event["unit"] for event in method.pop_events()] == [0, 1, 2, 3]
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_nothing_happens_when_no_unit_qualifies():
    net = policy((4, 3))
    optimizer = adam.build(adam.Config(), net)
    Trainer(net, None, optimizer).run(3)
    method = attach(net, period=1)
    weights, state = parameters_of(net), clone(optimizer.state_dict()["state"])
    method.after_step(activations([1.0, 2.0, 3.0, 4.0]), optimizer)
    assert method.pop_events() == []
    assert equal_bits(parameters_of(net), weights)
    assert equal_bits(clone(optimizer.state_dict()["state"]), state)


@pytest.mark.parametrize("score_batch", ["window", "minibatch"])
def test_checks_come_at_multiples_of_the_period(score_batch):
    net = policy((4, 3))  # unequal widths
    method = attach(net, period=100, score_batch=score_batch)
    fired = []
    for call in range(1, 351):
        method.after_step(activations([4.0, 0.0, 1.0, 3.0], [0.0, 1.0, 1.0]), still(net))
        if method.pop_events():
            fired.append(call)
    assert fired == [100, 200, 300]
    assert method.log_values() == {
        "layers.0/replaced_total": 3,
        "layers.0/last_dormant": 1,
        "layers.1/replaced_total": 3,
        "layers.1/last_dormant": 1,
    }


def test_window_holds_at_least_a_thousand_samples_before_the_check():
    """128 samples a step: the 8 steps up to the check count, the ninth back does not."""
    net = policy((4, 3))
    for steps_back, dormant in ((7, False), (8, True)):
        method = attach(net, period=20)
        for call in range(1, 21):
            awake = 5.0 if 20 - call == steps_back else 0.0
            method.after_step(activations([4.0, awake, 1.0, 3.0], batch=128), still(net))
        units = [event["unit"] for event in method.pop_events()]
        assert units == ([1] if dormant else []), steps_back


def test_nothing_is_kept_far_from_a_check():
    net = policy((4, 3))
    method = attach(net, period=20)
    kept = []
    for _ in range(40):
        method.after_step(activations([1.0, 2.0, 1.0, 3.0], batch=128), still(net))
        kept.append(len(method.state_dict()["groups"]["layers.0"]["sums"]))
    assert kept == 2 * ([0] * 12 + [1, 2, 3, 4, 5, 6, 7, 0])


def test_old_activity_does_not_condemn_a_renewed_unit():
    """With checks at every step the window would still show the silence before the renewal."""
    net = policy((4, 3))
    method = attach(net, period=1)
    method.after_step(activations([4.0, 0.0, 1.0, 3.0]), still(net))
    assert len(method.pop_events()) == 1
    method.after_step(activations([4.0, 0.3, 1.0, 3.0]), still(net))  # score .145
    assert method.pop_events() == []


def test_minibatch_scores_the_last_step_only():
    net = policy((4, 3))
    method = attach(net, period=20, score_batch="minibatch")
    for call in range(1, 21):
        awake = 5.0 if call < 20 else 0.0
        method.after_step(activations([4.0, awake, 1.0, 3.0], batch=128), still(net))
    assert [event["unit"] for event in method.pop_events()] == [1]


@torch.no_grad()
def test_window_mean_weighs_samples_not_minibatches():
    group = policy((4, 3)).unit_groups()[0]
    window = ActivityWindow(group, 10)
    h = [torch.randn(batch, 4) for batch in (6, 2, 7, 3)]
    for minibatch in h:
        window.add(minibatch)
    torch.testing.assert_close(window.mean(), torch.cat(h[2:]).abs().mean(0))


def test_zero_moments_is_the_default_and_edits_the_optimizer():
    net = policy((4, 3))
    optimizer = adam.build(adam.Config(), net)
    method = attach(net, period=1)
    Trainer(net, None, optimizer).run(3)
    method.after_step(activations([4.0, 0.0, 1.0, 3.0]), optimizer)
    moments = optimizer.state[net.torso.layers[0].linear.weight]["exp_avg"]
    assert (moments[1] == 0.0).all()
    assert (moments[0] != 0.0).any()
    assert method.resets_optimizer == "entries"
    assert attach(net, optimizer_state="keep").resets_optimizer == "no"


def test_never_is_bit_identical_to_no_method():
    nets = [policy((16, 16)) for _ in range(2)]
    for net, method in ((nets[0], None), (nets[1], attach(nets[1], period=0))):
        Trainer(net, method, adam.build(adam.Config(), net)).run(50)
    assert equal_bits(parameters_of(nets[0]), parameters_of(nets[1]))
    never = attach(nets[1], period=0)
    assert never.needs == frozenset()
    assert never.state_dict() == {}
    assert "off" in never.announcement()


@pytest.mark.parametrize("settings", [{}, {"score_batch": "minibatch", "optimizer_state": "keep"}])
def test_resume_is_exact(settings):
    def start(seed):
        net = policy((16, 16), seed=seed)
        method = attach(net, seed=seed, period=20, dormancy_threshold=0.8, window_samples=100,
                        **settings)  # fmt: skip
        return Trainer(net, method, adam.build(adam.Config(), net), seed)

    whole, other = start(0), start(7)
    whole.run(33)  # inside a window
    live = whole.method.groups["layers.0"].state_dict  # every call clones
    for one, two in zip(live()["sums"], live()["sums"], strict=True):
        assert one.data_ptr() != two.data_ptr()
    assert_resumes(whole, other)


def test_a_run_too_short_for_a_check_is_refused():
    with pytest.raises(ValueError, match=r"could never fire.*1,000.*period"):
        attach(policy(), planned=999)
    text = attach(policy(), planned=5_000).announcement()
    assert "5 checks" in text
    assert "1,000" in text
    assert text.endswith("(optimizer_state=zero_moments, target_edit=copy)")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dormancy_threshold": -0.1}, "dormancy_threshold"),
        ({"period": -1}, "period"),
        ({"window_samples": 0}, "window_samples"),
        ({"score_batch": "all"}, "window, minibatch"),
        ({"optimizer_state": "x"}, "zero_moments"),
        ({"networks": "critic"}, "critic_1"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Config(**settings)
