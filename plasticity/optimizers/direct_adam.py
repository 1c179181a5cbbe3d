"""Adam whose step is one fused kernel and next to no Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class DirectAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)` with the same arithmetic and the same saved state.

    On networks of this size torch's own step spends as long in bookkeeping (profiling, grouping by
    device, checks for capture, one addition per step counter) as in the kernel. This one calls the
    kernel directly and counts all steps with one addition. Both give the same bits; a test holds
    them together. Hooks on steps are called as torch calls them.

    Args:
        decoupled: Shrink the weights directly (AdamW) instead of adding the decay to the gradient.
    """

    def __init__(self, params: Any, *, decoupled: bool = False, **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)
        self._kernel: Callable[..., None] = torch._fused_adamw_ if decoupled else torch._fused_adam_
        # Group index -> its step counters, and the vector that they are elements of.
        self._counters: dict[int, tuple[list[Tensor], Tensor]] = {}

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step with the gradients in `.grad`; closures are not supported."""
        assert closure is None
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        ):
            _hooked_step(self)
        else:
            self._step()

    step.hooked = True  # type: ignore[attr-defined]  # keeps torch from wrapping it once more

    @torch.no_grad()
    def _step(self) -> None:
        for index, group in enumerate(self.param_groups):
            lists: tuple[list[Tensor], ...] = ([], [], [], [], [])
            parameters, gradients, first, second, steps = lists
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter] or self._start(parameter)
                parameters.append(parameter)
                gradients.append(gradient)
                first.append(state["exp_avg"])
                second.append(state["exp_avg_sq"])
                steps.append(state["step"])
            if not parameters:
                continue
            self._kernel(
                parameters,
                gradients,
                first,
                second,
                [],
                self._count(index, parameters, steps),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _count(self, index: int, parameters: Sequence[Tensor], steps: list[Tensor]) -> list[Tensor]:
        """Add 1 to the step counters of a group and return them.

        They stay separate 0-dim tensors in the state, but share memory. Counters that somebody
        has put in their place (a loaded state, a forgotten parameter) are joined again.
        """
        views, vector = self._counters.get(index, ([], None))
        if vector is None or len(views) != len(steps) or not all(map(operator.is_, views, steps)):
            vector = torch.stack(steps)
            views = list(vector.unbind())
            self._counters[index] = views, vector
            for parameter, view in zip(parameters, views, strict=True):
                self.state[parameter]["step"] = view
        vector.add_(1.0)
        return views

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _any_step(optimizer: DirectAdam) -> None:
    optimizer._step()  # that of a subclass, too


_hooked_step = torch.optim.Optimizer.profile_hook_step(_any_step)
