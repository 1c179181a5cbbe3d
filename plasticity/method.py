"""The contract of every plasticity method: a frozen configuration and a few optional hooks.

Order inside one gradient step (`agents/update.py`, the only place where parameters change):
forward pass and loss, `penalty`, backward, `after_backward`, gradient clipping,
`optimizer.step()`, `after_step`. Every network has its own instance with its own state and its
own random generator, so a method never draws from another stream of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from networks.units import Touched, UnitGroup


@dataclass(frozen=True, eq=False)
class Target:
    """One trained network, as a method sees it.

    Attributes:
        name: Name within the agent: `policy`, `value`, `critic_1`, ...
        module: The network.
        unit_groups: Its hidden layers with everything that reads them.
        generator: Random stream of this method on this network.
        planned_gradient_steps: Gradient steps this network will make in the whole run; None when
            unknown. Lets a method that could never act refuse to start.
        gradient_steps_per_env_step: Ratio of the two clocks, 0.078125 for the reference PPO.
    """

    name: str
    module: nn.Module
    unit_groups: tuple[UnitGroup, ...]
    generator: torch.Generator
    planned_gradient_steps: int | None = None
    gradient_steps_per_env_step: float | None = None


class Method:
    """Base of all methods: every hook does nothing.

    Attributes:
        needs: What the method consumes: any of `activations`, `gradients`, `task_boundary`.
        uses_task_boundary: True when it acts on announced task changes (printed in tables).
        resets_optimizer: `no`, `entries` or `all` (printed in tables).
    """

    needs: frozenset[str] = frozenset()
    uses_task_boundary: ClassVar[bool] = False
    resets_optimizer: str = "no"

    def penalty(self) -> Tensor | None:
        """Return a term added to the loss, or None (not 0) when there is none."""
        return None

    def after_backward(self) -> None:
        """See complete gradients before they are clipped."""

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Edit parameters after the optimizer has stepped.

        Args:
            activations: Unit-group name -> detached (B, units) values that readers consumed in
                the training forward pass of this step. Empty unless `needs` names them.
            optimizer: The network's optimizer, for edits of its state.
        """

    def on_task_change(self, task: int, optimizer: torch.optim.Optimizer) -> None:
        """React to an announced task change; only called when the run announces them."""

    def log_values(self) -> dict[str, float]:
        """Return scalars for the log, read off the device at log periods only."""
        return {}

    def pop_events(self) -> list[dict[str, Any]]:
        """Return and forget events (unit resets) since the last call."""
        return []

    def pop_touched(self) -> list[Touched]:
        """Return and forget the entries that the last `after_step` rewrote (recyclers)."""
        return []

    def announcement(self) -> str:
        """Return what the method will do in this run, one line printed at the start, or ``."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return all state, cloned: counters, statistics, generators."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
