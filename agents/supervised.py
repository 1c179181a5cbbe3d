"""Supervised learning on a stream of examples, behind the contract of all agents.

Predictions are actions, right answers arrive with the transition. A learner that learns online
(`batch_size=1`) takes the rows of a step one after another: each is predicted with the weights
that all rows before it have left, its loss is counted, then one gradient step is made.

Source: the supervised problems of Dohare et al., Nature 632:768-774 (2024).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent, Transition
from agents.parts import Parts
from agents.supervised_epochs import Epochs
from agents.supervised_steps import AutogradSteps, Batch, FusedSteps, Steps
from agents.supervised_window import Window
from agents.transplants import check_parts, transplant_updates
from agents.update import Update, clone
from networks.heads import Network
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import Torso
from plasticity.parameters import whole

__all__ = ["Config", "Predictor", "Supervised", "build"]

LEARNS_FROM_ANSWERS = True


@dataclass(frozen=True)
class Config:
    """Settings of supervised learning.

    Attributes:
        kind: Name of this file.
        batch_size: Examples per gradient step, >= 1. The rows of a step of the environment are
            taken in order, so its `num_envs` must be a multiple of this.
        zero_head: Start with a head of zeros, and set it to zeros again at announced task changes;
            what the optimizer remembers of it stays.
        max_grad_norm: Clip the gradient norm to this, or null.
        fast_path: Differentiate plain perceptrons by hand, which is faster and equal up to
            rounding.
        step_size_epochs: Epochs of a task, from 0 and increasing, at which the step size falls to
            a fifth, or null; a task begins with the whole one. Needs announced tasks.
        keep_best: At announced task changes, go back to the weights that were best in the
            validations of the task that ends.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "supervised"
    batch_size: int = 1
    zero_head: bool = False
    max_grad_norm: float | None = None
    fast_path: bool = True
    step_size_epochs: list[int] | None = field(default=None, metadata={"later": True})
    keep_best: bool = field(default=False, metadata={"later": True})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"agent.batch_size is {self.batch_size}; give at least 1")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0.0:
            raise ValueError(
                f"agent.max_grad_norm is {self.max_grad_norm}; give a value above 0, or null"
            )
        epochs = self.step_size_epochs or []
        if sorted(set(epochs)) != list(epochs) or min(epochs, default=1) < 1:
            raise ValueError(
                f"agent.step_size_epochs is {epochs}; give increasing epochs of at least 1"
            )


