"""Perceptron shared by all contexts, with one linear head per context.

The usual network of task-incremental learning: features are shared and may interfere, outputs
never do.

Source: Yu et al. 2019, arXiv 1910.10897, multi-head soft actor-critic.
"""

from __future__ import annotations

from dataclasses import dataclass

from networks import mlp
from networks.initializers import Initializer
from networks.readouts import Readout, multi_head_readout
from networks.stack import require_context
from networks.streams import Streams
from networks.torso import ContextSpec


@dataclass(frozen=True)
class Config(mlp.Config):
    """Settings of the perceptron with one head per context; see `mlp.Config`.

    Attributes:
        kind: Name of this file.
        context_to_input: Concatenate the context to the input too; by default heads alone know
            the context.
    """

    kind: str = "multi_head"
    context_to_input: bool = False


class MultiHead(mlp.MLP):
    """Perceptron that gives every context a head of its own."""

    def head(
        self, output_dim: int, initializer: Initializer, streams: Streams, name: str
    ) -> Readout:
        """Build one linear head per context."""
        return multi_head_readout(
            self.output_dim, output_dim, self.num_contexts, initializer, streams.torch(name)
        )


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> MultiHead:
    """Build the torso.

    Raises:
        ValueError: There is no discrete context.
    """
    require_context(config.kind, context, discrete=True)
    return MultiHead(config, input_dim, context, streams)
