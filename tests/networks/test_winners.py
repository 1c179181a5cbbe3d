"""k-winners: who wins, what is passed on, and duty cycles."""

import pytest
import torch

from networks import k_winners
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.winners import DUTY_PERIOD, Winners, num_winners, winner_mask


@pytest.mark.parametrize(
    ("units", "fraction", "k"),
    [(2800, 0.25, 700), (2048, 0.05, 102), (400, 0.25, 100), (256, 0.25, 64), (10, 0.25, 3)],
)
def test_number_of_winners(units, fraction, k):
    """Acceptance 11."""
    assert num_winners(units, fraction) == k


def test_at_least_one_unit_wins():
    assert num_winners(5, 0.01) == 1


def test_exactly_k_members_also_with_ties():
    """Acceptance 11."""
    scores = torch.zeros(3, 100)
    scores[1] = torch.arange(100.0)
    assert winner_mask(scores, 7).sum(1).tolist() == [7, 7, 7]
    assert winner_mask(scores, 7)[1, 93:].all()


@pytest.mark.parametrize(("rectify", "kept"), [(False, [0, -1, -2, 0]), (True, [0, 0, 0, 0])])
def test_negative_winners_pass_unless_rectified(rectify, kept):
    """Acceptance 12."""
    winners = Winners(4, 0.5, rectify=rectify)
    assert winners(torch.tensor([[-3.0, -1.0, -2.0, -5.0]])).tolist() == [kept]


def test_losers_get_no_gradient():
    """Acceptance 12."""
    values = torch.tensor([[3.0, -1.0, 2.0, 5.0]], requires_grad=True)
    (Winners(4, 0.5)(values) * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert values.grad.tolist() == [[1.0, 0.0, 0.0, 1000.0]]


def test_a_share_of_one_passes_everything():
    values = torch.randn(4, 6)
    assert torch.equal(Winners(6, 1.0)(values), values)


def test_without_boosting_duty_cycles_do_not_matter():
    """Acceptance 14."""
    values = torch.randn(9, 12)
    plain, used = Winners(12, 0.25), Winners(12, 0.25)
    used.duty.copy_(torch.rand(12))
    assert torch.equal(plain(values), used(values))


def test_boosting_lets_a_rare_unit_win_and_passes_its_own_value():
    """Acceptance 14."""
    values = torch.tensor([[1.0, 0.9, 0.1, 0.2]])
    winners = Winners(4, 0.25, boost_strength=2.0)
    winners.duty.copy_(torch.tensor([0.9, 0.01, 0.25, 0.25]))
    before = values.clone()
    assert winners(values).tolist() == [[0.0, pytest.approx(0.9), 0.0, 0.0]]
    assert torch.equal(values, before)


def test_duty_cycle_of_a_unit_that_wins_always_then_never_then_once():
    """Acceptance 15."""
    winners = Winners(2, 0.5).double()
    first, second = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    duties = []
    for values, batch in ((first, 2560), (second, 2560), (first, 1)):
        winners.record(values.expand(batch, 2))
        duties.append(winners.duty[0].item())
    assert duties == pytest.approx([1.0, 0.2808988764, 0.2816172591], abs=5e-11)
    assert int(winners.seen) == DUTY_PERIOD


@pytest.mark.parametrize("batch", [1, 256, 2560])
def test_duty_cycles_stay_shares_with_mean_k_over_n(batch):
    """Acceptance 15."""
    winners, generator = Winners(16, 0.25), torch.Generator().manual_seed(0)
    drawn = torch.randn(batch, 16, generator=generator)
    for _ in range(1000):
        winners.record(drawn[:, torch.randperm(16, generator=generator)])
    assert winners.duty.mean().item() == pytest.approx(0.25, abs=1e-5)
    assert winners.duty.std() > 0.0
    assert 0.0 <= winners.duty.min() <= winners.duty.max() <= 1.0


def test_duty_cycles_count_winning_not_being_positive():
    winners = Winners(4, 0.5)
    winners.record(torch.tensor([[-3.0, -1.0, -2.0, -5.0]]))
    assert winners.duty.tolist() == [0.0, 1.0, 1.0, 0.0]


def network(**settings):
    config = k_winners.Config(hidden_sizes=[40, 40], **settings)
    return k_winners.build(config, 5, ContextSpec(), Streams(0))


def test_only_recording_changes_duty_cycles_and_they_are_saved():
    """Acceptance 15."""
    torso, x = network(), torch.randn(64, 5)
    before = {name: value.clone() for name, value in torso.state_dict().items()}
    torso.train()(x)
    torso.eval()(x)
    assert all(torch.equal(before[name], value) for name, value in torso.state_dict().items())
    torso.record_statistics(x)
    changed = {n for n, value in torso.state_dict().items() if not torch.equal(before[n], value)}
    assert changed == {f"layers.{i}.activation.{n}" for i in (0, 1) for n in ("duty", "seen")}
    other = network()
    other.load_state_dict(torso.state_dict())
    assert torch.equal(other.layers[1].activation.duty, torso.layers[1].activation.duty)
    assert torso.layers[1].activation.duty.dtype == torch.float32


@torch.no_grad()
def test_recording_counts_the_units_that_spoke():
    torso, x = network(), torch.randn(64, 5)
    torso.record_statistics(x)
    share = (torso(x) != 0).float().mean(0)
    torch.testing.assert_close(torso.layers[1].activation.duty, share)


@pytest.mark.parametrize(("fraction", "share"), [(0.25, 0.4643), (0.1, 0.325), (0.05, 0.219)])
def test_mean_square_that_the_winners_keep(fraction, share):
    """The shares behind `init_gain`, for standard normal pre-activations."""
    values = torch.randn(400, 2000, generator=torch.Generator().manual_seed(0))
    kept = Winners(2000, fraction)(values).square().mean() / values.square().mean()
    assert kept.item() == pytest.approx(share, abs=0.004)


def test_few_winners_are_announced():
    with pytest.warns(UserWarning, match="only 3 units"):
        k_winners.Config(hidden_sizes=[60, 60], active_fraction=0.05)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_shares_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match="active_fraction"):
        k_winners.Config(active_fraction=fraction)
    with pytest.raises(ValueError, match="active_fraction"):
        num_winners(10, fraction)
