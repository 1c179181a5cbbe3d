"""Activation functions by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class SmoothLeaky(nn.Module):
    """Leaky ReLU without a kink: f(x) = a x + (1 - a) (softplus(b x) - ln 2) / b.

    f(0) = 0, f'(0) = (1 + a)/2; the slope goes from `slope` far below 0 to 1 far above, so that a
    unit never stops learning.

    Args:
        slope: a, the slope far below 0, in [0, 1).
        sharpness: b, > 0; the larger, the closer to leaky ReLU.

    Deviation: written down from these properties; compare with the published form of smooth-leaky
    activations (arXiv 2509.22562) before attributing results to it.
    """

    def __init__(self, slope: float = 0.1, sharpness: float = 5.0) -> None:
        super().__init__()
        self.slope, self.sharpness = slope, sharpness

    def extra_repr(self) -> str:
        """Settings, for printing."""
        return f"slope={self.slope}, sharpness={self.sharpness}"

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every element."""
        rectified = functional.softplus(x, beta=self.sharpness) - math.log(2.0) / self.sharpness
        return self.slope * x + (1.0 - self.slope) * rectified


class CReLU(nn.Module):
    """Concatenated ReLU: (B, H) -> (B, 2 H), relu(z) of all units, then relu(-z) of all units.

    Source: Shang et al. 2016; Abbas et al. 2023 against loss of plasticity.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H) to (B, 2 H)."""
        return torch.cat((torch.relu(x), torch.relu(-x)), dim=1)


class DeepFourier(nn.Module):
    """Fourier features: (B, H) -> (B, 2 H), sin(z) of all units, then cos(z) of all units.

    Every unit has one of the two in its nearly linear range. Needs regularisation.

    Source: Lewandowski et al. 2024, "Plastic learning with deep Fourier features".
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H) to (B, 2 H)."""
        return torch.cat((torch.sin(x), torch.cos(x)), dim=1)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "smooth_leaky": SmoothLeaky,
}
"""Activations that map every unit to one value."""

SLOPES = {"leaky_relu": 0.01, "smooth_leaky": 0.1}
"""Activations with a slope below 0, and the one that they have unless told otherwise."""

PAIRED: dict[str, Callable[[], nn.Module]] = {"crelu": CReLU, "deep_fourier": DeepFourier}
"""Activations that give two values per unit: columns i and i + H belong to unit i of H."""


def activation(name: str) -> nn.Module:
    """Build an activation that maps every unit to one value.

    Raises:
        ValueError: The name is unknown, or names one that gives two values.
    """
    if name in PAIRED:
        raise ValueError(
            f"activation {name!r} gives two values per unit, which only network.kind=mlp (and "
            f"linear layers of nn.Sequential) can be read through; choose that network or one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def any_activation(name: str, slope: float | None = None) -> nn.Module:
    """Build an activation with one or two values per unit.

    Args:
        name: A name of `ACTIVATIONS` or `PAIRED`.
        slope: Slope below 0 of those in `SLOPES`, None for their own; the others do not read it.

    Raises:
        ValueError: The name is unknown.
    """
    if name in SLOPES:
        slope = SLOPES[name] if slope is None else slope
        return SmoothLeaky(slope) if name == "smooth_leaky" else nn.LeakyReLU(slope)
    if name in PAIRED:
        return PAIRED[name]()
    if name not in ACTIVATIONS:
        names = ", ".join((*ACTIVATIONS, *PAIRED))
        raise ValueError(f"activation is {name!r}; choose one of {names}")
    return ACTIVATIONS[name]()


def values_per_unit(name: str) -> int:
    """How many values an activation gives per unit: 2 for the paired ones, else 1."""
    return 2 if name in PAIRED else 1


def activation_name(module: nn.Module) -> str | None:
    """Return the name of an activation module, None when it is not one of ours."""
    for name, kind in (ACTIVATIONS | PAIRED).items():
        if type(module) is kind:
            return name
    return None
