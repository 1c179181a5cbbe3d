"""Epochs of a task: a falling step size, and the weights that were best in validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agents.base import Transition
from agents.update import Update, clone
from networks.units import Touched

STEP_SIZE_FACTOR = 0.2


class Epochs:
    """Counts passes by the splits of a stream, which teaches, then examines, then teaches again.

    Args:
        update: Of the network.
        step_size_epochs: Epochs of a task, from 0, at which the step size falls to a fifth.
        keeps_best: Go back, at a task change, to the weights of the best validation.

    Raises:
        ValueError: The optimizer has no step size.
    """

    def __init__(self, update: Update, step_size_epochs: Sequence[int], keeps_best: bool) -> None:
        self._update, self._falls, self._keeps_best = update, step_size_epochs, keeps_best
        groups = update.optimizer.param_groups
        if step_size_epochs and not all("lr" in group for group in groups):
            raise ValueError(
                "agent.step_size_epochs needs an optimizer with one step size, such as "
                "optimizer=sgd_momentum"
            )
        self._base = [group.get("lr", 0.0) for group in groups]
        self.epoch = -1
        self._is_teaching = False
        self._right = self._asked = 0
        self._best_accuracy = -1.0
        self._best: dict[str, Any] = {}

    def observe(self, transition: Transition) -> None:
        """See which split came, before anything is learnt from it."""
        if transition.split == "validation" and self._keeps_best:
            self._examine(transition)
        elif transition.split != "validation":
            self._conclude()
        is_train = transition.split == "train"
        if is_train and not self._is_teaching:
            self.begin_pass()
        self._is_teaching = is_train

    def begin_pass(self) -> None:
        """Count an epoch: training examples come again, or for the first time."""
        self.epoch += 1
        self._is_teaching = True

    def _examine(self, transition: Transition) -> None:
        assert transition.target is not None
        exists = ~np.isnan(transition.target)
        is_row = exists.any(1)
        chosen = np.where(exists, transition.action, -np.inf).argmax(1)
        right = transition.target[np.arange(len(chosen)), chosen] == 1.0
        self._right += int((right & is_row).sum())
        self._asked += int(is_row.sum())

    def _conclude(self) -> None:
        """Keep the weights if a finished validation was the best of the task."""
        if not self._asked:
            return
        accuracy = self._right / self._asked
        self._right = self._asked = 0
        if accuracy > self._best_accuracy:
            self._best_accuracy = accuracy
            self._best = clone(self._update.network.state_dict())

    def set_step_size(self) -> None:
        """Give the optimizer the step size of this epoch."""
        if not self._falls:
            return
        factor = STEP_SIZE_FACTOR ** sum(self.epoch >= start for start in self._falls)
        for group, base in zip(self._update.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor

    @torch.no_grad()
    def begin_task(self) -> None:
        """Go back to the best weights and begin counting anew; momentum stays.

        The first examples of the task have been observed, and not learnt from.
        """
        self.epoch = 0
        if self._best:
            self._update.network.load_state_dict(self._best)
            edits = [
                Touched(p, 0, torch.arange(len(p), device=p.device))
                for p in self._update.network.parameters()
            ]
            self._update.tell_methods(edits, False)
        self._best, self._best_accuracy = {}, -1.0

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-exact continuation needs."""
        return {
            "epoch": self.epoch,
            "is_teaching": int(self._is_teaching),
            "right": self._right,
            "asked": self._asked,
            "best_accuracy": self._best_accuracy,
            "best": clone(self._best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epoch, self._is_teaching = int(state["epoch"]), bool(state["is_teaching"])
        self._right, self._asked = int(state["right"]), int(state["asked"])
        self._best_accuracy = float(state["best_accuracy"])
        self._best = clone(state["best"])
