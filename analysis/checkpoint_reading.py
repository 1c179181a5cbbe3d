"""Load a checkpoint, be it ours or a stranger's: everything is checked before it is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis.checkpoint_contents import ROWS, Contents, Kind, Split, check_headers, parse_contents
from analysis.checkpoint_files import (
    DEFAULT_LIMITS,
    STATE,
    CheckpointError,
    CheckpointFiles,
    Limits,
)
from analysis.state_files import flat_hash, flatten, unflatten
from analysis.state_tree import FlatState, StateError, StatePath, array_name, leaves, shown
from analysis.tensor_files import Header, TensorFileError, decode_tensors


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A verified checkpoint.

    Attributes:
        path: its directory.
        env_steps: environment steps done when it was saved.
        state: the nested state, see `analysis.state_files.flatten`. NaN values are not refused.
        manifest: the manifest as read: config_hash, parent, pinned, metadata, files ...
    """

    path: Path
    env_steps: int
    state: dict[str, Any]
    manifest: dict[str, Any]


def inspect_checkpoint(path: Path | str) -> dict[str, Any]:
    """The manifest of a checkpoint; opens no other file and builds nothing.

    Raises:
        CheckpointError: no directory, or the manifest is missing or damaged.
    """
    try:
        with CheckpointFiles(Path(path)) as files:
            return files.manifest()
    except (CheckpointError, OSError) as error:
        raise _named(path, error) from error


def load_checkpoint(
    path: Path | str,
    expected: Mapping[str, Any] | None = None,
    *,
    keys: Collection[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> LoadedCheckpoint:
    """Verify a checkpoint and build its state.

    Args:
        path: the checkpoint's directory.
        expected: top-level key -> a state of the only acceptable form; names, dtypes and shapes of
            its arrays and the names of its other values must be equal. Compared before the arrays
            are read.
        keys: top-level keys to build; the others are verified and left out. None for all.
        limits: refuse larger checkpoints.

    Returns:
        The state. No code in the files is ever run, and no name in them is used as a path.

    Raises:
        CheckpointError: anything that is not exactly as the manifest says.
    """
    path = Path(path)
    try:
        with CheckpointFiles(path) as files:
            return _load(path, files, expected, keys, limits)
    except (CheckpointError, StateError, OSError) as error:
        raise _named(path, error) from error


def verify_checkpoint(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Check every byte of a checkpoint without building its state; returns the manifest."""
    return load_checkpoint(path, keys=(), limits=limits).manifest


def _named(path: Path | str, error: Exception) -> CheckpointError:
    return CheckpointError(f"checkpoint {path}: {error}")


def _load(
    path: Path,
    files: CheckpointFiles,
    expected: Mapping[str, Any] | None,
    keys: Collection[str] | None,
    limits: Limits,
) -> LoadedCheckpoint:
    manifest = files.manifest()
    files.require_members(manifest, limits)
    entries = manifest["files"]
    contents = parse_contents(files.read(STATE, entries[STATE]))
    wanted = set(contents.tree) if keys is None else set(keys)
    if unknown := sorted(wanted - set(contents.tree)):
        raise CheckpointError(f"has no {unknown[0]!r}; it has {sorted(contents.tree)}")
    headers = check_headers(files, entries, contents)
    if expected is not None:
        _compare_with(expected, contents, headers)

    tensors: dict[str, torch.Tensor] = {}
    for key in sorted(contents.tree):
        if contents.inline(key):
            name = f"{key}.safetensors"
            tensors.update(_read_file(files, name, entries, headers, build=key in wanted))
        for array in sorted(set(contents.names[key]) & set(contents.split)):
            split = contents.split[array]
            built = _read_blocks(files, split, entries, headers, build=key in wanted)
            if built is not None:
                tensors[array] = built
    flat = FlatState({key: contents.tree[key] for key in contents.tree if key in wanted}, tensors)
    state = unflatten(flat)
    if keys is None and flat_hash(flat) != manifest["state_hash"]:
        raise CheckpointError("holds a state with another hash than the manifest says")
    return LoadedCheckpoint(path, manifest["env_steps"], state, manifest)


def _read_file(
    files: CheckpointFiles,
    name: str,
    entries: Mapping[str, Any],
    headers: Mapping[str, Header],
    *,
    build: bool,
) -> dict[str, torch.Tensor]:
    if not build:
        files.verify(name, entries[name])
        return {}
    data = files.read(name, entries[name])
    try:
        tensors = decode_tensors(data)
    except TensorFileError as error:
        raise CheckpointError(f"has {name}, which {error}") from error
    # The headers were read before the digest was known; these bytes are the verified ones.
    found = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    if found != headers[name]:
        raise CheckpointError(f"has {name}, which changed while it was read")
    return tensors


def _read_blocks(
    files: CheckpointFiles,
    split: Split,
    entries: Mapping[str, Any],
    headers: Mapping[str, Header],
    *,
    build: bool,
) -> torch.Tensor | None:
    dtype, shape = split.kind
    array = torch.empty(shape, dtype=dtype) if build else None
    row = 0
    for file in split.files:
        block = _read_file(files, file, entries, headers, build=build).get(ROWS)
        if array is not None and block is not None:
            array[row : row + len(block)] = block
            row += len(block)
    return array


def _compare_with(
    expected: Mapping[str, Any], contents: Contents, headers: Mapping[str, Header]
) -> None:
    kinds: dict[str, Kind] = {name: split.kind for name, split in contents.split.items()}
    for key in contents.tree:
        kinds.update(headers.get(f"{key}.safetensors", {}) if contents.inline(key) else {})
    for key, template in expected.items():
        if key not in contents.tree:
            raise CheckpointError(f"has no {key!r}; it has {sorted(contents.tree)}")
        flat = flatten({key: template})
        own = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in flat.tensors.items()}
        wanted = _forms(flat.tree[key], key, own)
        found = _forms(contents.tree[key], key, kinds)
        for path in sorted(set(wanted) | set(found)):
            if path not in found:
                raise CheckpointError(f"lacks {shown(path)}, which is {_words(wanted[path])}")
            if path not in wanted:
                raise CheckpointError(f"has {shown(path)}, which is unknown")
            if wanted[path] != found[path]:
                raise CheckpointError(
                    f"has {shown(path)} as {_words(found[path])}, not {_words(wanted[path])}"
                )


def _forms(tree: Any, key: str, kinds: Mapping[str, Kind]) -> dict[StatePath, Kind | None]:
    """Path -> kind of each array, None for each other value."""
    named = ((path, array_name(leaf)) for path, leaf in leaves(tree, (key,)))
    return {path: None if name is None else kinds[name] for path, name in named}


def _words(kind: Kind | None) -> str:
    return "a plain value" if kind is None else f"{kind[0]} of shape {list(kind[1])}"
