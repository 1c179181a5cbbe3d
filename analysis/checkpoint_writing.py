"""Write the files of a checkpoint into a directory that nobody reads yet."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from analysis.canonical_json import canonical_json
from analysis.checkpoint_contents import ROWS
from analysis.checkpoint_files import BLOCK_PREFIX, STATE
from analysis.checkpoint_reading import inspect_checkpoint
from analysis.state_tree import DTYPE_CODES, TREE_DEPTH, FlatState, array_name, leaves
from analysis.storage import write_durable
from analysis.tensor_files import encode_tensors

# (device, inode, modification time in ns, length): equal as long as nobody touches the file.
_Signature = tuple[int, int, int, int]
_Files = dict[str, dict[str, Any]]


class BlockLinks:
    """The row blocks of the last checkpoint, to be linked instead of written once more."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Path, _Signature]] = {}

    def remember(self, checkpoint: Path) -> None:
        """Note the blocks of a checkpoint that has just been written or verified.

        Raises:
            CheckpointError: its manifest cannot be read; no block is known then.
            OSError: a block is missing; the same.
        """
        self._known = {}
        self._known = {
            entry["sha256"]: (checkpoint / name, _signature(checkpoint / name))
            for name, entry in inspect_checkpoint(checkpoint)["files"].items()
            if name.startswith(BLOCK_PREFIX)
        }

    def link(self, digest: str, target: Path) -> bool:
        """Link the block with this SHA-256 to `target`; False if the caller must write it."""
        known = self._known.get(digest)
        if known is None:
            return False
        source, signature = known
        try:
            if _signature(source) != signature:
                return False
            os.link(source, target, follow_symlinks=False)
        except OSError:
            # No hard links here, or too many, or the source is gone: writing is equally right.
            return False
        return True


def write_files(
    folder: Path, flat: FlatState, links: BlockLinks, split_above_bytes: int, block_bytes: int
) -> dict[str, dict[str, Any]]:
    """Write every file but the manifest, each one synchronised to the disk.

    Args:
        folder: an empty directory.
        flat: the state; its tree is a dict whose keys name the files.
        links: blocks that exist already.
        split_above_bytes: larger arrays are stored as blocks of rows.
        block_bytes: size of a block, about.

    Returns:
        File name -> its `length` in bytes and its `sha256`.

    Raises:
        OSError: the disk refused.
    """
    files: _Files = {}
    split: dict[str, dict[str, Any]] = {}
    for key in sorted(flat.tree):
        inline: dict[str, torch.Tensor] = {}
        for _, leaf in leaves(flat.tree[key], (key,)):
            name = array_name(leaf)
            if name is None:
                continue
            tensor = flat.tensors[name]
            if tensor.ndim and len(tensor) > 1 and tensor.nbytes > split_above_bytes:
                split[name] = _write_blocks(folder, tensor, links, block_bytes, files)
            else:
                inline[name] = tensor
        if inline:
            _write(folder, f"{key}.safetensors", encode_tensors(inline), files)
    contents = canonical_json({"split": split, "tree": flat.tree}, max_depth=TREE_DEPTH)
    _write(folder, STATE, contents, files)
    return files


def _write_blocks(
    folder: Path, tensor: torch.Tensor, links: BlockLinks, block_bytes: int, files: _Files
) -> dict[str, Any]:
    """Write the rows in blocks at fixed places: in a ring buffer most of them stay as they were."""
    rows = max(1, block_bytes * len(tensor) // tensor.nbytes)
    names = []
    for start in range(0, len(tensor), rows):
        data = encode_tensors({ROWS: tensor[start : start + rows]})
        digest = hashlib.sha256(data).hexdigest()
        name = f"{BLOCK_PREFIX}{len(files):05d}-{digest[:16]}.safetensors"
        if links.link(digest, folder / name):
            files[name] = {"length": len(data), "sha256": digest}
        else:
            _write(folder, name, data, files)
        names.append(name)
    return {"dtype": DTYPE_CODES[tensor.dtype], "shape": list(tensor.shape), "files": names}


def _write(folder: Path, name: str, data: bytes, files: _Files) -> None:
    write_durable(folder / name, data)
    files[name] = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _signature(path: Path) -> _Signature:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
