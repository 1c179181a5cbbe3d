"""TRAC: a parameter-free tuner decides how far the parameters may leave their start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.optimizers import adam
from plasticity.optimizers.per_unit_adam import PerUnitAdam
from plasticity.settings import check_number

START = 1e-8  # of sigma, and the epsilon of the published formula
_SERIES_TERMS, _ASYMPTOTIC_TERMS, _SWITCH = 160, 20, 6.0


@dataclass(frozen=True)
class Config:
    """Settings of TRAC on top of Adam.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size of the base, > 0.
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        epsilon: Added to the denominator of Adam, >= 0.
        discounts: Discounts of the tuners, each in (0, 1), at least one.
        initial_scale: Scale s_0 of every tuner, > 0. The agent is nearly frozen until the scales
            have grown.

    Raises:
        ValueError: A value is out of range.

    Source: Muppidi et al. 2024, "Fast TRAC: a parameter-free optimizer for lifelong reinforcement
    learning", Algorithms 1 and 2.
    Deviation: the offset is stored, where the public code divides what it has done to the
    parameters by the scale, which shrinks it and loses it when the scale is 0. No weight decay.
    """

    kind: str = "trac"
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    discounts: list[float] = field(
        default_factory=lambda: [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    )
    initial_scale: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("learning_rate", "initial_scale"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0, open_low=True)
        for name in ("beta1", "beta2"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0, 1.0, open_high=True)
        check_number("optimizer.epsilon", self.epsilon, 0.0)
        if not self.discounts or any(not 0.0 < discount < 1.0 for discount in self.discounts):
            raise ValueError(
                f"optimizer.discounts is {list(self.discounts)}; give one or more numbers in (0, 1)"
            )


class Trac(PerUnitAdam):
    """theta = reference + S offset, where the offset takes the steps of Adam.

    With h = <offset, gradient>, every tuner j keeps sigma_j <- beta_j sigma_j - h and
    V_j <- beta_j^2 V_j + h^2, and
    S = max(0, sum_j s_0 erfi(sigma_j / (sqrt(2 V_j) + 1e-8)) / erfi(1/sqrt 2)).

    Whatever somebody else writes into a parameter (recyclers, resets, masks) is kept: it moves the
    reference of exactly the edited entries.

    Args:
        groups: Parameter groups.
        config: Settings.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], config: Config) -> None:
        betas = (config.beta1, config.beta2)
        super().__init__(groups, config.learning_rate, betas, config.epsilon)
        self._initial_scale = config.initial_scale
        first = self.param_groups[0]["params"][0]
        self._discounts = torch.tensor(config.discounts, dtype=torch.float64, device=first.device)
        self._restart_tuners()

    def _restart_tuners(self) -> None:
        self.sigma = torch.full_like(self._discounts, START)
        self.variance = torch.zeros_like(self._discounts)
        self.scale = self._discounts.new_zeros(())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step on every parameter that has a gradient; closures are not supported."""
        assert closure is None
        stepped = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not stepped:
            return
        products = []
        for parameter, _ in stepped:
            self._keep_edits(parameter)
            product = self.state[parameter]["offset"] * parameter.grad
            products.append(product.sum(dtype=torch.float64))
        self._tune(torch.stack(products).sum())
        for parameter, group in stepped:
            assert parameter.grad is not None
            offset = self.state[parameter]["offset"]
            numerator, denominator, correction = self._direction(parameter, parameter.grad, group)
            offset.addcdiv_(numerator, denominator, value=-group["lr"] / correction)
            parameter.copy_(self._place(parameter))

    def zero_entries(self, parameter: Tensor, dim: int, indices: Tensor) -> None:
        """Start some rows (dim 0) or columns (dim 1) anew from the values they have now."""
        state = self.state[parameter]
        for name in ("exp_avg", "exp_avg_sq", "offset"):
            state[name].index_fill_(dim, indices, 0.0)
        fresh = parameter.detach().index_select(dim, indices)
        state["reference"].index_copy_(dim, indices, fresh)

    def forget_parameters(self, parameters: Iterable[Tensor]) -> None:
        """Drop the state of some parameters, and the tuners with the last of them."""
        for parameter in parameters:
            self.state.pop(parameter, None)
        if not self.state:
            self._restart_tuners()

    def shared_state(self) -> dict[str, Tensor]:
        """Tuners and the scale in force."""
        return {"sigma": self.sigma, "variance": self.variance, "scale": self.scale}

    def load_shared_state(self, state: Mapping[str, Any]) -> None:
        """Restore the tuners."""
        self._restart_tuners()
        for name, value in state.items():
            getattr(self, name).copy_(value)

    def _fresh(self, parameter: Tensor) -> dict[str, Any]:
        return {
            **super()._fresh(parameter),
            "reference": parameter.detach().clone(),
            "offset": torch.zeros_like(parameter),
        }

    def _place(self, parameter: Tensor) -> Tensor:
        """Where the tuners put a parameter."""
        state = self.state[parameter]
        return state["reference"] + state["offset"] * self.scale

    def _keep_edits(self, parameter: Tensor) -> None:
        """Move the reference of the entries that are not where the last step put them."""
        state = self._state_of(parameter)
        moved = parameter - state["offset"] * self.scale
        edited = parameter != self._place(parameter)
        state["reference"] = torch.where(edited, moved, state["reference"])

    def _tune(self, product: Tensor) -> None:
        self.sigma.mul_(self._discounts).sub_(product)
        self.variance.mul_(self._discounts.square()).add_(product.square())
        ratio = self.sigma / ((2.0 * self.variance).sqrt() + START)
        unit = erfi(torch.full_like(ratio, math.sqrt(0.5)))
        self.scale = (self._initial_scale * erfi(ratio) / unit).sum().clamp_min(0.0)


def erfi(x: Tensor) -> Tensor:
    """Imaginary error function, 2/sqrt(pi) times the integral of exp(t^2) from 0 to x.

    Args:
        x: Any shape, float64. Results overflow to infinity beyond |x| = 26.6.

    Returns:
        The shape of `x`, with a relative error below 1e-12.
    """
    squared = x.square()[..., None]
    k = torch.arange(_SERIES_TERMS, dtype=x.dtype, device=x.device)
    # Power series; all terms have the same sign, so nothing cancels.
    near = squared.clamp(max=_SWITCH**2)
    logarithms = k * near.clamp_min(torch.finfo(x.dtype).tiny).log() - torch.lgamma(k + 1.0)
    series = (logarithms.exp() / (2.0 * k + 1.0)).sum(-1)
    series = 2.0 / math.sqrt(math.pi) * x * series
    # Asymptotic series exp(x^2) / (x sqrt pi) sum_k (2k - 1)!! / (2 x^2)^k.
    far = squared.clamp_min(_SWITCH**2)
    factors = (2.0 * k[:_ASYMPTOTIC_TERMS] + 1.0) / (2.0 * far)
    tail = 1.0 + factors.cumprod(-1).sum(-1)
    asymptotic = torch.exp(far[..., 0]) * tail / (far[..., 0].sqrt() * math.sqrt(math.pi))
    return torch.where(x.abs() <= _SWITCH, series, torch.copysign(asymptotic, x))


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network; see `adam.build`.

    Step counters can always restart for single units, whatever `per_unit_step` says.
    """
    return Trac(adam.parameter_groups(adam.Config(), module), config)
