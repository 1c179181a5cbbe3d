"""Adam that leaves the dendritic segments of absent contexts alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from plasticity.optimizers.direct_adam import DirectAdam


class LazySegmentAdam(DirectAdam):
    """`DirectAdam` in which every coordinate of the context counts the steps of its own.

    With one-hot contexts, the weights that segments give to a context get gradients only from its
    samples. Plain Adam goes on moving them after a switch, by up to beta1 / (1 - beta1) learning
    rates, and the first gradient after a long absence makes a step (1 - beta1) / sqrt(1 - beta2)
    as large as usual: 9 and 3.16 for betas of 0.9 and 0.999. Here a column (..., c) of a segment
    tensor without any gradient is absent, and neither its weights nor its moments nor its step
    count change, so that it learns as with an optimizer of its own. A gradient of exactly 0 at all
    units is taken for absence; a penalty that pulls at segments makes every context present.

    All other parameters, and segments of continuous contexts, are stepped as by Adam. Weight
    decay is never applied to segments.

    Args:
        params: Parameters or parameter groups.
        segments: Those of them that are segments, each (units, segments, C).
        settings: Of `DirectAdam`.
    """

    def __init__(self, params: Any, *, segments: Iterable[Tensor], **settings: Any) -> None:
        super().__init__(params, **settings)
        self._segments = {id(parameter) for parameter in segments}

    @torch.no_grad()
    def _step(self) -> None:
        lazy: list[tuple[dict[str, Any], Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._segments and parameter.grad is not None:
                    lazy.append((group, parameter, parameter.grad))
                    parameter.grad = None  # not for the kernel
        super()._step()
        for group, parameter, gradient in lazy:
            parameter.grad = gradient
            self._step_present(parameter, gradient, group)

    def _step_present(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Make Adam's step on the columns that have a gradient; asks the device for nothing."""
        state, (beta1, beta2) = self.state[parameter] or self._start(parameter), group["betas"]
        steps, first, second = state["step"], state["exp_avg"], state["exp_avg_sq"]
        present = (gradient != 0.0).flatten(0, -2).any(0)
        steps.add_(present)
        first.copy_(torch.where(present, first.lerp(gradient, 1.0 - beta1), first))
        fresh = torch.addcmul(beta2 * second, gradient, gradient, value=1.0 - beta2)
        second.copy_(torch.where(present, fresh, second))
        counted = steps.double().clamp_min(1.0)  # absent ones may not have been counted yet
        correction1 = (1.0 - beta1**counted).to(first.dtype)
        correction2 = (1.0 - beta2**counted).sqrt().to(first.dtype)
        step = first / correction1 / (second.sqrt() / correction2).add_(group["eps"])
        parameter.sub_(torch.where(present, group["lr"] * step, 0.0))

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        state = super()._start(parameter)
        if id(parameter) in self._segments:
            size = parameter.shape[-1]
            state["step"] = torch.zeros(size, dtype=torch.float32, device=parameter.device)
        return state
