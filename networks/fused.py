"""Hand-written forward and backward pass of a plain ReLU perceptron with one linear head.

Small networks spend a third of a gradient step in the autograd engine and in allocations. This
pass runs the same matrix products into buffers allocated once. It is an optional fast path: the
autograd pass stays the reference, and tests hold the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.heads import Network
from networks.mlp import MLP
from networks.readouts import Readout


class FusedPerceptron:
    """Forward and backward pass of one network for one batch size.

    Gradients are written into buffers that become the `.grad` of the network's linear
    parameters; other parameters (log_std) are left to the caller.

    Args:
        network: A network for which `supports` is true.
        batch_size: Rows of every batch.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        assert isinstance(network.torso, MLP)
        linears = [layer.linear for layer in network.torso.layers]  # type: ignore[union-attr]
        self._linears: list[nn.Linear] = [*linears, *network.heads()]  # type: ignore[list-item]
        self._names = [group.name for group in network.unit_groups()]
        self._weights = [linear.weight.detach() for linear in self._linears]
        self._transposed = [weight.t() for weight in self._weights]
        self._biases = [linear.bias.detach() for linear in self._linears]
        self._outputs = [weight.new_empty(batch_size, len(weight)) for weight in self._weights]
        self._deltas = [torch.empty_like(output) for output in self._outputs[:-1]]
        self._weight_grads = [torch.zeros_like(weight) for weight in self._weights]
        self._bias_grads = [torch.zeros_like(bias) for bias in self._biases]

    @staticmethod
    def supports(network: Network) -> bool:
        """Whether a network is a plain ReLU perceptron with one head and no context."""
        torso = network.torso
        return (
            type(torso) is MLP
            and not torso.uses_context
            and len(network.heads()) == 1
            and type(network.heads()[0]) is Readout
            and all(
                layer.norm is None and layer.activation_name == "relu"  # type: ignore[union-attr]
                for layer in torso.layers
            )
        )

    @property
    def activations(self) -> dict[str, Tensor]:
        """Hidden units of the last forward pass, by unit-group name; overwritten by the next."""
        return dict(zip(self._names, self._outputs, strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch (B, inputs) to outputs (B, outputs); overwritten by the next call."""
        last = len(self._outputs) - 1
        for index, output in enumerate(self._outputs):
            torch.addmm(self._biases[index], x, self._transposed[index], out=output)
            x = torch.relu_(output) if index < last else output
        return x

    def backward(self, x: Tensor, output_grad: Tensor) -> None:
        """Write the gradients of all linear parameters.

        Args:
            x: The batch given to `forward`, (B, inputs).
            output_grad: Derivative of the loss by the outputs, (B, outputs).
        """
        delta = output_grad
        for index in range(len(self._outputs) - 1, -1, -1):
            below = self._outputs[index - 1] if index else x
            torch.mm(delta.t(), below, out=self._weight_grads[index])
            torch.sum(delta, 0, out=self._bias_grads[index])
            if index:
                torch.mm(delta, self._weights[index], out=self._deltas[index - 1])
                delta = self._deltas[index - 1]
                # Derivative of ReLU, in place: 0 where the unit was silent.
                torch.ops.aten.threshold_backward.grad_input(delta, below, 0, grad_input=delta)
        for linear, weight, bias in zip(
            self._linears, self._weight_grads, self._bias_grads, strict=True
        ):
            linear.weight.grad, linear.bias.grad = weight, bias
