"""Elastic weight consolidation: hold the weights that earlier tasks depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.importance import fisher_diagonal
from plasticity.interventions import Intervention, check_intervention
from plasticity.method import Target
from plasticity.parameters import FEED_FORWARD, References, trained_parameters
from plasticity.settings import check_number


@dataclass(frozen=True)
class Config:
    """Settings of elastic weight consolidation.

    Attributes:
        kind: Name of this file.
        strength: lambda >= 0; sweep 1e2 to 1e5. 0 switches the method off without a trace.
        decay: gamma in [0, 1], share of the old importances that stays at a consolidation.
        num_samples: States that importances are measured on, >= 1.
        refresh_period: Gradient steps between two draws of these states, >= 1: the last draw
            before a task change is from the old task. From a replay that keeps old tasks it is
            from all of them; `agent.buffer_on_switch=clear` leaves the old task alone.
        period: Steps of `clock` between consolidations without announcements, 0 for none.
        clock: `gradient_step` of the network, or `env_step`.
        at_task_change: Consolidate at announced task changes.
        include_segments: Protect dendritic segments too.
        networks: `actors`, `all`, or a list of networks; on value networks the importance is the
            squared gradient of the value.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "ewc"
    strength: float = 1e3
    decay: float = 1.0
    num_samples: int = 500
    refresh_period: int = 100
    period: int = 0
    clock: str = "gradient_step"
    at_task_change: bool = True
    include_segments: bool = False
    networks: str | list[str] = "actors"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.strength", self.strength, 0.0)
        check_number(f"{where}.decay", self.decay, 0.0, 1.0)
        check_number(f"{where}.num_samples", self.num_samples, 1)
        check_number(f"{where}.refresh_period", self.refresh_period, 1)
        object.__setattr__(self, "networks", check_intervention(self))


class EWC(Intervention):
    """(lambda / 2) sum F (theta - theta*)^2 over the feed-forward parameters.

    At a consolidation theta* <- theta and F <- gamma F + F_new, F_new being the diagonal of the
    Fisher information of the policy on stored states.

    Source: Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3; one running F and theta* for
    all tasks: Schwarz et al. 2018, arXiv 1805.06370, section 3.

    Raises:
        ValueError: Nobody provides stored inputs of the network.
    """

    touches = FEED_FORWARD

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target, enabled=config.strength > 0.0)
        self.config = config
        if not self.active:
            return
        if target.inputs is None:
            raise ValueError(
                f"ewc needs stored inputs of {target.name!r}, but this agent keeps none "
                "(agent=supervised drops examples once it has learnt from them); use method=[si]"
            )
        roles = FEED_FORWARD | ({"segment"} if config.include_segments else set())
        self.touches = roles
        self._source = target.inputs
        self._references = References(trained_parameters(target.module, roles))
        self._anchor = self._references.copies()
        self._importance = self._references.zeros()
        self._states: tuple[Tensor, Tensor | None] | None = None

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted distance from what was consolidated, (); None before the first time."""
        if not self.active or not self.count:
            return None
        distance = self._references.squared_distance(self._anchor, self._importance)
        return 0.5 * self.config.strength * distance

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Draw states now and then, and consolidate when the period is over."""
        call = self.calls + 1
        is_due = self.period > 0 and call % self.period == 0
        if self._states is None or is_due or call % self.config.refresh_period == 0:
            self._states = self._source.draw(self.config.num_samples, self.target.generator)
        super().after_step(activations, optimizer)

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched] | None:
        """Consolidate; changes no parameter."""
        if self._states is None:
            return None  # nothing has been learnt yet
        with torch.enable_grad():
            fresh = fisher_diagonal(
                self.target.module,
                self._references.parameters,
                *self._states,
                self.target.generator,
            )
        for importance, new in zip(self._importance, fresh, strict=True):
            importance.mul_(self.config.decay).add_(new)
        for anchor, parameter in zip(self._anchor, self._references.parameters, strict=True):
            anchor.copy_(parameter)
        return []

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Renewed entries are free until the next consolidation; shifted ones stay as held."""
        if renewed:
            self._references.copy_entries(self._anchor, touched)
            self._references.zero_entries(self._importance, touched)
        else:
            self._references.shift_entries(self._anchor, touched)

    def state_dict(self) -> dict[str, Any]:
        """Counters, importances, anchors and states, cloned; {} when switched off."""
        if not self.active:
            return {}
        state = {
            **super().state_dict(),
            "anchor": self._references.state(self._anchor),
            "importance": self._references.state(self._importance),
        }
        if self._states is not None:
            inputs, context = self._states
            state["inputs"] = inputs.clone()
            if context is not None:
                state["context"] = context.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        if not self.active:
            return
        self._references.load(self._anchor, state["anchor"])
        self._references.load(self._importance, state["importance"])
        self._states = None
        if "inputs" in state:
            inputs = state["inputs"].to(self._anchor[0].device, copy=True)
            context = state.get("context")
            self._states = inputs, None if context is None else context.to(inputs.device, copy=True)


def build(config: Config, target: Target) -> EWC:
    """Attach elastic weight consolidation to one network."""
    return EWC(config, target)
