"""Which methods go together on one network, and which do not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from plasticity.method import Method
from plasticity.methods.injection import Injection
from plasticity.methods.l2_init import L2Init
from plasticity.methods.nap import NaP
from plasticity.methods.si import SI
from plasticity.methods.weight_clipping import WeightClipping
from plasticity.recycling import Recycler


def check_combination(network: str, methods: Mapping[str, Method], optimizer: Any) -> None:
    """Refuse methods that would work against each other; warn where one makes another idle.

    Args:
        network: Name of the network that all of them act on.
        methods: Method id -> instance, in hook order.
        optimizer: `Config` of the optimizer.

    Raises:
        ValueError: A combination that makes no sense.
    """
    active = {name: method for name, method in methods.items() if method.active}
    _check_recyclers(network, active)
    _check_injection(network, active)
    _check_path_integral(active)
    _check_projection(network, active, optimizer)


def _named(methods: Mapping[str, Method], kinds: type | tuple[type, ...]) -> list[str]:
    return [name for name, method in methods.items() if isinstance(method, kinds)]


def _check_recyclers(network: str, methods: Mapping[str, Method]) -> None:
    recyclers = _named(methods, Recycler)
    if len(recyclers) > 1:
        raise ValueError(
            f"{' and '.join(recyclers)} would both renew units of the network {network!r}, each "
            "judging units that the other has just made; choose one of them, or give them "
            f"different networks with method.{recyclers[0]}.networks"
        )


def _check_injection(network: str, methods: Mapping[str, Method]) -> None:
    injecting = _named(methods, Injection)
    others = [name for name in methods if name not in injecting]
    if injecting and others:
        raise ValueError(
            f"{injecting[0]} makes every head of {network!r} a sum of three, which "
            f"{', '.join(others)} cannot edit or remember as one; use it alone, or give it other "
            f"networks with method.{injecting[0]}.networks"
        )


def _check_path_integral(methods: Mapping[str, Method]) -> None:
    # Edits between the optimizer's step and the sum would enter the path integral.
    order = list(methods)
    for path in _named(methods, SI):
        earlier = order[: order.index(path)]
        early = [name for name in earlier if methods[name].changes_weights]
        if early:
            names = ",".join([path, *early])
            raise ValueError(
                f"{path} must come before {', '.join(early)}, whose edits would count as learning "
                f"otherwise; write method=[{names}]"
            )


def _check_projection(network: str, methods: Mapping[str, Method], optimizer: Any) -> None:
    if not _named(methods, NaP):
        return
    redundant = _named(methods, (L2Init, WeightClipping))
    if getattr(optimizer, "weight_decay", 0.0):
        redundant.append("optimizer.weight_decay")
    if redundant:
        warnings.warn(
            f"nap keeps the size of the hidden matrices of {network!r} constant, which makes "
            f"{', '.join(redundant)} redundant on them",
            stacklevel=2,
        )
