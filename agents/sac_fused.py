"""The fast way through SAC's critics: plain perceptrons differentiated by hand, into fixed buffers.

Same losses and gradients as `SACSteps` up to floating-point reordering. Two things make it faster
on a CPU: nothing is allocated or recorded for autograd, and the actor's loss, which for every row
uses the smaller of two values only, sends each row's gradient back through that critic only
(where they are equal, half through each).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents import sac_losses as losses
from agents.sac_steps import CRITICS, SACSteps
from agents.update import Update
from networks.fused import FusedPerceptron


class FusedSACSteps(SACSteps):
    """Gradient steps whose critics and targets run without autograd.

    Args:
        batch_size: Rows of every minibatch.
        arguments: What `SACSteps` takes.
    """

    def __init__(self, batch_size: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._fused = tuple(FusedPerceptron(critic, batch_size) for critic in self._critics)
        self._fused_targets = tuple(FusedPerceptron(one, batch_size) for one in self._targets)

    @staticmethod
    def supports(updates: Mapping[str, Update]) -> bool:
        """Whether both critics are plain perceptrons on the CPU and no method needs autograd."""
        critics = [updates[name] for name in CRITICS]
        return all(
            FusedPerceptron.supports(update.network, with_context=True)
            and not (update.has_penalties or update.needs_output_gradients)
            and next(update.network.parameters()).device.type == "cpu"
            for update in critics
        )

    def _target_values(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        inputs = self._with_context(inputs, context)
        return tuple(target.forward(inputs)[:, 0] for target in self._fused_targets)

    @torch.no_grad()
    def _critic_gradient(
        self, index: int, inputs: Tensor, context: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put the gradients of one critic in place; returns the loss and the mean value."""
        critic, inputs = self._fused[index], self._with_context(inputs, context)
        q = critic.forward(inputs)[:, 0]
        loss, mean = losses.critic_loss(q, target), q.mean()
        self._updates[CRITICS[index]].check_loss(loss)
        critic.backward(inputs, ((q - target) / len(q))[:, None])
        return loss, mean

    def _critic_activations(self, index: int) -> Mapping[str, Tensor]:
        return self._fused[index].activations

    def _smaller_value(self, observation: Tensor, action: Tensor, context: Tensor | None) -> Tensor:
        return _SmallerValue.apply(
            action, observation, context if self._reads_context else None, self._fused
        )

    @property
    def _reads_context(self) -> bool:
        return bool(self._critics[0].torso.uses_context)

    def _with_context(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        """Inputs of a torso whose first layer reads the context beside them."""
        if not self._reads_context:
            return inputs
        assert context is not None
        return torch.cat((inputs, context), dim=1)


class _SmallerValue(torch.autograd.Function):
    """The smaller value of two critics; its gradient by the action skips the larger one."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        action: Tensor,
        observation: Tensor,
        context: Tensor | None,
        critics: Sequence[FusedPerceptron],
    ) -> Tensor:
        parts = (observation, action) if context is None else (observation, action, context)
        inputs = torch.cat(parts, dim=1)
        q_1, q_2 = (critic.forward(inputs)[:, 0] for critic in critics)
        start = observation.shape[1]
        ctx.critics, ctx.columns = critics, slice(start, start + action.shape[1])
        ctx.save_for_backward(q_1 - q_2)
        return torch.minimum(q_1, q_2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (difference,) = ctx.saved_tensors
        gradient = torch.where(difference == 0.0, 0.5 * gradient, gradient)
        result = gradient.new_zeros(len(gradient), ctx.columns.stop - ctx.columns.start)
        for critic, chosen in zip(ctx.critics, (difference <= 0.0, difference >= 0.0), strict=True):
            rows = chosen.nonzero()[:, 0]
            by_action = critic.input_gradient(gradient[rows, None], rows, ctx.columns)
            result.index_add_(0, rows, by_action)
        return result, None, None, None
