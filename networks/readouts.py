"""Linear heads: one for all contexts, or one per context."""

from __future__ import annotations

import torch
from torch import Tensor

from networks.initializers import Initializer
from networks.masks import MaskedLinear


class Readout(MaskedLinear):
    """Linear layer (optionally with fixed connectivity) that ignores the context.

    It knows the laws it was drawn from, so that it can be drawn anew.
    """

    @torch.no_grad()
    def draw(self, weight_law: Initializer, bias_law: Initializer, generator: torch.Generator):
        """Fill weights and biases from their laws, which `redraw` will use again."""
        self.laws = weight_law, bias_law
        weight = weight_law.weight_rows(self.weight, self.out_features, generator)
        self.weight.copy_(weight if self.mask is None else weight * self.mask)
        self.bias.copy_(bias_law.bias_rows(self.weight, self.out_features, generator))

    def redraw(self, generator: torch.Generator) -> None:
        """Fill weights and biases afresh."""
        self.draw(*self.laws, generator)

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        """Map features (B, inputs) to (B, outputs)."""
        return super().forward(input)


class MultiHeadReadout(Readout):
    """One linear head per discrete context over the same features.

    Stored as a single layer whose rows are the outputs of all heads, so that a unit's outgoing
    weights are one column and edits of units reach every head.

    Args:
        input_dim: Features.
        output_dim: Outputs of each head.
        num_contexts: Number of heads.
    """

    of_contexts = ("weight", "bias")  # see networks.units.context_parameters

    def __init__(self, input_dim: int, output_dim: int, num_contexts: int) -> None:
        super().__init__(input_dim, output_dim * num_contexts)
        self.num_contexts = num_contexts

    @torch.no_grad()
    def draw(self, weight_law: Initializer, bias_law: Initializer, generator: torch.Generator):
        """Fill every head as if it were the only one."""
        self.laws = weight_law, bias_law
        size = self.out_features // self.num_contexts
        for weight, bias in zip(self.weight.split(size), self.bias.split(size), strict=True):
            weight.copy_(weight_law.weight_rows(weight, size, generator))
            bias.copy_(bias_law.bias_rows(weight, size, generator))

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        """Map features (B, inputs) to the outputs of each sample's own head, (B, outputs).

        Args:
            input: (B, inputs).
            context: (B,) indices, or (B, num_contexts) one-hot.

        Raises:
            ValueError: The context is missing or of another size.
        """
        if context is None:
            raise ValueError("this network has one head per context; pass a context to forward")
        outputs = super().forward(input).unflatten(-1, (self.num_contexts, -1))
        if not context.is_floating_point():
            index = context.view(-1, 1, 1).expand(-1, 1, outputs.shape[-1])
            return outputs.gather(1, index).squeeze(1)
        if context.shape[-1] != self.num_contexts:
            raise ValueError(
                f"the context has {context.shape[-1]} entries, but the network has "
                f"{self.num_contexts} heads; pass one-hot vectors of {self.num_contexts}"
            )
        return (outputs * context.to(outputs.dtype).unsqueeze(-1)).sum(1)


def linear_readout(
    input_dim: int, output_dim: int, initializer: Initializer, generator: torch.Generator
) -> Readout:
    """Build a linear head from its own law and stream."""
    layer = Readout(input_dim, output_dim)
    layer.draw(initializer, initializer, generator)
    return layer


def multi_head_readout(
    input_dim: int,
    output_dim: int,
    num_contexts: int,
    initializer: Initializer,
    generator: torch.Generator,
) -> MultiHeadReadout:
    """Build one linear head per context, each drawn as if it were the only one."""
    layer = MultiHeadReadout(input_dim, output_dim, num_contexts)
    layer.draw(initializer, initializer, generator)
    return layer
