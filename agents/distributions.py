"""Log-probabilities and entropies of action distributions, as pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def gaussian_log_probability(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian.

    Args:
        actions: (B, act).
        mean: (B, act).
        log_std: (act,) or (B, act).

    Returns:
        (B,), sum over action dimensions of -z^2/2 - log_std - log(2 pi)/2, z = (a - mean)/std.
    """
    z = (actions - mean) * torch.exp(-log_std)
    return standard_log_probability(z, log_std)


def standard_log_probability(z: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of `mean + std * z` under Normal(mean, std), given the standardised noise z."""
    constant = z.shape[-1] * _HALF_LOG_TWO_PI
    if log_std.dim() == 1:
        return -0.5 * z.square().sum(-1) - (log_std.sum() + constant)
    return -0.5 * z.square().sum(-1) - log_std.sum(-1) - constant


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian in nats, summed over the last dimension of log_std."""
    return (log_std + 0.5 + _HALF_LOG_TWO_PI).sum(-1)
