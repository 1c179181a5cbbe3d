"""Class-incremental images: more and more classes, all of them taught, as in incremental CIFAR-100.

The classes are put in a random order; task k adds the next few, and its epochs teach all classes
seen so far. After every epoch the validation images and then the test images of these classes are
examined. Outputs are numbered in the order in which classes come; answers of classes that have not
come yet are NaN.

Source: Dohare et al., Nature 632:768-774 (2024), class-incremental CIFAR-100.
Deviation: test images are never augmented; the public program does that, the paper does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.augmentation import augmented
from envs.base import EnvInfo
from envs.curricula import Lessons, Phase, one_hot, stream
from envs.datasets import Images, load_images
from envs.image_pairs import channel_moments
from envs.problems import ProblemEnv
from envs.schedules import at_least

GIVES_ANSWERS = True
GIVES_VALIDATION = True

PHASES = ("train", "validation", "test")
CIFAR100_MOMENTS = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@dataclass(frozen=True)
class Config:
    """Settings of the increments.

    Attributes:
        kind: Name of this file.
        num_envs: Images per step of the loop, usually those of a gradient step.
        dataset: digits (embedded), mnist, cifar100 or folder.
        data_dir: Where its files are.
        classes_per_increment: Classes that a task adds; divides the number of classes.
        num_epochs: Passes over the training images per task.
        validation_per_class: The first training images of a class, kept for validation.
        augment: Flip, shift and rotate training images.
        upscale: Every pixel becomes a square of so many.
        seed: Seed of the order of classes, of the orders of images and of their augmentation.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "class_increments"
    num_envs: int = 90
    dataset: str = "digits"
    data_dir: str = "data/cifar100"
    classes_per_increment: int = 2
    num_epochs: int = 10
    validation_per_class: int = 10
    augment: bool = False
    upscale: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("num_envs", "classes_per_increment", "num_epochs", "validation_per_class")
        for name in (*names, "upscale"):
            at_least(f"env.{name}", getattr(self, name), 1)
        at_least("env.seed", self.seed, 0)


class ClassIncrements:
    """The curriculum: per task and epoch, training, validation and test."""

    context_dim = 0
    context_discrete = True

    def __init__(self, config: Config, images: Images) -> None:
        added, self.num_outputs = config.classes_per_increment, images.num_classes
        if self.num_outputs % added:
            raise ValueError(
                f"env.classes_per_increment={added} does not divide the {self.num_outputs} "
                f"classes of {images.name}; choose a divisor"
            )
        self.config = config
        self.name = f"{images.name}_increments"
        channels, height, width = images.shape
        self.shape = (channels, height * config.upscale, width * config.upscale)
        self.num_inputs = int(np.prod(self.shape))
        self._image_shape = images.shape
        self._moments = moments(images)
        self.classes = stream(config.seed, "classes").permutation(self.num_outputs)
        rank = np.argsort(self.classes)
        self._pixels = {"train": images.train, "test": images.test}
        self._answers = {"train": rank[images.train_labels], "test": rank[images.test_labels]}
        validation, train = _kept_apart(self._answers["train"], config.validation_per_class)
        self._rows = {"train": train, "validation": validation}
        self._rows["test"] = np.arange(len(images.test))
        per_task = [[len(self._members(task, split)) for split in PHASES] for task in self.tasks]
        self.lengths = np.repeat(per_task, config.num_epochs, axis=0).ravel().astype(np.int64)

    @property
    def tasks(self) -> range:
        """Numbers of the tasks."""
        return range(self.num_outputs // self.config.classes_per_increment)

    def num_seen(self, task: int) -> int:
        """Classes that exist in a task."""
        return (task + 1) * self.config.classes_per_increment

    def phase(self, index: int) -> Phase:
        """Task and split of a phase; examinations are about all classes seen."""
        task, within = divmod(index, len(PHASES) * self.config.num_epochs)
        split = PHASES[within % len(PHASES)]
        return Phase(task) if split == "train" else Phase(task, split, task)

    def _members(self, task: int, split: str) -> np.ndarray:
        rows, source = self._rows[split], "test" if split == "test" else "train"
        return rows[self._answers[source][rows] < self.num_seen(task)]

    def order(self, index: int) -> np.ndarray:
        """A new random order to learn from; examinations keep the order of the files."""
        phase = self.phase(index)
        members = self._members(phase.task, phase.split)
        if phase.split != "train":
            return members
        return stream(self.config.seed, "order", index).permutation(members)

    def examples(
        self, index: int, rows: np.ndarray, position: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standardised images, augmented in training; classes in the order of their coming."""
        phase, config = self.phase(index), self.config
        source = "test" if phase.split == "test" else "train"
        mean, std = self._moments
        raw = self._pixels[source][rows].reshape(len(rows), *self._image_shape)
        shown = (raw - mean[..., None]) / std[..., None]
        shown = shown.repeat(config.upscale, 2).repeat(config.upscale, 3)
        if config.augment and phase.split == "train":
            shown = augmented(shown, stream(config.seed, "augmentation", index, position))
        answers = one_hot(self._answers[source][rows], self.num_outputs, self.num_seen(phase.task))
        nothing = np.zeros((len(rows), 0), dtype=np.float32)
        return shown.reshape(len(rows), -1).astype(np.float32), answers, nothing


def moments(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel, (channels, 1) float32: published, or of the training images.

    Raises:
        ValueError: A channel has the same value everywhere.
    """
    if images.name != "cifar100":
        return channel_moments(images)
    mean, std = (np.array(m, dtype=np.float32)[:, None] * images.largest for m in CIFAR100_MOMENTS)
    return mean, std


def _kept_apart(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first `count` images of every class, and all others; both in order."""
    is_first = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) <= count:
            raise ValueError(
                f"env.validation_per_class={count} leaves nothing to learn from of a class with "
                f"{len(members)} training images; choose a smaller number"
            )
        is_first[members[:count]] = True
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[ProblemEnv, EnvInfo]:
    """Build the stream; it needs no threads.

    Raises:
        ValueError: Files are missing, settings do not fit the data, or the stream is shorter than
            the run.
    """
    images = load_images(config.dataset, config.data_dir)
    lessons = Lessons(ClassIncrements(config, images), config.num_envs)
    envs = ProblemEnv(lessons, config.num_envs, total_steps)
    return envs, envs.info
