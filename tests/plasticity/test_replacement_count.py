"""How many units are due: against published schedules, integer arithmetic and probability."""

from __future__ import annotations

import pytest
import torch
from recycling_nets import equal_bits, generator

from plasticity.replacement_count import ReplacementCounter, expected_replacements


def integer_schedule(num_units: int, one_in: int, maturity: int, calls: int) -> list[int]:
    """Calls at which units are replaced, by whole numbers only: add |E|, fire at `one_in`."""
    matures = {maturity + 1: num_units}
    eligible, owed, fired = 0, 0, []
    for call in range(1, calls + 1):
        eligible += matures.pop(call, 0)
        owed += eligible
        count, owed = divmod(owed, one_in)
        if count:
            eligible -= count
            matures[call + maturity + 1] = count
            fired += [call] * count
    return fired


def test_published_schedule_over_a_whole_run():
    counter = ReplacementCounter(256, 1e-4, 10_000)
    fired, cumulative = [], {}
    for call in range(1, 1_562_401):
        due = counter.advance()
        if due:
            fired += [call] * due
        if call in (20_000, 100_000, 128_000, 1_562_400):
            cumulative[call] = counter.replaced_total
    assert fired[:6] == [10_040, 10_079, 10_118, 10_158, 10_197, 10_237]
    assert cumulative == {20_000: 162, 100_000: 1_184, 128_000: 1_542, 1_562_400: 19_902}
    assert counter.eligible == 128
    assert fired == integer_schedule(256, 10_000, 10_000, 1_562_400)


def test_expected_replacements_jumps_to_the_same_numbers():
    assert expected_replacements(256, 1e-4, 10_000, 1_562_400) == 19_902
    assert expected_replacements(256, 1e-4, 10_000, 20_000) == 162
    assert expected_replacements(256, 1e-4, 10_000, 10_000) == 0
    assert expected_replacements(16, 0.01, 20, 500) == len(integer_schedule(16, 100, 20, 500))
    assert expected_replacements(4, 0.5, 0, 10) == 20


def test_rounding_does_not_delay_a_replacement():
    """Ten times 0.01 x 10 is .9999999999999999 in floating point, and still one unit."""
    counter = ReplacementCounter(10, 0.01, maturity_threshold=0)
    due = [counter.advance() for _ in range(10)]
    assert due == [0] * 9 + [1]


def test_strict_mode_waits_and_replaces_one():
    counter = ReplacementCounter(2, 0.5, 2, "accumulate_strict")
    assert [counter.advance() for _ in range(4)] == [0, 0, 0, 1]
    greedy = ReplacementCounter(100, 1.0, 0, "accumulate_strict")
    assert [greedy.advance() for _ in range(3)] == [1, 1, 1]
    ten_hundredths = ReplacementCounter(10, 0.01, 0, "accumulate_strict")
    assert [ten_hundredths.advance() for _ in range(11)] == [0] * 10 + [1]


def test_nothing_accumulates_while_nothing_is_eligible():
    counter = ReplacementCounter(8, 1.0, maturity_threshold=5)
    for _ in range(5):
        assert counter.advance() == 0
        assert counter.accumulator == 0.0
    assert counter.advance() == 8  # all mature at once, and all are due
    assert counter.eligible == 0
    assert [counter.advance() for _ in range(6)] == [0, 0, 0, 0, 0, 8]


def test_bernoulli_has_the_right_mean():
    totals = []
    for seed in range(4):
        counter, stream = ReplacementCounter(256, 1e-4, 10_000, "bernoulli"), generator(seed)
        for _ in range(20_000):
            counter.advance(stream)
        totals.append(counter.replaced_total)
        assert 139 <= totals[-1] <= 185  # 161.8 expected
    assert len(set(totals)) > 1
    assert sum(totals) / 4 == pytest.approx(161.8, abs=13)


def test_bernoulli_above_one_is_one_or_two():
    counter, stream = ReplacementCounter(100, 0.015, 0, "bernoulli"), generator()
    draws = torch.tensor([counter.advance(stream) for _ in range(4_000)])
    assert set(draws.tolist()) == {1, 2}
    assert (draws == 2).double().mean().item() == pytest.approx(0.5, abs=0.04)


def test_bernoulli_steady_state_has_half_of_the_units_mature():
    counter, stream = ReplacementCounter(256, 0.01, 100, "bernoulli"), generator()
    mature = []
    for call in range(12_000):
        counter.advance(stream)
        if call >= 2_000:
            mature.append(counter.eligible / 256)
    assert sum(mature) / len(mature) == pytest.approx(0.5, abs=0.02)


def test_bernoulli_draws_only_when_something_is_eligible():
    counter, stream = ReplacementCounter(4, 0.1, 10, "bernoulli"), generator()
    before = stream.get_state()
    for _ in range(10):
        counter.advance(stream)
    assert torch.equal(before, stream.get_state())
    counter.advance(stream)
    assert not torch.equal(before, stream.get_state())
    with pytest.raises(ValueError, match="generator"):
        counter.advance(None)


@pytest.mark.parametrize("mode", ["accumulate", "accumulate_strict"])
def test_state_round_trip(mode):
    whole, first = ReplacementCounter(16, 0.02, 30, mode), ReplacementCounter(16, 0.02, 30, mode)
    series = [whole.advance() for _ in range(400)]
    head = [first.advance() for _ in range(173)]
    second = ReplacementCounter(16, 0.02, 30, mode)
    state = first.state_dict()
    second.load_state_dict(state)
    first.advance()  # the saved state must not follow the live one
    assert equal_bits(second.state_dict(), state)
    assert head + [second.advance() for _ in range(227)] == series
    assert sum(series) > 20
