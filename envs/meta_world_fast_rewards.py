"""Meta-World's own reward functions, bound to faster helpers.

Rewards call ``reward_utils.tolerance`` and ``np.linalg.norm`` on single numbers and on vectors of
three. Those calls, made for arrays, cost more than the rewards' own arithmetic. The functions are
not written again: the same compiled code gets other globals, in which these two names mean the
equal functions below. Meta-World's modules stay as they are.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils as stock

VALUE_AT_MARGIN = 0.1
LONG_TAIL_SCALE = float(np.sqrt(1 / VALUE_AT_MARGIN - 1))
GAUSSIAN_SCALE = float(np.sqrt(-2 * np.log(VALUE_AT_MARGIN)))


def tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = VALUE_AT_MARGIN,
) -> Any:
    """1 within ``bounds``, falling to ``value_at_margin`` at a distance of ``margin``.

    Raises:
        ValueError: If the bounds are in the wrong order or the margin is negative.

    Source: ``metaworld.utils.reward_utils.tolerance``, with the same arithmetic for one number.
    """
    is_usual = isinstance(x, float) and value_at_margin == VALUE_AT_MARGIN
    if not is_usual or sigmoid not in ("long_tail", "gaussian"):
        return stock.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    lower, upper = bounds
    if lower > upper:
        raise ValueError("Lower bound must be <= upper bound.")
    if margin < 0:
        raise ValueError(f"`margin` must be non-negative. Current value: {margin}")
    x = float(x)
    if lower <= x <= upper:
        return 1.0
    if margin == 0:
        return 0.0
    distance = float(lower - x if x < lower else x - upper) / float(margin)
    if sigmoid == "long_tail":
        return 1 / ((distance * LONG_TAIL_SCALE) ** 2 + 1)
    return float(np.exp(-0.5 * (distance * GAUSSIAN_SCALE) ** 2))  # math.exp differs in last bits


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Euclidean length of a vector or a number; everything else as ``np.linalg.norm``."""
    if axis is None and not keepdims and (ord is None or ord == 2):
        if isinstance(x, float):
            return np.float64(abs(x))  # a NumPy number, because some rewards call its methods
        if isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype == np.float64:
            return np.float64(math.sqrt(x.dot(x)))
    return np.linalg.norm(x, ord, axis, keepdims)


FAST_REWARD_UTILS = types.SimpleNamespace(**{**vars(stock), "tolerance": tolerance})
FAST_NUMPY = types.SimpleNamespace(
    **{**vars(np), "linalg": types.SimpleNamespace(**{**vars(np.linalg), "norm": norm})}
)


def fast_reward_methods(
    task_class: type[SawyerXYZEnv], replaced: Collection[str]
) -> dict[str, Any]:
    """The methods of a task that use the slow helpers, bound to those of this file.

    Args:
        task_class: A stock task class.
        replaced: Names of methods that the subclass has from elsewhere.

    Returns:
        Name -> what a subclass should define; static methods stay static.
    """
    methods: dict[str, Any] = {}
    for owner in task_class.__mro__:
        if not issubclass(owner, SawyerXYZEnv):
            break
        for name, member in vars(owner).items():
            function = _undecorated(member)
            if function is None or name in methods or name in replaced:
                continue
            if {"reward_utils", "norm"} & set(function.__code__.co_names):
                fast = _with_fast_helpers(function)
                methods[name] = staticmethod(fast) if isinstance(member, staticmethod) else fast
    return methods


def _undecorated(member: Any) -> types.FunctionType | None:
    """The function of a method; without Meta-World's check of the task, which a step makes."""
    function = member.__func__ if isinstance(member, staticmethod) else member
    if not isinstance(function, types.FunctionType):
        return None
    if function.__code__.co_freevars == ("func",) and function.__closure__:
        return function.__closure__[0].cell_contents
    return function


def _with_fast_helpers(function: types.FunctionType) -> Callable[..., Any]:
    helpers = {"reward_utils": FAST_REWARD_UTILS, "np": FAST_NUMPY}
    bound = types.FunctionType(
        function.__code__,
        {**function.__globals__, **helpers},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    bound.__kwdefaults__ = function.__kwdefaults__
    return bound
