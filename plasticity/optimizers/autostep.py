"""Autostep: IDBD whose own step size needs no tuning and whose steps never overshoot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.optimizers import idbd
from plasticity.parameters import trainable_parameters
from plasticity.settings import check_number


@dataclass(frozen=True)
class Config(idbd.Config):
    """Settings of Autostep: those of IDBD, and a time scale.

    Changes of step sizes are divided by the largest recent change, so `meta_learning_rate` means
    the same at every scale of loss and inputs. Step sizes that together would overshoot, in the
    linear case beyond the target, are scaled down at once, whatever `learning_rate` they started
    with.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size alpha_0 that every weight starts with, > 0.
        meta_learning_rate: mu, the largest change of a logarithm in one step, >= 0; published
            1e-2.
        max_grad_norm: As for IDBD, but not used unless given.
        time_scale: tau, the number of steps over which the largest change is forgotten, >= 1;
            published 1e4.

    Raises:
        ValueError: A value is out of range.

    Source: Mahmood, Sutton, Degris and Pilarski 2012, "Tuning-free step-size adaptation",
    Table 1.
    Deviation: beyond linear learners the curvature is that of `idbd.Config`, and the sum that
    bounds the step sizes runs over all weights of the network. It then is the decrease of the loss
    that a step promises, so that no step promises more than 1.
    """

    kind: str = "autostep"
    max_grad_norm: float | None = None
    time_scale: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("optimizer.time_scale", self.time_scale, 1.0)


class Autostep(idbd.Idbd):
    """IDBD with the normalisation of Autostep.

    v <- max(|g h|, v + alpha d (|g h| - v) / tau), alpha <- alpha exp(mu g h / v), then all alpha
    are divided by max(1, sum alpha d); the rest is IDBD.
    """

    memory = (*idbd.Idbd.memory, "largest_change")
    config: Config

    def _adapt(self, stepped: list[tuple[Tensor, dict[str, Any], Tensor]]) -> list[Tensor]:
        """Learn the step sizes from gradients and traces, then bound them together."""
        alphas, totals = [], []
        for parameter, group, curvature in stepped:
            state, grad = self.state[parameter], parameter.grad
            assert grad is not None
            change, largest = (grad * state["trace"]).neg_(), state["largest_change"]
            size, alpha = change.abs(), self._alpha(parameter, group)
            decayed = torch.addcmul(
                largest, alpha.mul_(curvature), size - largest, value=1.0 / self.config.time_scale
            )
            torch.maximum(size, decayed, out=largest)
            change.div_(largest).nan_to_num_(nan=0.0)  # 0 / 0 where nothing has moved yet
            state["log_gain"].add_(change, alpha=self.config.meta_learning_rate)
            alphas.append(self._alpha(parameter, group))
            totals.append((alphas[-1] * curvature).sum(dtype=torch.float64))
        if not totals:
            return []
        overshoot = torch.stack(totals).sum().clamp_min_(1.0)
        for (parameter, _, _), alpha in zip(stepped, alphas, strict=True):
            alpha.div_(overshoot.to(alpha.dtype))
            self.state[parameter]["log_gain"].sub_(overshoot.log().to(alpha.dtype))
        return alphas


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network; see `adam.build`.

    Step counters can always restart for single units, whatever `per_unit_step` says.
    """
    return Autostep(trainable_parameters(module).values(), config)
