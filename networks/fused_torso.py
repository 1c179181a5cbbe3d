"""Hand-written forward and backward pass of the hidden layers of a plain ReLU perceptron.

For networks with several heads, such as policies with a mean and a standard deviation: their heads
are small and stay with autograd, which hands the derivative by the last hidden layer to this pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from networks.heads import Network
from networks.mlp import MLP
from networks.readouts import Readout

Run = Callable[[Callable[[], Any], Callable[[], Any]], Any]
"""Runs two independent pieces of work, one after the other or side by side."""


class FusedTorso:
    """Forward and backward pass of the hidden layers for one batch size.

    Gradients are written into buffers that become the `.grad` of the hidden weights and biases.

    Args:
        network: A network for which `supports` is true.
        batch_size: Rows of every batch.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        assert isinstance(network.torso, MLP)
        self._linears: list[nn.Linear] = [layer.linear for layer in network.torso.layers]  # type: ignore[union-attr]
        self._names = [group.name for group in network.unit_groups()]
        self._weights = [linear.weight.detach() for linear in self._linears]
        self._biases = [linear.bias.detach() for linear in self._linears]
        self._hidden = [weight.new_empty(batch_size, len(weight)) for weight in self._weights]
        self._deltas = [torch.empty_like(output) for output in self._hidden]
        self._weight_grads = [torch.zeros_like(weight) for weight in self._weights]
        self._bias_grads = [torch.zeros_like(bias) for bias in self._biases]

    @staticmethod
    def supports(network: Network) -> bool:
        """Whether there are plain ReLU layers below plain heads.

        Where the torso reads a context, the caller appends it to the inputs.
        """
        torso = network.torso
        return (
            type(torso) is MLP
            and all(type(head) is Readout for head in network.heads())
            and all(
                layer.norm is None and layer.activation_name == "relu"  # type: ignore[union-attr]
                for layer in torso.layers
            )
        )

    @property
    def activations(self) -> dict[str, Tensor]:
        """Hidden units of the last forward pass, by unit-group name; overwritten by the next."""
        return dict(zip(self._names, self._hidden, strict=True))

    @property
    def features(self) -> Tensor:
        """What `forward` returned last, (B, units)."""
        return self._hidden[-1]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map a batch (B, inputs) to features (B, units); overwritten by the next call."""
        for weight, bias, output in zip(self._weights, self._biases, self._hidden, strict=True):
            torch.addmm(bias, x, weight.t(), out=output)
            x = torch.relu_(output)
        return x

    @torch.no_grad()
    def backward(self, x: Tensor, features_grad: Tensor, run: Run) -> None:
        """Write the gradients of all hidden weights and biases.

        Args:
            x: The batch given to `forward`, (B, inputs).
            features_grad: Derivative of the loss by what `forward` returned, (B, units).
            run: Does the two products of a layer, that by its inputs and that by its weights.
        """
        last = len(self._weights) - 1
        _through_relu(features_grad, self._hidden[last], self._deltas[last])
        for index in range(last, 0, -1):
            run(lambda i=index: self._pass_down(i), lambda i=index: self._by_weights(i, x))
        self._by_weights(0, x)
        for linear, weight, bias in zip(
            self._linears, self._weight_grads, self._bias_grads, strict=True
        ):
            linear.weight.grad, linear.bias.grad = weight, bias

    @torch.no_grad()
    def _pass_down(self, index: int) -> None:
        """Derivative by the layer below a layer, before its ReLU."""
        lower = self._deltas[index - 1]
        torch.mm(self._deltas[index], self._weights[index], out=lower)
        _through_relu(lower, self._hidden[index - 1], lower)

    @torch.no_grad()
    def _by_weights(self, index: int, x: Tensor) -> None:
        delta, below = self._deltas[index], self._hidden[index - 1] if index else x
        torch.mm(delta.t(), below, out=self._weight_grads[index])
        torch.sum(delta, 0, out=self._bias_grads[index])


def _through_relu(by_output: Tensor, output: Tensor, out: Tensor) -> None:
    """Derivative by what ReLU was given: 0 where the unit was silent."""
    torch.ops.aten.threshold_backward.grad_input(by_output, output, 0, grad_input=out)
