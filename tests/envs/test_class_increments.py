"""Class increments: which images, which classes exist, which transformations."""

import numpy as np
import pytest

from configs.compose import compose_run
from envs import augmentation, class_increments, datasets


def curriculum(**settings):
    config = class_increments.Config(**{"num_epochs": 2, **settings})
    return class_increments.ClassIncrements(config, datasets.digits())


def test_tasks_add_classes_and_teach_all_that_were_seen():
    teaching, images = curriculum(), datasets.digits()
    assert len(teaching.lengths) == 5 * 2 * 3
    for index in range(len(teaching.lengths)):
        phase, rows = teaching.phase(index), teaching.order(index)
        seen = teaching.classes[: 2 * (phase.task + 1)]
        labels = images.test_labels if phase.split == "test" else images.train_labels
        assert set(labels[rows]) == set(seen)
        assert len(rows) == len(set(rows)) == teaching.lengths[index]
        _, answers, _ = teaching.examples(index, rows, 0)
        assert np.isnan(answers[:, len(seen) :]).all()
        assert not np.isnan(answers[:, : len(seen)]).any()
        existing = answers[:, : len(seen)]
        assert np.array_equal(teaching.classes[existing.argmax(1)], labels[rows])
        assert (existing.sum(1) == 1).all()
    assert [teaching.phase(i).split for i in range(4)] == ["train", "validation", "test", "train"]
    assert [teaching.phase(i).task for i in (0, 5, 6, 29)] == [0, 0, 1, 4]
    assert not np.array_equal(teaching.order(0), teaching.order(3))


def test_the_first_images_of_a_class_validate_and_are_never_learnt_from():
    teaching, labels = curriculum(), datasets.digits().train_labels
    last = len(teaching.lengths) - 3
    train, validation = teaching.order(last), teaching.order(last + 1)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    for label in range(10):
        members = np.flatnonzero(labels == label)
        assert set(members[:10]) <= set(validation)
    assert len(validation) == 100


def test_images_are_standardised_and_enlarged():
    plain, double = curriculum(), curriculum(upscale=2)
    rows = plain.order(0)[:7]
    small = plain.examples(0, rows, 0)[0].reshape(7, 8, 8)
    large = double.examples(0, rows, 0)[0].reshape(7, 16, 16)
    for corner in (large[:, ::2, ::2], large[:, 1::2, ::2], large[:, 1::2, 1::2]):
        np.testing.assert_array_equal(corner, small)
    everything = plain.examples(0, np.arange(1442), 0)[0]
    assert abs(everything.mean()) < 1e-5
    assert everything.std() == pytest.approx(1.0, abs=1e-5)


def test_only_training_images_are_augmented_each_time_otherwise():
    plain, changed = curriculum(), curriculum(augment=True)
    rows = plain.order(0)[:20]
    for index in (1, 2):
        examined = plain.order(index)[:20]
        expected, found = (c.examples(index, examined, 0)[0] for c in (plain, changed))
        np.testing.assert_array_equal(found, expected)
    first, again, later = (changed.examples(i, rows, 0)[0] for i in (0, 0, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, plain.examples(0, rows, 0)[0])


def test_published_moments_of_cifar():
    images = datasets.Images(
        "cifar100",
        (3, 2, 2),
        np.zeros((4, 12), dtype=np.uint8),
        np.arange(4),
        np.zeros((4, 12), dtype=np.uint8),
        np.arange(4),
    )
    mean, std = class_increments.moments(images)
    np.testing.assert_allclose(mean[:, 0] / 255, (0.5071, 0.4865, 0.4409))
    np.testing.assert_allclose(std[:, 0] / 255, (0.2673, 0.2564, 0.2762))


# Augmentation ------------------------------------------------------------------------------


def test_shifts_crop_what_reflection_has_padded():
    image = np.random.default_rng(0).normal(size=(3, 2, 6, 7))
    shifts = np.array([[4, 4], [0, 4], [5, 8]])
    moved = augmentation.shifted(image, shifts)
    np.testing.assert_array_equal(moved[0], image[0])
    np.testing.assert_array_equal(moved[1, :, 4:], image[1, :, :2])
    np.testing.assert_array_equal(moved[1, :, 3], image[1, :, 1])  # the mirror is row 0
    np.testing.assert_array_equal(moved[2, :, :-1, :3], image[2, :, 1:, 4:])


def test_rotations_turn_counter_clockwise_about_the_centre():
    image = np.random.default_rng(1).normal(size=(3, 2, 5, 5))
    turned = augmentation.rotated(image, np.array([0.0, 90.0, 45.0]))
    np.testing.assert_array_equal(turned[0], image[0])
    np.testing.assert_array_equal(turned[1], np.rot90(image[1], axes=(1, 2)))
    assert not turned[2, :, 0, 0].any()
    np.testing.assert_array_equal(turned[2, :, 2, 2], image[2, :, 2, 2])


def test_half_of_the_images_are_flipped_and_every_draw_is_used():
    image = np.tile(np.arange(6.0), (400, 1, 6, 1)) + 10.0
    changed = augmentation.augmented(image, np.random.default_rng(0))
    slope = changed[:, 0, 3, 3] - changed[:, 0, 3, 2]
    assert abs((slope < 0).mean() - 0.5) < 0.25
    assert changed.shape == image.shape
    assert (changed == 0).any()


# Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes_per_increment": 3}, "does not divide the 10 classes"),
        ({"validation_per_class": 141}, "leaves nothing to learn from"),
        ({"num_epochs": 0}, "env.num_epochs"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        curriculum(**settings)


def test_the_published_settings():
    config = compose_run(["experiment=incremental_cifar100"]).config
    env, agent, optimizer = config.env, config.agent, config.optimizer
    assert (env.num_envs, agent.batch_size, env.num_epochs) == (90, 90, 200)
    assert (env.classes_per_increment, env.validation_per_class, env.augment) == (5, 50, True)
    blocks = sum(25 * k + -(-250 * k // 90) + -(-500 * k // 90) for k in range(1, 21))
    assert config.total_steps == 200 * 90 * blocks
    assert agent.step_size_epochs == [60, 120, 160]
    assert agent.keep_best
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 5e-4)
    words = ["experiment=incremental_cifar100", "method=[continual_backprop_increments]"]
    method = compose_run(words).config.method["continual_backprop"]
    assert (method.replacement_rate, method.maturity_threshold) == (1e-5, 1000)
    assert method.utility == "contribution"
