"""Minibatches of a rollout: shuffled into memory that is allocated once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from agents.update import NumericalFailure

Step = TypeVar("Step", bound=Callable[..., Any])


@dataclass(frozen=True)
class Minibatch:
    """Transitions of one gradient step; one row each.

    Attributes:
        observation: (B, obs).
        context: (B, C) or None.
        action: (B, act).
        log_probability: (B,) of the action when it was taken.
        advantage: (B,).
        target: (B,) value target.
    """

    observation: Tensor
    context: Tensor | None
    action: Tensor
    log_probability: Tensor
    advantage: Tensor
    target: Tensor

    def rows(self, rows: Tensor | slice) -> Minibatch:
        """Take some rows: a gather for an index tensor, a view for a slice."""
        return Minibatch(
            self.observation[rows],
            None if self.context is None else self.context[rows],
            self.action[rows],
            self.log_probability[rows],
            self.advantage[rows],
            self.target[rows],
        )

    @functools.cached_property
    def arrays(self) -> Arrays:
        """The small tensors as NumPy views, made once."""
        return Arrays(
            self.action.numpy(),
            self.log_probability.numpy(),
            self.advantage.numpy(),
            self.target.numpy(),
        )


@dataclass(frozen=True)
class Arrays:
    """NumPy views of a minibatch; see there."""

    action: np.ndarray
    log_probability: np.ndarray
    advantage: np.ndarray
    target: np.ndarray


def names_its_batch(step: Step) -> Step:
    """Let a gradient step that fails hand on the rows that it failed with: they reproduce it."""

    @functools.wraps(step)
    def stepping(self: Any, batch: Minibatch) -> Any:
        try:
            return step(self, batch)
        except NumericalFailure as error:
            error.batch = {part.name: getattr(batch, part.name) for part in fields(batch)}
            raise

    return cast(Step, stepping)


class Shuffler:
    """Puts the transitions of a rollout in a new order and cuts them into minibatches.

    One gather per epoch and tensor, always into the same memory: the minibatches are views that
    exist once. Two learners that run side by side need one each.

    Args:
        minibatch_size: Must divide every rollout.
    """

    def __init__(self, minibatch_size: int) -> None:
        self._minibatch_size = minibatch_size
        self._whole: Minibatch | None = None
        self._minibatches: tuple[Minibatch, ...] = ()

    @torch.no_grad()
    def shuffle(self, rollout: Minibatch, order: Tensor) -> tuple[Minibatch, ...]:
        """Gather a rollout in a new order.

        Args:
            rollout: All transitions (R, ...); every call with the same shapes.
            order: Permutation of the rows, (R,) int64.

        Returns:
            The minibatches in order; overwritten by the next call.
        """
        whole = self._whole
        if whole is None:
            whole = self._whole = rollout.rows(order)
            size = self._minibatch_size
            starts = range(0, len(order), size)
            self._minibatches = tuple(whole.rows(slice(start, start + size)) for start in starts)
        pairs = (
            (rollout.observation, whole.observation),
            (rollout.context, whole.context),
            (rollout.action, whole.action),
            (rollout.log_probability, whole.log_probability),
            (rollout.advantage, whole.advantage),
            (rollout.target, whole.target),
        )
        for source, target in pairs:
            if source is not None and target is not None:
                torch.index_select(source, 0, order, out=target)
        return self._minibatches
