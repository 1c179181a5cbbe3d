"""When checkpoints are due, and when a save that failed is tried again."""

import pytest

from analysis.save_clock import SaveClock


@pytest.fixture
def now():
    return [1000.0]


def test_a_checkpoint_is_due_after_each_period_and_at_every_switch(now):
    clock = SaveClock(10, lambda: now[0])
    assert not clock.is_due(switched=False)
    assert clock.is_due(switched=True)
    now[0] += 600
    assert clock.is_due(switched=False)
    clock.attempted(failed=False)
    assert not clock.is_due(switched=False)
    assert clock.is_due(switched=True)


def test_a_failed_save_at_a_switch_is_tried_again_after_two_minutes(now):
    clock = SaveClock(10, lambda: now[0])
    clock.attempted(failed=True)
    assert not clock.is_due(switched=True)
    now[0] += 119
    assert not clock.is_due(switched=True)
    now[0] += 1
    assert clock.is_due(switched=True)
    assert not clock.is_due(switched=False)
    clock.attempted(failed=False)
    assert clock.is_due(switched=True)


def test_a_shorter_period_is_kept_after_a_failure(now):
    clock = SaveClock(0, lambda: now[0])
    clock.attempted(failed=True)
    assert clock.is_due(switched=True)
    assert clock.is_due(switched=False)
