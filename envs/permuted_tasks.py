"""Permuted images as tasks with prototypes: what active dendrites were tested on.

Task 0 shows the images as they are, every other task its own permutation of the pixels. A task is
taught for some epochs; after the last one (or after each) all tasks so far are examined. The
context of a training image is the prototype of its task, the mean of the task's training images;
in an examination nobody names the task, and an image gets the nearest of the prototypes so far.
With `context=clusters` nobody names it in training either: batches that look alike share a
prototype, the mean of some of their pixels.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, permuted MNIST.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from envs.base import EnvInfo
from envs.contexts.clusters import PUBLISHED, Clusters, ClusterSettings
from envs.contexts.prototypes import nearest_means
from envs.curricula import Lessons, Phase, one_hot, stream
from envs.datasets import Images, load_images
from envs.problems import Block, ProblemEnv
from envs.schedules import at_least, later, one_of
from envs.snapshots import Snapshot

CONTEXTS = ("prototype", "clusters", "task", "none")
CLUSTER_RULES = {"published": PUBLISHED, "best": ClusterSettings()}
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
        context: prototype (inferred in examinations), clusters (inferred in training too), task
            (one-hot and given even there: another problem, an easier one) or none.
        examinations: end (all tasks after the last one) or every_task (all tasks so far).
        permutation_seed: Seed of the permutations, the same in all trials as published.
        seed: Seed of the orders of images.
        num_features: Pixels that clusters are told apart by, drawn once; 256 as published.
        cluster_rule: published (first cluster that fits, at .9) or best (closest one, at .9999).

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
    num_features: int = later(256)
    cluster_rule: str = later("published")

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_tasks", "num_epochs", "num_features"):
            at_least(f"env.{name}", getattr(self, name), 1)
        for name in ("permutation_seed", "seed"):
            at_least(f"env.{name}", getattr(self, name), 0)
        one_of("env.context", self.context, CONTEXTS)
        one_of("env.examinations", self.examinations, EXAMINATIONS)
        one_of("env.cluster_rule", self.cluster_rule, tuple(CLUSTER_RULES))


class PermutedTasks:
    """The curriculum: epochs of every task, then examinations."""

    def __init__(self, config: Config, images: Images) -> None:
        self.config = config
        self.name = f"permuted_{images.name}"
        self.num_inputs, self.num_outputs = images.num_pixels, images.num_classes
        widths = {"prototype": self.num_inputs, "clusters": config.num_features}
        self.context_dim = {**widths, "task": config.num_tasks, "none": 0}[config.context]
        self.context_discrete = config.context not in widths
        self.features = self._draw_features() if config.context == "clusters" else None
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

    def _draw_features(self) -> np.ndarray:
        """Numbers of the pixels that clusters are told apart by, (C,).

        Raises:
            ValueError: There are not so many.
        """
        if self.context_dim > self.num_inputs:
            raise ValueError(
                f"env.num_features={self.context_dim}, but {self.name} has {self.num_inputs} "
                "pixels; choose at most as many"
            )
        generator = stream(self.config.permutation_seed, "features")
        return np.sort(generator.choice(self.num_inputs, self.context_dim, replace=False))

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
        known = None if phase.split == "train" else phase.task + 1
        return inputs, answers, self._context(inputs, shown, known)

    def examination(self, task: int, num_known: int) -> tuple[np.ndarray, np.ndarray]:
        """All test images of a task, and their contexts when so many tasks have been met."""
        inputs = self._inputs["test"][:, self.permutations[task]]
        return inputs, self._context(inputs, task, num_known)

    def _context(self, inputs: np.ndarray, task: int, num_known: int | None) -> np.ndarray:
        """What is told beside images (n, inputs) of a task, (n, C).

        Args:
            inputs: The images.
            task: Their task.
            num_known: Tasks met so far where theirs is to be inferred, None where it is announced.
        """
        if self.features is not None:
            return inputs[:, self.features]  # the stream puts prototypes of clusters here
        if self.config.context == "prototype":
            if num_known is None:
                return np.tile(self.prototypes[task], (len(inputs), 1))
            return self.prototypes[self.nearest(inputs, num_known)]
        if self.config.context == "task":
            return np.tile(np.eye(self.context_dim, dtype=np.float32)[task], (len(inputs), 1))
        return np.zeros((len(inputs), 0), dtype=np.float32)

    def nearest(self, inputs: np.ndarray, num_known: int) -> np.ndarray:
        """Number of the prototype nearest to every image (Euclidean), (n,)."""
        return nearest_means(inputs, self.prototypes[:num_known])


class PermutedLessons(Lessons):
    """The tasks as a stream, with clusters of its batches where these are the contexts.

    Attributes:
        tasks: The curriculum.
        clusters: What batches looked like so far; None with other contexts.
    """

    def __init__(self, tasks: PermutedTasks, num_rows: int) -> None:
        super().__init__(tasks, num_rows)
        self.tasks = tasks
        self.clusters: Clusters | None = None
        if tasks.features is not None:
            self.clusters = Clusters(CLUSTER_RULES[tasks.config.cluster_rule])

    def next_block(self) -> Block:
        """The next examples; a batch to learn from is first put into a cluster."""
        block = super().next_block()
        if self.clusters is None:
            return block
        told = ~np.isnan(block.answers).all(1)
        context = block.context.copy()
        if block.split == "train":
            cluster = self.clusters.assign(context[told])
            context[told] = self.clusters.means[cluster]
        else:
            context[told] = self._closest(context[told])
        return replace(block, context=context)

    def examination(self, task: int, num_known: int) -> tuple[np.ndarray, np.ndarray]:
        """All test images of a task with the contexts that they would be shown with now."""
        inputs, context = self.tasks.examination(task, num_known)
        return inputs, context if self.clusters is None else self._closest(context)

    def _closest(self, features: np.ndarray) -> np.ndarray:
        assert self.clusters is not None
        means = self.clusters.means
        return means[nearest_means(features, means)].astype(np.float32)

    def snapshot(self) -> Snapshot:
        """The place, and the clusters."""
        return super().snapshot() | ({} if self.clusters is None else self.clusters.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        super().restore(snapshot)
        if self.clusters is not None:
            self.clusters.restore(snapshot)


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[ProblemEnv, EnvInfo]:
    """Build the stream; it needs no threads.

    Raises:
        ValueError: Files are missing, or the stream is shorter than the run.
    """
    images = load_images(config.dataset, config.data_dir)
    envs = ProblemEnv(
        PermutedLessons(PermutedTasks(config, images), config.num_envs),
        config.num_envs,
        total_steps,
    )
    return envs, envs.info
