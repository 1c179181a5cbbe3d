"""The stored form of a state: a JSON tree, and tensors that the tree names.

The tree has the shape of the state. Plain JSON values stand for themselves; everything else is an
object with one key that starts with `$`:

    {"$torch": name}    a tensor             {"$float": hex}    a float, exactly
    {"$numpy": name}    an array             {"$int": digits}   an integer beyond 2**53
    {"$scalar": name}   np.float32(1)        {"$ints": {...}}   a dict with integer keys

A key of the state that itself starts with `$` is written with one more `$`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from analysis.canonical_json import MAX_DEPTH, canonical_json

# What a safetensors file, torch and NumPy all have. bfloat16 exists as a tensor only.
DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPE_CODES: Mapping[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}

ARRAY_TAGS = ("$torch", "$numpy", "$scalar")
TAGS = (*ARRAY_TAGS, "$float", "$int", "$ints")
# A level of the state may take two levels of JSON: the container and the tag of its leaf or keys.
TREE_DEPTH = 2 * MAX_DEPTH + 4
_NAME_PART = re.compile(r"[A-Za-z0-9_.-]{1,100}")

StatePath = tuple[str, ...]


class StateError(ValueError):
    """A state that cannot be stored, or a stored tree that is not one."""


@dataclass(frozen=True)
class FlatState:
    """A state taken apart.

    Attributes:
        tree: plain JSON values; arrays are named in it.
        tensors: name -> contiguous CPU tensor. It may share memory with the state it came from.
    """

    tree: Any
    tensors: Mapping[str, torch.Tensor]


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, not copied."""
    if sys.byteorder != "little":
        raise StateError("states are stored little-endian; this processor is big-endian")
    if tensor.numel() < 2:
        # Such a tensor counts as contiguous whatever its strides, and odd ones cannot be viewed.
        tensor = dense_copy(tensor)
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def dense_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in memory of its own, with the strides that belong to the shape."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def tensor_name(path: StatePath) -> str:
    """A name for the array at `path` that every reader of safetensors can take.

    Returns:
        The path joined with slashes where that is a harmless name of at most 200 characters,
        otherwise the digest of the path, under its first part if that is harmless. Different paths
        have different names.
    """
    joined = "/".join(path)
    if path and len(joined) <= 200 and all(_is_harmless(part) for part in path):
        return joined
    digest = "sha256-" + hashlib.sha256(canonical_json(list(path))).hexdigest()
    if len(path) > 1 and _is_harmless(path[0]):
        return f"{path[0]}/{digest}"
    return digest


def tag_of(tree: Mapping[str, Any]) -> str | None:
    """The tag of a one-key object, None for a plain dict.

    Raises:
        StateError: a `$` key that is neither a tag nor escaped.
    """
    for key in tree:
        if key.startswith("$") and not key.startswith("$$"):
            if len(tree) == 1 and key in TAGS:
                return key
            raise StateError(f"the stored state has the unknown tag {key[:100]!r}")
    return None


def escape_key(key: str) -> str:
    """The spelling of a state's key in the tree."""
    return "$" + key if key.startswith("$") else str(key)


def unescape_key(key: str) -> str:
    """The state's key from its spelling in the tree."""
    return key[1:] if key.startswith("$$") else key


def leaves(tree: Any, path: StatePath = ()) -> Iterator[tuple[StatePath, Any]]:
    """Every leaf of a tree with its path in the state; tagged leaves as their one-key object."""
    if isinstance(tree, dict):
        tag = tag_of(tree)
        items = tree if tag is None else tree[tag]
        if tag not in (None, "$ints") or not isinstance(items, dict):
            yield path, tree
            return
        for key, item in items.items():
            yield from leaves(item, (*path, unescape_key(key)))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from leaves(item, (*path, str(index)))
    else:
        yield path, tree


def array_name(leaf: Any) -> str | None:
    """The name of the tensor that a leaf of a tree stands for, None for other leaves."""
    if isinstance(leaf, dict) and (tag := tag_of(leaf)) in ARRAY_TAGS:
        name = leaf[tag]
        return name if isinstance(name, str) else None
    return None


def shown(path: StatePath) -> str:
    """A path the way an error message names it: `state['policy']['0']`."""
    return "state" + "".join(f"[{part[:60]!r}]" for part in path[:8])


def _is_harmless(part: str) -> bool:
    return (
        _NAME_PART.fullmatch(part) is not None
        and ".." not in part
        and not part.startswith("sha256-")
    )
