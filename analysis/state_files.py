"""Nested state <-> named tensors and a JSON tree, without pickle."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from analysis.canonical_json import MAX_DEPTH, canonical_json
from analysis.state_tree import (
    DTYPE_CODES,
    TREE_DEPTH,
    FlatState,
    StateError,
    StatePath,
    escape_key,
    shown,
    tag_of,
    tensor_bytes,
    tensor_name,
    unescape_key,
)

_EXACT_INTEGER = 2**53
_MAX_INTEGER_BITS = 12_000
_DECIMAL = re.compile(r"-?[0-9]{1,4000}")
_NUMPY_DTYPES = frozenset(
    str(dtype).removeprefix("torch.") for dtype in DTYPE_CODES if dtype is not torch.bfloat16
)


def flatten(state: Any) -> FlatState:
    """Take a nested state apart.

    Args:
        state: dicts (keys all strings or all integers), lists and tuples, at most 32 levels; leaves
            torch.Tensor, np.ndarray, NumPy scalar, int, float, bool, str, None.

    Returns:
        The parts. Tuples come back as lists, dicts in sorted order, parameters as plain tensors on
        the CPU, big-endian arrays as little-endian ones; NaN loses its payload as a Python float
        and keeps it in an array.

    Raises:
        StateError: anything else, named by its path.
    """
    tensors: dict[str, torch.Tensor] = {}
    return FlatState(_encode(state, (), tensors), tensors)


def unflatten(flat: FlatState) -> Any:
    """Put a state together again; its arrays share memory with `flat.tensors`.

    Raises:
        StateError: a malformed tree, a name without a tensor or a tensor that nothing names.
    """
    used: set[str] = set()
    state = _decode(flat.tree, (), flat.tensors, used)
    left_over = sorted(set(flat.tensors) - used)
    if left_over:
        raise StateError(f"the tensor {left_over[0]!r} belongs to nothing in the state")
    return state


def state_hash(state: Any, exclude: Collection[str] = ()) -> str:
    """SHA-256 over (name, dtype, shape, little-endian bytes) of every array and all other values.

    Args:
        state: anything `flatten` takes.
        exclude: dotted paths to leave out, for what may differ between identical runs
            (`"counters.active_seconds"`); one that is missing is no error.

    Returns:
        64 hexadecimal digits; equal for equal states, whatever the order of their keys.
    """
    for dotted in exclude:
        state = _without(state, dotted.split("."))
    return flat_hash(flatten(state))


def flat_hash(flat: FlatState) -> str:
    """`state_hash` of a state that has been taken apart already."""
    digest = hashlib.sha256()
    for name in sorted(flat.tensors):
        tensor = flat.tensors[name]
        head = canonical_json([name, DTYPE_CODES[tensor.dtype], list(tensor.shape)])
        digest.update(head + b"\n")
        digest.update(tensor_bytes(tensor))
    digest.update(canonical_json(flat.tree, max_depth=TREE_DEPTH))
    return digest.hexdigest()


def _encode(value: Any, path: StatePath, tensors: dict[str, torch.Tensor]) -> Any:
    if len(path) > MAX_DEPTH:
        raise StateError(f"{shown(path)}... is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return _encode_mapping(value, path, tensors)
    if isinstance(value, list | tuple):
        return [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is float:
        return {"$float": value.hex()}
    if type(value) is int:
        return _encode_integer(value, path)
    tag, tensor = _encode_array(value, path)
    name = tensor_name(path)
    tensors[name] = tensor
    return {tag: name}


def _encode_mapping(
    value: Mapping[Any, Any], path: StatePath, tensors: dict[str, torch.Tensor]
) -> Any:
    if all(isinstance(key, str) for key in value):
        return {
            escape_key(key): _encode(item, (*path, str(key)), tensors)
            for key, item in sorted(value.items(), key=lambda pair: pair[0])
        }
    if all(type(key) is int and abs(key) <= _EXACT_INTEGER for key in value):
        return {
            "$ints": {
                str(key): _encode(item, (*path, str(key)), tensors)
                for key, item in sorted(value.items(), key=lambda pair: pair[0])
            }
        }
    raise StateError(
        f"{shown(path)} has the keys {list(value)[:5]!r}; the keys of one dict must be all strings "
        "or all integers"
    )


def _encode_integer(value: int, path: StatePath) -> Any:
    if abs(value) <= _EXACT_INTEGER:
        return value
    if value.bit_length() > _MAX_INTEGER_BITS:
        raise StateError(
            f"{shown(path)} is an integer of {value.bit_length():,} bits; at most "
            f"{_MAX_INTEGER_BITS:,}"
        )
    return {"$int": str(value)}


def _encode_array(value: Any, path: StatePath) -> tuple[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.dtype not in DTYPE_CODES:
            raise _unsupported(path, f"a tensor of {value.dtype} and layout {value.layout}")
        if value.device.type == "meta":
            raise _unsupported(path, "a tensor on the meta device, which has no values")
        return "$torch", value.detach().cpu().resolve_neg().contiguous()
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.ma.MaskedArray):
        if value.dtype.name not in _NUMPY_DTYPES:
            raise _unsupported(path, f"a NumPy value of dtype {value.dtype}")
        # safetensors would store the wrong elements of a strided array without a word.
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        if not array.flags.writeable:
            array = array.copy()
        tag = "$numpy" if isinstance(value, np.ndarray) else "$scalar"
        return tag, torch.from_numpy(array).reshape(value.shape)
    raise _unsupported(path, f"a {type(value).__module__}.{type(value).__qualname__}")


def _unsupported(path: StatePath, what: str) -> StateError:
    return StateError(
        f"{shown(path)} is {what}; allowed are dicts, lists, tuples, dense tensors and arrays of "
        "bool, integer and real types up to 64 bits, int, float, bool, str and None"
    )


def _decode(tree: Any, path: StatePath, tensors: Mapping[str, torch.Tensor], used: set[str]) -> Any:
    if len(path) > MAX_DEPTH:
        raise StateError(f"{shown(path)}... is nested more than {MAX_DEPTH} levels deep")
    if isinstance(tree, list):
        return [_decode(item, (*path, str(i)), tensors, used) for i, item in enumerate(tree)]
    if isinstance(tree, dict):
        tag = tag_of(tree)
        if tag == "$ints":
            return _decode_integer_keys(tree[tag], path, tensors, used)
        if tag is not None:
            return _decode_tagged(tag, tree[tag], path, tensors, used)
        plain_keys = {unescape_key(key): item for key, item in tree.items()}
        return {key: _decode(item, (*path, key), tensors, used) for key, item in plain_keys.items()}
    if isinstance(tree, float):
        raise StateError(f"{shown(path)} holds a decimal number where a hexadecimal one belongs")
    return tree


def _decode_integer_keys(
    items: Any, path: StatePath, tensors: Mapping[str, torch.Tensor], used: set[str]
) -> dict[int, Any]:
    if not isinstance(items, dict) or not all(_DECIMAL.fullmatch(key) for key in items):
        raise StateError(f"{shown(path)} has malformed integer keys")
    if len({int(key) for key in items}) != len(items):
        raise StateError(f"{shown(path)} has an integer key twice")
    ordered = sorted(items.items(), key=lambda pair: int(pair[0]))
    return {int(key): _decode(item, (*path, key), tensors, used) for key, item in ordered}


def _decode_tagged(
    tag: str, content: Any, path: StatePath, tensors: Mapping[str, torch.Tensor], used: set[str]
) -> Any:
    where = shown(path)
    if not isinstance(content, str):
        raise StateError(f"{where} has a malformed {tag}")
    if tag == "$float":
        return _decode_float(content, where)
    if tag == "$int":
        if not _DECIMAL.fullmatch(content):
            raise StateError(f"{where} has the malformed integer {content[:100]!r}")
        return int(content)
    if content not in tensors:
        raise StateError(f"{where} names the tensor {content[:200]!r}, which is missing")
    if content in used:
        raise StateError(f"{where} names the tensor {content[:200]!r}, which another value has")
    used.add(content)
    tensor = tensors[content]
    if tag == "$torch":
        return tensor
    if tensor.dtype is torch.bfloat16:
        raise StateError(f"{where} is a NumPy value of bfloat16, which NumPy does not have")
    if tag == "$scalar":
        if tensor.ndim != 0:
            raise StateError(f"{where} is a scalar with the shape {tuple(tensor.shape)}")
        return tensor.numpy()[()]
    return tensor.numpy()


def _decode_float(text: str, where: str) -> float:
    try:
        value = float.fromhex(text)
    except (ValueError, OverflowError) as error:
        raise StateError(f"{where} has the malformed float {text[:100]!r}") from error
    if value.hex() != text:
        raise StateError(f"{where} has the float {text[:100]!r}, which is not its canonical form")
    return value


def _without(state: Any, keys: list[str]) -> Any:
    if not isinstance(state, Mapping) or keys[0] not in state:
        return state
    if len(keys) == 1:
        return {key: item for key, item in state.items() if key != keys[0]}
    return {**state, keys[0]: _without(state[keys[0]], keys[1:])}
