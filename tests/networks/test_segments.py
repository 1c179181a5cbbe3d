"""Gate arithmetic of dendritic segments: hand-worked numbers; every path against the formula."""

import functools
import math

import pytest
import torch

from networks import segments
from networks.dendritic import Config, build
from networks.streams import Streams
from networks.torso import ContextSpec

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")

MODES = ("absmax", "max", "absmax_unsigned", "bias")


def layer_of(mode="absmax", inputs=2, units=1, num_segments=2, context=2, scale=1.0, **settings):
    """A dendritic layer without competition, in float64, biases 0."""
    config = Config(
        hidden_sizes=[units],
        num_segments=num_segments,
        gate_mode=mode,
        gate_scale=scale,
        **{"active_fraction": 1.0, **settings},
    )
    torso = build(config, inputs, ContextSpec(context), Streams(0)).double()
    return torso.layers[0]


def tensor(values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("absmax", 0.0012217587),
        ("max", 1.9969976355),
        ("absmax_unsigned", 1.9987782412),
        ("bias", 8.5),
        ("none", 2.0),
    ],
)
def test_one_unit_two_segments_in_every_mode(mode, expected):
    """Acceptance 1."""
    layer = layer_of(mode, context=1)
    with torch.no_grad():
        layer.linear.weight.copy_(tensor([[1.0, -1.0]]))
        layer.linear.bias.zero_()
        if mode != "none":
            layer.segments.copy_(tensor([[[-7.4], [6.5]]]))
    output = layer(tensor([[3.0, 1.0]]), tensor([[1.0]]))
    assert output.item() == pytest.approx(expected, abs=1.1e-10)


def test_gradients_of_the_winning_segment_alone():
    """Acceptance 2."""
    layer = layer_of(inputs=1)
    with torch.no_grad():
        layer.linear.weight.fill_(1.0)
        layer.linear.bias.zero_()
        layer.segments.copy_(tensor([[[0.5, 2.0], [1.0, 0.2]]]))
    x, context = tensor([[2.0]], grad=True), tensor([[1.0, -1.0]])
    assert layer.segment_activations(context).flatten().tolist() == pytest.approx([-1.5, 0.8])
    output = layer(x, context)
    assert output.item() == pytest.approx(0.3648510476, abs=5e-11)
    output.backward()
    first, second = layer.segments.grad[0]
    assert first.tolist() == pytest.approx([0.2982929041, -0.2982929041], abs=5e-11)
    assert second.tolist() == [0.0, 0.0]
    assert x.grad.item() == pytest.approx(0.1824255238, abs=5e-11)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(("scale", "gate"), [(1.0, 0.5), (2.0, 1.0)])
def test_a_context_of_zero_leaves_every_gate_half_open(scale, gate, discrete):
    """Acceptance 3."""

    def make(mode):
        config = Config(hidden_sizes=[8, 8], num_segments=3, gate_mode=mode, gate_scale=scale)
        return build(config, 5, ContextSpec(4, discrete), Streams(1)).double()

    gated, plain = make("absmax"), make("none")
    x, zero = torch.randn(16, 5, dtype=torch.float64), torch.zeros(16, 4, dtype=torch.float64)
    _, entered = gated.enter(x, zero)
    assert (gated.layers[1].modulation(entered) == gate).all()
    output = gated(x, zero)
    output.sum().backward()
    assert (gated.layers[1].segments.grad == 0).all()
    assert torch.equal(output, plain(x)) == (scale == 2.0)


def test_table_of_a_one_hot_context():
    """Acceptance 4."""
    u = tensor([[[0.5, -2.0, 0.0], [-1.0, 1.0, 0.1]]])
    logits = segments.table_logits(u, "absmax").flatten()
    assert logits.tolist() == [-1.0, -2.0, 0.1]
    assert torch.sigmoid(logits).tolist() == pytest.approx([0.268941, 0.119203, 0.524979], abs=1e-6)


def gradients(function, *tensors):
    value = function(*tensors)
    weights = torch.linspace(-1.0, 2.0, value.numel(), dtype=value.dtype).view_as(value)
    return value, torch.autograd.grad((value * weights).sum(), tensors)


def agree(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=1e-12)
    for a, b in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_segments", [1, 2, 5])
@pytest.mark.parametrize("batch", [3, 40])  # fewer and more samples than contexts
def test_all_paths_agree_on_one_hot_contexts(mode, num_segments, batch):
    """Acceptance 5."""
    u = torch.randn(7, num_segments, 6, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 6, (batch,))
    one_hot = torch.nn.functional.one_hot(ids, 6).double()
    reference = gradients(lambda u: segments.reference_logits(u, one_hot, mode), u)
    agree(gradients(lambda u: segments.dense_logits(u, one_hot, mode), u), reference)
    agree(gradients(lambda u: segments.look_up(u, mode, ids), u), reference)
    transformed = gradients(lambda u: torch.sigmoid(segments.reference_logits(u, one_hot, mode)), u)
    agree(gradients(lambda u: segments.look_up(u, mode, ids, torch.sigmoid), u), transformed)


@pytest.mark.parametrize("mode", MODES)
def test_all_paths_agree_on_general_contexts(mode):
    """Acceptance 5."""
    u = torch.randn(7, 4, 6, dtype=torch.float64, requires_grad=True)
    contexts = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 5, (30,))

    def table(u, contexts):
        return segments.table_logits(u, mode, contexts).index_select(0, ids)

    reference = gradients(lambda u, e: segments.reference_logits(u, e[ids], mode), u, contexts)
    agree(gradients(table, u, contexts), reference)
    agree(gradients(lambda u, e: segments.dense_logits(u, e[ids], mode), u, contexts), reference)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_segments", [1, 4])
