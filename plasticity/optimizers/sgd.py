"""Stochastic gradient descent with momentum and coupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.optimizers import adam
from plasticity.settings import check_number


@dataclass(frozen=True)
class Config:
    """Settings of stochastic gradient descent.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size, > 0.
        momentum: Decay of the running sum of gradients, in [0, 1); 0 keeps none.
        weight_decay: Strength of the decay, added to the gradient (L2), >= 0.
        wd_on_biases: Decay biases and normalisation entries too.
        wd_on_log_std: Decay the log standard deviation of a Gaussian policy too.

    Raises:
        ValueError: A value is out of range.

    Source: Dohare et al. 2024, the supervised problems.
    """

    kind: str = "sgd"
    learning_rate: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    wd_on_biases: bool = True
    wd_on_log_std: bool = True

    def __post_init__(self) -> None:
        check_number("optimizer.learning_rate", self.learning_rate, 0.0, open_low=True)
        check_number("optimizer.momentum", self.momentum, 0.0, 1.0, open_high=True)
        check_number("optimizer.weight_decay", self.weight_decay, 0.0)


class DirectSGD(torch.optim.SGD):
    """`torch.optim.SGD` with the same arithmetic and saved state, and next to no Python.

    Learning from one example at a time on a few units, torch's own step takes longer than the
    forward and backward pass together.
    """

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step with the gradients in `.grad`; closures are not supported."""
        assert closure is None
        self._plain_step()

    step.hooked = True  # type: ignore[attr-defined]  # keeps torch from wrapping it once more

    @torch.no_grad()
    def _plain_step(self) -> None:
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameters.append(parameter)
                    gradients.append(parameter.grad)
            if not parameters:
                continue
            if group["weight_decay"]:
                gradients = list(
                    torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
                )
            if group["momentum"]:
                gradients = self._accumulate(parameters, gradients, group["momentum"])
            torch._foreach_add_(parameters, gradients, alpha=-group["lr"])

    def _accumulate(
        self, parameters: list[Tensor], gradients: list[Tensor], momentum: float
    ) -> list[Tensor]:
        """Fold gradients into the running sums of their parameters; returns these."""
        sums: list[Tensor] = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            kept = self.state[parameter].get("momentum_buffer")
            if kept is None:
                kept = gradient.clone()
                self.state[parameter]["momentum_buffer"] = kept
            else:
                kept.mul_(momentum).add_(gradient)
            sums.append(kept)
        return sums


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network; see `adam.build`.

    There is no step counter to restart, whatever `per_unit_step` says.
    """
    groups: list[dict[str, Any]] = adam.parameter_groups(config, module)
    return DirectSGD(groups, lr=config.learning_rate, momentum=config.momentum)
