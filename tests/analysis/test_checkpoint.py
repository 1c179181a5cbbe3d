"""The checkpoint store: what is saved, kept, linked and found again."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from analysis.checkpoint import (
    CheckpointError,
    CheckpointStore,
    Limits,
    StorageError,
    StorageFullError,
    inspect_checkpoint,
    load_checkpoint,
)
from analysis.state_files import state_hash
from analysis.state_tree import StateError


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def sample(number: int = 0) -> dict[str, Any]:
    return {
        "agent": {
            "weights": torch.full((3, 2), float(number)),
            "optimizer": {"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.ones(2)}}},
        },
        "env": {"qpos": np.linspace(0, 1, 5), "elapsed": np.int64(number)},
        "loop": {"env_steps": number, "return": 0.1, "rng": 2**100, "name": "run"},
    }


def global_streams() -> list[Any]:
    """The state of every generator that a library might draw from behind our back."""
    legacy = dict(np.random.get_state(legacy=False))["state"]["key"].tolist()  # noqa: NPY002
    return [random.getstate(), legacy, torch.get_rng_state().tolist()]


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.directory.iterdir())


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", config_hash="abc")
    path = store.save(7, sample(7), metadata={"bit_exact": True})
    assert path == tmp_path / "checkpoints" / "step-000000000007"
    loaded = CheckpointStore(tmp_path / "checkpoints").load_latest()
    assert loaded is not None
    assert (loaded.env_steps, loaded.path) == (7, path)
    assert state_hash(loaded.state) == state_hash(sample(7)) == loaded.manifest["state_hash"]
    assert loaded.state["loop"] == {"env_steps": 7, "return": 0.1, "rng": 2**100, "name": "run"}
    assert list(loaded.state["agent"]["optimizer"]["state"]) == [0]
    assert loaded.manifest["config_hash"] == "abc"
    assert loaded.manifest["metadata"] == {"bit_exact": True}


def test_files_can_be_read_with_nothing_but_their_libraries(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(1, sample(1))
    assert sorted(file.name for file in path.iterdir()) == [
        "agent.safetensors",
        "env.safetensors",
        "manifest.json",
        "state.json",
    ]
    tensors = safetensors.torch.load_file(path / "agent.safetensors")
    assert torch.equal(tensors["agent/weights"], torch.ones(3, 2))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["files"]["state.json"]["length"] == (path / "state.json").stat().st_size
    assert (path.stat().st_mode & 0o777, (path / "state.json").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    first = CheckpointStore(tmp_path / "a").save(1, sample(1))
    turned = {key: sample(1)[key] for key in reversed(sample(1))}
    second = CheckpointStore(tmp_path / "b").save(1, turned)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_saving_draws_no_random_number_and_changes_nothing(tmp_path: Path) -> None:
    state = sample(1)
    before = state_hash(state)
    streams = global_streams()
    CheckpointStore(tmp_path).save(1, state)
    assert global_streams() == streams
    assert state_hash(state) == before


def test_empty_directory_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").load_latest() is None
    assert not (tmp_path / "none").exists()
    (tmp_path / "step-12").mkdir()
    (tmp_path / ".tmp-5-1-ab").mkdir()
    assert CheckpointStore(tmp_path).load_latest() is None


def test_last_three_and_pinned_ones_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in range(1, 7):
        store.save(step, sample(step), pinned=step == 2)
    assert names(store) == [f"step-{step:012d}" for step in (2, 4, 5, 6)]
    assert [path.name for path in store.paths()] == names(store)[::-1]
    assert inspect_checkpoint(store.paths()[-1])["pinned"] is True


def test_the_new_one_stays_even_when_damaged_ones_look_newer(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, sample(1))
    CheckpointStore(tmp_path, keep=9).save(9, sample(9))
    (tmp_path / "step-000000000009" / "state.json").write_bytes(b"{}")
    resumed = CheckpointStore(tmp_path, keep=1)
    loaded = resumed.load_latest()
    assert loaded is not None
    assert loaded.env_steps == 1
    resumed.save(2, sample(2))
    assert names(resumed) == ["step-000000000002", "step-000000000009"]
    blind = CheckpointStore(tmp_path, keep=1)
    blind.save(3, sample(3))
    assert (tmp_path / "step-000000000003").exists()


def test_damaged_ones_do_not_count_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for step in (1, 8, 9):
        store.save(step, sample(step))
    for step in (8, 9):
        (tmp_path / f"step-{step:012d}" / "state.json").write_bytes(b"{}")
    resumed = CheckpointStore(tmp_path, keep=2)
    resumed.load_latest()
    resumed.save(2, sample(2))
    assert [int(name[-3:]) for name in names(resumed)] == [1, 2, 8, 9]
    resumed.save(3, sample(3))
    assert [int(name[-3:]) for name in names(resumed)] == [2, 3, 8, 9]


def test_parent_is_the_checkpoint_before(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert inspect_checkpoint(store.save(1, sample(1)))["parent"] is None
    resumed = CheckpointStore(tmp_path)
    resumed.load_latest()
    assert inspect_checkpoint(resumed.save(2, sample(2)))["parent"] == "step-000000000001"


def test_same_step_is_never_overwritten(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = store.save(5, sample(5))
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert store.save(5, sample(5)) == first
    assert (first / "manifest.json").stat().st_mtime_ns == stamp
    second = store.save(5, sample(6))
    third = store.save(5, sample(7))
    assert [second.name, third.name] == ["step-000000000005-r1", "step-000000000005-r2"]
    assert names(store) == [first.name, second.name, third.name]
    loaded = CheckpointStore(tmp_path).load_latest()
    assert loaded is not None
    assert loaded.path == third


def test_same_step_is_saved_again_if_the_old_one_is_damaged_or_must_be_pinned(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path)
    first = store.save(5, sample(5))
    pinned = store.save(5, sample(5), pinned=True)
    assert pinned.name.endswith("-r1")
    assert store.save(5, sample(5)) == first
    for path in (first, pinned):
        data = bytearray((path / "env.safetensors").read_bytes())
        data[-1] ^= 1
        (path / "env.safetensors").write_bytes(data)
    again = store.save(5, sample(5))
    assert again.name.endswith("-r2")
    assert state_hash(load_checkpoint(again).state) == state_hash(sample(5))


def test_short_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, sample(1))
    usage = namedtuple("usage", "total used free")
    state = {"x": np.zeros(1_000_000)}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, int(1.2 * 8_000_000)))
    for failures in (1, 2):
        with pytest.raises(StorageFullError, match="MiB free"):
            store.save(2, state)
        assert store.failed_saves == failures
    assert names(store) == ["step-000000000001"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, int(1.2 * 8_000_200)))
    store.save(2, state)
    assert store.failed_saves == 0


def test_half_a_gigabyte_is_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert CheckpointStore.reserved_bytes == 512 * 2**20
    assert CheckpointStore.space_factor == 1.2


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c")
    store.save(1, sample(1))
    (store.directory / ".tmp-2-77-abcd").mkdir()
    (store.directory / ".tmp-2-77-abcd" / "agent.safetensors").write_bytes(b"half")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (store.directory / ".tmp-link").symlink_to(outside)
    assert store.load_latest() is not None
    assert len(names(store)) == 3
    store.save(2, sample(2))
    assert names(store) == ["step-000000000001", "step-000000000002"]
    assert (outside / "precious").exists()


def test_failures_of_the_disk_are_storage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, sample(1))

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"step 2 .*No space left"):
        store.save(2, sample(2))
    assert names(store) == ["step-000000000001"]
    assert store.failed_saves == 1


def test_unwritable_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot save"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save(1, sample(1))


@pytest.mark.parametrize("key", ["../x", "a/b", "", "9", "rows-0", "x" * 65, ".tmp", "a.b", 3])
def test_top_level_keys_name_files(tmp_path: Path, key: Any) -> None:
    with pytest.raises(StateError, match="top-level key"):
        CheckpointStore(tmp_path).save(1, {key: 1})
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 0"):
        CheckpointStore(tmp_path, keep=0)
    store = CheckpointStore(tmp_path)
    for steps in (-1, 10**12):
        with pytest.raises(ValueError, match="env_steps"):
            store.save(steps, {})
    with pytest.raises(TypeError):
        store.save(1.5, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="JSON"):
        store.save(1, {}, metadata={"x": float("nan")})
    with pytest.raises(ValueError, match="limits"):
        CheckpointStore(tmp_path, limits=Limits(max_bytes=50)).save(1, sample())
    assert [name for name in os.listdir(tmp_path) if name.startswith("step")] == []
    assert store.failed_saves == 0


class TestBlocks:
    """Large arrays lie in blocks of rows that checkpoints share."""

    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CheckpointStore, "split_above_bytes", 1000)
        monkeypatch.setattr(CheckpointStore, "block_bytes", 800)

    def replay(self) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        return {
            "replay": {
                "observation": rng.normal(size=(103, 5)),
                "terminated": torch.zeros(3000, dtype=torch.bool),
                "position": 40,
                "small": np.arange(3),
            }
        }

    def inodes(self, path: Path) -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in path.glob("rows-*")}

    def test_blocks_come_back_as_one_array(self, tmp_path: Path) -> None:
        path = CheckpointStore(tmp_path).save(1, self.replay())
        # 103 rows of 40 bytes in blocks of 20 rows, 3000 rows of 1 byte in blocks of 800.
        assert len(self.inodes(path)) == 6 + 4
        loaded = load_checkpoint(path).state
        assert state_hash(loaded) == state_hash(self.replay())
        loaded["replay"]["observation"][0, 0] = 5.0

    def test_only_changed_blocks_are_written(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, keep=2)
        state = self.replay()
        first = self.inodes(store.save(1, state))
        state["replay"]["observation"][40:50] += 1
        path = store.save(2, state)
        second = self.inodes(path)
        assert len(set(second.values()) - set(first.values())) == 1
        assert state_hash(load_checkpoint(path).state) == state_hash(state)
        state["replay"]["observation"][40:50] += 1
        store.save(3, state)
        assert not (tmp_path / "step-000000000001").exists()
        assert state_hash(load_checkpoint(path).state) != state_hash(state)

    def test_a_resumed_process_links_what_it_has_verified(self, tmp_path: Path) -> None:
        first = self.inodes(CheckpointStore(tmp_path).save(1, self.replay()))
        resumed = CheckpointStore(tmp_path)
        resumed.load_latest()
        # Blocks with equal bytes may all become links to one of them.
        assert set(self.inodes(resumed.save(2, self.replay())).values()) <= set(first.values())

    def test_a_touched_block_is_written_again(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path)
        first = store.save(1, self.replay())
        victim = next(first.glob("rows-*"))
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
        os.utime(victim, ns=(1, 1))
        second = store.save(2, self.replay())
        assert state_hash(load_checkpoint(second).state) == state_hash(self.replay())

    def test_without_hard_links_blocks_are_copied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*arguments: Any, **options: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
        store = CheckpointStore(tmp_path)
        first = self.inodes(store.save(1, self.replay()))
        path = store.save(2, self.replay())
        assert not set(self.inodes(path).values()) & set(first.values())
        assert state_hash(load_checkpoint(path).state) == state_hash(self.replay())


def test_only_the_wanted_keys_are_built(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(1, sample(1))
    assert set(load_checkpoint(path, keys=["agent"]).state) == {"agent"}
    with pytest.raises(CheckpointError, match="has no 'policy'"):
        load_checkpoint(path, keys=["policy"])
    (path / "env.safetensors").write_bytes(bytes((path / "env.safetensors").stat().st_size))
    with pytest.raises(CheckpointError, match=r"env\.safetensors"):
        load_checkpoint(path, keys=["agent"])


def test_only_the_expected_form_is_accepted(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    path = CheckpointStore(tmp_path).save(1, {"model": network.state_dict(), "n": 1})
    loaded = load_checkpoint(path, {"model": torch.nn.Linear(3, 2).state_dict()})
    assert torch.equal(loaded.state["model"]["weight"], network.weight)
    for other, message in (
        (torch.nn.Linear(3, 3).state_dict(), r"\[2\], not torch.float32 of shape \[3\]"),
        (torch.nn.Linear(3, 2, bias=False).state_dict(), r"state\['model'\]\['bias'\].* unknown"),
        (torch.nn.Linear(3, 2).double().state_dict(), r"not torch\.float64"),
        ({**network.state_dict(), "more": torch.ones(1)}, r"lacks state\['model'\]\['more'\]"),
        ({"weight": network.weight, "bias": 1}, "not a plain value"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path, {"model": other})
    with pytest.raises(CheckpointError, match="has no 'critic'"):
        load_checkpoint(path, {"critic": {}})


def test_skipped_checkpoints_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save(step, sample(step))
    os.truncate(tmp_path / "step-000000000003" / "env.safetensors", 40)
    (tmp_path / "step-000000000002" / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        loaded = store.load_latest()
    assert loaded is not None
    assert loaded.env_steps == 1
    assert len(store.problems) == len(caplog.records) == 2
    assert "step-000000000003" in store.problems[0]
    assert "40 bytes in env.safetensors" in store.problems[0]
    assert "lacks the file manifest.json" in store.problems[1]


def test_inspect_reads_only_the_manifest(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(1, sample(1))
    for file in path.iterdir():
        if file.name != "manifest.json":
            file.unlink()
    assert inspect_checkpoint(path)["env_steps"] == 1
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect_checkpoint(tmp_path / "nothing")
