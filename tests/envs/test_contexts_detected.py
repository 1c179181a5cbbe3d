"""Change points, prototypes and clusters: numbers worked out by hand, rates on random streams."""

import numpy as np
import pytest
from scipy.stats import chi2

from configs.build import build_environment
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.contexts.change_points import (
    CumulativeSums,
    Detector,
    delay,
    run_length,
    threshold_for,
)
from envs.contexts.clusters import PUBLISHED, Clusters, ClusterSettings, hotelling
from envs.contexts.prototypes import NearestMeans, Worlds

# Change points -----------------------------------------------------------------------------


def first_alarm(values, threshold):
    sums = CumulativeSums(1, threshold)
    for index, value in enumerate(values):
        if sums.update(np.array([value])):
            return index
    return None


@pytest.mark.parametrize(
    ("value", "threshold", "index"),
    [(1.0, 8.0, 16), (-1.0, 8.0, 16), (0.5, 8.0, None), (1.0, 5.0, 10)],
)
def test_23_constant_streams(value, threshold, index):
    assert first_alarm([value] * 1000, threshold) == index


def test_23_a_shift_in_noise():
    values = np.random.default_rng(0).normal(size=1000)
    values[500:] += 1.0
    assert first_alarm(values, 8.0) == 514


def test_24_the_threshold_follows_from_the_false_alarms():
    assert threshold_for(2e5) == pytest.approx(11.0401, abs=5e-5)
    assert threshold_for(2e7) == pytest.approx(15.6452, abs=5e-5)
    assert run_length(8.0) == pytest.approx(9556, abs=1)
    assert run_length(5.0) == pytest.approx(469, abs=1)
    assert delay(8.0) == pytest.approx(16.3, abs=0.05)
    with pytest.raises(ValueError, match="at least 2"):
        threshold_for(1.0)


def test_36_false_alarms_and_delay_on_a_thousand_streams():
    values = np.random.default_rng(0).normal(size=(1000, 700))
    values[:, 500:] += 1.0
    up, down, alarm = np.zeros(1000), np.zeros(1000), np.full(1000, -1)
    for time, column in enumerate(values.T):  # the same recursion, for all streams at once
        up = np.maximum(0, up + column - 0.5)
        down = np.maximum(0, down - column - 0.5)
        alarm[(alarm < 0) & (np.maximum(up, down) > 8.0)] = time
    for stream in range(25):
        assert first_alarm(values[stream], 8.0) == alarm[stream]
    early = alarm < 500
    assert early.mean() == pytest.approx(0.05, abs=0.02)
    delays = alarm[~early] - 500
    assert 14 <= delays.mean() <= 17
    assert np.quantile(delays, 0.99) <= 50


def test_a_detector_finds_its_level_and_follows_drift_but_no_jump():
    rng = np.random.default_rng(0)
    detector = Detector(1, threshold_for(200_000), baseline=50, horizon=500)
    drift = 0.0005 * np.arange(4000)  # two deviations in all, a quarter within a horizon
    alarms = [t for t in range(4000) if detector.update(np.array([7.0 + drift[t] + rng.normal()]))]
    assert len(alarms) <= 2
    level = float(detector.snapshot()["level"][0])
    assert level == pytest.approx(9.0, abs=0.7)
    found = [t for t in range(200) if detector.update(np.array([level + 2.0 + rng.normal()]))]
    assert found
    assert found[0] < 20
    assert not detector.is_suspicious


def test_a_detector_is_silent_while_it_finds_its_level():
    detector = Detector(1, 5.0, baseline=50, horizon=500)
    assert not any(detector.update(np.array([float(t % 2) * 100])) for t in range(50))


# Prototypes --------------------------------------------------------------------------------


def unit_samples(dim=4):
    """Mean 0 and covariance exactly 1."""
    return np.concatenate((np.eye(dim), -np.eye(dim))) * np.sqrt(dim)


