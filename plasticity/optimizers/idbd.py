"""IDBD: gradient descent that learns a step size for every single weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.optimizers.per_unit_adam import PerUnitAdam
from plasticity.parameters import trainable_parameters
from plasticity.settings import check_number

LARGEST_CHANGE = 2.0  # of the logarithm of a step size in one step
SMALLEST_LOG_GAIN = -10.0


@dataclass(frozen=True)
class Config:
    """Settings of IDBD.

    There is no momentum and no division by the size of gradients, so the scale of the loss
    matters to `learning_rate` as it does to plain gradient descent, and to `meta_learning_rate`
    more: a loss c times as large needs one c times and one c squared times as small. Plain
    gradient descent diverges on the value functions of large returns; clipping bounds what they
    do here, and Autostep needs neither clipping nor another rate for another scale.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size alpha_0 that every weight starts with, > 0.
        meta_learning_rate: Step size theta of the logarithms of the step sizes, >= 0; 0 is plain
            gradient descent. Useful on linear problems of unit scale: 1e-3 to 1e-2.
        curvature_decay: Decay of the running mean of squared gradients, in [0, 1).
        max_grad_norm: Clip the norm of all gradients of a network to this, > 0; None for no
            clipping. It acts behind that of the agent.

    Raises:
        ValueError: A value is out of range.

    Source: Sutton 1992, "Adapting bias by gradient descent: an incremental version of
    delta-bar-delta", Figure 2, and its advice on bounds of the logarithms.
    Deviation: beyond linear learners, where x_i^2 is not the curvature, a running mean of squared
    gradients (corrected for its start at 0) stands for it; the lower bound of -10 counts from the
    logarithm of alpha_0; gradients are clipped unless `max_grad_norm` is None.
    """

    kind: str = "idbd"
    learning_rate: float = 1e-2
    meta_learning_rate: float = 1e-2
    curvature_decay: float = 0.999
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_number("optimizer.learning_rate", self.learning_rate, 0.0, open_low=True)
        check_number("optimizer.meta_learning_rate", self.meta_learning_rate, 0.0)
        check_number("optimizer.curvature_decay", self.curvature_decay, 0.0, 1.0, open_high=True)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0.0:
            raise ValueError(
                f"optimizer.max_grad_norm is {self.max_grad_norm}; it must be > 0, or null"
            )


class Idbd(PerUnitAdam):
    """Gradient descent with one learned step size per weight.

    With g the negative gradient, d the curvature and alpha = alpha_0 exp(log_gain):
    log_gain <- log_gain + theta g h, then w <- w + alpha g, then
    h <- h max(0, 1 - alpha d) + alpha g. The trace h remembers which way recent steps have moved
    the weight, as far as they still show: steps that go on in one direction should have been
    larger.

    The learning rate of a group is alpha_0, so a schedule scales all step sizes alike. A renewed
    entry (`zero_entries`) starts with alpha_0 and no memory; it has its own count of steps, from
    the base class, which is Adam's in nothing else here.

    Args:
        params: Parameters or parameter groups.
        config: Settings.
    """

    memory: tuple[str, ...] = ("trace", "log_gain", "curvature")

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], config: Config) -> None:
        super().__init__(params, config.learning_rate)
        self.config = config
        self._given: dict[Tensor, Tensor] = {}

    def give_curvature(self, parameter: Tensor, curvature: Tensor) -> None:
        """Say what the curvature is in the next step, in place of squared gradients.

        Args:
            parameter: A parameter.
            curvature: Second derivative of the loss by every entry, broadcastable to the
                parameter; the squared input x_i^2 for a linear learner with loss (y - w x)^2 / 2.
        """
        self._given[parameter] = curvature

    def step_sizes(self, parameter: Tensor) -> Tensor:
        """Step size of every entry, in the shape of a parameter that has been stepped."""
        for group in self.param_groups:
            if any(parameter is member for member in group["params"]):
                return self._alpha(parameter, group)
        raise ValueError("the parameter does not belong to this optimizer")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step on every parameter that has a gradient; closures are not supported."""
        assert closure is None
        if self.config.max_grad_norm is not None:
            everything = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(everything, self.config.max_grad_norm)
        stepped = [
            (parameter, group, self._curvature(parameter, parameter.grad))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        self._given = {}
        for (parameter, _, curvature), alpha in zip(stepped, self._adapt(stepped), strict=True):
            trace = self.state[parameter]["trace"]
            trace.mul_((alpha * curvature).neg_().add_(1.0).relu_())
            step = alpha.mul_(parameter.grad)
            trace.sub_(step)
            parameter.sub_(step)

    def zero_entries(self, parameter: Tensor, dim: int, indices: Tensor) -> None:
        """Let some rows (dim 0) or columns (dim 1) start anew: alpha_0, no memory and no steps.

        Their count restarts whatever the policy of the method is: a curvature of 0 that is taken
        for the mean of many steps would say that no step is too large.
        """
        for name in self.memory:
            self.state[parameter][name].index_fill_(dim, indices, 0.0)
        self.restart_entries(parameter, dim, indices)

    def _adapt(self, stepped: list[tuple[Tensor, dict[str, Any], Tensor]]) -> list[Tensor]:
        """Learn the step sizes from gradients and traces; returns them."""
        for parameter, _, _ in stepped:
            state = self.state[parameter]
            change = state["trace"] * parameter.grad
            change.mul_(-self.config.meta_learning_rate).clamp_(-LARGEST_CHANGE, LARGEST_CHANGE)
            state["log_gain"].add_(change).clamp_min_(SMALLEST_LOG_GAIN)
        return [self._alpha(parameter, group) for parameter, group, _ in stepped]

    def _alpha(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        return self.state[parameter]["log_gain"].exp().mul_(group["lr"])

    def _curvature(self, parameter: Tensor, grad: Tensor) -> Tensor:
        """Count a step and return the curvature: given, or the mean squared gradient so far."""
        state, decay = self._state_of(parameter), self.config.curvature_decay
        state["step"] += 1
        if parameter in self._given:
            return self._given[parameter]
        state["curvature"].mul_(decay).addcmul_(grad, grad, value=1.0 - decay)
        if not state["any_restart"]:
            return state["curvature"] / (1.0 - decay ** state["step"])
        correction = 1.0 - decay ** self.steps(parameter).double()
        return state["curvature"] / correction.to(state["curvature"].dtype)

    def _fresh(self, parameter: Tensor) -> dict[str, Any]:
        counters = super()._fresh(parameter)
        kept = ("step", "any_restart", "row_start", "column_start")
        return {
            **{name: counters[name] for name in kept if name in counters},
            **{name: torch.zeros_like(parameter) for name in self.memory},
        }


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network; see `adam.build`.

    Step counters can always restart for single units, whatever `per_unit_step` says.
    """
    return Idbd(trainable_parameters(module).values(), config)
