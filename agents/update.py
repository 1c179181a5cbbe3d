"""One gradient step of one network: the only place where parameters change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from networks.heads import Network
from networks.units import Recording
from plasticity.method import Method


class NumericalFailure(RuntimeError):
    """A loss, gradient or weight stopped being finite.

    Attributes:
        network: Name of the network.
        quantity: What was not finite.
    """

    def __init__(self, network: str, quantity: str) -> None:
        super().__init__(
            f"the {quantity} of the {network} network is not finite; the run stops here. Lower "
            "the learning rate, or inspect the crash folder of the run"
        )
        self.network = network
        self.quantity = quantity


class Update:
    """Optimizer, methods and checks of one network.

    Every gradient step of every agent goes through `step` (or through `apply` once gradients are
    in place), in the order: penalties, backward, `after_backward`, clipping, optimizer step,
    `after_step`.

    Args:
        name: Name of the network, for messages and logs.
        network: The trained network.
        optimizer: Its optimizer.
        methods: Methods in the order of the configuration, method id -> instance.
        max_grad_norm: Clip the global gradient norm to this, or None.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        optimizer: torch.optim.Optimizer,
        methods: Mapping[str, Method],
        max_grad_norm: float | None = None,
    ) -> None:
        self.name = name
        self.network = network
        self.optimizer = optimizer
        self.methods = dict(methods)
        self.max_grad_norm = max_grad_norm
        self.num_steps = 0
        wanted = any("activations" in method.needs for method in methods.values())
        self._recording = Recording(network.unit_groups()) if wanted else None
        self._parameters = [p for p in network.parameters() if p.requires_grad]

    @property
    def needs_activations(self) -> bool:
        """Whether a method consumes the activations of the training pass."""
        return self._recording is not None

    @property
    def has_penalties(self) -> bool:
        """Whether a method overrides `penalty`, which needs a loss to be added to."""
        return any(type(m).penalty is not Method.penalty for m in self.methods.values())

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the unit activations of the forward passes inside the block."""
        if self._recording is None:
            yield
            return
        with self._recording:
            yield

    def step(self, loss: Tensor) -> Tensor:
        """Make one gradient step.

        Args:
            loss: Scalar loss of this network, computed inside `recording()`.

        Returns:
            The detached loss without penalties.

        Raises:
            NumericalFailure: The loss is not finite. No parameter was changed.
        """
        self.check_loss(loss)
        total = loss
        for method in self.methods.values():
            penalty = method.penalty()
            if penalty is not None:
                total = total + penalty
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.apply({} if self._recording is None else self._recording.activations)
        return loss.detach()

    def check_loss(self, loss: Tensor) -> None:
        """Refuse a loss that is not finite.

        Raises:
            NumericalFailure: It is NaN or infinite.
        """
        if not math.isfinite(loss.item()):
            raise NumericalFailure(self.name, "loss")

    def apply(self, activations: Mapping[str, Tensor]) -> None:
        """Finish a gradient step whose gradients are already in `.grad`.

        Args:
            activations: Unit-group name -> (B, units) of the training pass.
        """
        for method in self.methods.values():
            method.after_backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        self.optimizer.step()
        self.num_steps += 1
        for method in self.methods.values():
            method.after_step(activations, self.optimizer)

    def check_finite(self) -> None:
        """Check all weights; called once per update phase.

        A bad gradient makes the weights, and therefore the next loss, non-finite, so the loss
        check of every step and this check of the last step together miss nothing.

        Raises:
            NumericalFailure: A weight is NaN or infinite.
        """
        total = torch.stack([p.detach().sum() for p in self._parameters]).sum()
        if not math.isfinite(total.item()):
            raise NumericalFailure(self.name, "weights")

    def methods_that_need_boundaries(self) -> list[str]:
        """Ids of methods that act at announced task changes."""
        return [name for name, method in self.methods.items() if method.uses_task_boundary]

    def on_task_change(self, task: int) -> None:
        """Announce a task change to the methods that declare that they use it."""
        for method in self.methods.values():
            if method.uses_task_boundary:
                method.on_task_change(task, self.optimizer)

    def announcements(self) -> list[str]:
        """What the methods will do in this run, one line each."""
        lines = (method.announcement() for method in self.methods.values())
        return [line for line in lines if line]

    def log_values(self) -> dict[str, float]:
        """Scalars of all methods, named `<method>/<network>/<value>`."""
        return {
            f"{identifier}/{self.name}/{key}": value
            for identifier, method in self.methods.items()
            for key, value in method.log_values().items()
        }

    def pop_events(self) -> list[dict[str, Any]]:
        """Events of all methods since the last call."""
        return [event for method in self.methods.values() for event in method.pop_events()]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and method state, cloned."""
        return {
            "network": clone(self.network.state_dict()),
            "optimizer": optimizer_state(self.optimizer),
            "methods": {name: clone(m.state_dict()) for name, m in self.methods.items()},
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        for name, method in self.methods.items():
            method.load_state_dict(state["methods"][name])
        self.num_steps = int(state["num_steps"])


def clone(state: Any) -> Any:
    """Copy a nested state so that no tensor is shared with live objects."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {str(key): clone(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [clone(value) for value in state]
    return state


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Per-parameter state of an optimizer, keyed by position; settings come from the config."""
    return {str(k): clone(v) for k, v in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore per-parameter state; the groups keep the settings they were built with."""
    groups = optimizer.state_dict()["param_groups"]
    entries = {int(key): clone(value) for key, value in state.items()}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def forget_parameters(
    optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter]
) -> None:
    """Drop the optimizer state of some parameters, as if they had just been created."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
