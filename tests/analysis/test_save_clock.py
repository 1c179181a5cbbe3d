"""When checkpoints are due, and when a save that failed is tried again."""

import pytest

from analysis.save_clock import Milestones, SaveClock


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


def test_milestones_are_passed_once_and_go_on_with_a_run():
    kept = Milestones(1_000, 0)
    assert [kept.is_passed(steps) for steps in (0, 999, 1_000, 1_500)] == [False, False, True, True]
    kept.saved(1_024)
    assert [kept.is_passed(steps) for steps in (1_999, 2_048)] == [False, True]
    kept.saved(1_500)  # a checkpoint in between
    assert kept.is_passed(2_000)
    assert not Milestones(1_000, 2_000).is_passed(2_999)
    assert not Milestones(None, 0).is_passed(10**9)
