"""SAC's gradient step as one CUDA graph: captured once, replayed, with the same results.

On small networks a GPU spends its time waiting for the next kernel to be launched. A captured step
is launched as a whole. What a graph cannot hold stays outside: sampling (its results are copied
into fixed buffers), all counting on the host, and the rare steps in which a unit is replaced,
which run eagerly from the first to the last operation.

The rules of capture (torch.cuda.graphs): inputs in fixed memory, a few eager steps on a side
stream first, gradients allocated inside the capture, an optimizer that reads nothing off the
device. The warm-up steps and the captured one are steps of the training; none is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.replay import Batch
from agents.sac_steps import SACSteps
from agents.update import Update
from plasticity.optimizers.direct_adam import DirectAdam

WARM_UP_STEPS = 3


class Graph(Protocol):
    """What runs a step: a CUDA graph, or something that behaves like one."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Run the work eagerly where a capture will follow."""
        ...

    def capture(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work: its host code runs, its kernels do not; returns their future results."""
        ...

    def replay(self) -> None:
        """Run the recorded kernels, and no host code."""
        ...


class CudaGraph:
    """A CUDA graph."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Run the work on a side stream, as capture will."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = work()
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def capture(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work.

        Raises:
            RuntimeError: Something in it cannot be captured.
        """
        try:
            with torch.cuda.graph(self._graph):
                return work()
        except RuntimeError as error:
            raise RuntimeError(
                f"the gradient step could not be captured in a CUDA graph ({error}); set "
                "agent.capture=off"
            ) from error

    def replay(self) -> None:
        """Run the recorded kernels."""
        self._graph.replay()


@runtime_checkable
class Capturable(Protocol):
    """A method whose usual step has a fixed shape and whose rare one the host foresees."""

    @property
    def has_fixed_shape(self) -> bool: ...

    def is_due_next(self) -> bool: ...

    def replace_due(self, optimizer: torch.optim.Optimizer) -> None: ...


def obstacle(updates: Mapping[str, Update]) -> str | None:
    """Why gradient steps cannot be captured, None if they can.

    Args:
        updates: Of actor and critics.
    """
    for update in updates.values():
        if type(update.optimizer) is not DirectAdam:
            return f"the optimizer {type(update.optimizer).__name__} counts on the host"
        for name, method in update.methods.items():
            if method.active and not (isinstance(method, Capturable) and method.has_fixed_shape):
                return f"method {name} may do something else at every step"
    return None


class CapturedSACSteps(SACSteps):
    """Gradient steps of which all but the rare ones are replays of one graph.

    Args:
        make_graph: Makes an empty graph.
        arguments: What `SACSteps` takes. Its updates must read nothing off the device
            (`UncheckedUpdate`), and `obstacle` must have found nothing.
    """

    def __init__(self, make_graph: Callable[[], Graph], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._make_graph = make_graph
        self._inputs: tuple[Batch, Tensor, Tensor] | None = None
        self.forget()

    def forget(self) -> None:
        """Capture anew, after a warm-up: call whenever tensors may have been replaced."""
        self._graph: Graph = self._make_graph()
        self._statistics: Tensor | None = None
        self._num_warm = 0

    def step(self, batch: Batch, noise: Tensor, next_noise: Tensor) -> Tensor:
        """Make one gradient step; see `SACSteps.step`. The result is overwritten by the next."""
        self._copy_in(batch, noise, next_noise)
        if self._must_be_eager():
            return self._eager_step()
        if self._num_warm < WARM_UP_STEPS:
            self._num_warm += 1
            return self._graph.warm_up(self._eager_step)
        if self._statistics is None:
            self._statistics = self._graph.capture(self._eager_step)
        else:
            self._count_step()
        self._graph.replay()
        return self._statistics

    def _eager_step(self) -> Tensor:
        assert self._inputs is not None
        return super().step(*self._inputs)

    def _copy_in(self, batch: Batch, noise: Tensor, next_noise: Tensor) -> None:
        """Put the inputs of a step where the graph reads them."""
        if self._inputs is None:
            copied: dict[str, Any] = {name: _clone(getattr(batch, name)) for name in _FIELDS}
            self._inputs = Batch(**copied), noise.clone(), next_noise.clone()
            return
        fixed, fixed_noise, fixed_next_noise = self._inputs
        pairs = [(getattr(fixed, name), getattr(batch, name)) for name in _FIELDS]
        pairs += [(fixed_noise, noise), (fixed_next_noise, next_noise)]
        pairs = [(to, value) for to, value in pairs if to is not None]
        torch._foreach_copy_([to for to, _ in pairs], [value for _, value in pairs])

    def _must_be_eager(self) -> bool:
        """Whether the host foresees an edit of this step, or somebody watches it."""
        return any(
            update.observer is not None
            or any(method.active and method.is_due_next() for method in _methods(update))
            for update in self._updates.values()
        )

    def _count_step(self) -> None:
        """Do what the host does in an eager step; nothing is due, so no kernel is launched."""
        for update in self._updates.values():
            update.num_steps += 1
            for method in _methods(update):
                if method.active:
                    method.replace_due(update.optimizer)


def _methods(update: Update) -> list[Any]:
    return list(update.methods.values())


def _clone(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()


_FIELDS = [field.name for field in fields(Batch)]
