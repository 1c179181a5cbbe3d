"""Image pairs: which images, which answers, which order."""

import numpy as np

from envs import datasets, image_pairs


def curriculum(**settings):
    config = image_pairs.Config(**{"num_tasks": 12, "num_epochs": 2, **settings})
    return image_pairs.ImagePairs(config, datasets.digits())


def test_tasks_are_consecutive_pairs_of_one_order_of_classes_which_repeats():
    pairs = curriculum()
    first = np.array([pairs.pair(task) for task in range(5)])
    assert sorted(first.flatten()) == list(range(10))
    assert np.array_equal(pairs.pair(5), pairs.pair(0))
    assert not np.array_equal(first, [curriculum(seed=1).pair(task) for task in range(5)])


def test_every_image_of_both_classes_once_per_epoch_with_the_right_answer():
    pairs, images = curriculum(), datasets.digits()
    for index in range(len(pairs.lengths)):
        phase, rows = pairs.phase(index), pairs.order(index)
        labels = images.train_labels if phase.split == "train" else images.test_labels
        assert len(rows) == pairs.lengths[index]
        assert sorted(rows) == np.flatnonzero(np.isin(labels, pairs.pair(phase.task))).tolist()
        inputs, answers, _ = pairs.examples(index, rows, 0)
        assert np.array_equal(pairs.pair(phase.task)[answers.argmax(1)], labels[rows])
        assert inputs.shape == (len(rows), 64)
    plan = [pairs.phase(index).split for index in range(6)]
    assert plan == ["train", "train", "test"] * 2
    assert not np.array_equal(pairs.order(0), pairs.order(1))


def test_images_are_standardised_per_channel_over_the_training_images():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (40, 3, 4)).astype(np.uint8)
    train[:, 1] //= 4
    images = datasets.Images(
        "toy",
        (3, 2, 2),
        train.reshape(40, 12),
        np.arange(40) % 4,
        train[:8].reshape(8, 12),
        np.arange(8) % 4,
    )
    scaled = image_pairs.standardised(images)
    channels = scaled["train"].reshape(40, 3, 4)
    np.testing.assert_allclose(channels.mean((0, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(channels.std((0, 2)), 1.0, atol=1e-5)
    np.testing.assert_array_equal(scaled["test"], scaled["train"][:8])
