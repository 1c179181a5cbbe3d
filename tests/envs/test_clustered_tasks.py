"""Permuted tasks whose contexts nobody announces: clusters of batches."""

import numpy as np
import pytest

from configs.compose import compose_run
from envs import datasets, permuted_tasks
from envs.contexts.clusters import hotelling

SETTINGS = {
    "num_tasks": 3,
    "num_epochs": 1,
    "num_envs": 64,
    "context": "clusters",
    "num_features": 16,
    "cluster_rule": "best",
}


def make(**settings):
    config = permuted_tasks.Config(**{**SETTINGS, **settings})
    return permuted_tasks.make(config, 100)[0]


def whole_stream(envs):
    """All blocks of one pass, each with the clusters as they were when it was shown."""
    lessons, seen = envs.problem, []
    for _ in range(lessons.num_rows // envs.num_envs):
        block = lessons.next_block()
        seen.append((block, lessons.clusters.means))
        if block.ends_phase and block.on_task == lessons.tasks.config.num_tasks - 1:
            return seen
    raise AssertionError("the stream never ended")


def test_contexts_are_means_of_what_joined_the_cluster_and_one_task_is_one_cluster():
    """A slow replay: every batch shares its context, the mean of all images of its cluster."""
    envs = make()
    features = envs.problem.tasks.features
    assert envs.info.context_dim == 16
    assert not envs.info.context_discrete
    assert len(set(features.tolist())) == 16
    members, tasks_of = {}, {}
    for block, means in whole_stream(envs):
        told = ~np.isnan(block.answers).all(1)
        shown = block.context[told]
        assert not block.context[~told].any()
        if block.split == "train":
            assert (shown == shown[0]).all()
            index = int(np.abs(means - shown[0]).sum(1).argmin())
            members.setdefault(index, []).append(block.inputs[told][:, features])
            tasks_of.setdefault(index, set()).add(block.task)
            expected = np.concatenate(members[index]).mean(0)
            np.testing.assert_allclose(shown[0], expected, atol=1e-5)
        else:
            distances = ((block.inputs[told][:, None, features] - means[None]) ** 2).sum(-1)
            np.testing.assert_allclose(shown, means[distances.argmin(1)], atol=1e-6)
    assert tasks_of == {0: {0}, 1: {1}, 2: {2}}


def test_examinations_leave_clusters_alone_and_images_find_their_task():
    envs = make()
    blocks = whole_stream(envs)
    tests = [(block, means) for block, means in blocks if block.split == "test"]
    assert all(np.array_equal(means, tests[0][1]) for _, means in tests)
    for task in range(3):
        inputs, context = envs.problem.examination(task, 3)
        assert len(inputs) == len(datasets.digits().test)
        found = (context[:, None] == tests[0][1][None].astype(np.float32)).all(-1).argmax(1)
        assert (found == task).mean() > 0.85


@pytest.mark.parametrize("at", [3, 30, 75])
def test_clusters_go_on_in_the_same_bits(at):
    envs = make()
    envs.reset()
    guess = np.zeros(envs.action_space.shape, dtype=np.float32)
    for _ in range(at):
        envs.step(guess)
    saved = envs.snapshot()
    expected = [envs.step(guess)[4]["context"] for _ in range(10)]
    other = make()
    other.restore(saved)
    for context in expected:
        assert np.array_equal(other.step(guess)[4]["context"], context)
    damaged = {key: value for key, value in saved.items() if not key.endswith("mean_0")}
    with pytest.raises(ValueError, match="mean_0"):
        make().restore(damaged)


def test_the_published_rule_is_the_published_rule():
    """First cluster in order of creation whose F-probability is below .9, dimensions p."""
    envs = make(cluster_rule="published", num_tasks=2)
    lessons, exemplars = envs.problem, []
    features = lessons.tasks.features
    for _ in range(12):
        block = lessons.next_block()
        rows = block.inputs[:, features].astype(np.float64)
        fits = [hotelling(e, rows, use_rank=False)[1] < 0.9 for e in exemplars]
        if any(fits):
            index = fits.index(True)
            room = 256 - len(exemplars[index])
            exemplars[index] = np.concatenate((exemplars[index], rows[:room]))
        else:
            exemplars.append(rows)
        assert len(lessons.clusters) == len(exemplars)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="num_features=65, but"):
        make(num_features=65)
    with pytest.raises(ValueError, match="cluster_rule"):
        permuted_tasks.Config(cluster_rule="nearest")


def test_presets():
    published = compose_run(["experiment=pmnist_clustering"]).config
    env = published.env
    assert (env.context, env.num_features, env.cluster_rule) == ("clusters", 256, "published")
    assert (env.dataset, env.num_tasks, published.network.num_segments) == ("mnist", 10, 10)
    assert published.optimizer.learning_rate == 1e-3
    # 60,000 images in blocks of 256 make 60,160 rows; ten examinations of 10,000 make 10,240 each.
    assert published.total_steps == 10 * (env.num_epochs * 60_160 + 10_240)
    small = compose_run(["experiment=permuted_digits", "arm=permuted_dendrites_clusters"]).config
    assert (small.env.context, small.env.num_features) == ("clusters", 16)
    plain = compose_run(["experiment=permuted_digits", "arm=permuted_dendrites"]).config
    assert small.network == plain.network
    assert small.optimizer == plain.optimizer
