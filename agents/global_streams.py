"""Lends an agent the process-wide generators of torch and NumPy, from which foreign code draws."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from networks.streams import Streams

_MT19937 = "MT19937"


class GlobalStreams:
    """Private positions in the process-wide generators.

    stable-baselines3 samples from torch's and NumPy's global generators. Inside `lent()` these
    stand where this object left off; outside they stand where the rest of the process left them,
    so neither disturbs the other and a checkpoint can hold the position.

    Args:
        streams: Where the first positions come from.
        name: Name of the stream.
    """

    def __init__(self, streams: Streams, name: str) -> None:
        self._torch = streams.torch(f"{name}/torch").get_state()
        seed = streams.sequence(f"{name}/numpy").generate_state(624, np.uint32)
        self._numpy: tuple[Any, ...] = (_MT19937, seed, 624, 0, 0.0)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Put the private positions in place, and the process's own back afterwards."""
        outer_torch, outer_numpy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)  # noqa: NPY002 (what SB3 shuffles with)
        try:
            yield
        finally:
            self._torch = torch.get_rng_state()
            self._numpy = tuple(np.random.get_state())  # noqa: NPY002
            torch.set_rng_state(outer_torch)
            np.random.set_state(outer_numpy)  # noqa: NPY002

    def state_dict(self) -> dict[str, Any]:
        """Both positions, copied."""
        _, key, position, has_gauss, cached_gaussian = self._numpy
        return {
            "torch": self._torch.clone(),
            "numpy_key": np.array(key),
            "numpy_position": int(position),
            "numpy_has_gauss": int(has_gauss),
            "numpy_cached_gaussian": float(cached_gaussian),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._torch = state["torch"].clone()
        self._numpy = (
            _MT19937,
            np.array(state["numpy_key"]),
            int(state["numpy_position"]),
            int(state["numpy_has_gauss"]),
            float(state["numpy_cached_gaussian"]),
        )
