"""Replay of past transitions: a ring of rows in one matrix, allocated and touched once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Transition
from agents.memory_limits import available_bytes


class Columns:
    """Which columns of a row hold what; a row is one transition in float32.

    Args:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        context_dim: Size of the context, 0 for none.
    """

    def __init__(self, observation_dim: int, action_dim: int, context_dim: int) -> None:
        sizes = {
            "observation": observation_dim,
            "action": action_dim,
            "reward": 1,
            "next_observation": observation_dim,
            "terminated": 1,
            "truncated": 1,
            "context": context_dim,
            "next_context": context_dim,
            "regime": 1,
        }
        ends = list(itertools.accumulate(sizes.values()))
        self.width = ends[-1]
        self.slices = {
            name: slice(end - size, end)
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
        self.scalars = ("reward", "terminated", "truncated", "regime")


@dataclass(frozen=True)
class Batch:
    """Transitions sampled from a replay; all float32, one row each.

    Attributes:
        observation: (B, obs).
        action: (B, act).
        reward: (B,).
        next_observation: (B, obs) true successor.
        terminated: (B,) 1 where the episode ended in a state of no further value.
        truncated: (B,) 1 where it was cut.
        context: (B, C), or None without a context.
        next_context: (B, C), or None.
        regime: (B,) index of the world or task; exact up to 2^24.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    truncated: Tensor
    context: Tensor | None
    next_context: Tensor | None
    regime: Tensor


