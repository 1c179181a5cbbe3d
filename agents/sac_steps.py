"""One gradient step of soft actor-critic: critics, their targets, the actor, the temperature.

Nothing here asks the device for a value or branches on one, so that a step has a fixed shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents import sac_losses as losses
from agents.learner_threads import LearnerThreads, flushed_denormals
from agents.replay import Batch
from agents.update import Update, clone, load_optimizer_state, optimizer_state
from networks.heads import Network, SquashedGaussianPolicy
from networks.winners import Winners
from plasticity.recycling import mirror_edits

STATISTICS = (
    "actor_loss",
    "critic_loss",
    "temperature_loss",
    "temperature",
    "entropy",
    "q_mean",
    "target_mean",
)
CRITICS = ("critic_1", "critic_2")


class UncheckedUpdate(Update):
    """An update that does not read its loss off the device; somebody calls `check_finite`."""

    @classmethod
    def of(cls, update: Update) -> UncheckedUpdate:
        """Take over what another update holds; that one must not be used any more."""
        return cls(
            update.name,
            update.network,
            update.optimizer,
            update.methods,
            update.max_grad_norm,
            update.streams,
        )

    def check_loss(self, loss: Tensor) -> None:
        """Leave the loss on the device."""


class Temperature(nn.Module):
    """Weight of the entropy, learnt as its logarithm; one for all or one for every task.

    It is no network and has no units, so methods never see it and its steps are taken here.

    Args:
        initial: Starting value, > 0.
        num_tasks: 0 for a single temperature; otherwise the size of the one-hot context.
        learning_rate: Of its own Adam; 0 keeps the temperature where it starts.
        device: Where it lives.
        epsilon: Added to the denominator of Adam.
    """

    def __init__(
        self,
        initial: float,
        num_tasks: int,
        learning_rate: float,
        device: torch.device,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        self._initial = float(initial)
        values = torch.full((max(1, num_tasks),), self._initial, device=device).log()
        self.log_temperature = nn.Parameter(values)
        self.per_task = num_tasks > 0
        self.optimizer = torch.optim.Adam(
            [self.log_temperature],
            lr=learning_rate,
            eps=epsilon,
            fused=True,
            capturable=device.type == "cuda",  # a CUDA graph may hold its step
        )

    def log_of(self, context: Tensor | None) -> Tensor:
        """Log temperature of every row's task (B,), or the single one ()."""
        if not self.per_task:
            return self.log_temperature[0]
        assert context is not None
        return context[:, : len(self.log_temperature)] @ self.log_temperature

    def step(self, context: Tensor | None, log_probability: Tensor, target_entropy: float):
        """Make one gradient step; returns the loss."""
        loss = losses.temperature_loss(self.log_of(context), log_probability, target_entropy)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def restart(self) -> None:
        """Go back to the starting value, with a fresh optimizer."""
        self.log_temperature.fill_(self._initial).log_()
        self.optimizer.state.clear()

    def state(self) -> dict[str, Any]:
        """Values and optimizer state, cloned."""
        return {
            "log_temperature": clone(self.log_temperature),
            "optimizer": optimizer_state(self.optimizer),
        }

    def load_state(self, state: Mapping[str, Any], with_optimizer: bool = True) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: There is another number of temperatures.
        """
        values = state["log_temperature"]
        if values.shape != self.log_temperature.shape:
            raise ValueError(
                f"the saved run has {len(values)} temperatures, this one needs "
                f"{len(self.log_temperature)}; leave agent.temperature_per_task as it was"
            )
        with torch.no_grad():
            self.log_temperature.copy_(values)
        if with_optimizer:
            load_optimizer_state(self.optimizer, state["optimizer"])


@dataclass(frozen=True)
class Settings:
    """What the steps need to know of the configuration.

    Attributes:
        critics_max_grad_norm: Clip both critics by the norm of their gradients together; None
            leaves clipping to each one's own update.
    """

    discount: float
    tau: float
    target_entropy: float
    timeouts_terminal: bool
    critics_max_grad_norm: float | None = None


class SACSteps:
    """Makes gradient steps.

    Args:
        actor: The policy.
        targets: Target critics, in the order of `CRITICS`.
        updates: Updates of actor and critics by name.
        temperature: Weight of the entropy.
        settings: Numbers of the losses.
        threads: The two critics do not depend on each other and may step side by side.
    """

    def __init__(
        self,
        actor: SquashedGaussianPolicy,
        targets: Sequence[Network],
        updates: Mapping[str, Update],
        temperature: Temperature,
        settings: Settings,
        threads: LearnerThreads,
    ) -> None:
        self._actor, self._targets, self._updates = actor, tuple(targets), updates
        self._critics = tuple(updates[name].network for name in CRITICS)
        self._temperature, self._settings, self._threads = temperature, settings, threads
        self._averages = [list[Tensor](target.parameters()) for target in self._targets]
        self._values = [list[Tensor](critic.parameters()) for critic in self._critics]
        # Boosted winners depend on duty cycles. These are averages already and are copied, as
        # running statistics usually are; where nothing is boosted they change no output.
        self._copies = [Winners.boosting_statistics(target) for target in self._targets]
        self._statistics_of = [Winners.boosting_statistics(critic) for critic in self._critics]

    def step(self, batch: Batch, noise: Tensor, next_noise: Tensor) -> Tensor:
        """Step critics, targets, actor and temperature, in this order, on one minibatch.

        The temperature in all losses is the one before the step, and its own loss uses the
        log-probabilities of the actor's pass.

        Args:
            batch: The minibatch.
            noise: (B, act) standard normal draws for the actor's new actions.
            next_noise: (B, act) for actions at the successors.

        Returns:
            Values of `STATISTICS`, one vector.
        """
        with flushed_denormals(), torch.no_grad():
            temperature = self._temperature.log_of(batch.context).exp()
            target = self.targets_of(batch, next_noise)
        inputs = torch.cat((batch.observation, batch.action), dim=1)
        first, second = self._critic_steps(inputs, batch.context, target)
        with flushed_denormals():
            actor_loss, log_probability = self._actor_step(batch, noise, temperature)
            temperature_loss = self._temperature.step(
                batch.context, log_probability, self._settings.target_entropy
            )
        self._mirror_restart()
        return torch.stack(
            (
                actor_loss,
                0.5 * (first[0] + second[0]),
                temperature_loss,
                temperature.mean(),
                -log_probability.mean(),
                0.5 * (first[1] + second[1]),
                target.mean(),
            )
        )

    @torch.no_grad()
    def targets_of(self, batch: Batch, next_noise: Tensor) -> Tensor:
        """What the critics are to predict, (B,)."""
        settings = self._settings
        mean, log_std = self._next_moments(batch)
        action, log_probability = losses.squashed_sample(mean, log_std, next_noise)
        inputs = torch.cat((batch.next_observation, action), dim=1)
        q_1, q_2 = self._target_values(inputs, batch.next_context)
        terminal = batch.terminated
        if settings.timeouts_terminal:
            terminal = torch.maximum(terminal, batch.truncated)
        temperature = self._temperature.log_of(batch.next_context).exp()
        return losses.critic_target(
            batch.reward, terminal, q_1, q_2, log_probability, temperature, settings.discount
        )

    def _next_moments(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Moments of the policy at the successors, both (B, act)."""
        return self._actor(batch.next_observation, batch.next_context)

    def _target_values(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(target(inputs, context) for target in self._targets)

    def _critic_steps(
        self, inputs: Tensor, context: Tensor | None, target: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Step both critics and their targets; returns the loss and the mean value of each."""
        max_norm = self._settings.critics_max_grad_norm
        if max_norm is None:
            return self._threads.run(
                lambda: self._critic_step(0, inputs, context, target),
                lambda: self._critic_step(1, inputs, context, target),
            )
        updates = [self._updates[name] for name in CRITICS]

        def prepare(index: int) -> tuple[tuple[Tensor, Tensor], list[nn.Parameter]]:
            outcome = self._critic_gradient(index, inputs, context, target)
            return outcome, updates[index].see_gradients()

        def finish(index: int) -> None:
            updates[index].finish(self._critic_activations(index))
            self._follow(index)

        first, second = self._threads.run(lambda: prepare(0), lambda: prepare(1))
        with flushed_denormals():
            nn.utils.clip_grad_norm_([*first[1], *second[1]], max_norm)
        self._threads.run(lambda: finish(0), lambda: finish(1))
        return first[0], second[0]

    def _critic_step(
        self, index: int, inputs: Tensor, context: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Step one critic, then its target; returns the loss and the mean value."""
        outcome = self._critic_gradient(index, inputs, context, target)
        self._updates[CRITICS[index]].apply(self._critic_activations(index))
        self._follow(index)
        return outcome

    def _critic_gradient(
        self, index: int, inputs: Tensor, context: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put the gradients of one critic in place; returns the loss and the mean value."""
        update = self._updates[CRITICS[index]]
        with update.recording():
            q = update.network(inputs, context)
        loss = losses.critic_loss(q, target)
        update.backward(loss)
        return loss.detach(), q.detach().mean()

    def _critic_activations(self, index: int) -> Mapping[str, Tensor]:
        return self._updates[CRITICS[index]].activations()

    def _follow(self, index: int) -> None:
        """Let one target follow its critic, whose step has just been made.

        Parameters are averaged; statistics of boosted winners are copied.
        """
        self._mirror_edits(index)
        with torch.no_grad():
            torch._foreach_lerp_(self._averages[index], self._values[index], self._settings.tau)

    def forget(self) -> None:
        """Hear that tensors may have been replaced; only captured steps remember any."""

    def mirror_edits(self) -> None:
        """Repeat in targets and temperature what methods have just done to their networks."""
        for index in range(len(CRITICS)):
            self._mirror_edits(index)
        self._mirror_restart()

    def _mirror_restart(self) -> None:
        if self._updates["actor"].pop_restarted():
            self._temperature.restart()

    def _mirror_edits(self, index: int) -> None:
        touched = self._updates[CRITICS[index]].pop_target_edits()
        mirror_edits(touched, self._critics[index], self._targets[index])
        if self._copies[index]:
            torch._foreach_copy_(self._copies[index], self._statistics_of[index])

    def _actor_step(
        self, batch: Batch, noise: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Step the actor through the critics; returns the loss and log-probabilities (B,)."""
        update = self._updates["actor"]
        with update.recording():
            mean, log_std = self._actor(batch.observation, batch.context)
        action, log_probability = losses.squashed_sample(mean, log_std, noise)
        q = self._smaller_value(batch.observation, action, batch.context)
        loss = update.step(losses.actor_loss(log_probability, q, temperature))
        return loss, log_probability.detach()

    def _smaller_value(self, observation: Tensor, action: Tensor, context: Tensor | None) -> Tensor:
        """The smaller value of both critics, (B,), with gradients to the action only."""
        with _without_weight_gradients(*self._critics):
            inputs = torch.cat((observation, action), dim=1)
            q_1, q_2 = (critic(inputs, context) for critic in self._critics)
        return torch.minimum(q_1, q_2)


@contextlib.contextmanager
def _without_weight_gradients(*networks: Network) -> Iterator[None]:
    """Forward passes inside compute gradients of their inputs only: an eighth of the work less."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
