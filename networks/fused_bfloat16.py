"""The hand-written pass with its large products in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from networks.fused import FusedPerceptron
from networks.heads import Network


class BFloat16Perceptron(FusedPerceptron):
    """Rounds the operands and results of the products between hidden layers to bfloat16.

    Weights, optimizer, biases, ReLU, losses and the products with observations and heads stay
    float32; sums inside a product are float32 too. Every rounded number has a relative error of
    at most 2^-9. A processor with bfloat16 dot products (AVX512_BF16, AMX) multiplies so nearly
    twice as fast, another one more slowly than in float32.

    Args:
        network: A network for which `supports` is true.
        batch_size: Rows of every batch.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        super().__init__(network, batch_size)

        def rounded(like: list[Tensor]) -> list[Tensor]:
            return [torch.empty_like(tensor, dtype=torch.bfloat16) for tensor in like]

        # Of hidden layer i at place i - 1, for the layers above the first.
        self._rounded_inputs = rounded(self._hidden[:-1])
        self._rounded_outputs = rounded(self._hidden[1:])
        self._rounded_weights = rounded(self._weights[1:-1])
        self._rounded_grads = rounded(self._weights[1:-1])
        self._rounded_deltas = rounded(self._deltas[1:])
        self._rounded_lower = rounded(self._deltas[:-1])

    def _affine(self, index: int, x: Tensor) -> None:
        if index == 0:
            super()._affine(index, x)
            return
        k = index - 1
        inputs, weight = self._rounded_inputs[k].copy_(x), self._rounded_weights[k]
        weight.copy_(self._weights[index])
        torch.mm(inputs, weight.t(), out=self._rounded_outputs[k])
        torch.add(self._biases[index], self._rounded_outputs[k], out=self._hidden[index])

    def _differentiate(self, index: int, delta: Tensor, below: Tensor, lower: Tensor) -> None:
        if index == len(self._hidden):  # the head
            super()._differentiate(index, delta, below, lower)
            return
        k = index - 1
        rounded = self._rounded_deltas[k].copy_(delta)
        torch.mm(rounded.t(), self._rounded_inputs[k], out=self._rounded_grads[k])
        torch.mm(rounded, self._rounded_weights[k], out=self._rounded_lower[k])
        self._weight_grads[index].copy_(self._rounded_grads[k])
        lower.copy_(self._rounded_lower[k])
