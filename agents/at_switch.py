"""What an agent itself begins anew at an announced switch, whatever its methods do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from agents.update import Update
from networks.streams import Streams
from plasticity.optimizer_state import forget_parameters

Choice = Literal["keep", "reset"]


@dataclass(frozen=True)
class SwitchRule:
    """Optimizers and critics at an announced switch.

    Settings of the agent and not methods, so that arms which differ in their methods cross the same
    border.

    Attributes:
        optimizer: `reset` forgets moments and step counts of all networks.
        critic: `reset` draws the critics anew; their optimizers forget, methods are told, and
            target networks follow.
        critics: Names of the networks that are critics.
        streams: Where the draws come from; every switch has a stream of its own, so that nothing
            needs to be saved.

    Source: Wolczyk et al. (2021), Continual World, arXiv 2105.10919, appendix A: optimizers are
        reset at every task, critics are not.
    """

    optimizer: Choice
    critic: Choice
    critics: Collection[str]
    streams: Streams

    @property
    def names(self) -> list[str]:
        """Settings that act at switches, as messages call them."""
        chosen = {"optimizer_on_switch": self.optimizer, "critic_on_switch": self.critic}
        return [f"agent.{name}={value}" for name, value in chosen.items() if value != "keep"]

    def apply(self, updates: Mapping[str, Update], task: int) -> None:
        """Begin anew with what is chosen.

        Args:
            updates: Of all trained networks.
            task: Number of the world that begins.
        """
        for name, update in updates.items():
            if self.critic == "reset" and name in self.critics:
                update.renew(self.streams.child(f"switch_{task}").torch(name))
            if self.optimizer == "reset":
                forget_parameters(update.optimizer, update.network.parameters())
