"""What happens to the optimizer's memory of the entries that an edit rewrote.

| policy | effect |
|---|---|
| `keep` | nothing: old moments go on moving the new entries |
| `zero_moments` | first and second moments (or momentum) of exactly those entries become 0 |
| `per_unit_step` | the same, and their step counters restart, as in a fresh optimizer |

A step counter shared by a whole tensor is never reset: that would slow down the surviving units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from networks.units import Touched

POLICIES = ("keep", "zero_moments", "per_unit_step")
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg")
_COUNTERS = ("step", "row_start", "column_start")


def check_policy(policy: str, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a policy that an optimizer cannot carry out.

    Raises:
        ValueError: `per_unit_step` with an optimizer that has one step counter per tensor.
    """
    if policy != "per_unit_step" or hasattr(optimizer, "restart_entries"):
        return
    if not isinstance(optimizer, torch.optim.SGD):  # plain SGD has no step counter to restart
        raise ValueError(
            f"optimizer_state=per_unit_step needs step counters per unit, which "
            f"{type(optimizer).__name__} does not have; choose keep or zero_moments, build the "
            "optimizer with per_unit_step=True (PerUnitAdam), or give your own one a "
            "restart_entries(parameter, dim, indices) method"
        )


def rehearse_policy(policy: str, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """Carry a policy out once on a small layer, so that a run is refused before it starts.

    What an optimizer remembers shows only after a step, and the first unit may be renewed late.

    Args:
        policy: One of `POLICIES`.
        build: Builds the optimizer of the run for another network.

    Raises:
        ValueError: The optimizer cannot carry out the policy.
    """
    if policy == "keep":
        return
    layer = nn.utils.skip_init(nn.Linear, 2, 2)  # draws from no generator
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.ones_like(parameter)
    optimizer = build(layer)
    optimizer.step()
    weight, first = next(layer.parameters()), torch.tensor([0])
    apply_policy(policy, optimizer, [Touched(weight, dim, first) for dim in (0, 1)])


@torch.no_grad()
def apply_policy(policy: str, optimizer: torch.optim.Optimizer, touched: Sequence[Touched]) -> None:
    """Edit the optimizer state of rewritten entries, and of nothing else.

    An optimizer with state of its own kind defines `zero_entries(parameter, dim, indices)`, and
    one with step counters per unit `restart_entries` of the same form.

    Args:
        policy: One of `POLICIES`.
        optimizer: The optimizer of the edited network.
        touched: Rows and columns that were rewritten; those that are not renewed are left alone.

    Raises:
        ValueError: The optimizer cannot carry out the policy.
    """
    if policy == "keep":
        return
    check_policy(policy, optimizer)
    zero = getattr(optimizer, "zero_entries", None)
    restart = getattr(optimizer, "restart_entries", None)
    for entry in touched:
        if not entry.renewed or not optimizer.state.get(entry.parameter):
            continue  # still being learnt; or frozen, or not stepped yet: nothing is remembered
        if zero is not None:
            zero(entry.parameter, entry.dim, entry.indices)
        else:
            _zero_moments(optimizer, entry)
        if policy == "per_unit_step" and restart is not None:
            restart(entry.parameter, entry.dim, entry.indices)


def forget_parameters(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Drop the optimizer state of some parameters, as if they had just been created.

    An optimizer that remembers parameters elsewhere than in `state` defines a method of the same
    name, `forget_parameters(parameters)`.
    """
    forget = getattr(optimizer, "forget_parameters", None)
    if forget is not None:
        forget(list(parameters))
        return
    for parameter in parameters:
        optimizer.state.pop(parameter, None)


def _zero_moments(optimizer: torch.optim.Optimizer, entry: Touched) -> None:
    for name, value in optimizer.state[entry.parameter].items():
        if not isinstance(value, Tensor) or name in _COUNTERS:
            continue
        if name in _MOMENTS:
            value.index_fill_(entry.dim, entry.indices, 0.0)
        elif value.shape == entry.parameter.shape:
            raise ValueError(
                f"{type(optimizer).__name__} keeps {name!r} for every weight and does not say "
                "what a renewed unit means for it; give it a zero_entries(parameter, dim, "
                "indices) method, or set optimizer_state=keep"
            )
