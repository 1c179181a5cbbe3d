"""One gradient step on a few examples: the plain way, and by hand for plain perceptrons.

Losses are the mean squared error (over rows and outputs), and the cross-entropy of the softmax
over the classes that exist (mean over rows). Both ways compute the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from agents.update import Update
from networks.fused import FusedPerceptron
from networks.heads import Network


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples with their answers.

    Attributes:
        inputs: (B, inputs).
        context: (B, C), or None.
        target: (B, outputs); NaN for classes that do not exist.
        has_gaps: Whether there is any NaN in it.
    """

    inputs: Tensor
    context: Tensor | None
    target: Tensor
    has_gaps: bool

    def split(self, size: int) -> list[Batch]:
        """The same in order, at most `size` at a time."""
        inputs, targets = self.inputs.split(size), self.target.split(size)
        contexts = [None] * len(inputs) if self.context is None else self.context.split(size)
        return [
            Batch(*parts, self.has_gaps) for parts in zip(inputs, contexts, targets, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors."""
        state: dict[str, Any] = {"inputs": self.inputs, "target": self.target}
        return state if self.context is None else {**state, "context": self.context}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Batch:
        """Restore what `state_dict` returned."""
        target = state["target"]
        return cls(state["inputs"], state.get("context"), target, bool(target.isnan().any()))


class Steps(Protocol):
    """Makes gradient steps."""

    def step(self, batch: Batch) -> tuple[float, int]:
        """Make one; returns the loss before it and how many answers were right (classes)."""
        ...


def classes_loss(scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the classes that exist, and which answers are right (B,).

    Args:
        scores: (B, classes).
        batch: What they answer.
    """
    target = batch.target
    if batch.has_gaps:
        missing = target.isnan()
        scores, target = scores.masked_fill(missing, -torch.inf), target.nan_to_num(0.0)
    labels = target.argmax(1)
    return functional.cross_entropy(scores, labels), scores.argmax(1) == labels


class AutogradSteps:
    """The reference: build the loss, let autograd differentiate it."""

    def __init__(self, update: Update, network: Network, classifies: bool) -> None:
        self._update, self._network, self._classifies = update, network, classifies

    def step(self, batch: Batch) -> tuple[float, int]:
        """Make one gradient step; see `Steps`."""
        with self._update.recording():
            output = self._network(batch.inputs, batch.context)
        right = 0
        if self._classifies:
            loss, is_right = classes_loss(output, batch)
            right = int(is_right.sum())
        else:
            loss = functional.mse_loss(output, batch.target)
        return float(self._update.step(loss)), right


class FusedSteps:
    """The fast way for plain perceptrons.

    dL/dy is 2 (y - target) / (B outputs) for numbers and (softmax(y) - target) / B for classes.
    Incomplete batches, and those in which some classes do not exist yet, go the plain way.

    Args:
        update: Of a network for which `supports` is true.
        slow: The plain way.
        batch_size: Examples of a full batch.
        classifies: Answers are classes.
    """

    def __init__(
        self, update: Update, slow: AutogradSteps, batch_size: int, classifies: bool
    ) -> None:
        self._update, self._slow = update, slow
        self._size, self._classifies = batch_size, classifies
        self._perceptron = FusedPerceptron(update.network, batch_size)
        (head,) = update.network.heads()
        self._is_scalar = batch_size == 1 and head.out_features == 1 and not classifies
        self._gradient = head.weight.new_empty(1, 1)

    @staticmethod
    def supports(update: Update) -> bool:
        """Whether the network is a plain perceptron and no method needs autograd."""
        return FusedPerceptron.supports(update.network) and not update.needs_autograd

    @torch.no_grad()
    def step(self, batch: Batch) -> tuple[float, int]:
        """Make one gradient step; see `Steps`."""
        if len(batch.inputs) != self._size or batch.has_gaps:
            with torch.enable_grad():
                return self._slow.step(batch)
        perceptron, update, right = self._perceptron, self._update, 0
        output = perceptron.forward(batch.inputs)
        if self._is_scalar:
            error = output.item() - batch.target.item()
            loss = error * error
            gradient = self._gradient.fill_(2.0 * error)
        elif self._classifies:
            scores, is_right = classes_loss(output, batch)
            loss, right = float(scores), int(is_right.sum())
            gradient = (torch.softmax(output, 1) - batch.target).div_(self._size)
        else:
            difference = output - batch.target
            loss = float(difference.square().mean())
            gradient = difference.mul_(2.0 / difference.numel())
        update.check_loss(loss)
        perceptron.backward(batch.inputs, gradient)
        update.apply(perceptron.activations if update.needs_activations else {})
        return loss, right
