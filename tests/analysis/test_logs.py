"""Logs: declared columns, exact numbers, whole lines, and back to where a checkpoint saw them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.append_file import AppendFile
from analysis.logs import EventLog, ResumableCSV, StorageError, TensorBoardWriter

COLUMNS = ("env_steps", "return", "note")


def row(steps: int, value: float = 0.5) -> dict[str, Any]:
    return {"env_steps": steps, "return": value}


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class TestCSV:
    def test_sb3s_logger_writes_declared_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "progress.csv"
        writer = ResumableCSV(path, COLUMNS)
        assert read(path) == []
        logger = Logger(str(tmp_path), [writer])
        logger.record("return", 1.5)
        logger.record("env_steps", np.int64(3))
        logger.record("hidden", 1, exclude="csv")
        logger.dump(3)
        logger.record("note", 'a,"b"')
        logger.dump(4)
        logger.close()
        assert path.read_text() == 'env_steps,return,note\n3,1.5,\n,,"a,""b"""\n'
        assert read(path)[1]["note"] == 'a,"b"'

    def test_numbers_read_back_exactly(self, tmp_path: Path) -> None:
        path = tmp_path / "progress.csv"
        rng = np.random.default_rng(0)
        values = [*rng.normal(size=50), 1e-310, 1e30, 0.1, -0.0, np.pi]
        writer = ResumableCSV(path, ["x", "y"])
        for value in values:
            writer.write({"x": float(value), "y": np.float32(value)}, {})
        writer.write({"x": torch.tensor(0.1, dtype=torch.float64), "y": True}, {})
        found = read(path)
        assert [float(line["x"]) for line in found] == [*map(float, values), 0.1]
        expected = [float(np.float32(value)) for value in values]
        assert [float(line["y"]) for line in found[:-1]] == expected
        assert found[-1]["y"] == "True"

    def test_nan_is_written_and_none_is_an_empty_cell(self, tmp_path: Path) -> None:
        writer = ResumableCSV(tmp_path / "a.csv", COLUMNS)
        writer.write({"return": float("nan"), "note": None}, {})
        assert (tmp_path / "a.csv").read_text().splitlines()[1] == ",nan,"

    def test_undeclared_columns_are_refused_and_leave_no_trace(self, tmp_path: Path) -> None:
        path = tmp_path / "progress.csv"
        writer = ResumableCSV(path, COLUMNS)
        before = path.read_bytes()
        with pytest.raises(KeyError, match=r"progress\.csv has no column 'fps'.*env_steps, return"):
            writer.write({"env_steps": 1, "fps": 2.0}, {})
        for value in (np.ones(2), [1], object()):
            with pytest.raises(ValueError, match="column 'return'"):
                writer.write({"return": value}, {})
        with pytest.raises(ValueError, match="line break"):
            writer.write({"note": "a\nb"}, {})
        assert path.read_bytes() == before
        assert writer.rows == 0

    def test_columns_must_be_those_of_the_file(self, tmp_path: Path) -> None:
        ResumableCSV(tmp_path / "a.csv", COLUMNS).close()
        with pytest.raises(ValueError, match="fresh=true"):
            ResumableCSV(tmp_path / "a.csv", [*COLUMNS, "more"])
        for columns in ([], ["a", "a"]):
            with pytest.raises(ValueError, match="each once"):
                ResumableCSV(tmp_path / "b.csv", columns)

    def test_interrupted_and_resumed_equals_uninterrupted(self, tmp_path: Path) -> None:
        straight = ResumableCSV(tmp_path / "straight.csv", COLUMNS)
        for step in range(10):
            straight.write(row(step, step / 3), {})
        first = ResumableCSV(tmp_path / "resumed.csv", COLUMNS)
        for step in range(6):
            first.write(row(step, step / 3), {})
            if step == 3:
                saved = first.state_dict()
        first.close()
        second = ResumableCSV(tmp_path / "resumed.csv", COLUMNS)
        assert second.rows == 6
        second.load_state_dict(saved)
        assert second.rows == saved["rows"] == 4
        for step in range(4, 10):
            second.write(row(step, step / 3), {})
        assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "straight.csv").read_bytes()
        assert second.state_dict() == straight.state_dict()

    def test_truncation_keeps_whole_rows_and_the_header(self, tmp_path: Path) -> None:
        path = tmp_path / "progress.csv"
        writer = ResumableCSV(path, COLUMNS)
        header = writer.offset()
        offsets = []
        for step in range(5):
            writer.write(row(step), {})
            offsets.append(writer.offset())
        assert offsets[-1] == path.stat().st_size
        writer.truncate(offsets[2])
        assert [line["env_steps"] for line in read(path)] == ["0", "1", "2"]
        assert writer.rows == 3
        with pytest.raises(ValueError, match="not the end of a line"):
            writer.truncate(offsets[1] + 1)
        with pytest.raises(ValueError, match="header"):
            writer.truncate(header - 1)
        with pytest.raises(StorageError, match="cannot go back"):
            writer.truncate(offsets[4])
        writer.clear()
        assert (writer.rows, path.stat().st_size) == (0, header)

    def test_a_file_that_is_not_the_one_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "progress.csv"
        writer = ResumableCSV(path, COLUMNS)
        for step in range(3):
            writer.write(row(step), {})
        before = path.read_bytes()
        for state in (
            {"rows": 3, "offset": len(before) + 10},
            {"rows": 2, "offset": len(before)},
            {"rows": 4, "offset": len(before)},
        ):
            with pytest.raises(StorageError, match="not the one"):
                writer.load_state_dict(state)
        assert path.read_bytes() == before

    def test_half_a_line_from_a_kill_is_cut_when_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "progress.csv"
        writer = ResumableCSV(path, COLUMNS)
        writer.write(row(1), {})
        writer.close()
        whole = path.read_bytes()
        path.write_bytes(whole + b"2,0.")
        ResumableCSV(path, COLUMNS).close()
        assert path.read_bytes() == whole
        path.write_bytes(b"env_st")
        again = ResumableCSV(path, COLUMNS)
        assert (again.rows, path.read_text()) == (0, "env_steps,return,note\n")


