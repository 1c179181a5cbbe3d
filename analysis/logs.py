"""Logs that a resumed run continues: progress.csv, events.jsonl and TensorBoard.

They hold no wall-clock time of their own, so equal runs give equal bytes.

Deviation: stable-baselines3's writers open their files in mode `w`, which empties them on resume,
rewrite the CSV whenever a column appears, and give TensorBoard no `purge_step`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import (
    KVWriter,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from torch.utils.tensorboard import SummaryWriter

from analysis.append_file import AppendFile
from analysis.canonical_json import plain
from analysis.storage import StorageError

__all__ = ["EventLog", "ResumableCSV", "StorageError", "TensorBoardWriter"]


class ResumableCSV(KVWriter):
    """A CSV file whose columns are declared at the start; continued if it exists.

    Floats are written as `repr` writes them, so that they read back exactly; NaN as `nan`. A value
    that is missing or None is an empty cell.

    Attributes:
        columns: the columns in the order of the file.
    """

    def __init__(self, path: Path | str, columns: Sequence[str]) -> None:
        """Open the file, or create it with its header.

        Args:
            path: the file.
            columns: all columns that will ever be written.

        Raises:
            ValueError: no columns, one twice, or others than those of the existing file.
            StorageError: the file cannot be opened or written.
        """
        self.columns = tuple(columns)
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns must be at least one, each once: {list(self.columns)}")
        self._file = AppendFile(path)
        header = _csv_line(self.columns)
        found = self._file.first_line()
        if found is None:
            self._file.append(header)
        elif found != header:
            self._file.close()
            raise ValueError(
                f"{path} has the columns {found.decode(errors='replace')!r}, this run declares "
                f"{header.decode()!r}; use another directory or fresh=true"
            )
        self._header_bytes = len(header) + 1

    def write(
        self,
        key_values: Mapping[str, Any],
        key_excluded: Mapping[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Append one row.

        Args:
            key_values: column -> number, bool, string, None, NumPy scalar or 0-d tensor.
            key_excluded: column -> formats that leave it out; this format is "csv".
            step: not used; a step is a column like any other.

        Raises:
            KeyError: a column that was not declared.
            ValueError: a value that is no single number or string.
            StorageError: the disk refused; the file ends with the row before.
        """
        values = filter_excluded_keys(dict(key_values), dict(key_excluded), "csv")
        unknown = sorted(set(values) - set(self.columns))
        if unknown:
            raise KeyError(
                f"{self._file.path.name} has no column {unknown[0]!r}; declare it in `columns` "
                f"(declared: {', '.join(self.columns)})"
            )
        self._file.append(_csv_line([_cell(name, values.get(name)) for name in self.columns]))

    @property
    def rows(self) -> int:
        """Rows without the header."""
        return self._file.lines - 1

    def offset(self) -> int:
        """Bytes in the file, all of them on the disk when this returns."""
        return self._file.offset()

    def truncate(self, offset: int) -> None:
        """Cut the file back to `offset` bytes; the header stays.

        Raises:
            ValueError: the offset lies within the header or a row.
            StorageError: the file is shorter, or cannot be cut.
        """
        if offset < self._header_bytes:
            raise ValueError(
                f"{self._file.path}: offset {offset} lies within the header of "
                f"{self._header_bytes} bytes"
            )
        self._file.truncate(offset)

    def clear(self) -> None:
        """Remove every row; the header stays."""
        self._file.truncate(self._header_bytes)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: `rows` (without the header) and `offset` (bytes)."""
        return {"rows": self.rows, "offset": self.offset()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Cut the file back to the rows it had; StorageError if it never had them."""
        self._file.load_state_dict({"rows": state["rows"] + 1, "offset": state["offset"]})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class EventLog:
    """events.jsonl: one JSON object per line, keys sorted, continued if the file exists."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the file; StorageError if that fails."""
        self._file = AppendFile(path)

    def append(self, event: Mapping[str, Any]) -> None:
        """Append one event.

        Args:
            event: names -> plain values; NumPy scalars and 0-d tensors become numbers.

        Raises:
            ValueError: NaN, an infinity, or a value that JSON has no form for; named by its path.
            StorageError: the disk refused; the file ends with the event before.
        """
        record = plain(event)
        line = json.dumps(record, sort_keys=True, allow_nan=False, separators=(", ", ": "))
        self._file.append(line.encode("ascii"))

    @property
    def rows(self) -> int:
        """Events in the file."""
        return self._file.lines

    def offset(self) -> int:
        """Bytes in the file, all of them on the disk when this returns."""
        return self._file.offset()

    def truncate(self, offset: int) -> None:
        """Cut the file back to `offset` bytes, the end of a line; see `AppendFile.truncate`."""
        self._file.truncate(offset)

    def clear(self) -> None:
        """Remove every event."""
        self._file.truncate(0)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: `rows` and `offset` (bytes)."""
        return self._file.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Cut the file back to the events it had; StorageError if it never had them."""
        self._file.load_state_dict(state)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardWriter(TensorBoardOutputFormat):
    """stable-baselines3's TensorBoard writer, for runs that are resumed."""

    def __init__(self, folder: Path | str, purge_step: int | None = None) -> None:
        """Start a new event file in `folder`; the first one shows the folder's config.yaml.

        Args:
            folder: the run directory.
            purge_step: TensorBoard drops what earlier files say about this step and later ones:
                one more than the step of the checkpoint that is resumed. None for a new run.
        """
        # Not the parent's __init__: it opens its own writer, without purge_step.
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        self._is_closed = False
        config = Path(folder) / "config.yaml"
        if purge_step is None and config.is_file():
            lines = config.read_text(encoding="utf-8").splitlines()
            self.writer.add_text("config", "\n".join(f"    {line}" for line in lines), 0)

    def write(
        self,
        key_values: Mapping[str, Any],
        key_excluded: Mapping[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Write the values of one step.

        Args:
            key_values: name -> value; numbers become scalars, 0-d tensors too.
            key_excluded: name -> formats that leave it out; this format is "tensorboard".
            step: the step they belong to.

        Raises:
            StorageError: the disk refused.
        """
        values = {
            key: value.item() if getattr(value, "shape", None) == () else value
            for key, value in key_values.items()
            if value is not None
        }
        excluded = {key: key_excluded.get(key, ()) for key in values}
        try:
            super().write(values, excluded, step)
        except OSError as error:
            folder = self.writer.log_dir
            raise StorageError(f"cannot write TensorBoard events in {folder}: {error}") from error


def _csv_line(cells: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue().encode("utf-8")


def _cell(name: str, value: Any) -> str:
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, bool | int | str):
        return str(value)
    raise ValueError(
        f"column {name!r} got a {type(value).__name__}; a cell holds one number, bool or string"
    )
