"""A file of lines that only grows, and can be cut back to where a checkpoint saw it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from analysis.storage import StorageError, fsync_directory, write_all

_CHUNK = 2**20


class AppendFile:
    """Whole lines, written at once: after any failure the file still ends with a whole line.

    Attributes:
        path: the file.
        lines: how many lines it holds.
    """

    def __init__(self, path: Path | str) -> None:
        """Open or create the file; a last line without its end, left by a kill, is cut off.

        Raises:
            StorageError: it cannot be opened, or is not a regular file.
        """
        self.path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.path, flags, 0o600)
            fsync_directory(self.path.parent)
            whole, self.lines = self._count_lines()
            if whole != os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, whole)
        except OSError as error:
            raise self._failure("open", error) from error
        self._offset = whole

    def append(self, line: bytes) -> None:
        """Write one line; its end is added here.

        Raises:
            ValueError: the line holds a line end.
            StorageError: the disk refused; what was written of the line is taken back.
        """
        if b"\n" in line or b"\r" in line:
            raise ValueError(f"{self.path.name}: a value holds a line break: {line[:100]!r}")
        try:
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
            write_all(self._descriptor, line + b"\n")
        except OSError as error:
            self._take_back()
            raise self._failure("write", error) from error
        self._offset += len(line) + 1
        self.lines += 1

    def offset(self) -> int:
        """Bytes in the file, all of them on the disk when this returns.

        A checkpoint stores this number, so the bytes must not be younger than the checkpoint.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure("write", error) from error
        return self._offset

    def truncate(self, offset: int) -> None:
        """Cut the file back to `offset` bytes.

        Raises:
            ValueError: the offset is not at the end of a line.
            StorageError: the file is shorter than that, or cannot be cut.
        """
        if not 0 <= offset <= self._offset:
            raise StorageError(
                f"{self.path} holds {self._offset} bytes and cannot go back to {offset}; the file "
                "is not the one that the checkpoint saw",
                self.path,
            )
        try:
            if offset and os.pread(self._descriptor, 1, offset - 1) != b"\n":
                raise ValueError(f"{self.path}: byte {offset} is not the end of a line")
            os.ftruncate(self._descriptor, offset)
            os.fsync(self._descriptor)
            self._offset, self.lines = self._count_lines()
        except OSError as error:
            raise self._failure("cut", error) from error

    def first_line(self) -> bytes | None:
        """The first line without its end, None if there is none."""
        try:
            with open(os.dup(self._descriptor), "rb") as file:
                file.seek(0)
                line = file.readline()
        except OSError as error:
            raise self._failure("read", error) from error
        return line[:-1] if line else None

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: `rows` (lines) and `offset` (bytes)."""
        return {"rows": self.lines, "offset": self.offset()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Cut the file back to what it was.

        Raises:
            StorageError: the file is not the one whose state was kept; it is left alone.
        """
        rows, offset = int(state["rows"]), int(state["offset"])
        if 0 <= offset <= self._offset:
            try:
                _, found = self._count_lines(offset)
            except OSError as error:
                raise self._failure("read", error) from error
            if found != rows:
                raise StorageError(
                    f"{self.path} has {found} lines in its first {offset} bytes, not {rows}; the "
                    "file is not the one that the checkpoint saw",
                    self.path,
                )
        self.truncate(offset)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _count_lines(self, limit: int | None = None) -> tuple[int, int]:
        """(bytes up to the last line end, line ends), in the first `limit` bytes."""
        position = whole = lines = 0
        while limit is None or position < limit:
            size = _CHUNK if limit is None else min(_CHUNK, limit - position)
            chunk = os.pread(self._descriptor, size, position)
            if not chunk:
                break
            if (last := chunk.rfind(b"\n")) >= 0:
                whole = position + last + 1
            lines += chunk.count(b"\n")
            position += len(chunk)
        return whole, lines

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._offset)
        except OSError:
            # The next opening cuts the partial line; the failure to write is what gets reported.
            return

    def _failure(self, verb: str, error: OSError) -> StorageError:
        return StorageError(f"cannot {verb} {self.path}: {error.strerror or error}", self.path)
