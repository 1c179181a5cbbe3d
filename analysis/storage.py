"""Durable writes: what these functions return from has reached the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path


class StorageError(RuntimeError):
    """A file or directory could not be written or read back; the message names it.

    Attributes:
        path: the file or directory concerned.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class StorageFullError(StorageError):
    """Too little free space, found out before anything was written."""


class StorageLostError(StorageError):
    """The place is gone or can no longer be written: trying again later will not help."""


LOST = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM})


def fsync_directory(path: Path) -> None:
    """Make the entries of a directory durable; a rename is not before this.

    Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.

    Raises:
        OSError: the directory cannot be opened or synchronised.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; `os.write` alone may stop after some of them."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        view = view[written:]


def write_durable(path: Path, data: bytes) -> None:
    """Create a new file (mode 0600) and bring its bytes to the disk.

    Raises:
        OSError: also when `path` exists already; nothing is ever overwritten here.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(purpose: str) -> str:
    """A name for a temporary entry that no other process picks.

    The random part comes from the operating system: drawing it from a seeded stream would change
    what the training draws next.
    """
    return f".tmp-{purpose}-{os.getpid()}-{secrets.token_hex(4)}"


def atomic_write_text(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text` (UTF-8): readers see the old or the new one.

    Raises:
        StorageError: nothing could be written; the old file, if any, is untouched.
    """
    path = Path(path)
    temporary = path.parent / temporary_name(path.name[:100])
    try:
        write_durable(temporary, text.encode())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    finally:
        # After a successful replace the temporary name is gone already.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
