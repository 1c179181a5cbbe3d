"""What counts as a change of the world for the loop."""

import numpy as np

from analysis.world_changes import WorldChanges


def switch(env_index):
    return {"event": "switch", "env_index": env_index}


def test_only_the_first_environment_in_a_world_brings_news():
    changes = WorldChanges(np.array([0, 0, 0]))
    changes.notice([switch(1)], np.array([0, 1, 0]))
    assert changes.switched
    assert changes.unannounced
    changes.switched = changes.unannounced = False
    changes.notice([switch(0)], np.array([1, 1, 0]))
    assert not changes.switched
    assert not changes.unannounced
    changes.notice([switch(1), switch(2)], np.array([1, 2, 1]))
    assert changes.switched


def test_a_common_switch_is_news_even_to_a_world_that_was_there_before():
    changes = WorldChanges(np.array([1, 1]))
    changes.notice([switch(None)], np.array([0, 0]))
    assert changes.switched
    assert changes.unannounced


def test_a_drift_is_announced_and_pins_nothing():
    changes = WorldChanges(np.array([0, 0]))
    changes.notice([{"event": "drift", "env_index": None}], np.array([1, 1]))
    assert changes.unannounced
    assert not changes.switched


def test_followers_bring_no_news_after_a_resume():
    changes = WorldChanges(np.array([0, 0]))
    changes.load_state_dict({"switched": False}, np.array([0, 1]))
    changes.notice([switch(0)], np.array([1, 1]))
    assert not changes.switched
