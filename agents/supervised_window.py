"""The last examples of a stream, on which diagnostics are measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CAPACITY = 1_000


class Window:
    """Keeps at least the last 1,000 examples, or all while there are fewer.

    Args:
        input_dim: Length of an input.
        context_dim: Length of a context, 0 for none.
    """

    def __init__(self, input_dim: int, context_dim: int) -> None:
        self._widths = input_dim, context_dim
        self._blocks: deque[tuple[Tensor, Tensor | None]] = deque()
        self._num_rows = 0

    def append(self, inputs: Tensor, context: Tensor | None) -> None:
        """Add rows; whole blocks that are no longer needed go."""
        self._blocks.append((inputs, context))
        self._num_rows += len(inputs)
        while self._num_rows - len(self._blocks[0][0]) >= CAPACITY:
            self._num_rows -= len(self._blocks.popleft()[0])

    def last(self, size: int) -> tuple[Tensor, Tensor | None]:
        """The newest `size` rows in order, or all there are: inputs, and contexts or None."""
        inputs, context = self._all()
        return inputs[-size:], None if context is None else context[-size:]

    def _all(self) -> tuple[Tensor, Tensor | None]:
        if not self._blocks:
            width, context_dim = self._widths
            return torch.zeros(0, width), torch.zeros(0, context_dim) if context_dim else None
        inputs = torch.cat([inputs for inputs, _ in self._blocks])
        contexts = [context for _, context in self._blocks if context is not None]
        return inputs, torch.cat(contexts) if contexts else None

    def state_dict(self) -> dict[str, Any]:
        """All rows kept, and how they came."""
        inputs, context = self._all()
        state: dict[str, Any] = {
            "inputs": inputs,
            "lengths": torch.tensor([len(rows) for rows, _ in self._blocks], dtype=torch.int64),
        }
        return state if context is None else {**state, "context": context}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        lengths = torch.as_tensor(state["lengths"]).tolist()
        inputs = torch.as_tensor(state["inputs"]).clone().split(lengths)
        contexts: list[Tensor | None] = [None] * len(lengths)
        if "context" in state:
            contexts = list(torch.as_tensor(state["context"]).clone().split(lengths))
        self._blocks = deque(zip(inputs, contexts, strict=True))
        self._num_rows = sum(lengths)