class Predictor(Network):
    """A torso and one linear head with an output per number or class."""

    def __init__(
        self, torso: Torso, num_outputs: int, initializer: Initializer, streams: Streams
    ) -> None:
        super().__init__()
        self.torso = torso
        self.output = torso.head(num_outputs, initializer, streams, "output")

    def heads(self) -> tuple[torch.nn.Linear, ...]:
        """The output."""
        return (self.output,)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map inputs (B, inputs) to numbers or scores of classes (B, outputs)."""
        return self.output(self.torso(observation, context), context)


class Supervised(Agent):
    """The agent.

    Attributes:
        network: What predicts.

    Raises:
        ValueError: The settings do not go with the world or the methods, or a value network is
            set, which nothing would read.
    """

    changes_objective = False

    def __init__(self, config: Config, parts: Parts) -> None:
        if parts.num_envs % config.batch_size:
            raise ValueError(
                f"agent.batch_size={config.batch_size} must divide env.num_envs="
                f"{parts.num_envs}, the examples of a step; change one of them"
            )
        if parts.value_network is not None:
            raise ValueError(
                "agent=supervised has no value function and would ignore value_network; leave it "
                "null, and choose the network that predicts with network=..."
            )
        self.config, self.iteration = config, 0
        self._context_width = parts.context.width
        torso = parts.torso("predictor", parts.observation_dim, parts.action_dim)
        stream = parts.streams.child("predictor")
        self.network = Predictor(torso, parts.action_dim, parts.head_initializer, stream)
        if config.zero_head:
            self._zero_head()
        parts.prepare(self.networks())
        if config.zero_head and not isinstance(self.network.output, torch.nn.Linear):
            raise ValueError(
                "agent.zero_head sets the head to zeros, which method=injection makes a sum of "
                "three; set zero_head=false, or leave injection out"
            )
        update = parts.update(
            "predictor", self.network, 1.0 / config.batch_size, config.max_grad_norm
        )
        self.updates: dict[str, Update] = {"predictor": update}
        self._classifies = parts.answers == "classes"
        self._keeps_statistics = type(torso).record_statistics is not Torso.record_statistics
        slow = AutogradSteps(update, self.network, self._classifies)
        self._steps: Steps = slow
        if config.fast_path and FusedSteps.supports(update):
            self._steps = FusedSteps(update, slow, config.batch_size, self._classifies)
        self._epochs: Epochs | None = None
        if config.step_size_epochs or config.keep_best:
            self._epochs = Epochs(update, config.step_size_epochs or (), config.keep_best)
        self._window = Window(parts.observation_dim, parts.context.width)
        self._pending: Batch | None = None

    # Interaction ---------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Predict with the present weights, (N, outputs); exploring makes no difference."""
        inputs = self.network_inputs("predictor", observation, observation, context)
        self.network.eval()
        try:
            return self.network(*inputs).numpy()
        finally:
            self.network.train()

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """The same: predictions are not drawn."""
        return self.act(observation, context, explore=False)

    def observe(self, transition: Transition) -> None:
        """Take in the right answers; examples of other splits than `train` are left alone.

        Raises:
            ValueError: The world told no answers.
        """
        if transition.target is None:
            raise ValueError(
                "agent=supervised learns from right answers, but this world only gives rewards; "
                "choose a supervised problem, such as env=bit_flipping"
            )
        if self._epochs is not None:
            self._epochs.observe(transition)
        if transition.split != "train":
            return
        inputs, context = self.network_inputs(
            "predictor", transition.observation, transition.action, transition.context
        )
        target = torch.from_numpy(np.asarray(transition.target, dtype=np.float32))
        told = ~target.isnan().all(1)
        if not bool(told.all()):  # rows that only fill up the block
            inputs, target = inputs[told], target[told]
            context = None if context is None else context[told]
        self._window.append(inputs, context)
        self._pending = Batch(inputs, context, target, bool(target.isnan().any()))

    def waiting(self) -> Batch | None:
        """The answers that have not been learnt from."""
        return self._pending

    def take_over(self, waiting: Batch) -> None:
        """Take in answers that another agent has heard."""
        if self._epochs is not None:
            self._epochs.begin_pass()
        self._window.append(waiting.inputs, waiting.context)
        self._pending = waiting

    # Learning ------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Learn from the examples of the last step, in order; {} when there are none."""
        batch = self._pending
        if batch is None:
            return {}
        self._pending = None
        update, num_rows = self.updates["predictor"], len(batch.inputs)
        if self._epochs is not None:
            self._epochs.set_step_size()
        loss, right = 0.0, 0
        for examples in batch.split(self.config.batch_size):
            mean_loss, num_right = self._steps.step(examples)
            loss += mean_loss * len(examples.inputs)
            right += num_right
        if self._keeps_statistics:
            self.network.torso.record_statistics(batch.inputs, batch.context)
        update.check_finite()
        self.iteration += 1
        statistics = {"loss": torch.tensor(loss / num_rows)}
        if self._classifies:
            statistics["accuracy"] = torch.tensor(right / num_rows)
        return statistics

    def on_task_change(self, task: int) -> None:
        """Announce a task change to methods; set the head to zeros where configured.

        Going back to the best weights comes first, so that methods edit what is kept.
        """
        if self._epochs is not None:
            self._epochs.begin_task()
        super().on_task_change(task)
        if self.config.zero_head:
            self._zero_head()
            edits = [whole(parameter) for parameter in self.network.output.parameters()]
            self.updates["predictor"].tell_methods(edits, True)

    @torch.no_grad()
    def _zero_head(self) -> None:
        self.network.output.weight.zero_()
        self.network.output.bias.zero_()

    # Description ---------------------------------------------------------------------------

    def networks(self) -> dict[str, Network]:
        """The predictor."""
        return {"predictor": self.network}

    def network_inputs(
        self, name: str, observation: np.ndarray, action: np.ndarray, context: np.ndarray
    ) -> tuple[Tensor, Tensor | None]:
        """Inputs and contexts as tensors; the action is not read.

        Contexts of width 0 are of somebody who knows none, and become zeros.

        Raises:
            ValueError: Contexts have another width than those of training.
        """
        inputs = torch.from_numpy(np.asarray(observation, dtype=np.float32))
        if not self._context_width:
            return inputs, None
        width = np.shape(context)[-1]
        if width == 0:
            context = np.zeros((len(inputs), self._context_width))
        elif width != self._context_width:
            raise ValueError(
                f"contexts have {width} entries, but this agent learned from "
                f"{self._context_width}; show them as the run's context layer does"
            )
        return inputs, torch.from_numpy(np.asarray(context, dtype=np.float32))

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """The last `size` examples that were to be learnt from; None unless `update_is_due`."""
        return None if self._pending is None else self._window.last(size)

    @property
    def update_is_due(self) -> bool:
        """Whether answers are waiting to be learnt from."""
        return self._pending is not None

    def statistic_names(self) -> tuple[str, ...]:
        """Loss, and accuracy where answers are classes, both before the gradient step."""
        return ("loss", "accuracy") if self._classifies else ("loss",)

    def methods_that_need_boundaries(self) -> list[str]:
        """Ids of methods that act at announced task changes, and own settings that do."""
        names = ("zero_head", "keep_best", "step_size_epochs")
        own = [f"agent.{name}" for name in names if getattr(self.config, name)]
        return own + super().methods_that_need_boundaries()

    @property
    def is_at_quiet_point(self) -> bool:
        """Whether all answers have been learnt from."""
        return self._pending is None

    # State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-exact continuation needs, cloned."""
        epochs = {} if self._epochs is None else {"epochs": self._epochs.state_dict()}
        return {
            "iteration": self.iteration,
            "updates": {name: update.state_dict() for name, update in self.updates.items()},
            "window": clone(self._window.state_dict()),
            "pending": {} if self._pending is None else clone(self._pending.state_dict()),
            **epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, update in self.updates.items():
            update.load_state_dict(state["updates"][name])
        if self._epochs is not None:
            self._epochs.load_state_dict(state["epochs"])
        self.iteration = int(state["iteration"])
        self._window.load_state_dict(state["window"])
        self._pending = Batch.of_state(clone(state["pending"])) if state["pending"] else None

    def organs(self) -> tuple[str, ...]:
        """The network and the optimizer's memory."""
        return ("predictor", "optimizer")

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Load another run's state but keep some parts as newly built."""
        check_parts(fresh_parts, self.organs())
        transplant_updates(self.updates, state["updates"], fresh_parts)


def build(config: Config, parts: Parts) -> Supervised:
    """Build the agent.

    Raises:
        ValueError: The batch size does not divide the examples of a step, or the head cannot start
            at zero.
    """
    return Supervised(config, parts)