def test_the_gate_of_a_layer_equals_its_formula_on_every_path(mode, num_segments):
    """Acceptance 5: values, and gradients of the pre-activation, the segments and the context."""
    scale = 1.0 if mode == "bias" else 1.3  # bias has no factor
    layer = layer_of(mode, 5, 7, num_segments, context=6, scale=scale)
    ids = torch.randint(0, 6, (30,))
    few = ids[:3]  # fewer samples than contexts: only columns in use are looked up
    one_hot = torch.nn.functional.one_hot(ids, 6).double()
    before = torch.randn(30, 7, dtype=torch.float64, requires_grad=True)
    general = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)

    def formula(values, context):
        winning = segments.reference_logits(layer.segments, context, mode)
        return values + winning if mode == "bias" else values * 1.3 * torch.sigmoid(winning)

    def result(gate, rows, context):
        def function(values, u):  # the layer's own segments are what is differentiated
            return gate(values[:rows], context)

        return gradients(function, before, layer.segments)

    expected = result(formula, 30, one_hot)
    assert (expected[1][0] != 0).all()
    agree(result(layer.gate, 30, ids), expected)
    agree(result(layer.gate, 30, one_hot), expected)
    agree(result(layer.gate, 3, few), result(formula, 3, one_hot[:3]))
    everything = (before, layer.segments, general)
    agree(
        gradients(lambda values, u, context: layer.gate(values, context), *everything),
        gradients(lambda values, u, context: formula(values, context), *everything),
    )


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_by_finite_differences(mode):
    """Acceptance 5."""
    torch.manual_seed(3)
    u = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    context = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    function = functools.partial(segments.dense_logits, mode=mode)
    assert torch.autograd.gradcheck(function, (u, context))
    assert torch.autograd.gradgradcheck(function, (u, context))


def test_large_batches_are_sliced_without_changing_anything(monkeypatch):
    u = torch.randn(9, 4, 3, dtype=torch.float64, requires_grad=True)
    context = torch.randn(11, 3, dtype=torch.float64)
    whole = gradients(lambda u: segments.dense_logits(u, context, "absmax"), u)
    monkeypatch.setattr(segments, "MAX_STORED", 100)
    agree(gradients(lambda u: segments.dense_logits(u, context, "absmax"), u), whole)
    with torch.no_grad():
        sliced = segments.dense_logits(u, context, "absmax")
        torch.testing.assert_close(sliced, whole[0], rtol=0, atol=1e-12)


def test_indices_and_one_hot_vectors_mean_the_same():
    config = Config(hidden_sizes=[12, 12], num_segments=3)
    torso = build(config, 5, ContextSpec(4, discrete=True), Streams(0))
    x, ids = torch.randn(20, 5), torch.randint(0, 4, (20,))
    one_hot = torch.nn.functional.one_hot(ids, 4).float()
    assert torch.equal(torso(x, ids), torso(x, one_hot))
    assert not torch.equal(torso(x, ids), torso(x, (ids + 1) % 4))


def test_how_many_segment_rows_get_a_gradient():
    """Acceptance 6."""
    context, x = torch.zeros(1, 3, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    context[0, 1] = 1.0
    for fraction, rows in ((1.0, 20), (0.25, 5)):
        layer = layer_of(inputs=5, units=20, num_segments=6, context=3, active_fraction=fraction)
        layer(x, context).sum().backward()
        assert int((layer.segments.grad != 0).any(2).sum()) == rows


def test_only_one_segment_in_j_learns_from_one_hot_contexts():
    """Acceptance 6."""
    layer = layer_of(inputs=5, units=20, num_segments=4, context=3)
    ids = torch.arange(3).repeat(8)
    layer(torch.randn(24, 5, dtype=torch.float64), ids).sum().backward()
    assert float((layer.segments.grad != 0).double().mean()) == 1 / 4


def test_many_segments_equal_one_where_they_cannot_add_anything():
    """Acceptance 7."""
    many = torch.randn(6, 10, 4, dtype=torch.float64)
    single = segments.table_logits(many, "absmax").t().unsqueeze(1)
    ids = torch.arange(4)
    assert torch.equal(
        segments.look_up(many, "absmax", ids), segments.look_up(single, "absmax", ids)
    )
    # A scalar context: the same segment wins for every value of it.
    eight, scalar = torch.randn(6, 8, 1, dtype=torch.float64), torch.randn(9, 1).double()
    best = eight.gather(1, eight.abs().argmax(1, keepdim=True))
    torch.testing.assert_close(
        segments.dense_logits(eight, scalar, "absmax"),
        segments.dense_logits(best, scalar, "absmax"),
        rtol=0,
        atol=1e-15,
    )


def test_gates_are_odd_in_the_context():
    """Acceptance 7."""
    u, context = torch.randn(6, 4, 3).double(), torch.randn(9, 3).double()
    positive = segments.dense_logits(u, context, "absmax")
    assert torch.equal(segments.dense_logits(u, -context, "absmax"), -positive)


def test_the_gate_acts_before_the_winners_are_chosen():
    """Acceptance 13."""
    config = Config(hidden_sizes=[2], num_segments=1, active_fraction=0.5)
    torso = build(config, 1, ContextSpec(1), Streams(0)).double()
    layer = torso.layers[0]
    with torch.no_grad():
        layer.linear.weight.copy_(tensor([[1.0], [0.9]]))
        layer.linear.bias.zero_()
        logits = [math.log(p / (1 - p)) for p in (0.4, 0.6)]
        layer.segments.copy_(tensor(logits).view(2, 1, 1))
    output = torso(tensor([[1.0]]), tensor([[1.0]]))
    assert output.flatten().tolist() == pytest.approx([0.0, 0.54])
