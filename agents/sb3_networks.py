"""Shows the networks of stable-baselines3 to our diagnostics, as if they were ours."""

from __future__ import annotations

from torch import Tensor, nn

from networks.activations import activation_name
from networks.heads import Network
from networks.initializers import Initializer
from networks.sequential import SequentialLayer
from networks.torso import Torso, linear_readers
from networks.units import UnitGroup


class SharedLayer(nn.Module):
    """One hidden layer of a foreign network; its modules are shared, not copied."""

    def __init__(self, linear: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        name = activation_name(activation)
        if not isinstance(linear, nn.Linear) or name is None:
            raise ValueError(
                f"expected a linear module and a known activation, got {type(linear).__name__} "
                f"and {type(activation).__name__}"
            )
        self.linear, self.activation, self.activation_name = linear, activation, name

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, units)."""
        return self.activation(self.linear(x))


class SharedTorso(Torso):
    """The hidden layers of a plain sequential network that stable-baselines3 built and trains.

    Args:
        sequence: Linear and activation modules in turn.
        initializer: The law the weights were drawn from.

    Raises:
        ValueError: The modules do not alternate.
    """

    def __init__(self, sequence: nn.Sequential, initializer: Initializer) -> None:
        super().__init__()
        modules = list(sequence)
        pairs = zip(modules[::2], modules[1::2], strict=True)
        self._layers = [SharedLayer(linear, activation) for linear, activation in pairs]
        self.layers = nn.ModuleList(self._layers)
        self.output_dim = self._layers[-1].linear.out_features
        self._initializer = initializer

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) to (B, output_dim); a context is part of the input already."""
        for layer in self._layers:
            x = layer(x)
        return x

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """One group per hidden layer, named as in our own perceptron."""
        readers = [*((layer.linear,) for layer in self._layers[1:]), heads]
        return tuple(
            UnitGroup(
                f"layers.{index}",
                SequentialLayer(layer.linear, self._initializer),
                linear_readers(readers[index]),
                layer,
                layer.activation_name,
            )
            for index, layer in enumerate(self._layers)
        )


class SharedPolicy(Network):
    """Policy: hidden layers, the mean, and the state-independent log standard deviation."""

    def __init__(self, torso: SharedTorso, mean: nn.Linear, log_std: nn.Parameter) -> None:
        super().__init__()
        self.torso = torso
        self.mean = mean
        self.log_std = log_std

    def heads(self) -> tuple[nn.Linear, ...]:
        """The mean."""
        return (self.mean,)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) to action means (B, act), not clipped."""
        return self.mean(self.torso(observation))


class SharedValue(Network):
    """State value."""

    def __init__(self, torso: SharedTorso, value: nn.Linear) -> None:
        super().__init__()
        self.torso = torso
        self.value = value

    def heads(self) -> tuple[nn.Linear, ...]:
        """The value."""
        return (self.value,)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) to values (B,)."""
        return self.value(self.torso(observation)).squeeze(-1)
