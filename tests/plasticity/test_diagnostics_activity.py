"""Activity of hidden units against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from plasticity import diagnostics as d


def samples_with_positives(*positives: int, num_samples: int = 1000) -> torch.Tensor:
    features = torch.zeros(num_samples, len(positives))
    for unit, count in enumerate(positives):
        features[:count, unit] = 1.0
    return features


def test_ten_of_a_thousand_is_dormant_and_eleven_is_not() -> None:
    features = samples_with_positives(0, 10, 11, 1000)
    assert d.dormant_units(features).tolist() == [True, True, False, False]
    assert d.dormant_fraction(features) == 0.5


def test_a_share_that_rounds_down_in_floating_point_still_counts() -> None:
    assert 0.29 * 100 < 29
    assert d.dormant_units(samples_with_positives(29, 30, num_samples=100), 0.29).tolist() == [
        True,
        False,
    ]


def test_tau_dormancy_of_the_worked_example() -> None:
    features = torch.tensor([[4.0, -0.04, 1.0, 2.96], [-4.0, 0.04, 1.0, -2.96]])
    assert d.tau_dormant_fraction(features, 0.0) == 0.0
    assert d.tau_dormant_fraction(features, 0.0199) == 0.0
    assert d.tau_dormant_fraction(features, 0.025) == 0.25
    assert d.tau_dormant_fraction(features, 0.1) == 0.25
    assert d.tau_dormant_fraction(features, 0.51) == 0.5


@pytest.mark.parametrize("tau", [0.0, 0.025, 0.1])
def test_an_all_zero_layer_is_entirely_dormant(tau: float) -> None:
    zeros = torch.zeros(50, 4)
    assert d.tau_dormant_fraction(zeros, tau) == 1.0
    assert d.dormant_fraction(zeros) == 1.0
    assert d.dead_fraction(zeros) == 1.0
    assert d.active_fraction_measured(zeros) == 0.0
    assert d.feature_norm(zeros) == 0.0


def test_totals_weigh_units_not_layers() -> None:
    assert d.pooled([50, 0], [100, 10]) == pytest.approx(0.4545, abs=5e-5)
    masks = [torch.arange(100) < 50, torch.zeros(10, dtype=torch.bool)]
    assert d.pooled_fraction(masks) == 50 / 110
    assert math.isnan(d.pooled([], []))
    with pytest.raises(ValueError, match="one per layer"):
        d.pooled([1], [2, 3])


def test_units_killed_behind_a_layer_norm_are_found() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(256)
    with torch.no_grad():
        norm.weight[:200], norm.bias[:200] = 0.0, -1.0
    network = nn.Sequential(nn.Linear(27, 256), norm, nn.ReLU())
    features = network(torch.randn(1000, 27))
    assert d.dead_fraction(features) == 0.78125
    assert 0.0 < d.active_fraction_measured(features) <= 0.22
    assert d.dead_fraction(norm(network[0](torch.randn(1000, 27)))) == 0.0  # the trap: LN outputs


def test_tanh_units_are_dormant_when_constant_and_saturated_beyond_nine_tenths() -> None:
    ramp = torch.linspace(-1, 1, 201)
    features = torch.stack(
        [
            torch.full_like(ramp, -0.999),
            ramp,
            0.5 + 0.0009 * ramp.sign(),
            0.5 + 0.0011 * ramp.sign(),
        ],
        1,
    )
    assert d.dormant_mask(features, "tanh").tolist() == [True, False, True, False]
    # 201 saturated samples of the first unit and 20 of the ramp (|h| = .91 ... 1, both signs).
    assert d.saturated_fraction(features) == pytest.approx((201 + 20) / (4 * 201))
    assert d.dead_fraction(features) == 0.0


def test_k_winner_specialists_of_one_context_are_alive() -> None:
    contexts = torch.arange(1000) % 10
    features = torch.zeros(1000, 4)
    features[contexts == 3, 0] = -1.0  # a negative winner in every sample of one context
    features[:5, 1] = 1.0  # five wins in five contexts: 1 % in each
    features[contexts == 0, 2] = (torch.arange(100) < 2).float()  # 2 % in one, .2 % overall
    by_context = d.dormant_mask(features, "k_winners", context_ids=contexts)
    assert by_context.tolist() == [False, True, False, True]
    assert d.dormant_mask(features, "k_winners").tolist() == [False, True, True, True]
    with pytest.raises(ValueError, match="one id for each of 1000"):
        d.dormant_mask(features, "k_winners", context_ids=contexts[:10])


def test_rules_follow_the_activation() -> None:
    features = samples_with_positives(0, 1000)
    gradient = torch.tensor([[0.2, -0.2], [0.0, 0.0]])
    assert d.dormant_mask(features, "relu").tolist() == [True, False]
    for smooth in ("gelu", "swish", "elu", "leaky_relu"):
        found = d.dormant_mask(features, smooth, weight_gradient=gradient)
        assert found.tolist() == [False, True]
        with pytest.raises(ValueError, match="pass weight_gradient"):
            d.dormant_mask(features, smooth)
    with pytest.raises(ValueError, match="2 units"):
        d.dormant_mask(features, "gelu", weight_gradient=gradient[:1])
    with pytest.raises(ValueError, match="'softmax'"):
        d.dormant_mask(features, "softmax")


def test_overlap_is_relative_to_the_previous_set() -> None:
    previous = torch.tensor([False, True, True, False])
    current = torch.tensor([False, False, True, True])
    assert d.dormant_overlap(current, previous) == 0.5
    assert d.dormant_overlap(torch.ones(4, dtype=torch.bool), previous) == 1.0
    assert math.isnan(d.dormant_overlap(current, torch.zeros(4, dtype=torch.bool)))
    with pytest.raises(ValueError, match="shapes"):
        d.dormant_overlap(current, previous[:2])


def test_preactivation_statistics_and_feature_norm() -> None:
    stats = d.preactivation_stats(torch.tensor([[1.0, 5.0], [3.0, -5.0], [2.0, 0.0]]))
    assert stats.mean.tolist() == [2.0, 0.0]
    assert stats.std.tolist() == pytest.approx([math.sqrt(2 / 3), math.sqrt(50 / 3)])
    assert stats.large_share == pytest.approx(2 / 6)
    assert d.feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])) == 3.0


def test_grama_of_the_worked_example() -> None:
    gradient = torch.tensor([[0.1, -0.3], [0.0, 0.001], [0.2, 0.2]])
    assert d.grama_scores(gradient).tolist() == pytest.approx([1.49813, 0.00374532, 1.49813], 1e-5)
    assert d.grama_dormant(gradient) == pytest.approx(1 / 3)
    assert d.grama_dormant(gradient * 1e-6) == pytest.approx(1 / 3)  # scale free
    assert d.grama_dormant(gradient, tau=0.003) == 0.0
    assert math.isnan(d.grama_dormant(torch.zeros(3, 2)))
    with pytest.raises(ValueError, match="no unit learns"):
        d.grama_scores(torch.zeros(3, 2))


def test_rua_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    gradient = torch.tensor([[5.0, 0.0], [0.0, 0.1], [0.0, 2.0], [9.9, 0.0]])
    # Ratios 1, .1, 1, 9.9, mean 3: relative .333, .033, .333, 3.3.
    assert d.rua(gradient, weight) == (0.25, 0.25)
    weight[3], gradient[3] = 0.0, 7.0  # no ratio: left out; mean .7: relative 1.43, .14, 1.43
    assert d.rua(gradient, weight) == (pytest.approx(1 / 3), 0.0)
    assert all(math.isnan(share) for share in d.rua(torch.zeros(4, 2), weight))
    with pytest.raises(ValueError, match="must be equal"):
        d.rua(gradient[:2], weight)


def test_a_diverged_layer_is_reported_not_called_dormant() -> None:
    features = torch.ones(10, 3)
    features[4, 1] = math.nan
    value, reason = d.measured(d.dormant_fraction, features)
    assert math.isnan(value)
    assert reason is not None
    assert "diverged" in reason
    features[4, 1] = -math.inf
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        d.dead_fraction(features)
    with pytest.raises(ValueError, match="samples, units"):
        d.dormant_fraction(torch.ones(3))


def test_measured_never_turns_a_failure_into_a_number() -> None:
    def fails() -> float:
        raise RuntimeError("no CPU constructor on this device")

    value, reason = d.measured(fails)
    assert math.isnan(value)
    assert reason == "RuntimeError: no CPU constructor on this device"
    assert d.measured(lambda: 0.0) == (0.0, None)
    empty = torch.zeros(3, dtype=torch.bool)
    value, reason = d.measured(d.dormant_overlap, empty, empty)
    assert math.isnan(value)
    assert reason == "not defined for this input"
    unknown, reason = d.measured(d.ranks, torch.zeros(0, 4), otherwise=d.Ranks.unknown())
    assert all(math.isnan(rank) for rank in unknown)
    assert reason is not None


def test_one_call_measures_a_layer_and_keeps_the_reasons() -> None:
    features = samples_with_positives(0, 10, 11, 1000)
    found = d.measure_activity(
        features,
        "relu",
        preactivations=features * 5.0,
        previous_dormant=torch.tensor([True, False, True, False]),
    )
    assert found.reasons == {}
    assert found.values["dormant_fraction"] == 0.5
    assert found.values["dead_fraction"] == 0.25
    assert found.values["dormant_overlap"] == 0.5
    assert found.values["preact_large"] == found.values["active_fraction_measured"] == 1021 / 4000
    smooth = d.measure_activity(features, "gelu")
    assert math.isnan(smooth.values["dormant_fraction"])
    assert set(smooth.reasons) == {"dormant_fraction"}
    broken = d.measure_activity(features, "relu", preactivations=torch.full((4, 4), math.nan))
    assert math.isnan(broken.values["preact_std"])
    assert set(broken.reasons) == {"preact_mean", "preact_std", "preact_large"}
