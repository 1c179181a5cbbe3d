"""How outputs move (churn) and how well values fit: formulas on predictions."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from plasticity.diagnostics.measuring import doubled


def _check_equal_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"shapes differ: {shapes}; predict the same states before and after")


def value_churn(before: Tensor, after: Tensor) -> float:
    """Mean |V_after - V_before| over reference states, across one update.

    The reference states must not be in the update's minibatch: on them the change is learning,
    elsewhere it is churn.

    Raises:
        ValueError: Shapes differ; broadcasting (B,) against (B, 1) would compare all pairs.

    Source: Tang and Berseth (2024), arXiv 2409.04792, value churn.
    """
    _check_equal_shapes(before=before, after=after)
    return float((doubled(after) - doubled(before)).abs().mean())


class PolicyChurn(NamedTuple):
    """Change of a Gaussian policy on reference states.

    Attributes:
        kl: Mean over states of KL(before || after), in nats.
        mean_squared: Mean over states and actions of the squared change of the mean.
    """

    kl: float
    mean_squared: float


def policy_churn(
    mean_before: Tensor, log_std_before: Tensor, mean_after: Tensor, log_std_after: Tensor
) -> PolicyChurn:
    """Churn of a diagonal Gaussian policy across one update.

    A tanh squash is a bijection and leaves the divergence as it is.

    Args:
        mean_before: (B, actions).
        log_std_before: (B, actions) or (actions,).
        mean_after: (B, actions).
        log_std_after: (B, actions) or (actions,).

    Raises:
        ValueError: The means differ in shape or a log_std does not fit them.
    """
    _check_equal_shapes(mean_before=mean_before, mean_after=mean_after)
    actions = mean_before.shape[-1:]
    for name, log_std in (("log_std_before", log_std_before), ("log_std_after", log_std_after)):
        if log_std.shape not in (mean_before.shape, actions):
            raise ValueError(
                f"{name} has shape {tuple(log_std.shape)}; give {tuple(mean_before.shape)} or "
                f"{tuple(actions)}"
            )
    change = doubled(mean_after) - doubled(mean_before)
    narrowing = doubled(log_std_before) - doubled(log_std_after)
    # KL(p || q) = ln(s_q/s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2, summed over actions.
    scaled = change.square() * (-2.0 * doubled(log_std_after)).exp()
    kl = 0.5 * ((2.0 * narrowing).exp() + scaled - 1.0) - narrowing
    return PolicyChurn(float(kl.sum(-1).mean()), float(change.square().mean()))


def explained_variance(returns: Tensor, values: Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 is perfect, 0 no better than a constant; NaN if R is constant.

    Raises:
        ValueError: Shapes differ.
    """
    _check_equal_shapes(returns=returns, values=values)
    target = doubled(returns)
    variance = float(target.var(correction=0))
    if variance == 0.0:
        return math.nan
    return 1.0 - float((target - doubled(values)).var(correction=0)) / variance


def q_bias(q_values: Tensor, discounted_returns: Tensor) -> float:
    """Mean of Q minus the discounted Monte-Carlo return that followed.

    With entropy-regularised critics the return must include the entropy bonus.

    Raises:
        ValueError: Shapes differ.
    """
    _check_equal_shapes(q_values=q_values, discounted_returns=discounted_returns)
    return float((doubled(q_values) - doubled(discounted_returns)).mean())
