"""Image pairs: which images, which answers, which order."""

import dataclasses

import numpy as np
import pytest

from configs.compose import compose_run
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
    pairs = image_pairs.ImagePairs(image_pairs.Config(), images)
    scaled = pairs.standardised(images.train)
    assert scaled.dtype == np.float32
    expected = images.train.reshape(40, 3, 4).astype(float)
    expected -= expected.mean((0, 2), keepdims=True)
    expected /= expected.std((0, 2), keepdims=True)
    np.testing.assert_allclose(scaled.reshape(40, 3, 4), expected, atol=1e-5)
    index = 0
    rows = pairs.order(index)
    np.testing.assert_array_equal(pairs.examples(index, rows, 0)[0], scaled[rows])


def test_examinations_show_the_images_set_aside():
    pairs, images = curriculum(), datasets.digits()
    rows = pairs.order(2)
    shown = pairs.examples(2, rows, 0)[0]
    np.testing.assert_array_equal(shown, pairs.standardised(images.test[rows]))
    assert pairs.phase(2).on_task == 0


def test_what_cannot_be_taught_is_refused():
    images = datasets.digits()
    constant = dataclasses.replace(images, train=np.zeros_like(images.train))
    with pytest.raises(ValueError, match="channel 0 of the images of digits is the same"):
        image_pairs.ImagePairs(image_pairs.Config(), constant)
    zeros = np.zeros(len(images.train), dtype=np.int64)
    single = dataclasses.replace(images, train_labels=zeros, test_labels=zeros[:355])
    with pytest.raises(ValueError, match="at least two classes"):
        image_pairs.ImagePairs(image_pairs.Config(), single)
    with pytest.raises(ValueError, match=r"env.num_tasks"):
        image_pairs.Config(num_tasks=0)


def test_the_environment_examines_after_the_last_epoch_of_every_task():
    config = image_pairs.Config(num_envs=50, num_tasks=2, num_epochs=2)
    envs, info = image_pairs.make(config, 100)
    assert info.answers == "classes"
    envs.reset()
    results, splits = [], []
    while envs.env_steps < 2 * (2 * 6 + 2) * 50:  # 284 to 293 images, 70 to 72 examined
        *_, facts = envs.step(np.nan_to_num(envs.block.answers))
        splits.append((int(facts["regime"][0]), facts["split"]))
        results += [e for e in facts["events"] if e["event"] == "examination"]
    assert [(e["on_task"], e["accuracy"]) for e in results] == [(0, 1.0), (1, 1.0)]
    assert list(dict.fromkeys(splits)) == [(t, s) for t in (0, 1) for s in ("train", "test")]


def test_the_published_settings():
    """1,200 + 200 images per task, 3,000 updates of 100; three methods of the paper."""
    words = ["experiment=continual_imagenet", "arm=pairs_continual_backprop"]
    config = compose_run(words).config
    assert (config.env.num_envs, config.agent.batch_size) == (100, 100)
    assert (config.env.num_epochs, config.env.num_tasks) == (250, 5000)
    assert config.total_steps == 5000 * (250 * 1200 + 200)
    assert config.agent.zero_head
    assert config.boundary == "oracle"
    method = config.method["continual_backprop"]
    assert (method.replacement_rate, method.maturity_threshold) == (3e-4, 100)
    assert method.utility == "adaptable_contribution"
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.01, 0.9)
    l2 = compose_run(["experiment=continual_imagenet", "arm=pairs_l2"]).config.optimizer
    assert (l2.learning_rate, l2.weight_decay, l2.momentum) == (0.03, 3e-6, 0.9)
    assert config.network.kind == "convolutional"


def test_restored_streams_go_on_in_the_same_bits():
    def make():
        return image_pairs.make(image_pairs.Config(num_envs=50, num_tasks=3, num_epochs=1), 100)[0]

    def go_on(envs):
        return [envs.step(np.zeros((50, 2)))[0] for _ in range(12)]

    first, second = make(), make()
    first.reset()
    for _ in range(7):  # in the examination of the first task
        first.step(np.zeros((50, 2)))
    assert first.block.split == "test"
    second.restore(first.snapshot())
    for a, b in zip(go_on(first), go_on(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.snapshot().keys() == second.snapshot().keys()
