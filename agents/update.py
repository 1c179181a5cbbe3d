"""One gradient step of one network: the only place where parameters change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from networks.heads import Network
from networks.redraw import redraw
from networks.units import Recording, Touched
from plasticity.method import Method
from plasticity.optimizer_state import forget_parameters as forget_parameters


class NumericalFailure(RuntimeError):
    """A loss, gradient or weight stopped being finite.

    Attributes:
        network: Name of the network.
        quantity: What was not finite.
        batch: Tensors of the gradient step that failed, by name, where somebody has added them.
    """

    batch: Mapping[str, Tensor | None] | None = None

    def __init__(self, network: str, quantity: str) -> None:
        super().__init__(
            f"the {quantity} of the {network} network is not finite; the run stops here. Lower "
            "the learning rate, or inspect the crash folder of the run"
        )
        self.network = network
        self.quantity = quantity


class StepObserver(Protocol):
    """Somebody who measures gradient steps and changes nothing."""

    def before_step(self) -> None:
        """See complete gradients, not clipped yet, and the weights that they belong to."""

    def after_step(self) -> None:
        """See the weights after the optimizer, before methods edit them."""


class Update:
    """Optimizer, methods and checks of one network.

    Every gradient step of every agent goes through `step` (or through `apply` once gradients are
    in place), in the order: penalties, backward, `after_backward`, clipping, optimizer step,
    `after_step`. Whatever a method rewrites, the other methods are told at once.

    Args:
        name: Name of the network, for messages and logs.
        network: The trained network.
        optimizer: Its optimizer.
        methods: Methods in the order of the configuration, method id -> instance.
        max_grad_norm: Clip the global gradient norm to this, or None.
        streams: Random streams that the optimizer and the methods were given.

    Attributes:
        observer: Told of every gradient step while somebody measures, else None.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        optimizer: torch.optim.Optimizer,
        methods: Mapping[str, Method],
        max_grad_norm: float | None = None,
        streams: Sequence[torch.Generator] = (),
    ) -> None:
        self.name, self.streams = name, tuple(streams)
        self.network = network
        self.optimizer = optimizer
        self.methods = dict(methods)
        self.max_grad_norm = max_grad_norm
        self.num_steps = 0
        self.observer: StepObserver | None = None
        self._active = {key: method for key, method in methods.items() if method.active}
        wanted = any("activations" in method.needs for method in self._active.values())
        self._see_gradients = [m for m in self._active.values() if "gradients" in m.needs]
        self._see_contexts = [m for m in self._active.values() if "contexts" in m.needs]
        self._recording = (
            Recording(
                network.unit_groups(),
                gradients=self.needs_output_gradients,
                torso=network.torso if self._see_contexts else None,
            )
            if wanted or self._see_gradients or self._see_contexts
            else None
        )
        # Frozen ones, too: methods may change which parameters are trained.
        self._parameters = list(network.parameters())
        # Of the last step; numbers where a checkpoint has brought them back.
        self._penalties: dict[str, Tensor | float | None] = {
            key: None for key, method in self._active.items() if method.adds_penalty
        }
        self._target_edits: list[Touched] = []
        self._restarted = False

    @property
    def needs_activations(self) -> bool:
        """Whether a method consumes the activations of the training pass."""
        return self._recording is not None

    @property
    def needs_output_gradients(self) -> bool:
        """Whether a method consumes the derivative of the loss by the activations."""
        return bool(self._see_gradients)

    @property
    def has_penalties(self) -> bool:
        """Whether a method may add a penalty, which needs a loss to be added to."""
        return bool(self._penalties)

    @property
    def needs_autograd(self) -> bool:
        """Whether hand-written passes, which call `apply` alone, would leave a method without.

        Penalties, derivatives by hidden units and contexts are handed on in `backward`.
        """
        return self.has_penalties or self.needs_output_gradients or bool(self._see_contexts)

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
        self.backward(loss)
        self.apply(self.activations())
        return loss.detach()

    def backward(self, loss: Tensor) -> None:
        """Make the first half of `step`: gradients of the loss and all penalties.

        Args:
            loss: As for `step`.

        Raises:
            NumericalFailure: The loss is not finite. No parameter was changed.
        """
        self.check_loss(loss)
        total = loss
        for key in self._penalties:
            penalty = self._active[key].penalty(loss.detach())
            self._penalties[key] = None if penalty is None else penalty.detach()
            if penalty is not None:
                total = total + penalty
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self._recording is not None:
            for method in self._see_gradients:
                method.see_output_gradients(self._recording.gradients)
            for method in self._see_contexts:
                assert self._recording.contexts is not None
                method.see_contexts(self._recording.contexts)

    def activations(self) -> Mapping[str, Tensor]:
        """What `recording()` has recorded last, by unit-group name."""
        return {} if self._recording is None else self._recording.activations

    def check_loss(self, loss: Tensor | float) -> None:
        """Refuse a loss that is not finite.

        Raises:
            NumericalFailure: It is NaN or infinite.
        """
        if not math.isfinite(loss.item() if isinstance(loss, Tensor) else loss):
            raise NumericalFailure(self.name, "loss")

    def apply(self, activations: Mapping[str, Tensor]) -> None:
        """Finish a gradient step whose gradients are already in `.grad`.

        Args:
            activations: Unit-group name -> (B, units) of the training pass.
        """
        self.see_gradients()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        self.finish(activations)

    def see_gradients(self) -> list[nn.Parameter]:
        """Show complete gradients, which are in `.grad`, to methods; returns all parameters.

        Where networks are clipped together, `clip_grad_norm_` with the parameters of all of them
        comes next, then `finish` of each.
        """
        for method in self._active.values():
            method.after_backward()
        if self.observer is not None:
            self.observer.before_step()
        return self._parameters

    def finish(self, activations: Mapping[str, Tensor]) -> None:
        """Make all of `step` that comes after clipping.

        Args:
            activations: Unit-group name -> (B, units) of the training pass.
        """
        self.optimizer.step()
        if self.observer is not None:
            self.observer.after_step()
        self.num_steps += 1
        self._target_edits = []
        for method in self._active.values():
            method.after_step(activations, self.optimizer)
            self._spread_edits(method)

    def _spread_edits(self, method: Method) -> None:
        """Tell the other methods, and keep for target networks, what a method has rewritten."""
        touched = method.pop_touched()
        if not touched:
            return
        renewed = [entry for entry in touched if entry.renewed]
        shifted = [entry for entry in touched if not entry.renewed]
        for other in self._active.values():
            if other is not method:
                # Means are absorbed before rows are drawn, whose biases have kept none of it.
                if shifted:
                    other.notice_edits(shifted, False)
                if renewed:
                    other.notice_edits(renewed, method.renews_entries)
        if method.mirrors_targets:
            self._target_edits += touched
        self._restarted |= method.restarts_network

    def pop_target_edits(self) -> list[Touched]:
        """Entries rewritten in the last gradient step or task change that targets are to copy."""
        touched, self._target_edits = self._target_edits, []
        return touched

    def pop_restarted(self) -> bool:
        """Whether a method has started the network anew since the last call."""
        restarted, self._restarted = self._restarted, False
        return restarted

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
        return [name for name, method in self._active.items() if method.uses_task_boundary]

    def new_objective(self) -> None:
        """Tell optimizers that listen (Adam-Rel) that the loss is about to become another one."""
        listen = getattr(self.optimizer, "new_objective", None)
        if listen is not None:
            listen()

    def on_task_change(self, task: int) -> None:
        """Announce a task change to the methods that declare that they use it."""
        self._target_edits = []
        for method in self._active.values():
            if method.uses_task_boundary:
                method.on_task_change(task, self.optimizer)
                self._spread_edits(method)

    def tell_methods(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Tell methods what the agent itself has rewritten; see `Method.notice_edits`."""
        for method in self._active.values():
            method.notice_edits(touched, renewed)

    @torch.no_grad()
    def renew(self, generator: torch.Generator) -> None:
        """Draw the network anew, as no gradient step and no method does.

        The optimizer forgets, methods are told, and target networks are to copy it.

        Args:
            generator: Source of the draws.
        """
        touched = redraw(self.network, generator)
        forget_parameters(self.optimizer, [entry.parameter for entry in touched])
        self.tell_methods(touched, True)
        self._target_edits += touched

    def announcements(self) -> list[str]:
        """What the methods will do in this run, one line each."""
        lines = (method.announcement() for method in self.methods.values())
        return [line for line in lines if line]

    def log_values(self) -> dict[str, float]:
        """Scalars of all methods, named `<method>/<network>/<value>`; 0 for an absent penalty."""
        values = {
            f"{key}/{self.name}/penalty": 0.0 if penalty is None else float(penalty)
            for key, penalty in self._penalties.items()
        }
        for identifier, method in self.methods.items():
            for key, value in method.log_values().items():
                values[f"{identifier}/{self.name}/{key}"] = value
        return values

    def pop_events(self) -> list[dict[str, Any]]:
        """Events of all methods since the last call."""
        return [event for method in self.methods.values() for event in method.pop_events()]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and method state, cloned."""
        penalties = {key: float(p) for key, p in self._penalties.items() if p is not None}
        return {
            "network": clone(self.network.state_dict()),
            "optimizer_kind": type(self.optimizer).__name__,
            "optimizer": optimizer_state(self.optimizer),
            "methods": {name: clone(m.state_dict()) for name, m in self.methods.items()},
            "num_steps": self.num_steps,
            # The last row of a run may follow no update, and shows those of the one before.
            **({"penalties": penalties} if penalties else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.restore_structure(state["methods"])
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        for name, method in self.methods.items():
            method.load_state_dict(state["methods"][name])
        self.num_steps = int(state["num_steps"])
        saved = state.get("penalties", {})  # checkpoints of earlier versions have none
        self._penalties = {key: saved.get(key) for key in self._penalties}

    def restore_structure(self, states: Mapping[str, Any]) -> None:
        """Let methods freeze and register parameters as they were when `states` were saved."""
        for name, method in self._active.items():
            if name in states:
                method.restore_structure(states[name], self.optimizer)


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
    """Restore per-parameter state; the groups keep the settings they were built with.

    Raises:
        ValueError: The state is of weights of another shape.
    """
    groups = optimizer.state_dict()["param_groups"]
    entries = {int(key): clone(value) for key, value in state.items()}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if isinstance(value, Tensor) and not _belongs_to(value, parameter):
                raise ValueError(
                    f"{key} of the saved optimizer has the shape {tuple(value.shape)}, which does "
                    f"not go with a weight of {tuple(parameter.shape)}"
                )


def _belongs_to(value: Tensor, parameter: Tensor) -> bool:
    """Whether it is a number for every entry, for all, or for every index of one dimension."""
    vectors = [(size,) for size in (parameter.shape or (1,))]
    return tuple(value.shape) in [(), tuple(parameter.shape), *vectors]
