"""Weight initialisers that can fill a whole layer or redraw a few of its units.

Recycling must draw new incoming weights from the law the layer itself started with, so a law is
an object that a layer keeps, not a function applied once at construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from networks.activations import SLOPES

_BOUNDS: dict[str, Callable[[int, int, float], float]] = {
    "lecun_uniform": lambda fan_in, fan_out, gain: gain * math.sqrt(3.0 / fan_in),
    "kaiming_uniform": lambda fan_in, fan_out, gain: gain * math.sqrt(3.0 / fan_in),
    "xavier_uniform": lambda fan_in, fan_out, gain: gain * math.sqrt(6.0 / (fan_in + fan_out)),
    "pytorch": lambda fan_in, fan_out, gain: gain * math.sqrt(1.0 / fan_in),
    "uniform": lambda fan_in, fan_out, gain: gain,
}
_DEFAULT_GAIN = {"kaiming_uniform": math.sqrt(2.0), "orthogonal": math.sqrt(2.0)}
INITIALIZERS = (*_BOUNDS, "orthogonal")
# Of the activations that do not take ReLU's sqrt(2).
_KAIMING_GAIN = {"tanh": 5.0 / 3.0, "sigmoid": 1.0, "identity": 1.0}


@dataclass(frozen=True)
class Initializer:
    """Law of a layer's weights and biases.

    Uniform laws draw every weight from U(-b, b): `lecun_uniform` b = sqrt(3/fan_in),
    `kaiming_uniform` b = gain sqrt(3/fan_in), `xavier_uniform` b = gain sqrt(6/(fan_in+fan_out)),
    `pytorch` b = sqrt(1/fan_in) for weights and biases, `uniform` b = gain. `orthogonal` draws a
    matrix with orthonormal rows or columns, scaled by gain. Biases are 0 except for `pytorch`.
    Hidden layers take Kaiming's gain from their activation, see `hidden_law`.

    Attributes:
        kind: One of `INITIALIZERS`.
        gain: Scale, or None for the law's usual one (sqrt(2) for `kaiming_uniform` and
            `orthogonal`, otherwise 1).

    Source: Dohare et al. 2024 (LeCun uniform on every layer of the reinforcement-learning
    networks); He et al. 2015; Glorot and Bengio 2010; Saxe et al. 2014.
    """

    kind: str = "lecun_uniform"
    gain: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in INITIALIZERS:
            raise ValueError(
                f"initializer is {self.kind!r}; choose one of {', '.join(INITIALIZERS)}"
            )

    @property
    def scale(self) -> float:
        """Gain in force."""
        return _DEFAULT_GAIN.get(self.kind, 1.0) if self.gain is None else self.gain

    def bound(self, fan_in: int, fan_out: int = 1) -> float:
        """Half width of the uniform law. Raises ValueError for `orthogonal`, which has none."""
        if self.kind not in _BOUNDS:
            raise ValueError(f"{self.kind} is not a uniform law and has no bound")
        return _BOUNDS[self.kind](fan_in, fan_out, self.scale)

    def weight_rows(
        self, like: Tensor, num_rows: int, generator: torch.Generator, fan_in: int | None = None
    ) -> Tensor:
        """Draw fresh incoming weights for some units.

        Args:
            like: The layer's whole weight, (units, inputs) or (channels, inputs, *kernel).
            num_rows: How many units to draw.
            generator: Source of randomness.
            fan_in: Inputs that really reach a unit; None means all of them (no mask).

        Returns:
            (num_rows, *like.shape[1:]), in the dtype and on the device of `like`.
        """
        kernel = math.prod(like.shape[2:])
        if self.kind == "orthogonal":
            return self._orthogonal(like, generator)[:num_rows]
        bound = self.bound(fan_in or like.shape[1] * kernel, like.shape[0] * kernel)
        rows = torch.empty(
            (num_rows, *like.shape[1:]), dtype=like.dtype, device=generator.device
        ).uniform_(-bound, bound, generator=generator)
        return rows.to(like.device)

    def bias_rows(
        self, weight: Tensor, num_rows: int, generator: torch.Generator, fan_in: int | None = None
    ) -> Tensor:
        """Draw fresh biases of some units, (num_rows,)."""
        bias = torch.zeros(num_rows, dtype=weight.dtype, device=generator.device)
        if self.kind == "pytorch":
            bound = 1.0 / math.sqrt(fan_in or math.prod(weight.shape[1:]))
            bias.uniform_(-bound, bound, generator=generator)
        return bias.to(weight.device)

    def _orthogonal(self, like: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = like.shape[0], math.prod(like.shape[1:])
        gaussian = torch.randn(
            max(rows, columns),
            min(rows, columns),
            generator=generator,
            dtype=torch.float64,
            device=generator.device,
        )
        q, r = torch.linalg.qr(gaussian)
        q = q * torch.sign(torch.diagonal(r))  # makes the law uniform over orthogonal matrices
        q = q if rows >= columns else q.T
        return (self.scale * q).reshape(like.shape).to(like)


def hidden_law(kind: str, activation: str, slope: float | None = None) -> Initializer:
    """Law of the weights in front of an activation: `kaiming_uniform` with the activation's gain.

    The gain is 5/3 for tanh, 1 for sigmoid and identity, sqrt(2 / (1 + slope^2)) for leaky ReLU,
    and ReLU's sqrt(2) for all others, among which swish and ELU borrow it in the published code.
    Other laws do not depend on the activation.

    Args:
        kind: One of `INITIALIZERS`.
        activation: Name of the nonlinearity, or `k_winners`.
        slope: Of a leaky ReLU below 0; None for its own.

    Source: He et al. 2015; Dohare et al., Nature 632:768-774 (2024), learners of slowly-changing
    regression.
    """
    if kind != "kaiming_uniform":
        return Initializer(kind)
    if activation == "leaky_relu":
        slope = SLOPES[activation] if slope is None else slope
        return Initializer(kind, math.sqrt(2.0 / (1.0 + slope**2)))
    return Initializer(kind, _KAIMING_GAIN.get(activation))
