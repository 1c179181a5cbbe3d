"""Adam with coupled or decoupled weight decay; AdamW and NS-Adam are settings of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from networks.units import context_parameters, parameter_roles
from plasticity.optimizers.direct_adam import DirectAdam
from plasticity.optimizers.lazy_segments import LazySegmentAdam
from plasticity.optimizers.per_unit_adam import PerUnitAdam
from plasticity.parameters import trainable_parameters
from plasticity.settings import check_choice, check_number

_DECAY_MODES = ("coupled", "decoupled")
_ROLE_ORDER = (
    ("weight",),
    ("bias", "norm_gain", "norm_offset"),
    ("log_std",),
    ("segment", "temperature"),
)


class Decay(Protocol):
    """Settings of weight decay; see `Config`."""

    @property
    def weight_decay(self) -> float: ...
    @property
    def wd_on_biases(self) -> bool: ...
    @property
    def wd_on_log_std(self) -> bool: ...


@dataclass(frozen=True)
class Config:
    """Settings of Adam.

    AdamW: `weight_decay=1e-2, weight_decay_mode="decoupled"` on weights only. NS-Adam: equal
    betas of 0.99, with which no step exceeds the learning rate whatever the gradients do, because
    both moments are then the same weighted average.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size, > 0.
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        epsilon: Added to the denominator, >= 0.
        weight_decay: Strength of the decay, >= 0. Weights of which every context has its own
            never decay (`parameter_groups`).
        weight_decay_mode: `coupled` adds the decay to the gradient (L2), `decoupled` shrinks the
            weights directly (AdamW). These are different methods.
        wd_on_biases: Decay biases and normalisation entries too.
        wd_on_log_std: Decay the log standard deviation of a Gaussian policy too.
        segment_optimizer: `same` as for all weights, or `lazy`: dendritic segments of contexts
            that are absent from a minibatch keep weights, moments and step counts
            (`plasticity.optimizers.lazy_segments`). Networks without segments do not notice.

    Raises:
        ValueError: A value is out of range.

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Dohare et al. 2024 (equal betas,
    coupled decay of all parameters).
    """

    kind: str = "adam"
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    weight_decay_mode: str = "coupled"
    wd_on_biases: bool = True
    wd_on_log_std: bool = True
    # Left out of config.yaml at the default, see configs.schema.later.
    segment_optimizer: str = field(default="same", metadata={"later": True})

    def __post_init__(self) -> None:
        check_number("optimizer.learning_rate", self.learning_rate, 0.0, open_low=True)
        for name in ("beta1", "beta2"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0, 1.0, open_high=True)
        for name in ("epsilon", "weight_decay"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0)
        if self.weight_decay_mode not in _DECAY_MODES:
            raise ValueError(
                f"optimizer.weight_decay_mode is {self.weight_decay_mode!r}; choose one of "
                f"{', '.join(_DECAY_MODES)}"
            )
        check_choice("optimizer.segment_optimizer", self.segment_optimizer, ("same", "lazy"))


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network.

    Args:
        config: Settings.
        module: The network; parameters without `requires_grad` are left out.
        per_unit_step: Use `PerUnitAdam`, whose step counters can restart for single units.
        generator: Not used; nothing is drawn.

    Returns:
        `DirectAdam`, which is torch's fused Adam or AdamW, `LazySegmentAdam` or `PerUnitAdam`.

    Raises:
        ValueError: Step counters would be both of units and of contexts.
    """
    if config.segment_optimizer == "lazy":
        if per_unit_step:
            raise ValueError(
                "optimizer.segment_optimizer=lazy counts the steps of contexts and "
                "optimizer_state=per_unit_step those of units; choose zero_moments or keep for "
                "the method, or optimizer.segment_optimizer=same"
            )
        roles = parameter_roles(module)
        return LazySegmentAdam(
            parameter_groups(config, module),
            segments=[p for n, p in module.named_parameters() if roles[n] == "segment"],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            decoupled=config.weight_decay_mode == "decoupled",
        )
    return construct((DirectAdam, PerUnitAdam), config, module, per_unit_step)


def construct(
    kinds: tuple[type[DirectAdam], type[PerUnitAdam]],
    config: Config,
    module: nn.Module,
    per_unit_step: bool,
) -> DirectAdam | PerUnitAdam:
    """Build one of two kinds of Adam: with a step counter per parameter, or also per unit."""
    direct, per_unit = kinds
    groups = parameter_groups(config, module)
    decoupled = config.weight_decay_mode == "decoupled"
    betas, rate = (config.beta1, config.beta2), config.learning_rate
    if per_unit_step:
        return per_unit(groups, rate, betas, config.epsilon, decoupled_weight_decay=decoupled)
    return direct(groups, lr=rate, betas=betas, eps=config.epsilon, decoupled=decoupled)


def parameter_groups(config: Decay, module: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters by the decay that applies to them.

    Weights decay; biases and normalisation entries, and the log standard deviation, as
    configured. The temperature never decays, nor do parameters of which every context has its own
    entries: dendritic segments, FiLM's scale and shift, heads of single contexts. Coupled decay is
    all the gradient that the entries of absent contexts have, and Adam divides it by its own size:
    it would take them to 0 by a learning rate per step, however weak it is.

    Roles come in a fixed order and neighbours with equal decay share a group, so a parameter has
    the same position in the saved optimizer state whatever the decay settings are.

    Args:
        config: Settings.
        module: The network.

    Returns:
        Groups of `params` with one `weight_decay` each.

    Raises:
        ValueError: The network has no trainable parameter.
    """
    decays = [
        config.weight_decay,
        config.weight_decay if config.wd_on_biases else 0.0,
        config.weight_decay if config.wd_on_log_std else 0.0,
        0.0,
    ]
    roles, of_contexts = parameter_roles(module), context_parameters(module)
    trainable = trainable_parameters(module)
    placed = [
        (0.0 if name in of_contexts else decay, parameter)
        for members, decay in zip(_ROLE_ORDER, decays, strict=True)
        for name, parameter in trainable.items()
        if roles[name] in members
    ]
    return [
        {"params": [parameter for _, parameter in members], "weight_decay": decay}
        for decay, members in itertools.groupby(placed, key=lambda place: place[0])
    ]
