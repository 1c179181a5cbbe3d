"""Plasticity injection: from some moment on, a fresh head learns what the old one no longer can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from networks.heads import Network
from networks.injected import InjectedHead, make_room
from networks.redraw import redraw
from networks.units import Touched
from plasticity.interventions import Intervention, check_intervention
from plasticity.method import Target
from plasticity.optimizer_state import forget_parameters
from plasticity.parameters import whole
from plasticity.settings import check_number


@dataclass(frozen=True)
class Config:
    """Settings of plasticity injection.

    Attributes:
        kind: Name of this file.
        period: Steps of `clock` before the first and between further injections, 0 for none.
        clock: `gradient_step` of the network, or `env_step`.
        at_task_change: Inject at announced task changes.
        max_injections: At most so many, >= 0; 0 switches the method off without a trace. From
            the second on, what was learnt is folded into the old head first.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "injection"
    period: int = 10_000_000
    clock: str = "env_step"
    at_task_change: bool = False
    max_injections: int = 1
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_number(f"method.{self.kind}.max_injections", self.max_injections, 0)
        object.__setattr__(self, "networks", check_intervention(self))


def prepare(config: Config, network: Network) -> None:
    """Make room in the heads of a new network, before it is copied or trained."""
    if config.max_injections and (config.period or config.at_task_change):
        make_room(network)


class Injection(Intervention):
    """h(phi) becomes h(phi) + (h'(phi) - h'_frozen(phi)), with h and h'_frozen not trained.

    The output does not change at that moment, bit for bit; the optimizer trains h' instead of h
    with fresh state. Target networks get the same h' and h'_frozen beside their own h, so that
    their output does not change either; a later injection, which folds, copies h too.

    Source: Nikishin et al. 2023, "Deep reinforcement learning with plasticity injection",
    arXiv 2305.15555.
    Deviation: heads only (the paper also injects the last hidden layer); later injections fold
    the learnt change into the old head, so that the depth stays 1.

    Raises:
        ValueError: The heads have no room; `Parts.prepare` makes it.
    """

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, enabled=config.max_injections > 0)
        self.config = config
        if not self.active:
            return
        self.resets_optimizer = "entries"
        self._heads = [m for m in target.module.modules() if isinstance(m, InjectedHead)]
        if not self._heads:
            raise ValueError(
                f"the heads of {target.name!r} have no room for an injection; the agent must call "
                "parts.prepare(networks) right after it builds its networks"
            )

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched] | None:
        """Inject into every head, unless that has been done often enough."""
        if self.count >= self.config.max_injections:
            return None
        touched: list[Touched] = []
        for head in self._heads:
            head.fold()
            redraw(head.fresh, self.target.generator)
            head.freeze_copy()
            forget_parameters(optimizer, head.fresh.parameters())
            touched += [whole(p) for part in (head.fresh, head.frozen) for p in part.parameters()]
            # The first injection leaves old heads as they are, those of targets, which lag
            # behind, like the others; only the optimizer forgets them.
            folded = self.count > 0
            touched += [replace(whole(p), mirrored=folded) for p in head.base.parameters()]
        self._train_fresh(True, optimizer)
        return touched

    def _train_fresh(self, fresh: bool, optimizer: torch.optim.Optimizer) -> None:
        """Train either the fresh or the base heads, in the same places of the optimizer."""
        exchange: dict[int, nn.Parameter] = {}
        for head in self._heads:
            trained, still = (head.fresh, head.base) if fresh else (head.base, head.fresh)
            for new, old in zip(trained.parameters(), still.parameters(), strict=True):
                new.requires_grad_(True)
                old.requires_grad_(False).grad = None
                exchange[id(old)] = new
                forget_parameters(optimizer, [old])
        for group in optimizer.param_groups:
            group["params"] = [exchange.get(id(p), p) for p in group["params"]]

    def restore_structure(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Train the heads that were trained when the state was saved."""
        self._train_fresh(bool(state.get("count")), optimizer)


def build(config: Config, target: Target) -> Injection:
    """Attach plasticity injection to one network."""
    return Injection(config, target)
