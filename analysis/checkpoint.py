"""Save and find checkpoints, so that a kill at any moment leaves one that loads.

One directory per checkpoint: `<key>.safetensors` for each top-level key that has arrays, blocks of
rows for large arrays, `state.json` for everything else, and `manifest.json` with the SHA-256 and
length of every file.

Deviation: the replay segments of other suites live in a shared folder under generation numbers.
Here each checkpoint holds all its blocks, as hard links where the bytes are those of the last
checkpoint: as little is written, each directory stands alone, and deleting one is just that.
"""

from __future__ import annotations

import logging
import operator
import os
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from analysis.canonical_json import canonical_json
from analysis.checkpoint_files import (
    BLOCK_PREFIX,
    DEFAULT_LIMITS,
    KEY_NAME,
    MANIFEST,
    MAX_ENV_STEPS,
    CheckpointError,
    Limits,
    encode_manifest,
    parse_step_name,
    step_name,
)
from analysis.checkpoint_reading import (
    LoadedCheckpoint,
    inspect_checkpoint,
    load_checkpoint,
    verify_checkpoint,
)
from analysis.checkpoint_writing import BlockLinks, write_files
from analysis.state_files import flat_hash, flatten
from analysis.state_tree import TREE_DEPTH, FlatState, StateError
from analysis.storage import (
    LOST,
    StorageError,
    StorageFullError,
    StorageLostError,
    fsync_directory,
    temporary_name,
    write_durable,
)

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "Limits",
    "LoadedCheckpoint",
    "StorageError",
    "StorageFullError",
    "StorageLostError",
    "inspect_checkpoint",
    "load_checkpoint",
    "verify_checkpoint",
]

