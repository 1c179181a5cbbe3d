"""Task-incremental image pairs: one binary problem after another, the Continual ImageNet protocol.

The classes are put in a random order; task k tells class 2k from class 2k + 1. A task is taught
for some epochs and then examined on images set aside; after the last pair the order repeats.

Source: Dohare et al., Nature 632:768-774 (2024), Continual ImageNet.
Deviation: the scaling of pixels is not documented there; here they are standardised per channel
over the training images. Class orders come from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.base import EnvInfo
from envs.curricula import Lessons, Phase, one_hot, stream
from envs.datasets import Images, load_images
from envs.problems import ProblemEnv
from envs.schedules import at_least

GIVES_ANSWERS = True


@dataclass(frozen=True)
class Config:
    """Settings of the tasks.

    Attributes:
        kind: Name of this file.
        num_envs: Images per step of the loop, usually those of a gradient step.
        dataset: digits (embedded), mnist, cifar100 or folder.
        data_dir: Where its files are.
        num_tasks: Pairs in all.
        num_epochs: Passes over the training images of a task.
        seed: Seed of the order of classes and of the orders of images.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "image_pairs"
    num_envs: int = 37
    dataset: str = "digits"
    data_dir: str = "data/imagenet32"
    num_tasks: int = 50
    num_epochs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_tasks", "num_epochs"):
            at_least(f"env.{name}", getattr(self, name), 1)
        at_least("env.seed", self.seed, 0)


class ImagePairs:
    """The curriculum: epochs of a pair, then its examination."""

    num_outputs = 2
    context_dim = 0
    context_discrete = True

    def __init__(self, config: Config, images: Images) -> None:
        self.config = config
        self.name = f"{images.name}_pairs"
        self.num_inputs = images.num_pixels
        self._images = {"train": images.train, "test": images.test}
        self._moments = channel_moments(images)
        self._labels = {"train": images.train_labels, "test": images.test_labels}
        classes = stream(config.seed, "classes").permutation(images.num_classes)
        if images.num_classes < 2:
            raise ValueError(
                f"{images.name} has {images.num_classes} class; pairs need at least two classes"
            )
        # With an odd number of classes the last one has no partner.
        self.pairs = classes[: 2 * (images.num_classes // 2)].reshape(-1, 2)
        self._rows = {
            split: [np.flatnonzero(np.isin(labels, pair)) for pair in self.pairs]
            for split, labels in self._labels.items()
        }
        plan = ["train"] * config.num_epochs + ["test"]
        lengths = [[len(self._rows[split][i]) for split in plan] for i in range(len(self.pairs))]
        tasks = np.arange(config.num_tasks) % len(self.pairs)
        self.lengths = np.array(lengths, dtype=np.int64)[tasks].ravel()

    @property
    def _per_task(self) -> int:
        return self.config.num_epochs + 1

    def pair(self, task: int) -> np.ndarray:
        """The two classes of a task, (2,)."""
        return self.pairs[task % len(self.pairs)]

    def phase(self, index: int) -> Phase:
        """Task and split of a phase; the last of a task is its examination."""
        task, within = divmod(index, self._per_task)
        if within == self.config.num_epochs:
            return Phase(task, "test", task)
        return Phase(task)

    def _members(self, index: int) -> np.ndarray:
        phase = self.phase(index)
        return self._rows[phase.split][phase.task % len(self.pairs)]

    def order(self, index: int) -> np.ndarray:
        """A new random order to learn from; examinations keep the order of the files."""
        members = self._members(index)
        if self.phase(index).split == "test":
            return members
        return stream(self.config.seed, "order", index).permutation(members)

    def examples(
        self, index: int, rows: np.ndarray, position: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standardised images; the answer is which of the two classes."""
        phase = self.phase(index)
        is_second = self._labels[phase.split][rows] == self.pair(phase.task)[1]
        answers = one_hot(is_second.astype(np.int64), 2)
        inputs = self.standardised(self._images[phase.split][rows])
        return inputs, answers, np.zeros((len(rows), 0), dtype=np.float32)

    def standardised(self, images: np.ndarray) -> np.ndarray:
        """Images (n, pixels) with mean 0 and variance 1 per channel in training, float32."""
        mean, std = self._moments
        channels = images.reshape(len(images), len(mean), -1)
        return ((channels - mean) / std).reshape(len(images), -1)


def channel_moments(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training images, (channels, 1) float32 each.

    Counting bytes instead of converting them keeps half a million images of 32 x 32 in memory.

    Raises:
        ValueError: A channel has the same value everywhere.
    """
    channels = images.shape[0]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images.train), 4096):
        part = images.train[start : start + 4096].reshape(
            -1, channels, images.num_pixels // channels
        )
        for channel in range(channels):
            counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
    shares, values = counts / counts.sum(1, keepdims=True), np.arange(256.0)
    mean = shares @ values
    std = np.sqrt((shares * np.square(values - mean[:, None])).sum(1))
    if not std.all():
        raise ValueError(
            f"channel {int(std.argmin())} of the images of {images.name} is the same everywhere; "
            "leave it out, or check the files in env.data_dir"
        )
    return tuple(moment[:, None].astype(np.float32) for moment in (mean, std))


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[ProblemEnv, EnvInfo]:
    """Build the stream; it needs no threads.

    Raises:
        ValueError: Files are missing, or the stream is shorter than the run.
    """
    images = load_images(config.dataset, config.data_dir)
    lessons = Lessons(ImagePairs(config, images), config.num_envs)
    envs = ProblemEnv(lessons, config.num_envs, total_steps)
    return envs, envs.info
