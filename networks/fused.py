"""Hand-written forward and backward pass of a plain ReLU perceptron with one linear head.

Small networks spend a third of a gradient step in the autograd engine and in allocations. This
pass runs the same matrix products into buffers allocated once. It is an optional fast path: the
autograd pass stays the reference, and tests hold the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.heads import Network
from networks.linear import Linear
from networks.mlp import MLP
from networks.readouts import Readout

VECTOR_SIZE = 16
"""float32 numbers in the widest vector register; rows of other lengths cost a product dearly."""

MANY_ROWS = 64


class FusedPerceptron:
    """Forward and backward pass of one network for one batch size.

    Gradients are written into buffers that become the `.grad` of the network's linear
    parameters; other parameters (log_std) are left to the caller.

    Args:
        network: A network for which `supports` is true.
        batch_size: Rows of every batch.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        linears = [layer.linear for layer in getattr(network.torso, "layers", ())]
        self._linears: list[nn.Linear] = [*linears, *network.heads()]  # type: ignore[list-item]
        self._names = [group.name for group in network.unit_groups()]
        self._weights = [linear.weight.detach() for linear in self._linears]
        self._biases = [linear.bias.detach() for linear in self._linears]
        hidden = self._weights[:-1]
        self._hidden = [weight.new_empty(batch_size, len(weight)) for weight in hidden]
        self._deltas = [torch.empty_like(output) for output in self._hidden]
        # Few outputs of many rows are multiplied twice as fast the other way round.
        self._head_transposed = batch_size >= MANY_ROWS
        head = self._weights[-1]
        self._output = (
            head.new_empty(len(head), batch_size).t()
            if self._head_transposed
            else head.new_empty(batch_size, len(head))
        )
        self._weight_grads = [torch.zeros_like(weight) for weight in self._weights]
        self._bias_grads = [torch.zeros_like(bias) for bias in self._biases]
        inputs = self._weights[0].shape[1]
        self._first_transposed = (
            torch.zeros_like(self._weights[0].t().contiguous()) if inputs % VECTOR_SIZE else None
        )

    @staticmethod
    def supports(network: Network, with_context: bool = False) -> bool:
        """Whether a network is a plain ReLU perceptron with one head, or that head alone.

        Args:
            network: Any network.
            with_context: The caller appends the context to the inputs, where the torso reads one.
        """
        torso = network.torso
        return (
            len(network.heads()) == 1
            and type(network.heads()[0]) is Readout
            and (type(torso) is MLP or type(torso) is Linear)
            and (with_context or not torso.uses_context)
            and all(
                layer.norm is None and layer.activation_name == "relu"  # type: ignore[union-attr]
                for layer in getattr(torso, "layers", ())
            )
        )

    @property
    def activations(self) -> dict[str, Tensor]:
        """Hidden units of the last forward pass, by unit-group name; overwritten by the next."""
        return dict(zip(self._names, self._hidden, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch (B, inputs) to outputs (B, outputs); overwritten by the next call."""
        for index, output in enumerate(self._hidden):
            self._affine(index, x)
            x = torch.relu_(output)
        weight, bias, output = self._weights[-1], self._biases[-1], self._output
        if self._head_transposed:
            torch.addmm(bias[:, None], weight, x.t(), out=output.t())
        else:
            torch.addmm(bias, x, weight.t(), out=output)
        return output

    def input_gradient(self, output_grad: Tensor, rows: Tensor, columns: slice) -> Tensor:
        """Derivative of the loss by some inputs, for some rows of the batch given to `forward`.

        Args:
            output_grad: Derivative of the loss by the outputs of these rows, (R, outputs).
            rows: int64 (R,).
            columns: The inputs.

        Returns:
            (R, columns).
        """
        delta = output_grad
        for index in range(len(self._hidden) - 1, -1, -1):
            below, lower = self._hidden[index][rows], self._deltas[index][: len(rows)]
            torch.mm(delta, self._weights[index + 1], out=lower)
            torch.ops.aten.threshold_backward.grad_input(lower, below, 0, grad_input=lower)
            delta = lower
        return delta @ self._weights[0][:, columns]

    def backward(self, x: Tensor, output_grad: Tensor) -> None:
        """Write the gradients of all linear parameters.

        Args:
            x: The batch given to `forward`, (B, inputs).
            output_grad: Derivative of the loss by the outputs, (B, outputs).
        """
        delta = output_grad
        for index in range(len(self._weights) - 1, 0, -1):
            below, lower = self._hidden[index - 1], self._deltas[index - 1]
            self._differentiate(index, delta, below, lower)
            torch.sum(delta, 0, out=self._bias_grads[index])
            # Derivative of ReLU, in place: 0 where the unit was silent.
            torch.ops.aten.threshold_backward.grad_input(lower, below, 0, grad_input=lower)
            delta = lower
        if self._first_transposed is None:
            torch.mm(delta.t(), x, out=self._weight_grads[0])
        else:
            torch.mm(x.t(), delta, out=self._first_transposed)
            self._weight_grads[0].copy_(self._first_transposed.t())
        torch.sum(delta, 0, out=self._bias_grads[0])
        for linear, weight, bias in zip(
            self._linears, self._weight_grads, self._bias_grads, strict=True
        ):
            if linear.weight.grad is not weight:
                linear.weight.grad = weight
            if linear.bias.grad is not bias:
                linear.bias.grad = bias

    def _affine(self, index: int, x: Tensor) -> None:
        """Write what a hidden layer makes of its inputs (B, in), before ReLU."""
        torch.addmm(self._biases[index], x, self._weights[index].t(), out=self._hidden[index])

    def _differentiate(self, index: int, delta: Tensor, below: Tensor, lower: Tensor) -> None:
        """Write the weight gradient of a layer and the derivative by its inputs.

        Args:
            index: Any layer but the first.
            delta: Derivative of the loss by the layer's outputs before ReLU, (B, out).
            below: Its inputs, (B, in).
            lower: Where the derivative by the inputs goes, (B, in).
        """
        torch.mm(delta.t(), below, out=self._weight_grads[index])
        torch.mm(delta, self._weights[index], out=lower)
