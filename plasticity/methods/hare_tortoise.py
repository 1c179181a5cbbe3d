"""Hare and tortoise: a fast network learns, a slow average of it takes over now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.interventions import CLOCKS, Intervention
from plasticity.method import Target
from plasticity.parameters import FEED_FORWARD, References, trained_parameters, whole
from plasticity.settings import check_choice, check_networks, check_number


@dataclass(frozen=True)
class Config:
    """Settings of hare and tortoise.

    Attributes:
        kind: Name of this file.
        momentum: mu in [0, 1), share of the slow weights that stays at each step.
        period: Steps of `clock` between two copies of the slow weights into the fast network,
            >= 1; useful 1e3 to 1e4 gradient steps. 0 switches the method off without a trace.
        clock: `gradient_step` of the network, or `env_step`.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "hare_tortoise"
    momentum: float = 0.999
    period: int = 1000
    clock: str = "gradient_step"
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.momentum", self.momentum, 0.0, 1.0, open_high=True)
        check_number(f"{where}.period", self.period, 0)
        check_choice(f"{where}.clock", self.clock, CLOCKS)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))

    @property
    def at_task_change(self) -> bool:
        """It never looks at tasks."""
        return False


class HareTortoise(Intervention):
    """slow <- mu slow + (1 - mu) fast after every step; every `period` steps fast <- slow.

    Weights, biases and normalisation entries; the optimizer keeps its state, target networks
    follow by averaging.

    Source: Lee et al. 2024, "Slow and steady wins the race: maintaining plasticity with hare and
    tortoise networks", arXiv 2406.02596.
    Deviation: the slow network starts at the initial weights and the clock is gradient steps,
    where the published runs copied every ten epochs of supervised training.
    """

    touches = FEED_FORWARD
    renews_entries = False
    changes_weights = True
    mirrors_targets = False

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.config = config
        if self.active:
            self._references = References(trained_parameters(target.module, FEED_FORWARD))
            self._slow = self._references.copies()

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Let the slow weights follow, and take over when the period is over."""
        with torch.no_grad():
            fast: list[Tensor] = list(self._references.parameters)
            torch._foreach_lerp_(self._slow, fast, 1.0 - self.config.momentum)
        super().after_step(activations, optimizer)

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched]:
        """Copy the slow weights into the fast network."""
        for parameter, slow in zip(self._references.parameters, self._slow, strict=True):
            parameter.copy_(slow)
        return [whole(parameter) for parameter in self._references.parameters]

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Renewed entries are new in the slow network too; shifted ones are shifted there."""
        if renewed:
            self._references.copy_entries(self._slow, touched)
        else:
            self._references.shift_entries(self._slow, touched)

    def state_dict(self) -> dict[str, Any]:
        """Counters and slow weights, cloned; {} when switched off."""
        if not self.active:
            return {}
        return {**super().state_dict(), "slow": self._references.state(self._slow)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        if self.active:
            self._references.load(self._slow, state["slow"])


def build(config: Config, target: Target) -> HareTortoise:
    """Attach hare and tortoise to one network."""
    return HareTortoise(config, target)
