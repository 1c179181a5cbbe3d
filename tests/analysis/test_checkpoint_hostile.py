"""A stranger's checkpoint: refused quickly, nothing built, nothing outside touched."""

from __future__ import annotations

import hashlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.checkpoint import (
    CheckpointError,
    CheckpointStore,
    Limits,
    inspect_checkpoint,
    load_checkpoint,
)
from analysis.checkpoint_files import encode_manifest

Edit = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(CheckpointStore, "split_above_bytes", 1000)
    monkeypatch.setattr(CheckpointStore, "block_bytes", 800)
    state = {"model": {"w": np.ones(4, np.float32)}, "replay": np.arange(300.0), "n": {"a": 1}}
    return CheckpointStore(tmp_path / "checkpoints").save(1, state)


def reseal(path: Path, **fields: Any) -> None:
    """Give a changed directory a manifest whose digests are all right: the hostile case."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    files = {}
    for file in path.iterdir():
        if file.name != "manifest.json" and file.is_file():
            data = file.read_bytes()
            files[file.name] = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.update(files=files)
    manifest.update(fields)
    del manifest["digest"]
    (path / "manifest.json").write_bytes(encode_manifest(manifest))


def tensor_file(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def write_model(header: bytes, data: bytes) -> Edit:
    def edit(path: Path) -> None:
        (path / "model.safetensors").write_bytes(tensor_file(header, data))
        reseal(path)

    return edit


def described(name: str, shape: list[int], end: int, begin: int = 0, dtype: str = "F32") -> bytes:
    fields = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return json.dumps({name: fields}).encode()


def state_json(change: Callable[[dict[str, Any]], Any]) -> Edit:
    def edit(path: Path) -> None:
        stored = json.loads((path / "state.json").read_bytes())
        changed = change(stored)
        data = changed if isinstance(changed, bytes) else json.dumps(stored).encode()
        (path / "state.json").write_bytes(data)
        reseal(path)

    return edit


def symlinked_member(path: Path) -> None:
    target = path.parent / "elsewhere"
    (path / "model.safetensors").rename(target)
    (path / "model.safetensors").symlink_to(target)


def pipe_member(path: Path) -> None:
    (path / "model.safetensors").unlink()
    os.mkfifo(path / "model.safetensors")


def folder_member(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()


def extra(name: str) -> Edit:
    def edit(path: Path) -> None:
        (path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")

    return edit


def listed_extra(path: Path) -> None:
    (path / "evil.safetensors").write_bytes(tensor_file(described("x", [1], 4), b"1234"))
    reseal(path)


def dotted_member(path: Path) -> None:
    entry = {"length": 1, "sha256": "0" * 64}
    reseal(path, files={"state.json": entry, "../../secret.safetensors": entry})


def sparse_file(path: Path) -> None:
    """A terabyte that takes no place on the disk."""
    os.truncate(path / "model.safetensors", 2**40)
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["files"]["model.safetensors"]["length"] = 2**40
    del manifest["digest"]
    (path / "manifest.json").write_bytes(encode_manifest(manifest))


def shared_blocks(stored: dict[str, Any]) -> None:
    """The same blocks over and over in a huge array: the bomb of formats that share blocks."""
    split = stored["split"]["replay"]
    split["files"] = split["files"] * 10**4
    split["shape"] = [300 * 10**4]


def deep(stored: dict[str, Any]) -> None:
    node: Any = 1
    for _ in range(60):
        node = [node]
    stored["tree"]["n"] = node


def set_tree(key: str, value: Any) -> Edit:
    return state_json(lambda stored: stored["tree"].__setitem__(key, value))


def set_split(**fields: Any) -> Edit:
    return state_json(lambda stored: stored["split"]["replay"].update(fields))


DOUBLE = described("model/w", [4], 16)[:-1] + b"," + described("model/w", [4], 16)[1:]

HOSTILE: dict[str, tuple[Edit, str]] = {
    "symlink": (symlinked_member, "cannot be opened"),
    "pipe": (pipe_member, "regular file"),
    "folder": (folder_member, "regular file"),
    "extra pickle": (extra("data.pkl"), "additional member"),
    "hidden extra": (extra(".hidden"), "additional member"),
    "listed extra": (listed_extra, "do not belong together"),
    "dotted member": (dotted_member, "forbidden file name"),
    "terabyte": (sparse_file, "allowed are"),
    "pickle as payload": (
        lambda path: ((path / "model.safetensors").write_bytes(b"\x80\x05" * 40), reseal(path))[-1],
        "announces a header",
    ),
    "huge shape": (write_model(described("model/w", [10**12], 16), b"0" * 16), "shape"),
    "huge shape and offsets": (
        write_model(described("model/w", [10**12], 4 * 10**12), b"0" * 16),
        "bytes of data",
    ),
    "overflowing shape": (write_model(described("model/w", [2**32, 2**32], 0), b""), "shape"),
    "wrong name": (write_model(described("model/v", [4], 16), b"0" * 16), "unknown array"),
    "dotted name": (write_model(described("../../w", [4], 16), b"0" * 16), "forbidden name"),
    "duplicate name": (write_model(DOUBLE, b"0" * 16), "twice"),
    "trailing bytes": (write_model(described("model/w", [4], 16), b"0" * 17), "bytes of data"),
    "object dtype": (write_model(described("model/w", [4], 16, dtype="O"), b"0" * 16), "dtype"),
    "shared blocks": (state_json(shared_blocks), "do not belong together"),
    "missing block": (set_split(files=[]), "do not belong together"),
    "more rows": (set_split(shape=[10**12]), "rows in the blocks"),
    "other width": (set_split(shape=[300, 10**9]), "no block of"),
    "other dtype": (set_split(dtype="I64"), "no block of"),
    "negative rows": (set_split(shape=[-300]), "unknown way"),
    "block of nothing": (
        state_json(lambda stored: stored["split"].update(x=stored["split"]["replay"])),
        "does not name",
    ),
    "deep tree": (state_json(deep), "levels deep"),
    "duplicate key": (
        state_json(lambda stored: b'{"split":{},"tree":{"a":1,"a":2}}'),
        "twice",
    ),
    "not JSON": (state_json(lambda stored: b"\x80\x05cos\nsystem"), "JSON"),
    "NaN constant": (state_json(lambda stored: b'{"split":{},"tree":{"a":NaN}}'), "NaN"),
    "unknown tag": (set_tree("n", {"$py/object": "os.system"}), "unknown tag"),
    "malformed keys": (set_tree("n", {"$ints": [1]}), "malformed integer keys"),
    "malformed tag": (set_tree("n", {"$torch": 3}), "malformed"),
    "other value": (set_tree("n", {"a": 2}), "another hash"),
    "dotted key": (set_tree("../x", 1), "forbidden key"),
    "array named twice": (set_tree("n", {"$torch": "model/w"}), "names an array twice"),
    "nameless array": (set_tree("n", {"$torch": "model/none"}), "do not belong together"),
    "other format": (lambda path: rewrite(path, format=2), "format 2"),
    "negative steps": (lambda path: reseal(path, env_steps=-1), "impossible env_steps"),
    "steps of truth": (lambda path: reseal(path, env_steps=True), "wrong type"),
    "unknown field": (lambda path: reseal(path, run_me="x"), "unknown field"),
    "length of a float": (
        lambda path: reseal(path, files={"state.json": {"length": 1.0, "sha256": "0" * 64}}),
        "malformed entry",
    ),
    "digest": (lambda path: rewrite(path, env_steps=2), "own digest"),
    "spelling": (
        lambda path: (path / "manifest.json").write_bytes(
            (path / "manifest.json").read_bytes() + b" "
        ),
        "own digest",
    ),
    "list": (lambda path: (path / "manifest.json").write_bytes(b"[]"), "without a format"),
    "large manifest": (
        lambda path: (path / "manifest.json").write_bytes(b" " * 2_000_000),
        "more than",
    ),
}


def rewrite(path: Path, **fields: Any) -> None:
    """Change the manifest without its digest."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest.update(fields)
    text = json.dumps(manifest, sort_keys=True, indent=2, separators=(",", ": "))
    (path / "manifest.json").write_text(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused(path: Path, name: str) -> None:
    edit, message = HOSTILE[name]
    assert load_checkpoint(path).env_steps == 1
    edit(path)
    outside = sorted(path.parent.parent.rglob("*"))
    start = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    assert time.process_time() - start < 0.1
    tracemalloc.start()  # makes everything a few times slower
    try:
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert sorted(path.parent.parent.rglob("*")) == outside


def test_a_resealed_checkpoint_without_changes_loads(path: Path) -> None:
    """The edits above are refused for what they change, not for how they are made."""
    reseal(path)
    assert load_checkpoint(path).env_steps == 1


def test_the_directory_itself_may_not_be_a_link(path: Path) -> None:
    link = path.parent / "step-000000000009"
    link.symlink_to(path)
    with pytest.raises(CheckpointError, match="symbolic links"):
        load_checkpoint(link)
    store = CheckpointStore(path.parent)
    loaded = store.load_latest()
    assert loaded is not None
    assert loaded.path == path
    assert len(store.problems) == 1
    with pytest.raises(CheckpointError, match="symbolic links"):
        inspect_checkpoint(path / "manifest.json")


def test_limits_are_checked_before_the_files(path: Path) -> None:
    for limits in (Limits(max_files=3), Limits(max_bytes=1000)):
        with pytest.raises(CheckpointError, match="allowed are"):
            load_checkpoint(path, limits=limits)


def test_values_that_are_not_numbers_are_the_callers_concern(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(1, {"x": np.array([np.nan, np.inf]), "f": float("nan")})
    state = load_checkpoint(path).state
    assert np.isnan(state["x"][0])
    assert np.isinf(state["x"][1])
    assert np.isnan(state["f"])


def test_expected_shapes_are_compared_before_the_arrays_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    path = CheckpointStore(tmp_path).save(1, {"model": {"w": np.zeros(20_000_000, np.uint8)}})
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"shape \[20000000\], not torch\.uint8"):
            load_checkpoint(path, {"model": {"w": np.zeros(4, np.uint8)}})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5e6


def test_inspect_builds_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a tensor was built")

    monkeypatch.setattr("safetensors.torch.load", never)
    monkeypatch.setattr("torch.empty", never)
    assert inspect_checkpoint(path)["env_steps"] == 1
