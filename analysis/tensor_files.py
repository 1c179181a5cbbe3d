"""safetensors bytes, and the checks that must come before anybody reads them.

The library accepts duplicate names and names such as `../../x`, and the order of its `__metadata__`
is random. Our files have no metadata, so equal tensors give equal bytes, and no odd names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from analysis.canonical_json import MAX_BYTES, JsonError, parse_json
from analysis.state_tree import DTYPES, dense_copy

_NAME = re.compile(r"[A-Za-z0-9_./-]{1,200}")
_MAX_DIMENSIONS = 32
_LENGTH_BYTES = 8

Header = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class TensorFileError(ValueError):
    """Bytes that are no tensor file of ours; the message continues a sentence: `<file> ...`."""


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Write contiguous CPU tensors as one safetensors file.

    Returns:
        The same bytes for the same tensors, in whatever order they come.
    """
    # Copies, because the library refuses tensors that share memory (tied weights, views).
    return safetensors.torch.save({name: dense_copy(tensor) for name, tensor in tensors.items()})


def header_length(head: bytes, file_length: int) -> int:
    """How many bytes of a file hold its header, the eight of the length included.

    Args:
        head: at least the first eight bytes of the file, unless it is shorter.
        file_length: bytes in the whole file.

    Raises:
        TensorFileError: the file is too short for what it announces, or the header too long.
    """
    if len(head) < _LENGTH_BYTES:
        raise TensorFileError(f"has only {file_length} bytes")
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > MAX_BYTES or _LENGTH_BYTES + length > file_length:
        raise TensorFileError(
            f"announces a header of {length:,} bytes in a file of {file_length:,}"
        )
    return _LENGTH_BYTES + length


def check_header(head: bytes, file_length: int) -> Header:
    """Read a header and check everything in it, before anything is allocated.

    Args:
        head: the first `header_length` bytes of the file, or more.
        file_length: bytes in the whole file.

    Returns:
        Name -> (dtype, shape) of each tensor.

    Raises:
        TensorFileError: metadata, odd or duplicate names, unknown dtypes, shapes that do not fit
            their bytes, gaps, overlaps, missing or additional bytes.
    """
    start = header_length(head, file_length)
    try:
        entries = parse_json(head[_LENGTH_BYTES:start].rstrip(b" "))
    except JsonError as error:
        raise TensorFileError(f"has a header that {error}") from error
    if not isinstance(entries, dict):
        raise TensorFileError("has a header that is no JSON object")
    header: Header = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if not _NAME.fullmatch(name) or ".." in name or name == "__metadata__":
            raise TensorFileError(f"has a tensor with the forbidden name {name[:200]!r}")
        dtype, shape, span = _check_entry(name, entry)
        header[name] = (dtype, shape)
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise TensorFileError(
                f"has a gap or an overlap at byte {min(begin, end):,} of its data"
            )
        end = stop
    if end != file_length - start:
        raise TensorFileError(f"has {file_length - start:,} bytes of data, the header says {end:,}")
    return header


def decode_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Read a safetensors file from bytes whose digest has been verified.

    Raises:
        TensorFileError: see `check_header`.
    """
    header = check_header(data, len(data))
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise TensorFileError(f"is no safetensors file: {error}") from error
    return {name: tensors[name].reshape(shape) for name, (_, shape) in header.items()}


def _check_entry(name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"describes the tensor {name!r} in an unknown way")
    code, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise TensorFileError(f"has the tensor {name!r} of dtype {str(code)[:20]!r}")
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise TensorFileError(f"has the tensor {name!r} with an impossible shape")
    if not _is_sizes(span) or len(span) != 2:
        raise TensorFileError(f"has the tensor {name!r} with impossible offsets")
    dtype = DTYPES[code]
    if math.prod(shape) * dtype.itemsize != span[1] - span[0]:
        raise TensorFileError(
            f"has the tensor {name!r} of shape {shape} and dtype {code} in "
            f"{span[1] - span[0]:,} bytes"
        )
    return dtype, tuple(shape), (span[0], span[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
