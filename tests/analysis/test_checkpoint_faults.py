"""Kill a save anywhere, damage a file anywhere: an intact checkpoint is always found."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.checkpoint import CheckpointError, CheckpointStore, StorageError, load_checkpoint

# Every call of a commit that changes the file system or makes a change durable.
CALLS = ("mkdir", "open", "write", "fsync", "close", "link", "replace", "unlink", "rmdir")


def sample(number: int) -> dict[str, Any]:
    rows = np.arange(400.0)
    rows[:50] += number
    return {"model": {"w": np.full(6, float(number))}, "replay": rows, "loop": {"n": number}}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(CheckpointStore, "split_above_bytes", 1000)
    monkeypatch.setattr(CheckpointStore, "block_bytes", 800)


class Killed(BaseException):
    """Stands for the end of the process."""


def after_call(number: int, action: Callable[[], Any]) -> tuple[dict[str, Any], list[int]]:
    """Wrappers of the system calls that run `action` after call `number` has happened."""
    counter = [0]

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            counter[0] += 1
            if counter[0] == number:
                action()
            return result

        return call

    return {name: wrap(getattr(os, name)) for name in CALLS}, counter


def prepared(folder: Path) -> CheckpointStore:
    """A store whose next save writes, links and prunes."""
    store = CheckpointStore(folder, keep=1)
    store.save(1, sample(1))
    return store


def survivor(folder: Path) -> int:
    """The number found by a new process, which must also be able to save."""
    loaded = CheckpointStore(folder).load_latest()
    assert loaded is not None
    number = loaded.state["loop"]["n"]
    assert np.array_equal(loaded.state["replay"], sample(number)["replay"])
    assert np.array_equal(loaded.state["model"]["w"], sample(number)["model"]["w"])
    CheckpointStore(folder).save(3, sample(3))
    assert not [name for name in os.listdir(folder) if name.startswith(".tmp")]
    return number


def number_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    store = prepared(tmp_path / "count")
    wrappers, counter = after_call(0, lambda: None)
    with monkeypatch.context() as patch:
        for name, wrapper in wrappers.items():
            patch.setattr(os, name, wrapper)
        store.save(2, sample(2))
    return counter[0]


def test_death_after_each_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = number_of_calls(tmp_path, monkeypatch)
    assert total > 30
    found = []
    for number in range(1, total + 1):
        folder = tmp_path / f"c{number}"
        store = prepared(folder)
        child = os.fork()
        if child == 0:
            # os._exit runs no `finally`: like SIGKILL, nothing is cleaned up.
            wrappers, _ = after_call(number, lambda: os._exit(42))
            for name, wrapper in wrappers.items():
                setattr(os, name, wrapper)
            try:
                store.save(2, sample(2))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 42
        found.append(survivor(folder))
        shutil.rmtree(folder)
    # First the old one, from the rename on the new one.
    assert found == sorted(found)
    assert set(found) == {1, 2}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()])
def test_failure_of_each_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    total = number_of_calls(tmp_path, monkeypatch)
    found = []

    def fail() -> None:
        raise error

    for number in range(1, total + 1):
        folder = tmp_path / f"c{number}"
        store = prepared(folder)
        wrappers, _ = after_call(number, fail)
        with monkeypatch.context() as patch:
            for name, wrapper in wrappers.items():
                patch.setattr(os, name, wrapper)
            with contextlib.suppress(StorageError, Killed):
                store.save(2, sample(2))
        found.append(survivor(folder))
        shutil.rmtree(folder)
    assert set(found) == {1, 2}


def test_data_is_durable_before_the_rename_and_the_rename_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(tmp_path / "c")
    old = {file.stat().st_ino for file in store.paths()[0].iterdir()}
    journal: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        journal.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        real_fsync(descriptor)

    def replace(source: Any, target: Any, **options: Any) -> None:
        journal.append(("replace", str(target)))
        real_replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    path = store.save(2, sample(2))
    published = journal.index(("replace", str(path)))
    before = [Path(name) for kind, name in journal[:published] if kind == "fsync"]
    # Linked blocks were durable already; everything else is synchronised, the manifest last.
    written = {file.name for file in path.iterdir() if file.stat().st_ino not in old}
    assert 3 <= len(written) < len(os.listdir(path))
    assert written <= {name.name for name in before}
    assert before[-2].name == "manifest.json"
    assert before[-1] == before[-2].parent
    assert journal[published + 1] == ("fsync", str(tmp_path / "c"))
    condemned = [name for kind, name in journal[published + 1 :] if kind == "replace"]
    assert len(condemned) == 1


def test_truncated_payloads_fall_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, sample(1))
    path = store.save(2, sample(2))
    for file in sorted(path.iterdir()):
        original = file.read_bytes()
        file.unlink()
        for length in {0, 1, 7, 8, 9, len(original) // 2, len(original) - 1}:
            file.write_bytes(original[:length])
            assert CheckpointStore(tmp_path).load_latest().env_steps == 1  # type: ignore[union-attr]
        file.write_bytes(original + b"\0")
        assert CheckpointStore(tmp_path).load_latest().env_steps == 1  # type: ignore[union-attr]
        file.write_bytes(original)
        assert CheckpointStore(tmp_path).load_latest().env_steps == 2  # type: ignore[union-attr]


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(2, sample(2))
    rng = np.random.default_rng(0)
    positions = 0
    for file in sorted(path.iterdir()):
        original = file.read_bytes()
        for position in rng.choice(len(original), min(200, len(original)), replace=False):
            damaged = bytearray(original)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"checkpoint .*step-000000000002"):
                load_checkpoint(path)
            positions += 1
        file.write_bytes(original)
    assert load_checkpoint(path).env_steps == 2
    assert positions >= 1000


def test_all_damaged_is_an_error_and_nothing_is_touched(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        path = store.save(step, sample(step))
        data = bytearray((path / "model.safetensors").read_bytes())
        data[-3] ^= 4
        (path / "model.safetensors").write_bytes(data)
    (tmp_path / ".tmp-9").mkdir()

    def picture() -> list[tuple[str, int, int]]:
        found = []
        for folder, _, files in os.walk(tmp_path):
            for name in [".", *files]:
                status = os.stat(os.path.join(folder, name))
                found.append((os.path.join(folder, name), status.st_mtime_ns, status.st_size))
        return sorted(found)

    before = picture()
    fresh = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        fresh.load_latest()
    assert len(fresh.problems) == 2
    assert picture() == before


def test_a_condemned_checkpoint_that_resists_is_only_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(tmp_path)
    real = os.replace

    def replace(source: Any, target: Any, **options: Any) -> None:
        if ".tmp-old" in str(target):
            raise PermissionError(1, "Operation not permitted")
        real(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)
    assert store.save(2, sample(2)).exists()
    assert "could not remove" in store.problems[0]
