"""Adam whose step counters can restart for single rows and columns of a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_SHARED = "shared"


class PerUnitAdam(torch.optim.Optimizer):
    """Adam with one step counter per row and one per column.

    The step of element (j, i) is the smaller of the counters of row j and column i, so entries
    whose row or column restarted behave as in a new optimizer, and all others as if nothing had
    happened. Without any restart it equals `torch.optim.Adam` (or `AdamW`).

    Counters are stored as the step at which they last restarted, so that nothing needs to be
    counted in the common case.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        eps: Added to the denominator.
        weight_decay: Strength of the decay.
        decoupled_weight_decay: Decay the weights directly instead of through the gradient.

    Source: Kingma and Ba 2015, Algorithm 1; Loshchilov and Hutter 2019 for decoupled decay.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step on every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(parameter, parameter.grad, group)
        return loss

    def restart_entries(self, parameter: Tensor, dim: int, indices: Tensor) -> None:
        """Restart the step counters of some rows (dim 0) or columns (dim 1)."""
        state = self.state[parameter]
        counters = state["row_start" if dim == 0 else "column_start"]
        counters.index_fill_(0, indices, state["step"])
        state["any_restart"] = True

    def steps(self, parameter: Tensor) -> Tensor:
        """Step of every element, int64, in the shape of the parameter."""
        state = self.state[parameter]
        since = state["step"] - self._start(parameter, state)
        return since.expand(parameter.shape)

    def shared_state(self) -> dict[str, Tensor]:
        """State that belongs to no single parameter; saved with the first one that has state."""
        return {}

    def load_shared_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `shared_state` returned; {} where nothing was saved."""

    def state_dict(self) -> dict[str, Any]:
        """Return all state; its tensors are copies."""
        packed = super().state_dict()
        packed["state"] = {key: _copy(value) for key, value in packed["state"].items()}
        shared = _copy(self.shared_state())
        if shared:  # a reset may have left no parameter with state
            first = min(packed["state"], default=0)
            packed["state"].setdefault(first, {})[_SHARED] = shared
        return packed

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; nothing is shared with it afterwards."""
        super().load_state_dict(dict(state_dict))
        # The base class would turn the integer counters into the dtype of the parameter.
        parameters = [p for group in self.param_groups for p in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for parameter, key in zip(parameters, keys, strict=True):
            if key not in state_dict["state"]:
                continue
            entry = {k: v for k, v in state_dict["state"][key].items() if k != _SHARED}
            if entry:
                self.state[parameter] = _copy(entry, parameter.device)
            else:
                self.state.pop(parameter, None)
        shared = [entry[_SHARED] for entry in state_dict["state"].values() if _SHARED in entry]
        self.load_shared_state(_copy(shared[0]) if shared else {})

    def _step_parameter(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        lr = group["lr"]
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                parameter.mul_(1.0 - lr * group["weight_decay"])
            else:
                grad = grad.add(parameter, alpha=group["weight_decay"])
        numerator, denominator, correction = self._direction(parameter, grad, group)
        parameter.addcdiv_(numerator, denominator, value=-lr / correction)

    def _direction(
        self, parameter: Tensor, grad: Tensor, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor, float]:
        """Count a step and fold a gradient into the moments.

        Returns:
            Numerator, denominator and correction: the step of Adam is
            -lr numerator / (denominator correction). The first may be the moment itself.
        """
        state, (beta1, beta2) = self._state_of(parameter), group["betas"]
        state["step"] += 1
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, 1.0 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        if not state["any_restart"]:
            correction1 = 1.0 - beta1 ** state["step"]
            correction2 = 1.0 - beta2 ** state["step"]
            denominator = (second.sqrt() / math.sqrt(correction2)).add_(group["eps"])
            return first, denominator, correction1
        steps = (state["step"] - self._start(parameter, state)).double()
        correction1 = (1.0 - beta1**steps).to(first.dtype)
        correction2 = (1.0 - beta2**steps).sqrt().to(first.dtype)
        denominator = (second.sqrt() / correction2).add_(group["eps"])
        return first / correction1, denominator, 1.0

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state.update(self._fresh(parameter))
        return state

    def _fresh(self, parameter: Tensor) -> dict[str, Any]:
        """State of a parameter that has not been stepped yet."""

        def counters(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int64, device=parameter.device)

        state = {
            "step": 0,
            "any_restart": False,
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "row_start": counters(parameter.shape[0] if parameter.dim() else 1),
        }
        if parameter.dim() > 1:
            state["column_start"] = counters(parameter.shape[1])
        return state

    @staticmethod
    def _start(parameter: Tensor, state: Mapping[str, Any]) -> Tensor:
        """Step at which every element last restarted, broadcastable to the parameter."""
        if parameter.dim() == 0:
            return state["row_start"].reshape(())
        rows = state["row_start"].view(-1, *(1,) * (parameter.dim() - 1))
        if parameter.dim() == 1:
            return rows
        columns = state["column_start"].view(1, -1, *(1,) * (parameter.dim() - 2))
        return torch.maximum(rows, columns)


def _copy(state: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    return {
        name: value.detach().clone().to(device or value.device)
        if isinstance(value, Tensor)
        else value
        for name, value in state.items()
    }
