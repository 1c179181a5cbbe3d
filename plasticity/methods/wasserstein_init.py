"""Wasserstein-Init: keep the distribution of each tensor's entries near the initial one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from networks.units import Touched
from plasticity.method import Method, Target
from plasticity.parameters import WEIGHTS_AND_BIASES, References, masks_of, trained_parameters
from plasticity.settings import acts_on, check_networks, check_number


@dataclass(frozen=True)
class Config:
    """Settings of Wasserstein-Init.

    Attributes:
        kind: Name of this file.
        strength: lambda >= 0; useful 1e-5 to 1e-1. 0 switches the method off without a trace.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "wasserstein_init"
    strength: float = 1e-3
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_number(f"method.{self.kind}.strength", self.strength, 0.0)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


class WassersteinInit(Method):
    """lambda sum_l ||sort(theta_l) - sort(theta_0,l)||^2 over weights and biases.

    The squared 2-Wasserstein distance, times the number of entries, between the entries of a
    tensor now and at the start. Single weights are free to move.

    Source: Lewandowski et al. 2023, "Directions of curvature as an explanation for loss of
    plasticity", arXiv 2312.00246. Normalisation gains are left out: all of them start at 1.
    Deviation: weights that a fixed mask switches off are not compared.
    """

    def __init__(self, config: Config, target: Target) -> None:
        self.config = config
        self.active = config.strength > 0.0 and acts_on(config.networks, target.name)
        if not self.active:
            return
        parameters = trained_parameters(target.module, WEIGHTS_AND_BIASES)
        masks = masks_of(target.module)
        self._masks = [masks.get(name) for name in parameters]
        self._references = References(parameters)
        self._initial = self._references.copies()
        self._sort_initial()

    def _sort_initial(self) -> None:
        self._sorted = [
            _live(value, mask).sort().values
            for value, mask in zip(self._initial, self._masks, strict=True)
        ]

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted squared distance of the sorted entries, ()."""
        if not self.active:
            return None
        terms = [
            (_live(parameter, mask).sort().values - initial).square().sum()
            for parameter, mask, initial in zip(
                self._references.parameters, self._masks, self._sorted, strict=True
            )
        ]
        return self.config.strength * torch.stack(terms).sum()

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Renewed entries replace their old initial values."""
        if renewed:
            self._references.copy_entries(self._initial, touched)
            self._sort_initial()

    def state_dict(self) -> dict[str, Any]:
        """Initial values, cloned; {} when switched off."""
        return {"initial": self._references.state(self._initial)} if self.active else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.active:
            self._references.load(self._initial, state["initial"])
            self._sort_initial()


def _live(values: Tensor, mask: Tensor | None) -> Tensor:
    """Entries that no mask switches off, flat."""
    return values.flatten() if mask is None else values[mask]


def build(config: Config, target: Target) -> WassersteinInit:
    """Attach Wasserstein-Init to one network."""
    return WassersteinInit(config, target)
