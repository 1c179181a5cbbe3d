"""Names of run directories, and how they are made and moved without leaving their root."""

from __future__ import annotations

import os
import re
import stat
from itertools import count, takewhile
from pathlib import Path, PurePosixPath

from analysis.run_lock import RunLock
from analysis.storage import StorageError, fsync_directory

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def validate_run_name(part: str) -> None:
    """Check one part of a run directory's path.

    Raises:
        ValueError: not a letter or digit, then at most 99 letters, digits, dots, _ or -.
    """
    if not isinstance(part, str) or not _NAME.fullmatch(part):
        raise ValueError(
            f"{str(part)[:120]!r} is not a name for a run directory; allowed are 1 to 100 letters, "
            "digits, dots, underscores and hyphens, the first a letter or digit"
        )


def run_parts(relative: Path | str) -> tuple[str, ...]:
    """The parts of a path below the root; ValueError unless each is a valid name."""
    parts = PurePosixPath(relative).parts
    if not parts:
        raise ValueError("the run directory has no name")
    for part in parts:
        validate_run_name(part)
    return parts


def make_directories(root: Path, parts: tuple[str, ...]) -> None:
    """Create root/part/part... one by one; nothing outside the root, no symbolic link followed."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = root
        for part in parts:
            parent, path = path, path / part
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                _require_directory(path)
            else:
                fsync_directory(parent)
    except OSError as error:
        raise StorageError(
            f"cannot create {root.joinpath(*parts)}: {error.strerror or error}", root
        ) from error


def _require_directory(path: Path) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise ValueError(
            f"{path} is not a directory; symbolic links are not followed, give their target instead"
        )


def move_away(root: Path, parts: tuple[str, ...]) -> None:
    """Rename an existing run directory to `<name>.old-<n>`, under its lock."""
    path = root
    for part in parts:
        path = path / part
        if not os.path.lexists(path):
            return
        _require_directory(path)
    lock = RunLock(path)
    try:
        rename(path, next_free(path.parent, f"{path.name}.old-", ""))
    finally:
        lock.close()


def rename(source: Path, target: Path) -> None:
    """Rename durably; StorageError if the disk refuses."""
    try:
        os.rename(source, target)
        fsync_directory(target.parent)
    except OSError as error:
        raise StorageError(f"cannot rename {source}: {error.strerror or error}", source) from error


def count_up(folder: Path, before: str, after: str) -> list[Path]:
    """`<before>1<after>`, `<before>2<after>` ... in `folder`, up to the first that is not there."""
    numbered = (folder / f"{before}{number}{after}" for number in count(1))
    return list(takewhile(os.path.lexists, numbered))


def next_free(folder: Path, before: str, after: str) -> Path:
    """The first of `<before>1<after>`, `<before>2<after>` ... that does not exist in `folder`."""
    numbered = (folder / f"{before}{number}{after}" for number in count(1))
    return next(path for path in numbered if not os.path.lexists(path))
