"""The contract of every torso, and how a context is described to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from networks.initializers import Initializer
from networks.readouts import Readout, linear_readout
from networks.streams import Streams
from networks.units import Reader, UnitGroup


@dataclass(frozen=True)
class ContextSpec:
    """What the context of a network looks like.

    Attributes:
        dim: Size of the context vector, or number of discrete contexts; 0 means none.
        discrete: True when the context is one of `dim` one-hot vectors (or zeros).
        gate: Where hidden layers are shown another context than the input: its shape. It stands
            behind the first `dim` entries of every context vector. None where both see the same.
    """

    dim: int = 0
    discrete: bool = False
    gate: ContextSpec | None = None

    @property
    def width(self) -> int:
        """Length of a context vector."""
        return self.dim + (0 if self.gate is None else self.gate.dim)

    @property
    def of_gates(self) -> ContextSpec:
        """Shape of what hidden layers are shown."""
        return self if self.gate is None else self.gate


class Torso(nn.Module):
    """Hidden part of a network: everything between its input and its heads.

    Attributes:
        output_dim: Size of the features that the heads read.
        context: Shape of the contexts it was built for.
    """

    output_dim: int
    context: ContextSpec = ContextSpec()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, input_dim) and a context, (B, C) or (B,) ids, to features (B, output_dim)."""
        raise NotImplementedError

    def unit_groups(self, heads: tuple[nn.Linear, ...]) -> tuple[UnitGroup, ...]:
        """Return the unit group of every hidden layer.

        Args:
            heads: Linear layers that read the features.
        """
        raise NotImplementedError

    def head(
        self, output_dim: int, initializer: Initializer, streams: Streams, name: str
    ) -> Readout:
        """Build a linear layer that reads the features; called once per output of a network.

        Args:
            output_dim: Outputs.
            initializer: Law of the head, from the network configuration.
            streams: Random streams of the network.
            name: Name of the head, which names its stream.
        """
        return linear_readout(self.output_dim, output_dim, initializer, streams.torch(name))

    def record_statistics(self, x: Tensor, context: Tensor | None = None) -> None:
        """Update statistics that layers keep of their inputs (duty cycles); by default none.

        The only call that changes them: the learner makes it once per update.
        """

    def context_indices(self, context: Tensor | None) -> Tensor:
        """Which of a finite number of contexts hidden layers are shown, (B,) int64.

        Args:
            context: What `forward` takes.

        Returns:
            Indices; the number of contexts for a sample that shows none.

        Raises:
            ValueError: There is no context, or a continuous one.
        """
        spec = self.context
        if context is None or not spec.of_gates.discrete:
            raise ValueError("this network is not shown one of a finite number of contexts")
        if not context.is_floating_point():
            return context
        return index_of_one_hot(context if spec.gate is None else context[:, spec.dim :])

    def describe(self) -> dict[str, int]:
        """Return the number of stored parameters and of those that no mask switches off."""
        stored = sum(parameter.numel() for parameter in self.parameters())
        return {"parameters": stored, "live_parameters": stored}


def index_of_one_hot(context: Tensor) -> Tensor:
    """Turn one-hot rows (B, C) into indices (B,); a row of zeros becomes C."""
    value, index = context.max(-1)
    return index.masked_fill(value <= 0, context.shape[-1])


def linear_readers(layers: Iterable[nn.Linear]) -> tuple[Reader, ...]:
    """Readers in which column i belongs to unit i."""
    return tuple(Reader(layer) for layer in layers)


def refuse_gate_context(context: ContextSpec) -> None:
    """Refuse a context of gates where there are no gates.

    Raises:
        ValueError: Hidden layers would be shown another context than the input.
    """
    if context.gate is not None:
        raise ValueError(
            "context.input=source shows gates another context than the input, but this network "
            "has no gates; choose context.input=same, or a network with gates (dendritic, film, "
            "xdg)"
        )
