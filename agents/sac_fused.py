"""The fast way through SAC's networks: plain perceptrons differentiated by hand, in fixed buffers.

Same losses and gradients as `SACSteps` up to floating-point reordering. Two things make it faster
on a CPU: nothing is allocated or recorded for autograd, and the actor's loss, which for every row
uses the smaller of two values only, sends each row's gradient back through that critic only
(where they are equal, half through each).

On two threads every large product has another beside it that does not need it: the policy at both
ends of the transitions, both targets, both critics, and in the actor's backward pass the products
by weights and by inputs. The arithmetic is the same on one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents import sac_losses as losses
from agents.learner_threads import LearnerThreads
from agents.replay import Batch
from agents.sac_steps import CRITICS, SACSteps
from agents.update import Update
from networks.fused import FusedPerceptron
from networks.fused_torso import FusedTorso


class FusedSACSteps(SACSteps):
    """Gradient steps whose critics and targets run without autograd, and the policy if it can.

    Args:
        batch_size: Rows of every minibatch.
        arguments: What `SACSteps` takes.
    """

    def __init__(self, batch_size: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._fused = tuple(FusedPerceptron(critic, batch_size) for critic in self._critics)
        self._fused_targets = tuple(FusedPerceptron(one, batch_size) for one in self._targets)
        actor = self._updates["actor"]
        self._policy: tuple[FusedTorso, FusedTorso] | None = None
        if FusedTorso.supports(self._actor) and not actor.needs_autograd:
            now, then = (FusedTorso(self._actor, batch_size) for _ in range(2))
            self._policy = now, then
        self._passed: Batch | None = None  # of which the policy's pass has been made already

    @staticmethod
    def supports(updates: Mapping[str, Update]) -> bool:
        """Whether both critics are plain perceptrons on the CPU and no method needs autograd."""
        critics = [updates[name] for name in CRITICS]
        return all(
            FusedPerceptron.supports(update.network, with_context=True)
            and not update.needs_autograd
            and next(update.network.parameters()).device.type == "cpu"
            for update in critics
        )

    def _next_moments(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `SACSteps`; the policy at this end of the transitions is on its way as well."""
        if self._policy is None:
            return super()._next_moments(batch)
        now, then = self._policy
        self._passed = batch
        _, features = self._threads.run(
            lambda: now.forward(self._policy_inputs(batch.observation, batch.context)),
            lambda: then.forward(self._policy_inputs(batch.next_observation, batch.next_context)),
        )
        return self._actor.moments_of(features, batch.next_context)

    def _actor_step(
        self, batch: Batch, noise: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `SACSteps`; autograd sees the heads and everything behind them only."""
        if self._policy is None:
            return super()._actor_step(batch, noise, temperature)
        update, (torso, _) = self._updates["actor"], self._policy
        inputs = self._policy_inputs(batch.observation, batch.context)
        if self._passed is not batch:
            torso.forward(inputs)
        self._passed = None  # the step below changes the policy
        features = torso.features.detach().requires_grad_()
        mean, log_std = self._actor.moments_of(features, batch.context)
        action, log_probability = losses.squashed_sample(mean, log_std, noise)
        q = self._smaller_value(batch.observation, action, batch.context)
        loss = losses.actor_loss(log_probability, q, temperature)
        update.check_loss(loss)
        update.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        assert features.grad is not None
        torso.backward(inputs, features.grad, self._threads.run)
        update.apply(torso.activations)
        return loss.detach(), log_probability.detach()

    def _policy_inputs(self, observation: Tensor, context: Tensor | None) -> Tensor:
        return _joined(observation, context, bool(self._actor.torso.uses_context))

    def _target_values(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        inputs = self._with_context(inputs, context)
        first, second = self._fused_targets
        return _values(self._threads, (first, second), inputs)

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
        shown = context if self._reads_context else None
        return _SmallerValue.apply(action, observation, shown, self._fused, self._threads)

    @property
    def _reads_context(self) -> bool:
        return bool(self._critics[0].torso.uses_context)

    def _with_context(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        return _joined(inputs, context, self._reads_context)


def _joined(inputs: Tensor, context: Tensor | None, reads_context: bool) -> Tensor:
    """Inputs of a torso, whose first layer may read the context beside them."""
    if not reads_context:
        return inputs
    assert context is not None
    return torch.cat((inputs, context), dim=1)


def _values(
    threads: LearnerThreads, critics: Sequence[FusedPerceptron], inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Values of two critics or targets for the same inputs, both (B,)."""
    first, second = critics
    q_1, q_2 = threads.run(lambda: first.forward(inputs), lambda: second.forward(inputs))
    return q_1[:, 0], q_2[:, 0]


class _SmallerValue(torch.autograd.Function):
    """The smaller value of two critics; its gradient by the action skips the larger one."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        action: Tensor,
        observation: Tensor,
        context: Tensor | None,
        critics: Sequence[FusedPerceptron],
        threads: LearnerThreads,
    ) -> Tensor:
        parts = (observation, action) if context is None else (observation, action, context)
        q_1, q_2 = _values(threads, critics, torch.cat(parts, dim=1))
        start = observation.shape[1]
        ctx.critics, ctx.columns = critics, slice(start, start + action.shape[1])
        ctx.threads = threads
        ctx.save_for_backward(q_1 - q_2)
        return torch.minimum(q_1, q_2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (difference,) = ctx.saved_tensors
        gradient = torch.where(difference == 0.0, 0.5 * gradient, gradient)

        @torch.no_grad()
        def through(critic: FusedPerceptron, chosen: Tensor) -> tuple[Tensor, Tensor]:
            rows = chosen.nonzero()[:, 0]
            return rows, critic.input_gradient(gradient[rows, None], rows, ctx.columns)

        first, second = ctx.critics
        parts = ctx.threads.run(
            lambda: through(first, difference <= 0.0), lambda: through(second, difference >= 0.0)
        )
        result = gradient.new_zeros(len(gradient), ctx.columns.stop - ctx.columns.start)
        for rows, by_action in parts:
            result.index_add_(0, rows, by_action)
        return result, None, None, None, None