def test_24_the_distance_decides_between_old_and_new():
    assert Worlds(3, 4, 500).limit == pytest.approx(13.277, abs=1e-3)
    for squared, index in ((13.2, 0), (13.3, 1)):
        worlds = Worlds(3, 4, 500)
        assert worlds.assign(unit_samples()) == 0
        shift = np.array([np.sqrt(squared), 0, 0, 0])
        assert worlds.distances(shift)[0] == pytest.approx(squared, rel=1e-5)
        assert worlds.assign(unit_samples() + shift) == index


def test_the_best_match_is_taken_and_no_more_worlds_than_there_are_places():
    worlds = Worlds(2, 4, 500)
    worlds.assign(unit_samples())
    assert worlds.assign(unit_samples() + 5.0) == 1
    assert worlds.assign(unit_samples() + 2.6) == 1  # both are near enough in 4 dimensions or far
    assert worlds.assign(unit_samples() + 100.0) == 1
    assert worlds.assign(unit_samples() - 100.0) == 0


def test_prototypes_become_mean_and_covariance_of_their_samples():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, (400, 3))
    worlds = Worlds(4, 3, 1000)
    worlds.assign(samples[:20])
    for sample in samples[20:]:
        worlds.update(0, sample)
    state = worlds.snapshot()
    np.testing.assert_allclose(state["mean"][0], samples.mean(0), rtol=1e-10)
    np.testing.assert_allclose(state["covariance"][0], np.cov(samples.T, bias=True), rtol=1e-8)


def test_worlds_that_turn_out_to_be_one_are_merged_and_numbers_stay_given():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (300, 2)), rng.normal(0.5, 1, (300, 2))
    worlds = Worlds(4, 2, 10_000)
    worlds.assign(first[:5] * 0.01)
    worlds.assign(second[:5] * 0.01 + 1.0)
    assert worlds.alive.tolist() == [0, 1]
    for one, two in zip(first, second, strict=True):
        worlds.update(0, one)
        worlds.update(1, two)
    before = worlds.snapshot()
    worlds.merge()
    assert worlds.alive.tolist() == [0]
    assert worlds.resolve(1) == 0
    mixed = (before["mean"][0] + before["mean"][1]) / 2
    np.testing.assert_allclose(worlds.snapshot()["mean"][0], mixed, rtol=1e-10)
    assert worlds.assign(rng.normal(50, 1, (20, 2))) == 2  # never 1 again
    again = Worlds(4, 2, 10_000)
    again.restore(worlds.snapshot())
    assert again.alive.tolist() == [0, 2]


def test_nearest_means_know_their_tasks():
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(5, 8))
    means = NearestMeans(8)
    with pytest.raises(ValueError, match="begin_task"):
        means.nearest(np.zeros((1, 8)))
    for centre in centres:
        samples = centre + rng.normal(size=(50, 8))
        np.testing.assert_allclose(means.begin_task(samples), samples.mean(0))
    tasks = rng.integers(5, size=500)
    samples = centres[tasks] + rng.normal(size=(500, 8))
    slow = ((samples[:, None] - means.means[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(means.nearest(samples), slow)
    assert (slow == tasks).mean() > 0.97
    again = NearestMeans(8)
    again.restore(means.snapshot())
    np.testing.assert_array_equal(again.contexts(samples), means.means[slow])


# Clusters ----------------------------------------------------------------------------------


def test_25_hotelling_by_hand():
    first, second = np.array([[0.0], [1], [2]]), np.array([[2.0], [3], [4]])
    squared, probability = hotelling(first, second)
    assert squared == pytest.approx(6.0)
    assert probability == pytest.approx(0.929516, abs=1e-6)
    clusters = Clusters(PUBLISHED)
    assert [clusters.assign(first), clusters.assign(second)] == [0, 1]


def test_35_equal_laws_are_rejected_as_often_as_promised():
    rng = np.random.default_rng(0)
    probabilities = [hotelling(*rng.normal(size=(2, 256, 8)))[1] for _ in range(2000)]
    assert np.mean(np.array(probabilities) >= 0.9) == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 10), marks=pytest.mark.slow)])
