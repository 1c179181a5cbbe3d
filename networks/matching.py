"""Parameter counts of perceptrons, and the width that matches a count: fair control arms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from networks.masks import round_half_up


def perceptron_parameters(
    input_dim: int,
    hidden_sizes: Sequence[int],
    output_dim: int,
    weight_density: float = 1.0,
    head_density: float = 1.0,
) -> int:
    """Weights and biases of a perceptron with its linear heads, masked weights not counted.

    Args:
        input_dim: Inputs, context included where it is concatenated.
        hidden_sizes: Units of each hidden layer.
        output_dim: Outputs of all heads together.
        weight_density: Share of weights each hidden unit keeps.
        head_density: Share of weights each output keeps.
    """
    widths = [input_dim, *hidden_sizes]
    hidden = sum(
        units * (round_half_up(weight_density * width) + 1)
        for width, units in itertools.pairwise(widths)
    )
    return hidden + output_dim * (round_half_up(head_density * widths[-1]) + 1)


def matched_width(num_parameters: int, input_dim: int, num_layers: int, output_dim: int) -> int:
    """Equal hidden width whose dense perceptron comes closest to a number of parameters.

    Args:
        num_parameters: Count to match, for example the live parameters of a dendritic network.
        input_dim: Inputs of the perceptron, context included.
        num_layers: Hidden layers, >= 1.
        output_dim: Outputs of all heads together, 0 to count hidden layers alone.

    Returns:
        The width w that minimises |parameters(w) - num_parameters|; the larger one of a tie.

    Raises:
        ValueError: A count is not positive.
    """
    if min(num_parameters, input_dim, num_layers) < 1 or output_dim < 0:
        raise ValueError(
            f"matched_width got {num_parameters} parameters, {input_dim} inputs, {num_layers} "
            f"layers and {output_dim} outputs; give at least 1 of each (outputs may be 0)"
        )
    # Parameters of width w: a w^2 + b w + c; the best whole number is next to the real root.
    a = num_layers - 1
    b = input_dim + num_layers + output_dim
    c = output_dim - num_parameters
    root = -c / b if a == 0 else (math.sqrt(max(b * b - 4 * a * c, 0)) - b) / (2 * a)

    def distance(width: int) -> int:
        count = perceptron_parameters(input_dim, [width] * num_layers, output_dim)
        return abs(count - num_parameters)

    candidates = range(max(1, math.floor(root) - 1), math.floor(root) + 3)
    return max(candidates, key=lambda width: (-distance(width), width))
