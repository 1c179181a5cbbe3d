"""What state.json says about the other files of a checkpoint, and whether they agree with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from analysis.canonical_json import JsonError, parse_json
from analysis.checkpoint_files import (
    BLOCK_PREFIX,
    KEY_NAME,
    STATE,
    CheckpointError,
    CheckpointFiles,
)
from analysis.state_tree import DTYPES, TREE_DEPTH, array_name, leaves
from analysis.tensor_files import Header, TensorFileError, check_header, header_length

ROWS = "rows"  # the one array in the file of a row block

Kind = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Split:
    """An array stored as row blocks, one file each."""

    kind: Kind
    files: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """What state.json says.

    Attributes:
        tree: the state's tree, one entry per top-level key.
        names: top-level key -> names of its arrays.
        split: name -> its blocks, for arrays that are not in their key's file.
    """

    tree: dict[str, Any]
    names: dict[str, list[str]]
    split: dict[str, Split]

    def inline(self, key: str) -> set[str]:
        return {name for name in self.names[key] if name not in self.split}


def parse_contents(data: bytes) -> Contents:
    try:
        stored = parse_json(data, max_depth=TREE_DEPTH)
    except JsonError as error:
        raise CheckpointError(f"has a {STATE} that {error}") from error
    if not isinstance(stored, dict) or set(stored) != {"tree", "split"}:
        raise CheckpointError(f"has a {STATE} without tree and split")
    tree, split = stored["tree"], stored["split"]
    if not isinstance(tree, dict) or not isinstance(split, dict):
        raise CheckpointError(f"has a malformed {STATE}")
    names: dict[str, list[str]] = {}
    for key in tree:
        if not KEY_NAME.fullmatch(key) or key.startswith(BLOCK_PREFIX):
            raise CheckpointError(f"has a state with the forbidden key {key[:100]!r}")
        found = (array_name(leaf) for _, leaf in leaves(tree[key], (key,)))
        names[key] = [name for name in found if name is not None]
    known = [name for group in names.values() for name in group]
    if len(set(known)) != len(known):
        raise CheckpointError("names an array twice")
    if not set(split) <= set(known):
        raise CheckpointError("has row blocks of an array that the state does not name")
    return Contents(tree, names, {name: _parse_split(name, split[name]) for name in split})


def _parse_split(name: str, entry: Any) -> Split:
    if isinstance(entry, dict) and set(entry) == {"dtype", "shape", "files"}:
        code, shape, blocks = entry["dtype"], entry["shape"], entry["files"]
        if (
            isinstance(code, str)
            and code in DTYPES
            and isinstance(shape, list)
            and shape
            and all(type(size) is int and size > 0 for size in shape)
            and isinstance(blocks, list)
            and all(isinstance(file, str) for file in blocks)
        ):
            return Split((DTYPES[code], tuple(shape)), tuple(blocks))
    raise CheckpointError(f"describes the row blocks of {name[:200]!r} in an unknown way")


def check_headers(
    files: CheckpointFiles, entries: Mapping[str, Any], contents: Contents
) -> dict[str, Header]:
    """Read all headers, and compare them with what state.json says, before any payload."""
    inline = {f"{key}.safetensors": contents.inline(key) for key in contents.tree}
    needed = [file for file, names in inline.items() if names]
    needed += [file for split in contents.split.values() for file in split.files]
    # Each file once: a block that many arrays share would multiply the memory it takes.
    if sorted([*needed, STATE]) != sorted(entries):
        odd = sorted(set(needed) ^ (set(entries) - {STATE})) or ["a file used twice"]
        raise CheckpointError(f"has files and a state that do not belong together: {odd[0][:100]}")
    headers: dict[str, Header] = {}
    for file in needed:
        length = entries[file]["length"]
        try:
            size = header_length(files.head(file, 8), length)
            headers[file] = check_header(files.head(file, size), length)
        except TensorFileError as error:
            raise CheckpointError(f"has {file}, which {error}") from error
    for file, names in inline.items():
        if names and set(headers[file]) != names:
            odd = sorted(set(headers[file]) ^ names)[0]
            raise CheckpointError(f"has a missing or unknown array {odd[:200]!r} in {file}")
    for name, split in contents.split.items():
        _check_blocks(name, split, headers)
    return headers


def _check_blocks(name: str, split: Split, headers: Mapping[str, Header]) -> None:
    dtype, shape = split.kind
    rows = 0
    for file in split.files:
        block_dtype, block_shape = headers[file].get(ROWS, (None, ()))
        fits = len(block_shape) == len(shape) and block_shape[1:] == shape[1:]
        if len(headers[file]) != 1 or block_dtype is not dtype or not fits:
            raise CheckpointError(f"has {file}, which is no block of {name[:200]!r}")
        rows += math.prod(block_shape[:1])
    if rows != shape[0]:
        raise CheckpointError(f"has {rows} rows in the blocks of {name[:200]!r}, not {shape[0]}")