def test_35_five_tasks_are_five_clusters_and_the_published_rule_finds_more(seeds):
    """The published 9 to 12 is the range of ten other draws; these ten give 8 to 13."""
    numbers = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        centres = 3 * rng.normal(size=(5, 8))
        ours, published = Clusters(), Clusters(PUBLISHED)
        for centre in centres:
            found = {ours.assign(batch) for batch in centre + rng.normal(size=(20, 256, 8))}
            assert len(found) == 1
            for batch in centre + rng.normal(size=(20, 256, 8)):
                published.assign(batch)
        assert len(ours) == 5
        np.testing.assert_allclose(ours.means, centres, atol=0.1)
        numbers.append(len(published))
    assert 9 <= np.mean(numbers) <= 12
    assert 7 <= min(numbers) <= max(numbers) <= 14


def test_clusters_are_limited_and_saved():
    rng = np.random.default_rng(0)
    clusters = Clusters(ClusterSettings(max_clusters=2))
    batches = rng.normal(size=(3, 64, 4)) + np.array([0.0, 10.0, 11.0])[:, None, None]
    assert [clusters.assign(batch) for batch in batches] == [0, 1, 1]
    again = Clusters(ClusterSettings(max_clusters=2))
    again.restore(clusters.snapshot())
    np.testing.assert_array_equal(again.means, clusters.means)
    assert again.assign(batches[0]) == clusters.assign(batches[0]) == 0


def test_features_that_depend_on_each_other_are_counted_by_rank():
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(2, 40, 3)) @ rng.normal(size=(3, 10))
    by_rank, by_count = (hotelling(*narrow, use_rank=use)[1] for use in (True, False))
    alone = hotelling(narrow[0][:, :3], narrow[1][:, :3])[1]
    assert by_rank == pytest.approx(alone, abs=1e-6)
    assert by_count < by_rank  # conservative
    assert chi2.ppf(0.99, 4) == pytest.approx(13.2767, abs=1e-4)


# On the robot ------------------------------------------------------------------------------


def test_a_number_of_false_alarms_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="at least 2"):
        compose_run(["context=detected", "context.steps_between_false_alarms=100"])
    with pytest.raises(ConfigurationError, match=r"context\.signals"):
        compose_run(["context=detected", "context.signals=light"])


@pytest.mark.slow
def test_switches_of_friction_are_noticed_and_another_world_gets_another_number():
    """Three worlds of 24,000 steps: 1.0, 0.1 and 1.0 again, one frozen way of moving."""
    line = ["env=slippery_ant", "env.num_envs=16", "env.schedule=cyclic", "context=detected"]
    line += ["env.cyclic_values=[1.0,0.1]", "env.switch_interval=24_000", "total_steps=72_000"]
    line += ["env.max_episode_steps=100"]  # else robots that survive gather for a long while
    line += ["context.block_steps=200", "context.baseline_blocks=30"]
    line += ["context.settling_blocks=10", "context.fit_every=1024", "context.minibatches=64"]
    envs, _ = build_environment(compose_run(line).config)
    envs.reset()
    rng, provider, alarms, worlds = np.random.default_rng(0), envs.provider, [], []
    for _ in range(4500):
        before = provider.num_alarms
        envs.step(rng.normal(size=(16, 8)))
        worlds.append(int(provider.world[0]))
        if provider.num_alarms > before:
            alarms.append(envs.env.env_steps)
    envs.close()
    delays = [min((a - s for a in alarms if a >= s), default=10**9) for s in (24_000, 48_000)]
    false = [a for a in alarms if not any(s <= a < s + 12_000 for s in (24_000, 48_000))]
    print(f"alarms {alarms}, delays {delays}, false {false}, worlds {sorted(set(worlds))}")
    assert max(delays) < 12_000, alarms
    assert len(false) <= 1, alarms
    # That the third world is the first one is not asserted: the model that made the prototype knew
    # no other, and has changed since.
    assert 0 <= worlds[1490] != worlds[2990]
