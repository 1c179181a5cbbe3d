"""The dendritic torso: refusals, control arms, the order of its parts, renewal of units."""

import itertools
import math

import pytest
import torch
from dendritic_tools import TASKS, build

from networks import dendritic, k_winners
from networks.heads import GaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, parameter_roles
from plasticity.method import Target
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")


# Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_segments": 0}, "num_segments is 0"),
        ({"active_fraction": 0.0}, "active_fraction is 0"),
        ({"active_fraction": 1.5}, "active_fraction is 1.5"),
        ({"gate_mode": "softmax"}, "gate_mode is 'softmax'"),
        ({"gate_scale": 0.0}, "gate_scale is 0"),
        ({"dendritic_layers": []}, "dendritic_layers"),
        ({"dendritic_layers": [2]}, "0 to 1"),
        ({"weight_density": 0.0}, "weight_density"),
        ({"weight_density": [0.5, 0.5, 0.5]}, "3 entries for 2 hidden layers"),
        ({"segment_density": 2.0}, "segment_density"),
        ({"init": "paper"}, "init is 'paper'"),
        ({"segment_context": "shuffled"}, "segment_context"),
        ({"activation": "softplus"}, "activation is 'softplus'"),
        ({"boost_strength": -1.0}, "boost_strength"),
        ({"hidden_sizes": []}, "hidden_sizes"),
        ({"initializer": "he"}, "choose one of"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dendritic.Config(**settings)


def test_a_gate_needs_a_context():
    with pytest.raises(ValueError, match="acts on a context"):
        build(context=ContextSpec())
    assert build(context=ContextSpec(), gate_mode="none")(torch.randn(3, 5)).shape == (3, 16)


def test_a_context_of_another_shape_is_refused():
    x = torch.randn(4, 5)
    with pytest.raises(ValueError, match="pass one to forward"):
        build()(x)
    with pytest.raises(ValueError, match="built for 10"):
        build()(x, torch.zeros(4, 9))
    with pytest.raises(ValueError, match="continuous contexts"):
        build(context=ContextSpec(3))(x, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("row", [[0.5, 0.5, 0.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
def test_a_discrete_context_that_is_not_one_hot_is_found_once_per_update(row):
    torso = build(context=ContextSpec(3, discrete=True))
    x, good = torch.randn(4, 5), torch.eye(3)[[0, 1, 2, 0]]
    good[3] = 0.0
    torso.record_statistics(x, good)
    bad = good.clone()
    bad[2] = torch.tensor(row)
    with pytest.raises(ValueError, match="one-hot"):
        torso.record_statistics(x, bad)


# Structure and arms ------------------------------------------------------------------------


def test_k_winners_alone_is_the_dendritic_network_without_a_gate():
    settings = {"hidden_sizes": [24, 16], "context_to_input": True}
    alone = k_winners.build(k_winners.Config(**settings), 5, TASKS, Streams(0))
    ungated = build(gate_mode="none", context_to_input=True)
    x, ids = torch.randn(9, 5), torch.randint(0, 10, (9,))
    assert torch.equal(alone(x, ids), ungated(x, ids))


def test_only_the_last_layer_has_segments_and_defaults_follow_the_context():
    torso = build()
    assert not hasattr(torso.layers[0], "segments")
    assert torso.layers[1].segments.shape == (16, 1, 10)
    continuous = build(context=ContextSpec(9))
    assert continuous.layers[1].segments.shape == (16, 4, 9)
    both = build(dendritic_layers=[0, -1])
    assert [layer.segments.shape[0] for layer in both.layers] == [24, 16]
    assert parameter_roles(torso)["layers.1.segments"] == "segment"


def test_the_zero_context_arm_hides_the_context_from_segments_only():
    x, ids = torch.randn(9, 5), torch.randint(0, 10, (9,))
    for context in (ContextSpec(10, discrete=True), ContextSpec(10)):
        vector = torch.nn.functional.one_hot(ids, 10).float()
        hidden = build(context=context, segment_context="zero", context_to_input=True)
        given = build(context=context, context_to_input=True)
        widened = torch.cat((x, vector), 1)
        plain = build(width := 15, context=context, context_to_input=False)
        plain.load_state_dict(hidden.state_dict())
        assert width == widened.shape[1]
        assert torch.equal(hidden(x, vector), plain(widened, torch.zeros(9, 10)))
        assert not torch.equal(hidden(x, vector), given(x, vector))


def test_layer_norm_acts_before_the_gate():
    torso = build(context=ContextSpec(1), layer_norm=True, num_segments=1, active_fraction=1.0)
    x, context = torch.randn(30, 5), torch.ones(30, 1)
    with torch.no_grad():
        torso.layers[1].segments.fill_(-20.0)
    # A norm after the gate would undo a gate that is equal for all units.
    assert torso(x, context).abs().max() < 1e-6
    with torch.no_grad():
        torso.layers[1].segments.fill_(20.0)
    opened = torso(x, context)
    assert opened.mean(1).abs().max() < 1e-5
    assert (opened.var(1, unbiased=False) - 1).abs().max() < 1e-3


def test_acting_sees_every_change_of_the_segments():
    """Acceptance 16. Nothing about the gate is remembered from one pass to the next."""
    policy = GaussianPolicy(build(num_segments=3), 2, Initializer(), Streams(0))
    x, ids = torch.randn(64, 5), torch.randint(0, 10, (64,))

    def act():
        with torch.inference_mode():
            return policy(x, ids).clone()

    optimizer = adam.build(adam.Config(learning_rate=1e-2), policy)
    saved, outputs = {k: v.clone() for k, v in policy.state_dict().items()}, [act()]
    policy(x, ids).square().sum().backward()
    for parameter in policy.parameters():
        if parameter is not policy.torso.layers[1].segments:
            parameter.grad = None
    optimizer.step()
    outputs.append(act())
    group = policy.unit_groups()[1]
    group.layer.reset_units(torch.arange(16), torch.Generator().manual_seed(1))
    outputs.append(act())
    policy.torso.layers[1].segments.data.mul_(3.0)
    outputs.append(act())
    policy.load_state_dict(saved)
    outputs.append(act())
    assert torch.equal(outputs[0], outputs[-1])
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outputs))


# Renewal of units --------------------------------------------------------------------------


@torch.no_grad()
def test_renewing_units_rewrites_exactly_what_makes_them():
    """Acceptance 31."""
    torso = build(num_segments=3, weight_density=0.5, segment_density=0.5, layer_norm=True)
    layer, units = torso.layers[1], torch.tensor([2, 11])
    layer.norm.weight.mul_(2.0)
    torso.record_statistics(torch.randn(50, 5), torch.randint(0, 10, (50,)))
    before = {name: value.clone() for name, value in torso.state_dict().items()}
    touched = layer.reset_units(units, torch.Generator().manual_seed(1))
    after, others = torso.state_dict(), [i for i in range(16) if i not in (2, 11)]
    names = {id(p): name for name, p in torso.named_parameters()}
    assert {names[id(t.parameter)] for t in touched} == {
        f"layers.1.{n}"
        for n in ("linear.weight", "linear.bias", "norm.weight", "norm.bias", "segments")
    }
    assert all(t.dim == 0 and torch.equal(t.indices, units) for t in touched)
    for name, value in after.items():
        if name.startswith("layers.0") or "mask" in name or name.endswith("seen"):
            assert torch.equal(value, before[name]), name
        else:
            assert torch.equal(value[others], before[name][others]), name
    assert layer.activation.duty[units].tolist() == [0.25, 0.25]
    assert layer.norm.weight[units].tolist() == [1.0, 1.0]
    for parameter, mask in (
        (layer.segments, layer.segment_mask),
        (layer.linear.weight, layer.linear.mask),
    ):
        assert (parameter[units][~mask[units]] == 0).all()
        assert (parameter[units][mask[units]] != 0).all()
    fresh, old = after["layers.1.segments"][units], before["layers.1.segments"][units]
    kept = layer.segment_mask[units]
    assert (fresh[kept] != old[kept]).all()
    assert fresh.abs().max() <= 1 / math.sqrt(10)


@pytest.mark.parametrize("optimizer_state", ["zero_moments", "per_unit_step"])
def test_continual_backprop_renews_dendritic_units_completely(optimizer_state):
    """Acceptance 31."""
    network = ValueFunction(build(num_segments=3), Initializer(), Streams(0)).double()
    config = continual_backprop.Config(
        replacement_rate=1.0 / 16, maturity_threshold=3, optimizer_state=optimizer_state
    )
    generator = torch.Generator().manual_seed(0)
    method = continual_backprop.build(
        config, Target("value", network, network.unit_groups(), generator)
    )
    optimizer = adam.build(
        adam.Config(learning_rate=1e-3), network, per_unit_step=optimizer_state == "per_unit_step"
    )
    layer, recording = network.torso.layers[1], Recording(network.unit_groups())
    x, ids = torch.randn(40, 5, dtype=torch.float64), torch.randint(0, 10, (40,))
    renewed = 0
    for _ in range(12):
        with recording:
            loss = network(x, ids).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        network.torso.record_statistics(x, ids)
        segments, duty = layer.segments.detach().clone(), layer.activation.duty.clone()
        method.after_step(recording.activations, optimizer)
        units = [e["unit"] for e in method.pop_events() if e["group"] == "layers.1"]
        others = [unit for unit in range(16) if unit not in units]
        first, second = (optimizer.state[layer.segments][n] for n in ("exp_avg", "exp_avg_sq"))
        assert (layer.segments[units] != segments[units]).all()
        assert torch.equal(layer.segments[others], segments[others])
        assert (layer.activation.duty[units] == 0.25).all()
        assert torch.equal(layer.activation.duty[others], duty[others])
        assert (first[units] == 0).all()
        assert (second[units] == 0).all()
        assert (second[others].flatten(1).sum(1) > 0).any()
        assert (network.value.weight[:, units] == 0).all()
        statistics = method.statistics["layers.1"]
        assert (statistics.utility[units] == 0).all()
        assert (statistics.ages(method.calls)[units] == 0).all()
        renewed += len(units)
    assert renewed >= 2


@pytest.mark.parametrize(
    ("mode", "expected"), [("coupled", (0.2077, 0.1306, 0.0063)), ("decoupled", (0.3, 0.3, 0.3))]
)
def test_weight_decay_would_erase_the_segments_of_absent_contexts(mode, expected):
    """Acceptance 32. Adam normalises the gradient of coupled decay; segments are exempt."""
    torso = build(hidden_sizes=[16])
    segments = torso.layers[0].segments
    settings = {"learning_rate": 1e-4, "weight_decay": 1e-4, "weight_decay_mode": mode}
    ours = adam.build(adam.Config(**settings), torso)
    plain = torch.nn.Parameter(torch.full((3,), 0.3))
    kind = torch.optim.Adam if mode == "coupled" else torch.optim.AdamW
    control = kind([plain], lr=1e-4, weight_decay=1e-4)
    with torch.no_grad():
        segments.fill_(0.3)
    values = {}
    segments.grad, plain.grad = torch.zeros_like(segments), torch.zeros(3)
    for step in range(1, 5001):
        ours.step()
        control.step()
        values[step] = plain[0].item()
    assert [values[s] for s in (1000, 2000, 5000)] == pytest.approx(expected, abs=1e-4)
    assert (segments == torch.tensor(0.3)).all()
