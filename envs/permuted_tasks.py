"""Permuted images as tasks with prototypes: what active dendrites were tested on.

Task 0 shows the images as they are, every other task its own permutation of the pixels. A task is
taught for some epochs; after the last one (or after each) all tasks so far are examined. The
context of a training image is the prototype of its task, the mean of the task's training images;
in an examination nobody names the task, and an image gets the nearest of the prototypes so far.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, permuted MNIST.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.base import EnvInfo
from envs.curricula import Lessons, Phase, one_hot, stream
from envs.datasets import Images, load_images
from envs.problems import ProblemEnv
from envs.schedules import at_least, one_of

CONTEXTS = ("prototype", "task", "none")
EXAMINATIONS = ("end", "every_task")

GIVES_ANSWERS = True


@dataclass(frozen=True)
class Config:
    """Settings of the tasks.

    Attributes:
        kind: Name of this file.
        num_envs: Images per step of the loop, usually those of a gradient step.
        dataset: digits (embedded), mnist, cifar100 or folder.
        data_dir: Where its files are.
        num_tasks: Permutations, the identity included.
        num_epochs: Passes over the training images of a task.
        context: prototype (inferred in examinations), task (one-hot and given even there: another
            problem, an easier one) or none.
        examinations: end (all tasks after the last one) or every_task (all tasks so far).
        permutation_seed: Seed of the permutations, the same in all trials as published.
        seed: Seed of the orders of images.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "permuted_tasks"
    num_envs: int = 32
    dataset: str = "digits"
    data_dir: str = "data/mnist"
    num_tasks: int = 10
    num_epochs: int = 3
    context: str = "prototype"
    examinations: str = "end"
    permutation_seed: int = 42
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_tasks", "num_epochs"):
            at_least(f"env.{name}", getattr(self, name), 1)
        for name in ("permutation_seed", "seed"):
            at_least(f"env.{name}", getattr(self, name), 0)
        one_of("env.context", self.context, CONTEXTS)
        one_of("env.examinations", self.examinations, EXAMINATIONS)


class PermutedTasks:
    """The curriculum: epochs of every task, then examinations."""

    def __init__(self, config: Config, images: Images) -> None:
        self.config = config
        self.name = f"permuted_{images.name}"
        self.num_inputs, self.num_outputs = images.num_pixels, images.num_classes
        widths = {"prototype": self.num_inputs, "task": config.num_tasks, "none": 0}
        self.context_dim = widths[config.context]
        self.context_discrete = config.context != "prototype"
        pixels = images.train.astype(np.float32)
        mean, std = float(pixels.mean()), float(pixels.std())
        self._inputs = {
            split: ((array.astype(np.float32) - mean) / std)
            for split, array in (("train", images.train), ("test", images.test))
        }
        self._labels = {"train": images.train_labels, "test": images.test_labels}
        generator = stream(config.permutation_seed, "permutations")
        drawn = [generator.permutation(self.num_inputs) for _ in range(config.num_tasks - 1)]
        self.permutations = np.stack([np.arange(self.num_inputs), *drawn])
        # The mean of permuted images is the permuted mean.
        self.prototypes = self._inputs["train"].mean(0)[self.permutations]
        self._phases = self._plan()
        sizes = {split: len(labels) for split, labels in self._labels.items()}
        self.lengths = np.array([sizes[phase.split] for phase in self._phases], dtype=np.int64)

    def _plan(self) -> list[Phase]:
        phases: list[Phase] = []
        for task in range(self.config.num_tasks):
            phases += [Phase(task)] * self.config.num_epochs
            if self.config.examinations == "every_task" or task == self.config.num_tasks - 1:
                phases += [Phase(task, "test", on_task) for on_task in range(task + 1)]
        return phases

    def phase(self, index: int) -> Phase:
        """Task and split of a phase."""
        return self._phases[index]

    def order(self, index: int) -> np.ndarray:
        """A new random order to learn from; examinations keep the order of the files."""
        length = int(self.lengths[index])
        if self._phases[index].split == "test":
            return np.arange(length)
        return stream(self.config.seed, "order", index).permutation(length)

    def examples(
        self, index: int, rows: np.ndarray, position: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standardised, permuted images with their contexts."""
        phase = self._phases[index]
        shown = phase.task if phase.split == "train" else phase.on_task
        inputs = self._inputs[phase.split][rows][:, self.permutations[shown]]
        answers = one_hot(self._labels[phase.split][rows], self.num_outputs)
        if self.config.context == "prototype":
            context = self._prototypes(phase, inputs)
        elif self.config.context == "task":
            context = np.tile(np.eye(self.context_dim, dtype=np.float32)[shown], (len(rows), 1))
        else:
            context = np.zeros((len(rows), 0), dtype=np.float32)
        return inputs, answers, context

    def _prototypes(self, phase: Phase, inputs: np.ndarray) -> np.ndarray:
        """Of the task in training; in examinations the nearest of those met so far, (n, C)."""
        if phase.split == "train":
            return np.tile(self.prototypes[phase.task], (len(inputs), 1))
        return self.prototypes[self.nearest(inputs, phase.task + 1)]

    def nearest(self, inputs: np.ndarray, num_known: int) -> np.ndarray:
        """Number of the prototype nearest to every image (Euclidean), (n,)."""
        known = self.prototypes[:num_known].astype(np.float64)
        # |x - p|^2 without |x|^2, which is the same for all prototypes.
        distances = (known**2).sum(1) - 2.0 * inputs.astype(np.float64) @ known.T
        return distances.argmin(1)


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[ProblemEnv, EnvInfo]:
    """Build the stream; it needs no threads.

    Raises:
        ValueError: Files are missing, or the stream is shorter than the run.
    """
    images = load_images(config.dataset, config.data_dir)
    envs = ProblemEnv(
        Lessons(PermutedTasks(config, images), config.num_envs), config.num_envs, total_steps
    )
    return envs, envs.info
