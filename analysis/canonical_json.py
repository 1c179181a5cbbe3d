"""JSON that has one spelling per value, and a reader that accepts nothing else by surprise.

Writing sorts keys and refuses NaN; reading refuses duplicate keys, non-finite numbers, more than
16 MiB, more than 32 levels and more values than any state of ours has. The limits hold on both
sides, so that whatever was written can be read back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
# Every value needs a comma or a bracket. Parsed values take up to 60 times their bytes, so the
# limit on bytes alone would let a small file fill the memory.
MAX_VALUES = 2**18


class JsonError(ValueError):
    """A value that cannot be written, or text that must not be read."""


def canonical_json(value: Any, *, indent: int | None = None, max_depth: int = MAX_DEPTH) -> bytes:
    """Write plain values (dict with string keys, list, str, int, float, bool, None) as JSON.

    Args:
        value: what to write.
        indent: spaces per level for people to read; None for the compact form.
        max_depth: levels of nesting allowed.

    Returns:
        The same bytes for the same value, whatever the order of its keys.

    Raises:
        JsonError: not plain, not finite, too deep or too large.
    """
    separators = (",", ": ") if indent is not None else (",", ":")
    try:
        text = json.dumps(
            value, sort_keys=True, allow_nan=False, separators=separators, indent=indent
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise JsonError(f"cannot be written as JSON: {error}") from error
    data = text.encode("ascii")
    _check_size(data)
    _check_depth(value, max_depth)
    return data


def parse_json(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Read JSON that may come from a stranger.

    Raises:
        JsonError: not UTF-8, not JSON, duplicate keys, NaN, infinity or an integer of more than
            17 digits, too deep or too large.
    """
    _check_size(data)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_short_integer,
            parse_float=_finite_float,
        )
    except JsonError:
        raise
    except RecursionError as error:
        raise JsonError(f"is nested more than {max_depth} levels deep") from error
    except ValueError as error:
        raise JsonError(f"is not JSON: {error}") from error
    _check_depth(value, max_depth)
    return value


def plain(value: Any, path: str = "", *, non_finite_as_null: bool = False) -> Any:
    """Copy nested dicts and lists, NumPy scalars and 0-d arrays or tensors turned into numbers.

    Args:
        value: dict with string keys, list, tuple, number, bool, str, None.
        path: where the value sits, for the error message.
        non_finite_as_null: write NaN and infinities as null instead of refusing them.

    Raises:
        ValueError: a value that JSON has no form for, named by its path.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path or 'the record'} has the key {key!r}; keys are strings")
        return {
            str(key): plain(
                item, f"{path}.{key}".lstrip("."), non_finite_as_null=non_finite_as_null
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            plain(item, f"{path}[{i}]", non_finite_as_null=non_finite_as_null)
            for i, item in enumerate(value)
        ]
    return _plain_scalar(value, path, non_finite_as_null)


def _plain_scalar(value: Any, path: str, non_finite_as_null: bool) -> Any:
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if non_finite_as_null:
            return None
        raise ValueError(f"{path or 'the value'} is {value}, which JSON cannot hold")
    raise ValueError(
        f"{path or 'the value'} is a {type(value).__name__}; allowed are numbers, strings, "
        "booleans, None, and dicts and lists of them (arrays: .tolist())"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"has the key {key[:100]!r} twice")
            seen.add(key)
    return result


def _refuse_constant(text: str) -> Any:
    raise JsonError(f"holds {text}, which is not JSON")


def _short_integer(text: str) -> int:
    if len(text) > 18:
        raise JsonError(
            "holds an integer of more than 17 digits; such integers are written as text"
        )
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError("holds a number beyond the range of a float")
    return value


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise JsonError(
            f"has {len(data):,} bytes; at most {MAX_BYTES:,} (keep long lists as arrays)"
        )
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > MAX_VALUES:
        raise JsonError(
            f"has about {values:,} values; at most {MAX_VALUES:,} (keep long lists as arrays)"
        )


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    depth = 0
    while level := [item for item in level if isinstance(item, dict | list) and item]:
        depth += 1
        if depth > max_depth:
            raise JsonError(f"is nested more than {max_depth} levels deep")
        level = [
            child for item in level for child in (item.values() if isinstance(item, dict) else item)
        ]
