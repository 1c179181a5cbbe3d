"""Whole networks of an actor-critic: a torso and its heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.initializers import Initializer
from networks.readouts import linear_readout as readout
from networks.streams import Streams
from networks.torso import Torso
from networks.units import UnitGroup

__all__ = [
    "GaussianPolicy",
    "Network",
    "QFunction",
    "SquashedGaussianPolicy",
    "StateGaussianPolicy",
    "ValueFunction",
    "readout",
]


class Network(nn.Module):
    """A torso with heads: what a method is attached to and diagnostics are measured on."""

    torso: Torso

    def heads(self) -> tuple[nn.Linear, ...]:
        """Linear layers that read the torso's features."""
        raise NotImplementedError

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """One group per hidden layer of the torso."""
        return self.torso.unit_groups(self.heads())


class GaussianPolicy(Network):
    """Diagonal Gaussian with a state-independent standard deviation.

    Source: Dohare et al. 2024; Normal(mean(x), exp(log_std)), no squashing, log_std starts at 0.
    """

    def __init__(
        self, torso: Torso, action_dim: int, initializer: Initializer, streams: Streams
    ) -> None:
        super().__init__()
        self.torso = torso
        self.mean = torso.head(action_dim, initializer, streams, "mean")
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def heads(self) -> tuple[nn.Linear, ...]:
        """The mean."""
        return (self.mean,)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map observations (B, obs) to action means (B, act)."""
        return self.mean(self.torso(observation, context), context)

    def moments(self, observation: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Means (B, act) and the log standard deviations (act,) that all observations share."""
        return self(observation, context), self.log_std


class ValueFunction(Network):
    """State value."""

    def __init__(self, torso: Torso, initializer: Initializer, streams: Streams) -> None:
        super().__init__()
        self.torso = torso
        self.value = torso.head(1, initializer, streams, "value")

    def heads(self) -> tuple[nn.Linear, ...]:
        """The value."""
        return (self.value,)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map observations (B, obs) to values (B,)."""
        return self.value(self.torso(observation, context), context).squeeze(-1)


class StateGaussianPolicy(Network):
    """Diagonal Gaussian both of whose moments depend on the state.

    Args:
        torso: Hidden layers.
        action_dim: Size of an action.
        initializer: Law of both heads.
        streams: Random streams of the heads.
        log_std_min: The log standard deviation is clipped to at least this.
        log_std_max: And to at most this.
    """

    def __init__(
        self,
        torso: Torso,
        action_dim: int,
        initializer: Initializer,
        streams: Streams,
        log_std_min: float = -20.0,
        log_std_max: float = 2.0,
    ) -> None:
        super().__init__()
        self.torso = torso
        self.mean = torso.head(action_dim, initializer, streams, "mean")
        self.log_std = torso.head(action_dim, initializer, streams, "log_std")
        self.log_std_min, self.log_std_max = log_std_min, log_std_max

    def heads(self) -> tuple[nn.Linear, ...]:
        """The mean and the log standard deviation."""
        return (self.mean, self.log_std)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map observations (B, obs) to means and log standard deviations, both (B, act)."""
        return self.moments_of(self.torso(observation, context), context)

    def moments_of(self, features: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map outputs of the torso (B, features) to the same."""
        log_std = self.log_std(features, context).clamp(self.log_std_min, self.log_std_max)
        return self.mean(features, context), log_std

    def moments(self, observation: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, under the name that a `GaussianPolicy` has for it."""
        return self(observation, context)


class SquashedGaussianPolicy(StateGaussianPolicy):
    """The same Gaussian, whose samples the agent squashes by tanh; moments are those before it.

    Source: Haarnoja et al. 2018, arXiv 1812.05905.
    """


class QFunction(ValueFunction):
    """State-action value; its torso was built for an observation and an action side by side."""

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map observations and actions, concatenated (B, obs + act), to values (B,)."""
        return super().forward(observation, context)
