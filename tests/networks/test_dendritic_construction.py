"""The dendritic torso as built: masks, laws of initial weights, parameter counts."""

import itertools
import math

import pytest
import torch
from dendritic_tools import MT10, TASKS, build

from networks import dendritic, k_winners, mlp
from networks.heads import GaussianPolicy, QFunction, SquashedGaussianPolicy
from networks.initializers import Initializer
from networks.masks import apply_masks, fixed_mask, live_parameters
from networks.matching import matched_width, perceptron_parameters
from networks.streams import Streams
from networks.torso import ContextSpec

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")


# Masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "density", "kept"),
    [(39, 0.9, 35), (43, 0.9, 39), (2800, 0.9, 2520), (784, 0.5, 392), (2048, 0.5, 1024)],
)
def test_every_row_keeps_the_same_number_of_inputs(inputs, density, kept):
    """Acceptance 8."""
    mask = fixed_mask(6, inputs, density, torch.Generator().manual_seed(0))
    assert mask.sum(1).tolist() == [kept] * 6
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(mask, fixed_mask(6, inputs, density, torch.Generator().manual_seed(0)))


def test_dense_networks_have_no_masks_and_rows_cannot_be_empty():
    assert not any("mask" in name for name in build().state_dict())
    assert fixed_mask(3, 4, 1.0, torch.Generator()) is None
    with pytest.raises(ValueError, match="keeps none of 10 inputs"):
        fixed_mask(3, 10, 0.01, torch.Generator())


def masked_policy():
    torso = build(weight_density=0.5, segment_density=0.5, head_density=0.5, num_segments=2)
    return GaussianPolicy(torso, 3, Initializer(), Streams(0))


def masks_of(policy):
    state = policy.state_dict()
    return {
        name.replace("segment_mask", "segments").replace("mask", "weight"): state[name]
        for name in state
        if name.endswith("mask")
    }


def test_masked_weights_never_move():
    """Acceptance 8."""
    policy = masked_policy()
    masks = {name: mask.clone() for name, mask in masks_of(policy).items()}
    assert len(masks) == 4
    again = masks_of(masked_policy())  # the same seed
    assert all(torch.equal(mask, again[name]) for name, mask in masks.items())
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2, weight_decay=1e-2)
    parameters = dict(policy.named_parameters())
    for _ in range(100):
        x, ids = torch.randn(32, 5), torch.randint(0, 10, (32,))
        optimizer.zero_grad()
        (policy(x, ids) - x[:, :3]).square().mean().backward()
        optimizer.step()
    for name, mask in masks_of(policy).items():
        assert torch.equal(mask, masks[name])
        parameter = parameters[name]
        moments = optimizer.state[parameter]
        for values in (parameter, parameter.grad, moments["exp_avg"], moments["exp_avg_sq"]):
            assert (values[~mask] == 0).all(), name
        assert (parameter[mask] != 0).all()


def test_masks_can_be_applied_again_after_foreign_edits():
    policy = masked_policy()
    x, ids = torch.randn(8, 5), torch.randint(0, 10, (8,))
    before = policy(x, ids)
    with torch.no_grad():
        for name, mask in masks_of(policy).items():
            dict(policy.named_parameters())[name][~mask] = 1.0
    assert torch.equal(policy(x, ids), before)
    apply_masks(policy)
    assert all(
        (dict(policy.named_parameters())[n][~mask] == 0).all()
        for n, mask in masks_of(policy).items()
    )


# Initial weights ---------------------------------------------------------------------------


def assert_uniform(values, bound, missing=0):
    live = values[values != 0]
    assert live.abs().max() <= bound * (1 + 1e-6)
    assert live.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(("inputs", "bound"), [(39, 0.1688), (43, 0.1607)])
def test_published_laws_of_mt10(inputs, bound):
    """Acceptance 9."""
    config = dendritic.Config(**{**MT10, "hidden_sizes": [2800, 2800]})
    torso = dendritic.build(config, inputs, TASKS, Streams(0))
    head = torso.head(8, Initializer(), Streams(0), "mean")
    first, second = torso.layers
    assert_uniform(first.linear.weight, bound + 5e-5)
    assert_uniform(second.linear.weight, 0.03985)
    assert_uniform(head.weight, 0.03985)
    assert_uniform(second.segments, 0.31623)
    assert_uniform(first.linear.bias, 1 / math.sqrt(inputs))
    assert [h.linear.weight.abs().max().item() for h in torso.layers] == pytest.approx(
        [bound, 0.0398], abs=1e-4
    )
    assert second.segments.abs().max().item() == pytest.approx(0.3162, abs=1e-4)
    assert not hasattr(first, "segments")
    assert first.linear.mask.sum(1).unique().tolist() == [round(0.9 * inputs)]


