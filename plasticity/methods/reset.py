"""Resets: the whole network, its heads, or its optimizer start anew now and then."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from networks.heads import Network
from networks.redraw import redraw
from networks.units import Touched, parameter_roles
from plasticity.interventions import Intervention, check_intervention
from plasticity.method import Target
from plasticity.optimizer_state import forget_parameters
from plasticity.parameters import whole
from plasticity.recycling import TARGET_EDITS
from plasticity.settings import check_choice

SCOPES = ("full", "head", "optimizer")


@dataclass(frozen=True)
class Config:
    """Settings of resets.

    Attributes:
        kind: Name of this file.
        scope: `full` draws all parameters anew, log_std and temperature included; `head` the
            output layers; `optimizer` changes no parameter and is the control. All three make
            the optimizer forget what it knew about the parameters in their scope.
        period: Steps of `clock` between two resets, 0 for none.
        clock: `gradient_step` of the network, or `env_step`.
        at_task_change: Reset at announced task changes.
        target_edit: `copy` makes target networks equal to the reset ones, `drift` leaves them to
            averaging.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "reset"
    scope: str = "full"
    period: int = 200_000
    clock: str = "env_step"
    at_task_change: bool = False
    target_edit: str = "copy"
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_choice(f"method.{self.kind}.scope", self.scope, SCOPES)
        check_choice(f"method.{self.kind}.target_edit", self.target_edit, TARGET_EDITS)
        object.__setattr__(self, "networks", check_intervention(self))


class Reset(Intervention):
    """theta <- theta_new from every layer's own initialiser; replay and normalisers are kept.

    A method belongs to a network: `scope=optimizer` clears the optimizers of networks and leaves
    that of SAC's temperature alone, which only a reset of the whole actor starts anew. The agent's
    own `optimizer_on_switch=reset` clears the optimizer of the temperature, too.

    Source: Nikishin et al. 2022, "The primacy bias in deep reinforcement learning",
    arXiv 2205.07802.
    """

    touches = frozenset({"weight", "bias", "norm_gain", "norm_offset", "segment"})

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.config = config
        self.mirrors_targets = config.target_edit == "copy"
        if not self.active:
            return
        self.resets_optimizer = "entries" if config.scope == "head" else "all"
        if config.scope == "optimizer":
            self.touches = frozenset()
        if config.scope == "head" and not isinstance(target.module, Network):
            raise ValueError(
                f"method.{self.kind}.scope=head needs a network that names its heads; "
                f"{type(target.module).__name__} does not, so choose full or optimizer"
            )
        if config.scope == "full":
            self.restarts_network = True
            self.touches = self.touches | {"log_std", "temperature"}
            roles = parameter_roles(target.module)
            self._log_std = [
                (parameter, parameter.detach().clone())
                for name, parameter in target.module.named_parameters()
                if roles[name] == "log_std"
            ]

    def intervene(self, optimizer: torch.optim.Optimizer) -> list[Touched]:
        """Reset what is in scope."""
        module, generator = self.target.module, self.target.generator
        if self.config.scope == "optimizer":
            forget_parameters(optimizer, module.parameters())
            return []
        if self.config.scope == "head":
            assert isinstance(module, Network)
            touched = [entry for head in module.heads() for entry in redraw(head, generator)]
        else:
            touched = redraw(module, generator)
            for parameter, initial in self._log_std:
                parameter.copy_(initial)
                touched.append(whole(parameter))
        forget_parameters(optimizer, [entry.parameter for entry in touched])
        return touched


def build(config: Config, target: Target) -> Reset:
    """Attach resets to one network."""
    return Reset(config, target)