class Replay:
    """The last `capacity` transitions.

    One row per transition, so that storing a vector step is one copy and sampling a minibatch
    one gather. The memory is written at construction: a run that does not fit is refused at the
    start instead of being killed in the middle.

    Stored rows are always 0 ... size - 1; the next one goes to `position`. `size` also lives on
    the device, so that drawing indices needs nothing from the host.

    Args:
        capacity: Transitions to keep, >= 1.
        columns: What a row holds.
        device: Where the rows live.
        layout: Environments of a vector step and tasks that they have side by side, where batches
            are balanced; None where rows are rows.

    Attributes:
        size: Transitions stored.
        position: Row that the next transition is written to.

    Raises:
        ValueError: The capacity is not positive, or the rows do not fit into memory.
    """

    def __init__(
        self,
        capacity: int,
        columns: Columns,
        device: torch.device,
        layout: tuple[int, int] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"the replay capacity is {capacity}; give at least 1 transition")
        self._layout = layout
        self.capacity, self.columns, self.device = capacity, columns, device
        check_memory(capacity, columns.width, device)
        self._rows = torch.empty(capacity, columns.width, device=device).fill_(0.0)
        self._size = torch.zeros((), dtype=torch.float64, device=device)
        self.size = 0
        self.position = 0

    @property
    def streams(self) -> tuple[torch.Generator, ...]:
        """Random streams that choose places; none where rows go one after the other."""
        return ()

    @property
    def num_bytes(self) -> int:
        """Memory taken by the rows."""
        return self._rows.nbytes

    def add(self, transition: Transition) -> None:
        """Store one vector step of any number of environments; the oldest rows make room.

        Raises:
            ValueError: An entry is not as wide as the replay was built for; one column would
                otherwise be repeated in silence.
        """
        rows = self._pack(transition)[-self.capacity :]
        count = len(rows)
        first = min(count, self.capacity - self.position)
        self._rows[self.position : self.position + first].copy_(rows[:first])
        if first < count:
            self._rows[: count - first].copy_(rows[first:])
        self.position = (self.position + count) % self.capacity
        self._resize(min(self.capacity, self.size + count))

    def _pack(self, transition: Transition) -> Tensor:
        packed = np.empty((len(transition.reward), self.columns.width), dtype=np.float32)
        for name, columns in self.columns.slices.items():
            value = getattr(transition, name)
            if name in self.columns.scalars:
                value = value[:, None]
            if value.shape[1] != columns.stop - columns.start:
                raise ValueError(
                    f"{name} has {value.shape[1]} entries per environment, but this agent was "
                    f"built for {columns.stop - columns.start}"
                )
            packed[:, columns] = value
        return torch.from_numpy(packed)

    def _resize(self, size: int) -> None:
        if size != self.size:
            self.size = size
            self._size.fill_(float(size))

    # Sampling ------------------------------------------------------------------------------

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw indices of stored rows uniformly, with replacement; see `rows`.

        Args:
            batch_size: Rows to draw.
            generator: Random stream on the device of the replay.

        Returns:
            int64 (batch_size,).
        """
        # 53 random bits: a float32 would miss rows of a large replay.
        uniform = torch.rand(
            batch_size, generator=generator, dtype=torch.float64, device=self.device
        )
        return uniform.mul_(self._size).long()

    def draw_balanced(
        self, batch_size: int, num_envs: int, shared: bool, generator: torch.Generator
    ) -> Tensor:
        """Draw indices with equally many rows of every environment.

        Every environment is one task where environments have tasks of their own. Needs vector
        steps of constant width that divides the capacity.

        Args:
            batch_size: Rows to draw, a multiple of `num_envs`.
            num_envs: Width of a vector step.
            shared: Take whole vector steps instead of drawing for every environment.
            generator: Random stream on the device of the replay.

        Returns:
            int64 (batch_size,), environment by environment inside every drawn vector step.
        """
        draws = (batch_size // num_envs, 1 if shared else num_envs)
        uniform = torch.rand(draws, generator=generator, dtype=torch.float64, device=self.device)
        steps = uniform.mul_(self._size / num_envs).long()
        offsets = torch.arange(num_envs, device=self.device)
        return (steps * num_envs + offsets).flatten()

    def rows(self, indices: Tensor | slice) -> Batch:
        """Read rows: a gather for an index tensor, a view for a slice."""
        rows = self._rows[indices] if isinstance(indices, slice) else self._rows[indices.view(-1)]
        fields: dict[str, Any] = {
            name: rows[:, columns] for name, columns in self.columns.slices.items()
        }
        for name in self.columns.scalars:
            fields[name] = fields[name].squeeze(1)
        for name in ("context", "next_context"):
            if not fields[name].shape[1]:
                fields[name] = None
        return Batch(**fields)

    def last(self, count: int) -> Batch:
        """The newest transitions, oldest first, copied."""
        count = min(count, self.size)
        indices = torch.arange(self.position - count, self.position, device=self.device)
        return self.rows(indices.remainder(self.capacity))

    # Forgetting ----------------------------------------------------------------------------

    def keep_last(self, count: int) -> None:
        """Forget all but the newest `count` transitions; 0 forgets everything."""
        if count >= self.size:
            return
        kept = torch.arange(self.position - count, self.position, device=self.device)
        # The gather is a copy, so source and destination may overlap.
        self._rows[:count] = self._rows[kept.remainder(self.capacity)]
        self.position = count
        self._resize(count)

    # State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Copies of the filled rows, in their places, and the position."""
        state: dict[str, Any] = {"size": self.size, "position": self.position}
        if self.size:
            state["rows"] = self._rows[: self.size].to("cpu", copy=True)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The rows are of another shape, of another capacity, or of other vector steps
                than balanced batches need.
        """
        size, position = int(state["size"]), int(state["position"])
        rows = state.get("rows")
        shape = (0, self.columns.width) if rows is None else tuple(rows.shape)
        if shape != (size, self.columns.width):
            raise ValueError(
                f"the saved replay holds rows of shape {shape}, this run needs "
                f"{(size, self.columns.width)}; observations, actions and context must agree"
            )
        if size > self.capacity or (size < self.capacity and position != size):
            raise ValueError(
                f"the saved replay of {size:,} transitions, written up to row {position:,}, is not "
                f"of a capacity of {self.capacity:,}; leave agent.replay_size as it was"
            )
        if self._layout is not None:
            self._check_layout(rows, size, position)
        if rows is not None:
            self._rows[:size].copy_(rows)
        self.position = position
        self._resize(size)

    def _check_layout(self, rows: Tensor | None, size: int, position: int) -> None:
        """Refuse rows that `draw_balanced` would take for those of other environments.

        Raises:
            ValueError: They are no vector steps of this run, or these do not hold all tasks.
        """
        assert self._layout is not None
        num_envs, num_tasks = self._layout
        fits = size % num_envs == 0 and position % num_envs == 0
        if fits and rows is not None and num_tasks > 1:
            regimes = rows[:, self.columns.slices["regime"]].reshape(-1, num_envs).sort(1).values
            present = regimes[0].unique()
            fits = len(present) == num_tasks and bool(
                (regimes == present.repeat_interleave(num_envs // num_tasks)).all()
            )
        if not fits:
            raise ValueError(
                f"the saved replay does not consist of vector steps of {num_envs} environments in "
                f"{num_tasks} tasks, which balanced batches are drawn from; give both runs equally "
                "many environments, set agent.task_balanced_batches=off, or add replay to "
                "fresh_parts"
            )


def check_memory(capacity: int, width: int, device: torch.device) -> None:
    """Refuse a replay that would not fit, now or when it is full and saved.

    Raises:
        ValueError: It needs more bytes than there are.
    """
    row = width * torch.finfo(torch.float32).bits // 8
    host = torch.device("cpu")
    # A checkpoint that is written or read holds all rows in memory of the host once more.
    for place, copies in ((device, 2 if device == host else 1), (host, 1)):
        available = available_bytes(place)
        if available is not None and capacity * row * copies > available:
            saved = ", the copy for a checkpoint included" if place == host else ""
            raise ValueError(
                f"a replay of {capacity:,} transitions needs {capacity * row * copies:,} bytes on "
                f"{place}{saved}, but only {available:,} are available; set agent.replay_size to "
                f"at most {available // (row * copies):,}"
            )