@pytest.mark.parametrize(
    ("context_dim", "context_density", "bound"),
    [(784, 0.1, 0.1129), (784, 0.05, 0.1597), (256, 0.1, 0.1976)],
)
def test_published_laws_of_permuted_digits(context_dim, context_density, bound):
    """Acceptance 9: prototypes, ten segments, clusters."""
    torso = build(
        784,
        ContextSpec(context_dim),
        hidden_sizes=[2048, 64],
        dendritic_layers=[1],
        num_segments=2,
        active_fraction=0.05,
        weight_density=0.5,
        head_density=0.5,
        init="published",
        context_density=context_density,
    )
    first, second = torso.layers
    head = torso.head(10, Initializer(), Streams(0), "output")
    of_head = 1 / math.sqrt(0.05 * 0.5 * 64)  # .1398 behind 2048 units, as in the second layer
    for values, expected in (
        (first.linear.weight, 0.0505),
        (second.linear.weight, 0.1398),
        (second.segments, bound),
    ):
        assert values.abs().max().item() == pytest.approx(expected, abs=1e-4)
        assert_uniform(values, values.abs().max().item())
    assert of_head * 0.95 < head.weight.abs().max().item() <= of_head
    assert first.linear.mask.sum(1).unique().tolist() == [392]
    assert second.linear.mask.sum(1).unique().tolist() == [1024]


def test_xavier_bounds_of_the_published_perceptron():
    law = Initializer("xavier_uniform")
    bounds = [law.bound(49, 2800), law.bound(2800, 2800), law.bound(2800, 4)]
    assert bounds == pytest.approx([0.0459, 0.0327, 0.0463], abs=5e-5)


@pytest.mark.parametrize(("num_segments", "mean"), [(1, 0.158), (4, 0.253), (10, 0.287)])
def test_gates_start_almost_half_open(num_segments, mean):
    torso = build(hidden_sizes=[4000], num_segments=num_segments)
    logits = torch.logit(torso.layers[0].modulation(torch.arange(10)).detach().double())
    assert logits.abs().mean().item() == pytest.approx(mean, abs=0.004)


@pytest.mark.parametrize(("num_segments", "mean"), [(1, 0.45), (4, 0.82), (8, 0.98)])
def test_dense_contexts_modulate_from_the_start(num_segments, mean):
    layer = build(hidden_sizes=[400], num_segments=num_segments, context=ContextSpec(9)).layers[0]
    context = torch.randn(400, 9, generator=torch.Generator().manual_seed(0))
    context[:, 8] = 1.0
    logits = torch.logit(layer.modulation(context).detach().double())
    assert logits.abs().mean().item() == pytest.approx(mean, abs=0.02)


def test_equal_tensors_of_all_arms_start_with_equal_bits():
    """Acceptance 9."""
    shared = {"hidden_sizes": [24, 16], "context_to_input": True}
    arms = [
        mlp.build(mlp.Config(**shared), 5, TASKS, Streams(3)),
        mlp.build(mlp.Config(**shared, layer_norm=True), 5, TASKS, Streams(3)),
        k_winners.build(k_winners.Config(**shared), 5, TASKS, Streams(3)),
        *(
            build(seed=3, context_to_input=True, **settings)
            for settings in (
                {"gate_mode": "none"},
                {"num_segments": 10},
                {"num_segments": 1},
                {"segment_context": "zero", "num_segments": 10},
                {"layer_norm": True, "rectify": True},
            )
        ),
    ]
    for first, second in itertools.pairwise(arms):
        heads = [arm.head(4, Initializer(), Streams(3), "mean") for arm in (first, second)]
        assert torch.equal(heads[0].weight, heads[1].weight)
        for a, b in zip(first.layers, second.layers, strict=True):
            assert torch.equal(a.linear.weight, b.linear.weight)
            assert torch.equal(a.linear.bias, b.linear.bias)
    assert torch.equal(arms[4].layers[1].segments, arms[6].layers[1].segments)
    assert not torch.equal(arms[4].layers[1].linear.weight, build(seed=4).layers[1].linear.weight)


def test_published_layers_renew_units_from_their_own_law():
    torso = build(hidden_sizes=[200, 200], weight_density=0.5, init="published", num_segments=4)
    layer = torso.layers[1]
    layer.reset_units(torch.arange(200), torch.Generator().manual_seed(5))
    assert_uniform(layer.linear.weight, 1 / math.sqrt(0.25 * 0.5 * 200))
    assert_uniform(layer.segments, 1 / math.sqrt(10))
    assert layer.linear.bias.abs().max().item() == pytest.approx(1 / math.sqrt(200), rel=0.05)


@pytest.mark.parametrize(
    ("init", "settings"),
    [
        ("published", {"initializer": "orthogonal", "init_gain": 3.0}),
        ("published", {"head_initializer": "pytorch"}),
        ("suite", {"context_density": 0.1}),
    ],
)
def test_laws_that_are_not_read_are_refused(init, settings):
    given = " and ".join(f"network.{name}={value}" for name, value in settings.items())
    with pytest.raises(ValueError, match=f"{given} would do nothing with network.init={init}"):
        build(init=init, **settings)
    assert build(init="published" if init == "suite" else "suite", **settings)


def test_a_factor_where_nothing_is_multiplied_is_refused():
    expected = "gate_scale=2.0 would do nothing with network.gate_mode=bias"
    with pytest.raises(ValueError, match=expected):
        build(gate_mode="bias", gate_scale=2.0)
    assert build(gate_mode="bias")
    assert build(gate_scale=2.0)
    assert build(gate_mode="none", gate_scale=2.0)  # nothing of the segments is read


