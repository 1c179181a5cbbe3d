"""ReGraMa: which units hardly learn, over which steps, and that it resumes exactly."""

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

from networks.heads import ValueFunction
from networks.initializers import Initializer
from networks.k_winners import Config as KWinnersConfig
from networks.k_winners import build as build_k_winners
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.methods.regrama import Config, build
from plasticity.optimizers import adam

ROWS = [[0.1, -0.3], [0.0, 0.001], [0.2, 0.2]]


def attach(net, planned=None, seed=0, **settings):
    return build(Config(**settings), target_of(net, "policy", seed, planned))


def give(net, first, second=None):
    """Set the gradients of the two hidden weights."""
    layers = net.torso.layers
    second = torch.ones_like(layers[1].linear.weight) if second is None else second
    for layer, gradient in zip(layers, (first, second), strict=True):
        layer.linear.weight.grad = torch.as_tensor(gradient).clone()


def call(method, net, optimizer=None):
    method.after_backward()
    method.after_step({}, optimizer or still(net))
    return method.pop_events()


def test_hand_computation():
    net = policy((3, 3), inputs=2)
    method, before = attach(net, period=1), parameters_of(net)
    give(net, ROWS)
    (event,) = call(method, net)
    assert (event["group"], event["unit"], event["method"]) == ("layers.0", 1, "regrama")
    assert event["utility"] == pytest.approx(0.00374532, rel=1e-5)
    changed = (net.torso.layers[0].linear.weight != before["torso.layers.0.linear.weight"]).any(1)
    assert changed.tolist() == [False, True, False]
    assert (net.torso.layers[1].linear.weight[:, 1] == 0.0).all()


def test_scores_of_the_hand_computation():
    net = policy((3, 3), inputs=2)
    method = attach(net, period=1, dormancy_threshold=2.0)
    give(net, ROWS)
    scores = [event["utility"] for event in call(method, net) if event["group"] == "layers.0"]
    assert scores == pytest.approx([1.49813, 0.00374532, 1.49813], rel=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-13])
def test_a_layer_without_gradient_is_left_alone(size):
    net = policy((3, 3), inputs=2)
    method, before = attach(net, period=1, dormancy_threshold=10.0), parameters_of(net)
    give(net, torch.full((3, 2), size), torch.full((3, 3), size))
    assert call(method, net) == []
    assert equal_bits(parameters_of(net), before)
    net.zero_grad(set_to_none=True)  # frozen, or no backward pass
    assert call(method, net) == []


def test_absolute_gradients_are_averaged_over_the_window():
    """Unit 1 learns in the tenth step before the check, with either sign; eleven back is old."""
    for steps_back, dormant in ((9, False), (10, True)):
        net = policy((3, 3), inputs=2)
        method = attach(net, period=30)
        events = []
        for step in range(1, 31):
            awake = [0.5, -0.5] if 30 - step == steps_back else [0.0, 0.0]
            give(net, [[0.1, -0.1], awake, [0.1, 0.1]])
            events += call(method, net)
        assert [event["unit"] for event in events] == ([1] if dormant else []), steps_back


def test_window_of_one_reads_the_last_minibatch():
    net = policy((3, 3), inputs=2)
    method = attach(net, period=5, window=1)
    for step in range(1, 6):
        give(net, ROWS if step == 5 else [[1.0, 1.0]] * 3)
        events = call(method, net)
    assert [event["unit"] for event in events] == [1]


def test_the_scale_of_the_gradients_does_not_matter():
    scores = []
    for scale in (1.0, 1e-4):
        net = policy((3, 3), inputs=2)
        method = attach(net, period=1, dormancy_threshold=2.0)
        give(net, scale * torch.tensor(ROWS))
        scores.append([event["utility"] for event in call(method, net)][:3])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_masked_weights_do_not_count():
    config = KWinnersConfig(hidden_sizes=[64], weight_density=0.5)
    torso = build_k_winners(config, 8, ContextSpec(), Streams(0, "value/"))
    net = ValueFunction(torso, Initializer(), Streams(0, "value/"))
    (group,) = net.unit_groups()
    net(torch.randn(64, 8)).square().sum().backward()
    linear = group.layer.linear
    expected = [linear.weight.grad[i][linear.mask[i]].abs().mean() for i in range(64)]
    torch.testing.assert_close(group.layer.incoming_gradient(), torch.stack(expected))


def test_needs_no_activations_and_edits_the_optimizer():
    net = policy((16, 16))
    optimizer = adam.build(adam.Config(), net)
    method = attach(net, period=10, dormancy_threshold=0.6)
    assert method.needs == frozenset()
    trainer = Trainer(net, method, optimizer)
    trainer.run(10)
    units = {event["unit"] for event in method.pop_events() if event["group"] == "layers.0"}
    assert 0 < len(units) < 16
    moments = optimizer.state[net.torso.layers[0].linear.weight]["exp_avg"]
    assert {i for i in range(16) if (moments[i] == 0.0).all()} == units


def test_never_is_bit_identical_to_no_method():
    nets = [policy((16, 16)) for _ in range(2)]
    for net, method in ((nets[0], None), (nets[1], attach(nets[1], period=0))):
        Trainer(net, method, adam.build(adam.Config(), net)).run(50)
    assert equal_bits(parameters_of(nets[0]), parameters_of(nets[1]))
    assert attach(nets[1], period=0).state_dict() == {}


def test_after_an_edit_everything_still_learns():
    net = policy((16, 16))
    method = attach(net, period=10, dormancy_threshold=0.6)
    trainer = Trainer(net, method, adam.build(adam.Config(), net))
    trainer.run(10)
    assert method.pop_events()
    before = parameters_of(net)
    trainer.run(5)
    moved = [key for key, p in parameters_of(net).items() if not torch.equal(p, before[key])]
    assert set(before) - set(moved) == {"log_std"}  # the toy loss has no gradient for it


def test_resume_is_exact():
    def start(seed):
        net = policy((16, 16), seed=seed)
        method = attach(net, seed=seed, period=20, dormancy_threshold=0.5)
        return Trainer(net, method, adam.build(adam.Config(), net), seed)

    whole, other = start(0), start(7)
    whole.run(35)  # inside a window
    assert len(whole.method.state_dict()["groups"]["layers.0"]["sums"]) == 5
    assert_resumes(whole, other)


@pytest.mark.parametrize(
    "settings", [{"window": 0}, {"period": -1}, {"dormancy_threshold": -0.1}, {"networks": "actr"}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"method.regrama.{next(iter(settings))}"):
        Config(**settings)


def test_a_run_too_short_for_a_check_is_refused():
    with pytest.raises(ValueError, match=r"regrama could never fire.*1,000"):
        attach(policy(), planned=999)
