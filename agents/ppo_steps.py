"""One gradient step of PPO's two networks: the plain way, and a hand-written fast way.

Both compute the same losses and gradients up to floating-point reordering. `AutogradSteps` is the
reference and works for every network and method; `FusedSteps` serves plain perceptrons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from agents.distributions import gaussian_entropy, gaussian_log_probability
from agents.minibatches import Minibatch, names_its_batch
from agents.update import Update
from networks.fused import FusedPerceptron
from networks.heads import GaussianPolicy, StateGaussianPolicy, ValueFunction


def policy_loss(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Clipped surrogate, mean over the minibatch (B,). Source: PPO paper, equation 7."""
    ratio = torch.exp(log_ratio)
    clipped = torch.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, mean over the minibatch (B,)."""
    return torch.nn.functional.mse_loss(values, targets)


@dataclass(frozen=True)
class Losses:
    """What the steps need to know of the configuration."""

    clip_range: float
    value_coefficient: float
    entropy_coefficient: float


class Steps(Protocol):
    """Makes gradient steps."""

    def policy(self, batch: Minibatch) -> tuple[float, Tensor]:
        """Step the policy; returns the loss and the log-ratios (B,)."""
        ...

    def value(self, batch: Minibatch) -> float:
        """Step the value network; returns the loss."""
        ...


class AutogradSteps:
    """The reference: build the loss, let autograd differentiate it."""

    def __init__(
        self,
        policy: GaussianPolicy | StateGaussianPolicy,
        value: ValueFunction | None,
        updates: dict[str, Update],
        losses: Losses,
    ) -> None:
        self._policy, self._value = policy, value
        self._updates, self._losses = updates, losses

    @names_its_batch
    def policy(self, batch: Minibatch) -> tuple[float, Tensor]:
        """Step the policy; returns the loss and the log-ratios (B,)."""
        update, losses = self._updates["policy"], self._losses
        with update.recording():
            mean, log_std = self._policy.moments(batch.observation, batch.context)
        log_probability = gaussian_log_probability(batch.action, mean, log_std)
        log_ratio = log_probability - batch.log_probability
        loss = policy_loss(log_ratio, batch.advantage, losses.clip_range)
        if losses.entropy_coefficient:
            loss = loss - losses.entropy_coefficient * gaussian_entropy(log_std).mean()
        return float(update.step(loss)), log_ratio.detach()

    @names_its_batch
    def value(self, batch: Minibatch) -> float:
        """Step the value network; returns the loss."""
        update, network = self._updates["value"], self._value
        assert network is not None
        with update.recording():
            values = network(batch.observation, batch.context)
        loss = self._losses.value_coefficient * value_loss(values, batch.target)
        return float(update.step(loss))


class FusedSteps:
    """The fast way for plain perceptrons: losses differentiated by hand.

    With r the ratio, A the advantage, z = (a - mean)/std and B the batch size,
    dL/dlogp = -r A/B where the clipped term is not the smaller one, else 0,
    dlogp/dmean = z/std, dlogp/dlog_std = z^2 - 1; and dL/dV = 2 c (V - target)/B.

    Deviation: with a perceptron that rounds (`BFloat16Perceptron`) the ratios of a first minibatch
    are not 1, because actions were scored in float32 (`agents.ppo_config`, `matmul_precision`).
    """

    def __init__(
        self,
        policy: GaussianPolicy,
        value: ValueFunction | None,
        updates: dict[str, Update],
        losses: Losses,
        minibatch_size: int,
        perceptron: type[FusedPerceptron] = FusedPerceptron,
    ) -> None:
        self._log_std = policy.log_std
        self._updates, self._losses = updates, losses
        self._policy = perceptron(policy, minibatch_size)
        self._value = None if value is None else perceptron(value, minibatch_size)
        num_actions = policy.log_std.numel()
        # (actions, B) throughout, as the policy's head gives them: long rows are faster.
        self._mean_grad = torch.empty(num_actions, minibatch_size)
        self._z = self._mean_grad.numpy()
        self._squared = np.empty_like(self._z)
        self._log_std_array = self._log_std.detach().numpy()
        self._minus_half = np.full(num_actions, -0.5, dtype=np.float32)
        self._log_std_grad = torch.empty(num_actions)
        self._value_grad = torch.empty(minibatch_size, 1)

    @staticmethod
    def supports(updates: dict[str, Update]) -> bool:
        """Whether all networks are plain perceptrons and no method needs autograd."""
        return all(
            FusedPerceptron.supports(update.network) and not update.needs_autograd
            for update in updates.values()
        )

    @names_its_batch
    @torch.no_grad()
    def policy(self, batch: Minibatch) -> tuple[float, Tensor]:
        """Step the policy; returns the loss and the log-ratios (B,)."""
        losses, update, arrays = self._losses, self._updates["policy"], batch.arrays
        mean = self._policy.forward(batch.observation).t().numpy()
        # Arrays of a few hundred numbers: NumPy needs a third of the time that torch needs.
        z, squared, log_std = self._z, self._squared, self._log_std_array
        size, low, high = len(arrays.advantage), 1.0 - losses.clip_range, 1.0 + losses.clip_range
        with np.errstate(over="ignore", invalid="ignore"):
            inverse_std = np.exp(-log_std)[:, None]
            np.subtract(arrays.action.T, mean, out=z)
            z *= inverse_std
            np.multiply(z, z, out=squared)
            log_ratio = self._minus_half @ squared
            log_ratio -= arrays.log_probability
            log_ratio -= sum(log_std.tolist()) + 0.5 * _LOG_TWO_PI * len(log_std)
            ratio = np.exp(log_ratio)
            unclipped = ratio * arrays.advantage
            clipped = np.minimum(np.maximum(ratio, low), high) * arrays.advantage
            loss = -float(np.add.reduce(np.minimum(unclipped, clipped))) / size
            # Equal terms lie inside the clip range, where both have the same derivative.
            weight = unclipped * (unclipped <= clipped)
            weight *= -1.0 / size
            squared -= 1.0
            log_std_grad = np.matmul(squared, weight, out=self._log_std_grad.numpy())
            z *= inverse_std
            z *= weight
        if losses.entropy_coefficient:
            loss -= losses.entropy_coefficient * float(gaussian_entropy(self._log_std))
            log_std_grad -= losses.entropy_coefficient
        update.check_loss(loss)
        if self._log_std.grad is not self._log_std_grad:
            self._log_std.grad = self._log_std_grad
        self._policy.backward(batch.observation, self._mean_grad.t())
        update.apply(self._policy.activations)
        return loss, torch.from_numpy(log_ratio)

    @names_its_batch
    @torch.no_grad()
    def value(self, batch: Minibatch) -> float:
        """Step the value network; returns the loss."""
        coefficient, update = self._losses.value_coefficient, self._updates["value"]
        assert self._value is not None
        error = self._value.forward(batch.observation).numpy()[:, 0] - batch.arrays.target
        loss = coefficient * float(error @ error) / len(error)
        update.check_loss(loss)
        np.multiply(error, 2.0 * coefficient / len(error), out=self._value_grad.numpy()[:, 0])
        self._value.backward(batch.observation, self._value_grad)
        update.apply(self._value.activations)
        return loss


_LOG_TWO_PI = 1.8378770664093453
