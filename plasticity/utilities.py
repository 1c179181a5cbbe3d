"""How useful a hidden unit is, judged from one minibatch: pure formulas.

Every formula is a product of factors of unit i: how strongly it answers (mean |h_i|, or
mean |h_i - its running mean|), the mean outgoing weight magnitude O_i, the inverse of the mean
incoming weight magnitude I_i, and how much the loss depends on it (mean (dL/dh_i)^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_DENOMINATOR = 1e-12


@dataclass(frozen=True)
class Utility:
    """Which factors a utility multiplies.

    Attributes:
        uses_activation: Mean |h_i| over the samples.
        uses_deviation: Mean |h_i - muhat_i|, muhat the bias-corrected running mean.
        uses_outgoing: O_i.
        uses_incoming: 1 / I_i.
        uses_fisher: Fisher information of the unit's output, see `fisher_information`.
        uses_network: Nothing of the above but what all later layers do with the unit, see
            `plasticity.propagated_utility`.
    """

    uses_activation: bool = False
    uses_deviation: bool = False
    uses_outgoing: bool = False
    uses_incoming: bool = False
    uses_fisher: bool = False
    uses_network: bool = False


UTILITIES = {
    "contribution": Utility(uses_activation=True, uses_outgoing=True),
    "weight": Utility(uses_outgoing=True),
    "adaptation": Utility(uses_incoming=True),
    "zero_contribution": Utility(uses_deviation=True, uses_outgoing=True),
    "adaptable_contribution": Utility(uses_deviation=True, uses_outgoing=True, uses_incoming=True),
    "feature_by_input": Utility(uses_deviation=True, uses_incoming=True),
    "fisher": Utility(uses_fisher=True),
    "fisher_contribution": Utility(uses_fisher=True, uses_activation=True, uses_outgoing=True),
    "propagated": Utility(uses_network=True),
    "random": Utility(),
}
"""Utilities by name. `random` has no formula: fresh noise is the ranking key itself."""


def summing_dtype(values: Tensor) -> torch.dtype:
    """What values are summed in: at least float32, because float16 overflows at 65,504."""
    return torch.promote_types(values.dtype, torch.float32)


def absolute_sum(activation: Tensor) -> Tensor:
    """Sum of |h_i| over samples and, for a convolution, positions, (units,), at least float32."""
    # abs().sum() is several times faster than a vector norm along the rows on CPU.
    return activation.abs().sum(sample_dims(activation), dtype=summing_dtype(activation))


def mean_absolute(activation: Tensor) -> Tensor:
    """Mean of |h_i| over samples and positions, (units,)."""
    return absolute_sum(activation) / num_samples(activation)


def sample_dims(activation: Tensor) -> tuple[int, ...]:
    """Every dimension but 1, which holds the units."""
    return (0, *range(2, activation.dim()))


def num_samples(activation: Tensor) -> int:
    """How many values of each unit an activation tensor holds."""
    return activation.numel() // activation.shape[1]


def fisher_information(gradient: Tensor) -> Tensor:
    """Mean squared derivative of the loss of one sample by a unit's output, (units,).

    Args:
        gradient: Derivative of the loss of a minibatch, which is a mean over its B samples, by
            the values that readers consumed: (B, units) or (B, channels, height, width). It
            therefore is 1/B of the derivative of every sample's own loss.

    Source: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning",
    equation 6 for the diagonal.
    Deviation: of the unit's output rather than of its weights; log-likelihoods are replaced by
    the loss that is trained on, so this is the empirical Fisher information.
    """
    per_sample = gradient.to(summing_dtype(gradient)) * len(gradient)
    return per_sample.square().sum(sample_dims(gradient)) / num_samples(gradient)


def instantaneous_utility(
    name: str,
    activation: Tensor,
    outgoing: Tensor,
    incoming: Tensor,
    mean: Tensor,
    gradient: Tensor | None = None,
) -> Tensor:
    """Utility y_i of every unit on one minibatch.

    Args:
        name: A name of `UTILITIES` except `random` and `propagated`.
        activation: Values that readers consume, (B, units) or (B, channels, height, width).
        outgoing: Mean (or summed) absolute outgoing weight of every unit, (units,).
        incoming: Mean absolute incoming weight, (units,); floored at 1e-12.
        mean: Bias-corrected running mean activation, (units,).
        gradient: Derivative of the minibatch loss by `activation`, its shape.

    Returns:
        (units,) in the dtype of `outgoing`. Factors that the formula does not use are not read.

    Raises:
        ValueError: `random`, which has no formula, or `propagated`, whose formula is of whole
            networks, or a gradient is needed and missing.

    Source: Dohare et al. 2024, equations 1 and 2 and the ablations of their public code.
    """
    utility = UTILITIES[name]
    if utility == Utility():
        raise ValueError(f"utility {name!r} is noise, drawn when units are ranked")
    if utility.uses_network:
        raise ValueError(f"utility {name!r} is of a whole network; use PropagatedUtility")
    result = torch.ones_like(outgoing)
    if utility.uses_activation:
        result = result * mean_absolute(activation)
    if utility.uses_deviation:
        shape = (1, -1) + (1,) * (activation.dim() - 2)
        result = result * mean_absolute(activation - mean.view(shape))
    if utility.uses_outgoing:
        result = result * outgoing
    if utility.uses_incoming:
        result = result / incoming.clamp_min(SMALLEST_DENOMINATOR)
    if utility.uses_fisher:
        if gradient is None:
            raise ValueError(f"utility {name!r} needs the gradients of the units' outputs")
        result = result * fisher_information(gradient)
    return result


def shared_utility(
    weight: Tensor, strength: Tensor, reader_utility: Tensor | None = None
) -> Tensor:
    """Split the utilities of a layer's rows among its inputs in proportion to contributions.

    Args:
        weight: Absolute weights |w_ki|, (rows, inputs).
        strength: Mean |h_i| of every input, (inputs,).
        reader_utility: U_k, (rows,); None for outputs, which have a utility of 1 each.

    Returns:
        sum_k U_k |h_i| |w_ki| / (sum_j |h_j| |w_kj| + 1e-12), (inputs,). A row whose inputs are
        all silent gives nothing away.
    """
    per_row = (weight @ strength).add_(SMALLEST_DENOMINATOR).reciprocal_()
    if reader_utility is not None:
        per_row.mul_(reader_utility)
    return strength * (per_row @ weight)


def dormancy_scores(magnitude: Tensor) -> Tensor:
    """Activity of every unit relative to its layer, s_i = mean|h_i| / (layer mean + 1e-9).

    Args:
        magnitude: Mean |h_i|, (units,).

    Returns:
        (units,); 0 for every unit of a layer that is silent altogether, never NaN.

    Source: Sokar et al. 2023, equation 1.
    """
    return magnitude / (magnitude.mean() + 1e-9)