class TestWriteFailures:
    @pytest.mark.parametrize("kind", ["csv", "events"])
    def test_no_partial_line_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        path = tmp_path / ("progress.csv" if kind == "csv" else "events.jsonl")
        log: Any = ResumableCSV(path, COLUMNS) if kind == "csv" else EventLog(path)

        def add(step: int) -> None:
            if kind == "csv":
                log.write(row(step), {})
            else:
                log.append({"env_steps": step})

        add(1)
        before, state = path.read_bytes(), log.state_dict()
        real = os.write

        def part_then_full(descriptor: int, data: Any) -> int:
            if len(data) <= 3:
                raise OSError(28, "No space left on device")
            return real(descriptor, bytes(data)[:3])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", part_then_full)
            with pytest.raises(StorageError, match=rf"cannot write .*{path.name}: No space left"):
                add(222222)
        assert path.read_bytes() == before
        assert log.state_dict() == state
        add(3)
        assert path.read_bytes().startswith(before)
        assert path.read_bytes().count(b"\n") == before.count(b"\n") + 1

    def test_unopenable_files_are_storage_errors(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="cannot open"):
            EventLog(tmp_path / "gone" / "events.jsonl")
        (tmp_path / "real").write_text("")
        (tmp_path / "events.jsonl").symlink_to(tmp_path / "real")
        with pytest.raises(StorageError, match="cannot open"):
            EventLog(tmp_path / "events.jsonl")

    def test_offset_is_synchronised_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = EventLog(tmp_path / "events.jsonl")
        log.append({"a": 1})

        def broken(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(StorageError, match="Input/output"):
            log.state_dict()


class TestEvents:
    def test_one_sorted_line_per_event(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        log = EventLog(path)
        log.append({"event": "switch", "env_steps": np.int64(7), "value": np.float64(0.02)})
        log.append({"b": {"y": (1, 2), "x": None}, "a": np.bool_(True), "t": torch.tensor(3)})
        assert path.read_text().splitlines() == [
            '{"env_steps": 7, "event": "switch", "value": 0.02}',
            '{"a": true, "b": {"x": null, "y": [1, 2]}, "t": 3}',
        ]
        assert log.rows == 2

    @pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), object(), np.ones(2), b"x"])
    def test_what_json_cannot_hold_is_refused(self, tmp_path: Path, value: Any) -> None:
        log = EventLog(tmp_path / "events.jsonl")
        with pytest.raises(ValueError, match=r"deep\[0\]"):
            log.append({"deep": [value]})
        assert (tmp_path / "events.jsonl").read_bytes() == b""

    def test_resume_cuts_what_came_after_the_checkpoint(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        log = EventLog(path)
        log.append({"step": 1})
        state = log.state_dict()
        log.append({"step": 2, "text": "line\nbreak"})
        log.close()
        log.close()
        resumed = EventLog(path)
        assert resumed.rows == 2
        resumed.load_state_dict(state)
        resumed.append({"step": 3})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
        resumed.clear()
        assert path.read_bytes() == b""


def test_lines_are_counted_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.append_file._CHUNK", 7)
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(100)) + b"half")
    file = AppendFile(path)
    assert file.lines == 100
    assert path.read_bytes().endswith(b"99\n")


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = TensorBoardWriter(tmp_path)
    for step in range(5):
        values = {"return": float(step), "tensor": torch.tensor(2.0), "none": None, "hidden": 1.0}
        first.write(values, {"hidden": ("tensorboard",)}, step)
    first.close()
    second = TensorBoardWriter(tmp_path, purge_step=3)
    for step in (3, 4, 5):
        second.write({"return": 10.0 * step}, {}, step)
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("return")]
    assert found == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]
    assert set(events.Tags()["scalars"]) == {"return", "tensor"}


def test_tensorboard_shows_the_configuration_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("agent:\n  kind: ppo\n")
    for purge_step in (None, 3):
        TensorBoardWriter(tmp_path, purge_step=purge_step).close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Tensors("config/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "    agent:\n      kind: ppo"


def test_tensorboard_write_failure_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TensorBoardWriter(tmp_path)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.writer, "add_scalar", full)
    with pytest.raises(StorageError, match="No space left"):
        writer.write({"return": 1.0}, {}, 1)
    writer.close()
