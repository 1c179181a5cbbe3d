"""What training costs in arithmetic: multiply-adds, FLOP and parameters.

A multiply-add is two FLOP. Only matrix products are counted; they are nearly all the arithmetic of
a perceptron, and everything else counts as overhead where speed is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def multiply_adds(sizes: Sequence[int]) -> int:
    """Multiply-adds of one sample's forward pass.

    Args:
        sizes: Widths from input to output, at least two, for example [27, 256, 256, 8].
    """
    return sum(inputs * outputs for inputs, outputs in _layers(sizes))


def first_layer(sizes: Sequence[int]) -> int:
    """Multiply-adds of the first layer alone, whose input gradient nobody needs."""
    return sizes[0] * sizes[1]


def parameters(sizes: Sequence[int]) -> int:
    """Weights and biases of a perceptron."""
    return multiply_adds(sizes) + sum(sizes[1:])


def training_flop(sizes: Sequence[int]) -> int:
    """FLOP per sample of one forward and backward pass: 6M - 2M_f.

    2M forward, 2M for weight gradients, 2M - 2M_f for input gradients.
    """
    return 6 * multiply_adds(sizes) - 2 * first_layer(sizes)


def ppo_flop_per_env_step(policy: Sequence[int], value: Sequence[int], num_epochs: int) -> int:
    """FLOP per environment step of PPO: act with both networks, then train on it every epoch."""
    acting = 2 * (multiply_adds(policy) + multiply_adds(value))
    return acting + num_epochs * (training_flop(policy) + training_flop(value))


def sac_flop_per_sample(actor: Sequence[int], critic: Sequence[int]) -> int:
    """FLOP per sample of one SAC update with twin critics, nothing wasted.

    8A + 24C - 4C_f - 2A_f: next action 2A; two targets 4C; two critics forward 4C and backward
    8C - 4C_f; new action 2A, its two critics forward 4C and input gradient 4C, actor backward
    4A - 2A_f. Critic weight gradients of the actor loss (4C) and a second sample for the
    temperature (2A) are avoidable and not counted.

    Args:
        actor: Widths of the actor; its last layer holds mean and log standard deviation.
        critic: Widths of one critic; its input is observation and action.
    """
    return (
        8 * multiply_adds(actor)
        + 24 * multiply_adds(critic)
        - 4 * first_layer(critic)
        - 2 * first_layer(actor)
    )


def _layers(sizes: Sequence[int]) -> list[tuple[int, int]]:
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes is {list(sizes)}; give at least two widths of at least 1")
    return list(itertools.pairwise(sizes))