_log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run. Its directory belongs to one process at a time.

    Attributes:
        problems: one sentence for each checkpoint that was skipped and each old one that could not
            be removed, newest last.
        failed_saves: saves that failed in a row.
    """

    space_factor = 1.2
    reserved_bytes = 512 * 2**20
    # Arrays above the first size are stored as blocks of about the second.
    split_above_bytes = 32 * 2**20
    block_bytes = 16 * 2**20

    def __init__(
        self,
        directory: Path | str,
        keep: int = 3,
        config_hash: str = "",
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Name the directory; nothing is touched yet.

        Args:
            directory: where the checkpoints lie; created by the first save, in a folder that
                exists.
            keep: unpinned checkpoints that stay, at least 1.
            config_hash: recorded in each manifest.
            limits: see `load_checkpoint`.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one checkpoint must stay")
        self.directory = Path(directory)
        self.keep = keep
        self.config_hash = config_hash
        self.limits = limits
        self.problems: list[str] = []
        self.failed_saves = 0
        self._parent: str | None = None
        self._unusable: set[str] = set()
        self._links = BlockLinks()

    def save(
        self,
        env_steps: int,
        state: Mapping[str, Any],
        *,
        pinned: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save a checkpoint and, once it is durable, remove those that are no longer kept.

        Args:
            env_steps: environment steps done, 0 to 10**12 - 1.
            state: see `analysis.state_files.flatten`; the top-level keys name files. Nothing in it
                is changed and no random number is drawn.
            pinned: never remove it.
            metadata: plain JSON values for the manifest.

        Returns:
            The checkpoint's directory: an older one of the same step where that holds the same
            state already, otherwise a new one. Nothing is ever overwritten.

        Raises:
            ValueError: something in the arguments cannot be stored.
            StorageFullError: not enough free space; nothing was written.
            StorageLostError: the directory of the run is gone or cannot be written.
            StorageError: the disk refused; the older checkpoints are untouched.
        """
        step = operator.index(env_steps)
        if not 0 <= step <= MAX_ENV_STEPS:
            raise ValueError(f"env_steps is {step}; allowed are 0 to {MAX_ENV_STEPS}")
        _check_keys(state)
        flat = flatten(dict(state))
        fields = {
            "config_hash": self.config_hash,
            "env_steps": step,
            "metadata": dict(metadata or {}),
            "parent": self._parent,
            "pinned": bool(pinned),
            "state_hash": flat_hash(flat),
        }
        try:
            path = self._commit(flat, fields)
        except StorageError:
            self.failed_saves += 1
            raise
        except OSError as error:
            self.failed_saves += 1
            kind = StorageLostError if error.errno in LOST else StorageError
            raise kind(
                f"cannot save the checkpoint of step {step} in {self.directory}: "
                f"{error.strerror or error}",
                self.directory,
            ) from error
        self.failed_saves = 0
        self._parent = path.name
        self._remember(path)
        self._prune(path)
        return path

    def load_latest(self) -> LoadedCheckpoint | None:
        """Load the newest checkpoint that is intact; only reads.

        Returns:
            The checkpoint, None if there is none at all. Each damaged one that had to be skipped is
            logged and added to `problems`.

        Raises:
            CheckpointError: there are checkpoints, but not one of them is intact.
        """
        paths = self.paths()
        reasons: list[str] = []
        for path in paths:
            try:
                loaded = load_checkpoint(path, limits=self.limits)
            except CheckpointError as error:
                reasons.append(str(error))
                self._unusable.add(path.name)
                self._report(f"skipped {error}")
                continue
            self._parent = path.name
            self._remember(path)
            return loaded
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoints in {self.directory} is intact (newest: "
                f"{reasons[0]}); move them away to start anew"
            )
        return None

    def paths(self) -> list[Path]:
        """All checkpoints of the run, newest first, intact or not."""
        try:
            found = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(
                f"cannot read {self.directory}: {error.strerror}", self.directory
            ) from error
        steps = {name: parse_step_name(name) for name in found}
        ordered = sorted(((step, name) for name, step in steps.items() if step), reverse=True)
        return [self.directory / name for _, name in ordered]

    def _commit(self, flat: FlatState, fields: Mapping[str, Any]) -> Path:
        if not self.directory.is_dir():
            # Not its parents: a run whose directory is gone must not go on in an empty one.
            self.directory.mkdir(mode=0o700)
            fsync_directory(self.directory.parent)
        self._remove_leftovers()
        self._require_space(flat)
        temporary = self.directory / temporary_name(str(fields["env_steps"]))
        try:
            os.mkdir(temporary, 0o700)
            files = write_files(
                temporary, flat, self._links, self.split_above_bytes, self.block_bytes
            )
            self._require_limits(files)
            write_durable(temporary / MANIFEST, encode_manifest({**fields, "files": files}))
            fsync_directory(temporary)
            return self._publish(temporary, fields)
        finally:
            # After publishing the name is gone; otherwise this is what a failure left behind.
            shutil.rmtree(temporary, ignore_errors=True)

    def _require_space(self, flat: FlatState) -> None:
        size = sum(tensor.nbytes for tensor in flat.tensors.values())
        size += len(canonical_json(flat.tree, max_depth=TREE_DEPTH))
        needed = int(self.space_factor * size) + self.reserved_bytes
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise StorageFullError(
                f"{self.directory} has {free / 2**20:,.0f} MiB free, a checkpoint needs "
                f"{needed / 2**20:,.0f} MiB; the older checkpoints are kept, free some space",
                self.directory,
            )

    def _require_limits(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        total = sum(entry["length"] for entry in files.values())
        if total > self.limits.max_bytes or len(files) > self.limits.max_files:
            raise StateError(
                f"the checkpoint has {len(files):,} files of {total:,} bytes; the limits, also of "
                f"every reader, are {self.limits.max_files:,} and {self.limits.max_bytes:,}"
            )

    def _publish(self, temporary: Path, fields: Mapping[str, Any]) -> Path:
        for repeat in count():
            target = self.directory / step_name(fields["env_steps"], repeat)
            if not os.path.lexists(target):
                os.replace(temporary, target)
                fsync_directory(self.directory)
                return target
            if self._holds_the_same(target, fields):
                fsync_directory(self.directory)
                return target
        raise AssertionError("count() does not end")

    def _holds_the_same(self, path: Path, fields: Mapping[str, Any]) -> bool:
        """Whether an existing checkpoint is intact and makes the new one superfluous."""
        try:
            manifest = verify_checkpoint(path, self.limits)
        except CheckpointError:
            return False
        same = all(
            manifest[key] == fields[key] for key in ("state_hash", "config_hash", "env_steps")
        )
        return same and (manifest["pinned"] or not fields["pinned"])

    def _prune(self, saved: Path) -> None:
        unpinned: list[Path] = []
        for path in self.paths():
            try:
                if path.name not in self._unusable and not inspect_checkpoint(path)["pinned"]:
                    unpinned.append(path)
            except CheckpointError as error:
                self._report(f"kept {error}")
        for path in unpinned[self.keep :]:
            if path == saved:
                continue
            # Out of sight in one step: half a checkpoint must never look like a damaged one.
            condemned = self.directory / temporary_name(f"old-{path.name}")
            try:
                os.replace(path, condemned)
                shutil.rmtree(condemned)
            except OSError as error:
                self._report(f"could not remove the old checkpoint {path}: {error.strerror}")

    def _remove_leftovers(self) -> None:
        with os.scandir(self.directory) as entries:
            leftovers = [entry for entry in entries if entry.name.startswith(".tmp-")]
        for entry in leftovers:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def _remember(self, path: Path) -> None:
        try:
            self._links.remember(path)
        except (CheckpointError, OSError) as error:
            # The checkpoint is durable all the same; only the saving of space is lost.
            self._report(f"the next save writes all row blocks again: {error}")

    def _report(self, problem: str) -> None:
        self.problems.append(problem)
        _log.warning("%s", problem)


def _check_keys(state: Mapping[str, Any]) -> None:
    for key in state:
        if not isinstance(key, str) or not KEY_NAME.fullmatch(key) or key.startswith(BLOCK_PREFIX):
            raise StateError(
                f"the state has the top-level key {key!r}; such keys name files: a letter, then at "
                f"most 63 letters, digits, - or _, not starting with {BLOCK_PREFIX!r}"
            )
