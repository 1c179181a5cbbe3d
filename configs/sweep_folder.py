"""What the members of a sweep and the process that launched it tell each other, as files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_ROW, _BEGUN, _STOPPED, _HELD = ".json", ".begun", "stopped", "held"
_POLL_SECONDS = 0.1


class SweepFolder:
    """One folder per sweep: which members have begun, how they ended, and whether to stop.

    Every file is written whole. Marks that cannot be written are left out, because no run is worth
    less for a message that got lost.

    Attributes:
        path: The folder; it lives as long as the process that launched the sweep.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def token(self) -> str:
        """A name that no other sweep has, the same for all attempts at its members."""
        return self.path.name

    # Members -----------------------------------------------------------------------------------

    def begin(self, words: Sequence[str]) -> None:
        """Note that a member begins, in this process."""
        mark = {"words": list(words), "pid": os.getpid()}
        with contextlib.suppress(OSError):
            self._write(_key(words) + _BEGUN, json.dumps(mark))

    def leave(self, words: Sequence[str], row: Mapping[str, Any]) -> None:
        """Leave the row of a member that has ended; a later one of the same member replaces it."""
        try:
            self._write(_key(words) + _ROW, json.dumps(row))
        except OSError as error:
            print(f"the sweep cannot be told how this run ended: {error}", file=sys.stderr)

    def has_ended(self, words: Sequence[str]) -> bool:
        """Whether a member has left its row."""
        return (self.path / (_key(words) + _ROW)).is_file()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all members that have ended."""
        return [*self._read(_ROW).values()]

    def unfinished(self) -> list[list[str]]:
        """Words of the members that have begun and left no row."""
        ended = self._read(_ROW)
        return [mark["words"] for key, mark in self._read(_BEGUN).items() if key not in ended]

    def without_mark(self, planned: Sequence[Sequence[str]]) -> list[str]:
        """Name the planned members that have never begun.

        Args:
            planned: Words of all members.

        Returns:
            One text each; a count where words are not spelled as the members were.
        """
        seen = self._read(_ROW).keys() | self._read(_BEGUN).keys()
        number = max(len(planned) - len(seen), 0)
        names = [" ".join(words) for words in planned if _key(words) not in seen]
        return names if len(names) == number else [f"({number} runs)"][: number or 0]

    def wait_for_the_lost(self, seconds: float = 30.0) -> None:
        """Wait until the processes of unfinished members are gone, so that runs are unlocked."""
        ended = self._read(_ROW)
        pids = {mark["pid"] for key, mark in self._read(_BEGUN).items() if key not in ended}
        deadline = time.monotonic() + seconds
        while any(Path(f"/proc/{pid}").exists() for pid in pids - {os.getpid()}):
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_SECONDS)

    # Wishes of the launcher --------------------------------------------------------------------

    def stop(self, number: int) -> None:
        """Let no further member begin, and those that run stop by this signal."""
        with contextlib.suppress(OSError):
            self._write(_STOPPED, str(int(number)))

    def stop_signal(self) -> int | None:
        """Number of the signal that `stop` was given, None before."""
        try:
            return int((self.path / _STOPPED).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def hold(self, members: Iterable[Sequence[str]]) -> None:
        """Hold back these members, and no others, until the next call."""
        self._write(_HELD, json.dumps([_key(words) for words in members]))

    def is_held(self, words: Sequence[str]) -> bool:
        """Whether a member is to be left for later."""
        try:
            return _key(words) in json.loads((self.path / _HELD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False

    # Files -------------------------------------------------------------------------------------

    def _read(self, suffix: str) -> dict[str, dict[str, Any]]:
        files = sorted(self.path.glob(f"*{suffix}"))
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

    def _write(self, name: str, text: str) -> None:
        unfinished = self.path / f"{name}.{secrets.token_hex(4)}.tmp"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.path / name)


def _key(words: Sequence[str]) -> str:
    """A file name for a member, whatever the order of its words."""
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()[:16]
