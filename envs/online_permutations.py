"""Online permuted images: one pass, one image at a time, pixels rearranged from task to task.

Every task applies a new random permutation of the pixels on top of the last one and shows its
images in a new random order; nobody says when a task begins.

Source: Dohare et al., Nature 632:768-774 (2024), online permuted MNIST.
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
    """Settings of the stream.

    Attributes:
        kind: Name of this file.
        num_envs: Images per step of the loop; online learners still take them one by one.
        dataset: digits (embedded), mnist, cifar100 or folder.
        data_dir: Where its files are.
        num_tasks: Tasks, the first included.
        switch_interval: Images per task; null shows every training image once.
        seed: Seed of permutations and orders.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "online_permutations"
    num_envs: int = 100
    dataset: str = "digits"
    data_dir: str = "data/mnist"
    num_tasks: int = 800
    switch_interval: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_tasks"):
            at_least(f"env.{name}", getattr(self, name), 1)
        at_least("env.seed", self.seed, 0)
        if self.switch_interval is not None:
            at_least("env.switch_interval", self.switch_interval, 1)


class OnlinePermutations:
    """The curriculum: one training phase per task."""

    context_dim = 0
    context_discrete = True

    def __init__(self, config: Config, images: Images) -> None:
        self.config, self.images = config, images
        self.name = f"online_permuted_{images.name}"
        self.num_inputs, self.num_outputs = images.num_pixels, images.num_classes
        length = config.switch_interval or len(images.train)
        self.lengths = np.full(config.num_tasks, length, dtype=np.int64)
        self._composed: list[np.ndarray] = []

    def phase(self, index: int) -> Phase:
        """One phase per task."""
        return Phase(index)

    def permutation(self, task: int) -> np.ndarray:
        """Where every pixel of a task comes from: the composition of task + 1 draws."""
        for later in range(len(self._composed), task + 1):
            drawn = stream(self.config.seed, "permutation", later).permutation(self.num_inputs)
            before = self._composed[-1] if later else np.arange(self.num_inputs)
            self._composed.append(before[drawn])
        return self._composed[task]

    def order(self, index: int) -> np.ndarray:
        """Passes over all images, each in a new order, cut to the length of the task."""
        generator, num_images = stream(self.config.seed, "order", index), len(self.images.train)
        length = int(self.lengths[index])
        passes = [generator.permutation(num_images) for _ in range(-(-length // num_images))]
        return np.concatenate(passes)[:length]

    def examples(
        self, index: int, rows: np.ndarray, position: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Permuted images with pixels in [0, 1]; no context."""
        images = self.images
        pixels = images.train[rows][:, self.permutation(index)].astype(np.float32)
        answers = one_hot(images.train_labels[rows], self.num_outputs)
        return pixels / images.largest, answers, np.zeros((len(rows), 0), dtype=np.float32)


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[ProblemEnv, EnvInfo]:
    """Build the stream; it needs no threads.

    Raises:
        ValueError: Files are missing, or the stream is shorter than the run.
    """
    images = load_images(config.dataset, config.data_dir)
    lessons = Lessons(OnlinePermutations(config, images), config.num_envs)
    envs = ProblemEnv(lessons, config.num_envs, total_steps)
    return envs, envs.info
