"""Which changes of the world the loop has yet to act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class WorldChanges:
    """Changes that call for a pinned checkpoint, and those that nobody has announced yet.

    A world is news once: where environments enter it one by one, with the first of them, and where
    values drift, as the next interval begins.

    Args:
        regime: (N,) present world of every environment.

    Attributes:
        switched: A switch since the last checkpoint.
        unannounced: A new world of which the agent could be told.
    """

    def __init__(self, regime: np.ndarray) -> None:
        self.switched = self.unannounced = False
        self._newest = int(regime.max())

    def notice(self, events: Sequence[Mapping[str, Any]], regime: np.ndarray) -> None:
        """Take in the events of a step and the worlds after it, (N,)."""
        changes = [event for event in events if event["event"] in ("switch", "drift")]
        if not changes:
            return
        switches = [event for event in changes if event["event"] == "switch"]
        newest = int(regime.max())
        if newest > self._newest or any(event["env_index"] is None for event in switches):
            # Followers into the same world are no news: each would pin one more checkpoint.
            self.switched |= bool(switches)
            self._newest, self.unannounced = newest, True

    def state_dict(self) -> dict[str, bool]:
        """For exact resume."""
        # The second name came later; states without it must keep their hashes.
        return {
            "switched": self.switched,
            **({"unannounced": True} if self.unannounced else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any], regime: np.ndarray) -> None:
        """Restore; `regime` is that of the restored environments."""
        self.switched, self.unannounced = bool(state["switched"]), "unannounced" in state
        self._newest = int(regime.max())
