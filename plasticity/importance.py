"""How much a network's outputs depend on each of its parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.heads import GaussianPolicy


def fisher_diagonal(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    inputs: Tensor,
    context: Tensor | None,
    generator: torch.Generator,
) -> list[Tensor]:
    """Mean squared per-sample gradient of log pi(a|s), a ~ pi, or of the value.

    One backward pass per sample: slower than vectorised transforms, but it works for every
    network, and it runs once per task.

    Args:
        module: A Gaussian policy, squashed or not (the squashing does not change the gradient of
            the log-density of a given action), or a network with one output per sample.
        parameters: Trainable parameters of it.
        inputs: (n, inputs).
        context: (n, C), (n,) or None.
        generator: CPU stream of the sampled actions.

    Returns:
        One tensor per parameter, in its shape.

    Source: Kirkpatrick et al. 2017, arXiv 1612.00796, section 2.
    """
    squared = [torch.zeros_like(parameter) for parameter in parameters]
    for index in range(len(inputs)):
        row = slice(index, index + 1)
        outputs = module(inputs[row]) if context is None else module(inputs[row], context[row])
        scalar = _scalar(module, outputs, generator)
        gradients = torch.autograd.grad(scalar, parameters, allow_unused=True)
        for total, gradient in zip(squared, gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient, value=1.0 / len(inputs))
    return squared


def _scalar(
    module: nn.Module, outputs: Tensor | tuple[Tensor, Tensor], generator: torch.Generator
) -> Tensor:
    """A scalar whose gradient is that of log pi of a sampled action, or of the value.

    For a = mean + std z: d log pi / d mean = z / std and d log pi / d log_std = z^2 - 1.
    """
    if isinstance(outputs, tuple):
        mean, log_std = outputs
    elif isinstance(module, GaussianPolicy):
        mean, log_std = outputs, module.log_std
    else:
        return outputs.sum()
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    return (noise / log_std.detach().exp() * mean).sum() + ((noise.square() - 1) * log_std).sum()
