"""A replay that holds an equal share of everything seen, and the choice between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from agents.base import Transition
from agents.parts import Parts
from agents.replay import Batch, Columns, Replay
from agents.sac_config import Config

NUM_NEWEST = 1_000  # what diagnostics look at


class Reservoir(Replay):
    """An equal share of all transitions ever seen.

    Once it is full, every new transition takes the place of a random stored one with probability
    capacity / seen, or is lost. `last` therefore cannot come from the rows: the newest transitions
    are kept beside them.

    Source: Vitter 1985, ACM Transactions on Mathematical Software 11(1), algorithm R.

    Args:
        capacity: Transitions to keep.
        columns: What a row holds.
        device: Where the rows live.
        generator: CPU stream that chooses places.
        num_newest: Newest transitions kept beside them.

    Attributes:
        num_seen: Transitions so far.
    """

    def __init__(
        self,
        capacity: int,
        columns: Columns,
        device: torch.device,
        generator: torch.Generator,
        num_newest: int,
    ) -> None:
        super().__init__(capacity, columns, device)
        self._newest = Replay(min(num_newest, capacity), columns, device)
        self._generator = generator
        self.num_seen = 0

    @property
    def streams(self) -> tuple[torch.Generator, ...]:
        """The one that chooses places."""
        return (self._generator,)

    def add(self, transition: Transition) -> None:
        """Take in one vector step; each of its transitions is kept with equal chance."""
        self._newest.add(transition)
        rows = self._pack(transition)
        for row in rows:
            place = self.num_seen
            self.num_seen += 1
            if self.size < self.capacity:
                self._resize(self.size + 1)
            else:
                place = int(torch.randint(self.num_seen, (), generator=self._generator))
            if place < self.capacity:
                self._rows[place].copy_(row)
        self.position = self.size % self.capacity

    def last(self, count: int) -> Batch:
        """The newest transitions, oldest first, copied; at most `num_newest`."""
        return self._newest.last(count)

    def keep_last(self, count: int) -> None:
        """Refuse: a reservoir has no order.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a reservoir forgets nothing; choose agent.buffer_on_switch=keep_last_n")

    def state_dict(self) -> dict[str, Any]:
        """Rows, the newest transitions, the count and the stream."""
        return {
            **super().state_dict(),
            "newest": self._newest.state_dict(),
            "num_seen": self.num_seen,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The rows are of another shape, or of another capacity.
        """
        super().load_state_dict(state)
        self._newest.load_state_dict(state["newest"])
        self.num_seen = int(state["num_seen"])
        self._generator.set_state(state["generator"])


def replay_of(config: Config, parts: Parts, device: torch.device) -> Replay:
    """Build the replay of a run: a ring, or a reservoir where `buffer_on_switch` says so."""
    columns = Columns(parts.observation_dim, parts.action_dim, parts.context.width)
    if config.buffer_on_switch != "reservoir":
        balanced = config.task_balanced_batches != "off"
        layout = (parts.num_envs, parts.num_tasks) if balanced else None
        return Replay(config.replay_size, columns, device, layout)
    stream, num_newest = parts.streams.torch("reservoir"), max(NUM_NEWEST, config.batch_size)
    return Reservoir(config.replay_size, columns, device, stream, num_newest)
