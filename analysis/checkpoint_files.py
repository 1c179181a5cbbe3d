"""What lies in a checkpoint directory: its manifest, its files, and how to open them safely."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from analysis.canonical_json import JsonError, canonical_json, parse_json

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
MAX_ENV_STEPS = 10**12 - 1
# The name of a key's file cannot be mistaken for one of these: keys do not start with it.
BLOCK_PREFIX = "rows-"
_FILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}\.safetensors|state\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 2**20
_CHUNK = 2**20
_MANIFEST_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "config_hash": str,
    "digest": str,
    "env_steps": int,
    "files": dict,
    "format": int,
    "metadata": dict,
    "parent": (str, type(None)),
    "pinned": bool,
    "state_hash": str,
}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Limits:
    """What a checkpoint may ask of the reader.

    Attributes:
        max_bytes: all files together; the memory needed is about this much.
        max_files: entries of the directory.
    """

    max_bytes: int = 32 * 2**30
    max_files: int = 4096


DEFAULT_LIMITS = Limits()


def step_name(env_steps: int, repeat: int = 0) -> str:
    """The directory of a step; `repeat` counts later ones of the same step."""
    return f"step-{env_steps:012d}" + (f"-r{repeat}" if repeat else "")


def parse_step_name(name: str) -> tuple[int, int] | None:
    """(env_steps, repeat) of a directory's name, None if it is no checkpoint's name."""
    match = re.fullmatch(r"step-([0-9]{12})(?:-r([1-9][0-9]{0,8}))?", name)
    return None if match is None else (int(match[1]), int(match[2] or 0))


def encode_manifest(fields: Mapping[str, Any]) -> bytes:
    """Write a manifest, its own digest included, in the only spelling that is read back."""
    fields = {**fields, "format": FORMAT}
    digest = hashlib.sha256(canonical_json(fields)).hexdigest()
    data = canonical_json({**fields, "digest": digest}, indent=2)
    if len(data) > _MAX_MANIFEST_BYTES:
        raise ValueError(
            f"the manifest would have {len(data):,} bytes, at most {_MAX_MANIFEST_BYTES:,} are "
            "allowed; keep less in `metadata`"
        )
    return data


def parse_manifest(data: bytes) -> dict[str, Any]:
    """Read a manifest and check every field.

    Raises:
        CheckpointError: the message continues a sentence: `<path> ...`.
    """
    try:
        manifest = parse_json(data)
    except JsonError as error:
        raise CheckpointError(f"has a manifest that {error}") from error
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise CheckpointError("has a manifest without a format")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"has format {manifest['format']}; this version reads {FORMAT}")
    _check_fields(manifest)
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    # The spelling is compared too: otherwise a changed blank would go unnoticed.
    if (
        hashlib.sha256(canonical_json(rest)).hexdigest() != manifest["digest"]
        or canonical_json(manifest, indent=2) != data
    ):
        raise CheckpointError("has a manifest that does not match its own digest")
    return manifest


def _check_fields(manifest: Mapping[str, Any]) -> None:
    if set(manifest) != set(_MANIFEST_TYPES):
        odd = sorted(set(manifest) ^ set(_MANIFEST_TYPES))[0]
        raise CheckpointError(f"has a manifest with a missing or unknown field {odd[:100]!r}")
    for key, kind in _MANIFEST_TYPES.items():
        value = manifest[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CheckpointError(f"has a manifest whose field {key!r} has the wrong type")
    if not 0 <= manifest["env_steps"] <= MAX_ENV_STEPS:
        raise CheckpointError(f"has the impossible env_steps {manifest['env_steps']}")
    for name, entry in manifest["files"].items():
        if not _FILE_NAME.fullmatch(name):
            raise CheckpointError(f"lists the forbidden file name {name[:100]!r}")
        if not isinstance(entry, dict) or set(entry) != {"sha256", "length"}:
            raise CheckpointError(f"has a malformed entry for {name}")
        length, digest = entry["length"], entry["sha256"]
        if type(length) is not int or length < 0 or not isinstance(digest, str):
            raise CheckpointError(f"has a malformed entry for {name}")
        if not _DIGEST.fullmatch(digest):
            raise CheckpointError(f"has a malformed digest for {name}")
    if STATE not in manifest["files"]:
        raise CheckpointError(f"has no {STATE}")


class CheckpointFiles:
    """An open checkpoint directory; follows no symbolic link and reads only regular files.

    Everything is opened relative to the directory, so that what has been checked cannot be
    exchanged by moving the directory. Messages of errors continue a sentence: `<path> ...`.
    """

    def __init__(self, path: Path) -> None:
        """Open the directory.

        Raises:
            CheckpointError: missing, or not a directory, or a symbolic link.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags)
        except FileNotFoundError as error:
            raise CheckpointError("does not exist") from error
        except OSError as error:
            raise CheckpointError(
                f"is not a directory that can be opened ({error.strerror}); symbolic links are not "
                "followed"
            ) from error

    def __enter__(self) -> CheckpointFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def manifest(self) -> dict[str, Any]:
        """Read and check the manifest; see `parse_manifest`."""
        with self._open(MANIFEST) as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(data) > _MAX_MANIFEST_BYTES:
            raise CheckpointError(f"has a manifest of more than {_MAX_MANIFEST_BYTES:,} bytes")
        return parse_manifest(data)

    def require_members(self, manifest: Mapping[str, Any], limits: Limits) -> None:
        """Compare the directory with the manifest: nothing missing, nothing else, not too large."""
        files = manifest["files"]
        total = sum(entry["length"] for entry in files.values())
        if len(files) > limits.max_files or total > limits.max_bytes:
            raise CheckpointError(
                f"has {len(files):,} files of {total:,} bytes; allowed are {limits.max_files:,} "
                f"and {limits.max_bytes:,}"
            )
        expected = {MANIFEST, *files}
        found: set[str] = set()
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                if entry.name not in expected:
                    raise CheckpointError(f"has the additional member {entry.name[:100]!r}")
                found.add(entry.name)
        if missing := sorted(expected - found):
            raise CheckpointError(f"lacks the file {missing[0]}")
        for name, entry in files.items():
            with self._open(name) as file:
                length = os.fstat(file.fileno()).st_size
            if length != entry["length"]:
                raise CheckpointError(f"has {length:,} bytes in {name}, not {entry['length']:,}")

    def read(self, name: str, entry: Mapping[str, Any]) -> bytes:
        """The bytes of a file, of the right length and digest."""
        with self._open(name) as file:
            data = file.read(entry["length"])
        self._compare(name, entry, len(data), hashlib.sha256(data).hexdigest())
        return data

    def verify(self, name: str, entry: Mapping[str, Any]) -> None:
        """Check a file without keeping its bytes."""
        digest = hashlib.sha256()
        length = 0
        with self._open(name) as file:
            for chunk in _chunks(file):
                digest.update(chunk)
                length += len(chunk)
        self._compare(name, entry, length, digest.hexdigest())

    def head(self, name: str, length: int) -> bytes:
        """The first bytes of a file, not verified."""
        with self._open(name) as file:
            return file.read(length)

    def _open(self, name: str) -> BinaryIO:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except FileNotFoundError as error:
            raise CheckpointError(f"lacks the file {name}") from error
        except OSError as error:
            raise CheckpointError(
                f"has {name}, which cannot be opened: {error.strerror}"
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CheckpointError(f"has {name}, which is not a regular file")
        return os.fdopen(descriptor, "rb")

    @staticmethod
    def _compare(name: str, entry: Mapping[str, Any], length: int, digest: str) -> None:
        if length != entry["length"] or digest != entry["sha256"]:
            raise CheckpointError(f"has {name} with other bytes than the manifest's SHA-256 says")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