@pytest.mark.parametrize(
    "settings",
    [
        {"active_fraction": 0.5},
        {"rectify": True},
        {"boost_strength": 1.5},
        {"active_fraction": 0.5, "boost_strength": 1.5},
    ],
)
def test_settings_of_winners_are_refused_where_no_units_win(settings):
    given = " and ".join(f"network.{name}={value}" for name, value in settings.items())
    with pytest.raises(ValueError, match=f"{given} would do nothing with network.activation=relu"):
        build(activation="relu", **settings)
    assert build(**settings)
    assert build(activation="relu", active_fraction=1.0)  # all units may answer


# Counts ------------------------------------------------------------------------------------


def segment_parameters(hidden_sizes, num_segments, context_dim, dendritic_layers=(-1,)):
    return sum(hidden_sizes[layer] for layer in dendritic_layers) * num_segments * context_dim


def counts(network):
    stored = sum(parameter.numel() for parameter in network.parameters())
    return stored, live_parameters(network)


def test_counts_of_the_published_mt10_networks():
    """Acceptance 10."""
    config, streams = dendritic.Config(**MT10), Streams(0)
    policy = SquashedGaussianPolicy(
        dendritic.build(config, 39, TASKS, streams), 4, Initializer(), streams
    )
    assert counts(policy) == (8_257_208, 7_459_768)
    critic = QFunction(dendritic.build(config, 43, TASKS, streams), Initializer(), streams)
    assert counts(critic) == (8_248_801, 7_453_321)
    heads = sum(map(live_parameters, policy.heads()))
    assert policy.torso.describe()["live_parameters"] == 7_459_768 - heads


def test_counts_of_the_published_baselines():
    """Acceptance 10."""
    assert perceptron_parameters(49, [2800, 2800], 8) == 8_005_208
    assert perceptron_parameters(53, [2800, 2800], 1) == 7_996_801
    assert perceptron_parameters(784, [2048] * 2, 10) == 5_824_522
    assert perceptron_parameters(784, [2048] * 9, 10) == 35_198_986
    digits = perceptron_parameters(784, [2048, 2048], 10, weight_density=0.5, head_density=0.5)
    assert digits + segment_parameters([2048, 2048], 10, 784, [0, 1]) == 35_026_954
    assert digits + segment_parameters([2048, 2048], 100, 784, [0, 1]) == 324_040_714


def test_the_formulas_count_what_is_built():
    torso = build(weight_density=0.5, head_density=0.5, num_segments=3, dendritic_layers=[0, 1])
    policy = GaussianPolicy(torso, 4, Initializer(), Streams(0))
    formula = perceptron_parameters(5, [24, 16], 4, 0.5, 0.5)
    formula += segment_parameters([24, 16], 3, 10, [0, 1])
    assert live_parameters(policy) == formula + 4  # and log_std


@pytest.mark.parametrize(
    ("inputs", "outputs", "units", "num_layers", "segments", "dim", "live", "width", "count"),
    [
        (49, 8, 400, 3, 10, 10, 384_008, 423, 383_246),
        (49, 8, 400, 3, 1, 10, 348_008, 402, None),
        (53, 1, 400, 3, 10, 10, 382_801, 423, None),
        (36, 8, 256, 2, 4, 9, 86_536, 272, 86_504),
        (36, 8, 256, 2, 8, 9, 95_752, 287, None),
        (36, 1, 256, 2, 4, 9, 84_737, 272, None),
    ],
)
def test_width_of_the_matched_perceptron(
    inputs, outputs, units, num_layers, segments, dim, live, width, count
):
    """Acceptance 10."""
    sizes = [units] * num_layers
    total = perceptron_parameters(inputs, sizes, outputs) + segment_parameters(sizes, segments, dim)
    assert total == live
    assert matched_width(live, inputs, num_layers, outputs) == width
    if count is not None:
        assert perceptron_parameters(inputs, [width] * num_layers, outputs) == count


def test_matched_width_is_the_best_of_all_and_takes_the_larger_of_a_tie():
    assert matched_width(7_459_768, 49, 2, 8) == 2702
    assert perceptron_parameters(49, [2702] * 2, 8) == 7_460_230
    for inputs, layers, outputs in ((3, 1, 2), (7, 2, 1), (20, 4, 5)):
        for target in (1, 50, 51, 52, 53, 54, 55, 1000, 9345):

            def distance(w, i=inputs, n=layers, o=outputs, t=target):
                return abs(perceptron_parameters(i, [w] * n, o) - t)

            best = min(range(1, 4000), key=lambda w: (distance(w), -w))
            assert matched_width(target, inputs, layers, outputs) == best
    # One layer, 3 inputs, 2 outputs: widths 8 and 9 have 50 and 56 parameters.
    assert matched_width(53, 3, 1, 2) == 9
    with pytest.raises(ValueError, match="at least 1"):
        matched_width(0, 3, 1, 2)
