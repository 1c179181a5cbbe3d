"""One process per run directory."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from analysis.storage import StorageError


class RunLocked(RuntimeError):
    """Another process uses the run directory."""


class RunLock:
    """An exclusive lock on a directory, held until `close` or the end of the process.

    Child processes never hold it: a worker that outlives its parent would keep the run locked. The
    descriptor is closed on exec, and in a forked child as soon as it starts.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock or fail at once.

        Raises:
            RunLocked: another process holds it, or moved the directory away just now.
            StorageError: the lock file cannot be opened.
        """
        path, self._owner = directory / ".lock", os.getpid()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open {path}: {error.strerror}", directory) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A process that renamed the directory leaves us with the lock of the old one.
            found, held = os.stat(path), os.fstat(self._descriptor)
            moved = (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino)
        except (BlockingIOError, FileNotFoundError) as error:
            self.close()
            raise RunLocked(_message(directory)) from error
        except OSError as error:
            self.close()
            raise StorageError(f"cannot lock {path}: {error.strerror}", directory) from error
        if moved:
            self.close()
            raise RunLocked(_message(directory))
        _close_in_children(self)

    def close(self) -> None:
        """Release the lock; a second time does nothing."""
        if self._descriptor >= 0:
            if os.getpid() == self._owner:
                # A child that was forked just now may not have closed its copy yet.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def _message(directory: Path) -> str:
    return (
        f"{directory} is used by another process; wait for it to end, or choose another run "
        "directory"
    )


def _close_in_children(lock: RunLock) -> None:
    # Closing the copy does not release the lock: the parent's descriptor still holds it.
    reference = weakref.ref(lock)

    def close_copy() -> None:
        copy = reference()
        if copy is not None:
            copy.close()

    os.register_at_fork(after_in_child=close_copy)
