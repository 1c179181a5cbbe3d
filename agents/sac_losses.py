"""Losses of soft actor-critic and its squashed Gaussian, as pure functions.

Source: Haarnoja et al. 2018, arXiv 1812.05905; equation numbers are of that paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from agents.distributions import standard_log_probability

_LOG_TWO = math.log(2.0)


def squash_log_jacobian(u: Tensor) -> Tensor:
    """Sum over actions of log(1 - tanh(u)^2), (B, act) -> (B,), exact for every u.

    Written as 2 (log 2 - u - softplus(-2u)); the form log(1 - a^2 + 1e-6) is wrong by 1.17 at
    u = 8 and has no gradient where tanh rounds to 1.

    Source: appendix C, equation 26.
    """
    # softplus(x) is x to the last bit of a float64 only above 37, not above 20 as torch assumes.
    return 2.0 * (_LOG_TWO - u - functional.softplus(-2.0 * u, threshold=40.0)).sum(-1)


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample tanh(mean + std * noise) and its log-density.

    Args:
        mean: (B, act) before squashing.
        log_std: (B, act).
        noise: (B, act) standard normal draws.

    Returns:
        Actions (B, act) in [-1, 1] and log-probabilities (B,); both carry gradients.
    """
    u = mean + log_std.exp() * noise
    log_probability = standard_log_probability(noise, log_std) - squash_log_jacobian(u)
    return torch.tanh(u), log_probability


def critic_target(
    reward: Tensor,
    terminal: Tensor,
    next_q_1: Tensor,
    next_q_2: Tensor,
    next_log_probability: Tensor,
    temperature: Tensor,
    discount: float,
) -> Tensor:
    """Soft Bellman target, (B,). Source: equations 3 and 5, with the smaller of two critics.

    Args:
        reward: (B,).
        terminal: (B,) 1 where nothing of value follows; truncation is not the end.
        next_q_1: (B,) first target critic at the successor and a new action there.
        next_q_2: (B,) second target critic.
        next_log_probability: (B,) of that action.
        temperature: Scalar, or (B,) one per row.
        discount: In [0, 1].
    """
    value = torch.minimum(next_q_1, next_q_2) - temperature * next_log_probability
    return reward + discount * (1.0 - terminal) * value


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error of one critic. Source: equation 5."""
    return 0.5 * functional.mse_loss(q, target)


def actor_loss(log_probability: Tensor, q: Tensor, temperature: Tensor) -> Tensor:
    """Mean of temperature * log-probability less the smaller value q. Source: equation 7."""
    return (temperature * log_probability - q).mean()


def temperature_loss(
    log_temperature: Tensor, log_probability: Tensor, target_entropy: float
) -> Tensor:
    """Loss whose descent raises the temperature where the entropy is below its target.

    Args:
        log_temperature: Scalar, or (B,) of each row's task.
        log_probability: (B,); only the temperature gets a gradient.
        target_entropy: Entropy that the policy is to keep, in nats.

    Source: equation 18.
    Deviation: the logarithm stands in place of the temperature itself, as in the authors' code.
    """
    return -(log_temperature * (log_probability + target_entropy).detach()).mean()
