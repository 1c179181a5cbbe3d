"""Random damage to checkpoints and configurations: a clear error or a correct load, nothing else.

Hypothesis chooses the damage; the slow set tries tens of thousands of inputs. Whatever is read must
not crash, hang, or leave a file outside (or inside) the run directory.
"""

import contextlib
import hashlib
import json
import os
import time

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.canonical_json import JsonError, parse_json
from analysis.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from analysis.checkpoint_files import encode_manifest
from analysis.run_directory import ConfigurationChanged, RunDirectory
from analysis.run_files import NotARun, read_config, read_table, world_events
from analysis.state_files import state_hash
from analysis.storage import StorageError
from analysis.tensor_files import TensorFileError, check_header
from configs.compose import compose_run
from configs.run import load_run
from configs.schema import ConfigurationError

FEW, MANY = 60, 8_000
SECONDS_PER_INPUT = 2.0
STATE = {
    "model": {"w": np.arange(6, dtype=np.float32), "empty": np.zeros((0, 3))},
    "replay": np.arange(300.0),
    "loop": {"n": 3, "f": 0.5, "words": ["a", None, True], "big": 2**80},
}


def examples(number):
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def few_and_many(test):
    """The same property with few inputs by default and with many in the slow set."""
    return pytest.mark.parametrize(
        "number", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
    )(test)


def check_message(message, part=""):
    """A person can read it: it says something, names the place and is no flood."""
    assert message
    assert part in message
    assert len(message) < 10_000


def picture(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@contextlib.contextmanager
def in_time():
    wall, processor = time.perf_counter(), time.process_time()
    yield
    assert time.process_time() - processor < SECONDS_PER_INPUT
    assert time.perf_counter() - wall < 60  # others may use the processor, too


@pytest.fixture
def sealed(monkeypatch, tmp_path):
    monkeypatch.setattr(CheckpointStore, "split_above_bytes", 1000)
    monkeypatch.setattr(CheckpointStore, "block_bytes", 800)
    path = CheckpointStore(tmp_path / "checkpoints").save(1, STATE)
    return path, {file.name: file.read_bytes() for file in path.iterdir()}


def reseal(path):
    """Correct digests for whatever the files hold: what an attacker would do."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        files = {}
        for file in path.iterdir():
            if file.name != "manifest.json":
                data = file.read_bytes()
                entry = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                files[file.name] = entry
        manifest["files"] = files
        del manifest["digest"]
        (path / "manifest.json").write_bytes(encode_manifest(manifest))
    except (ValueError, KeyError, TypeError):
        return  # the manifest itself was damaged; its readers must say so


BYTES = st.binary(min_size=0, max_size=12)
DAMAGE = st.tuples(
    st.integers(0, 5),  # which file
    st.sampled_from(["flip", "cut", "insert", "replace", "number", "grow"]),
    st.floats(0, 1),  # where
    BYTES,
    st.sampled_from(
        ["-1", "1e999", "99999999999999999999", "null", "[]", "{}", '"../../x"', "NaN"]
    ),
)


def damaged(data, kind, where, new, word):
    place = int(where * max(len(data) - 1, 0))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 + place % 255)]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + new + data[place:]
    if kind == "replace":
        return data[:place] + new + data[place + len(new) :]
    if kind == "grow":
        return data + new * 50
    # The next number or string in a text becomes another value.
    for end in range(place, len(data)):
        if chr(data[end]).isdigit():
            stop = end
            while stop < len(data) and chr(data[stop]).isdigit():
                stop += 1
            return data[:end] + word.encode() + data[stop:]
    return word.encode() + data


@few_and_many
def test_fuzzed_checkpoints_load_right_or_not_at_all(number, sealed, tmp_path):
    path, originals = sealed
    names, whole = sorted(originals), state_hash(STATE)
    outcomes = {"loaded": 0, "refused": 0}
    before = picture(tmp_path)

    @examples(number)
    @given(damages=st.lists(DAMAGE, min_size=1, max_size=3), resealed=st.booleans())
    def check(damages, resealed):
        for name, data in originals.items():
            (path / name).write_bytes(data)
        for which, *how in damages:
            file = path / names[which % len(names)]
            data = file.read_bytes()
            file.write_bytes(damaged(data, *how) if data else b"x")
        if resealed:
            reseal(path)
        with in_time():
            try:
                loaded = load_checkpoint(path)
            except CheckpointError as error:
                check_message(str(error), path.name)
                outcomes["refused"] += 1
            else:
                outcomes["loaded"] += 1
                # Only arrays of the same form with other values, under a manifest that says so.
                assert state_hash(loaded.state) == loaded.manifest["state_hash"]
                assert state_hash(loaded.state) == whole
        assert picture(tmp_path) == before

    check()
    assert outcomes["refused"] > number / 3


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["model/w", "replay", "loop"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=6)
            | st.sampled_from(
                ["$torch", "$numpy", "$ints", "$float", "$int", "tree", "split", "files"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@few_and_many
def test_fuzzed_state_trees_are_refused(number, sealed, tmp_path):
    """Any JSON in the place of state.json and manifest.json, with digests that are right."""
    path, originals = sealed

    @examples(number)
    @given(value=JSON_VALUES, inside=st.sampled_from(["whole", "tree", "split", "manifest"]))
    def check(value, inside):
        for name, data in originals.items():
            (path / name).write_bytes(data)
        if inside == "manifest":
            (path / "manifest.json").write_text(json.dumps(value))
        else:
            stored = json.loads(originals["state.json"])
            stored = value if inside == "whole" else {**stored, inside: value}
            (path / "state.json").write_text(json.dumps(stored))
            reseal(path)
        with in_time(), pytest.raises(CheckpointError):
            load_checkpoint(path)

    check()


@few_and_many
def test_fuzzed_bytes_are_no_json_and_no_tensors(number):
    @examples(number)
    @given(data=st.binary(max_size=200) | JSON_VALUES.map(lambda v: json.dumps(v).encode()))
    def check(data):
        with in_time():
            try:
                value = parse_json(data)
            except JsonError:
                value = None
            else:
                assert json.loads(data) == value or value != value
            with contextlib.suppress(TensorFileError):
                check_header(data, 10**6)

    check()


YAML_TEXTS = (
    st.text(max_size=60)
    | JSON_VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True))
    | st.sampled_from(
        [
            "!!python/object/apply:os.system [touch x]",
            "&a [*a]",
            "a: !!set {b, c}",
            "2024-01-01",
            "? [x]\n: y",
            "a: !!binary xx",
            "<<: {agent: 1}",
            "a: 0x10",
            "\x00",
            "%YAML 9.9\n---\na: 1",
        ]
    )
)


@few_and_many
def test_fuzzed_config_files_are_refused_or_read(number, tmp_path):
    directory = tmp_path / "runs" / "g" / "e"
    with RunDirectory.open(tmp_path / "runs", "g/e", {"a": 1}):
        pass
    own = picture(tmp_path)
    outcomes = {"refused": 0, "read": 0}

    @examples(number)
    @given(text=YAML_TEXTS)
    def check(text):
        file = directory / "config.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        (directory / "restarts.json").unlink(missing_ok=True)
        with in_time():
            with contextlib.suppress(NotARun):
                read_config(directory)
            try:
                RunDirectory.open(tmp_path / "runs", "g/e", {"a": 1}).close()
                outcomes["read"] += 1
            except (ConfigurationChanged, ValueError, StorageError) as error:
                check_message(str(error))
                outcomes["refused"] += 1
        assert set(picture(tmp_path)) <= {*own, str(directory / "restarts.json")}

    check()
    assert outcomes["refused"] > number / 3


def _valid():
    return compose_run(["env=slippery_ant", "agent=ppo", "method=[redo]"]).plain


def _paths(tree, prefix=()):
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, key))


@few_and_many
def test_fuzzed_settings_are_refused_in_one_sentence_or_typed(number):
    """A valid configuration with values replaced, removed and added anywhere."""
    valid = json.dumps(_valid())
    places = sorted(_paths(json.loads(valid)))
    load_run(json.loads(valid))  # imports what it needs
    outcomes = {"refused": 0, "loaded": 0}

    @examples(number)
    @given(
        changes=st.lists(
            st.tuples(st.sampled_from(places), JSON_VALUES, st.sampled_from(["set", "add", "del"])),
            min_size=1,
            max_size=3,
        )
    )
    def check(changes):
        config = json.loads(valid)
        for place, value, how in changes:
            node = config
            for key in place[:-1]:
                node = node.get(key) if isinstance(node, dict) else None
            if not isinstance(node, dict):
                continue
            if how == "del":
                node.pop(place[-1], None)
            else:
                node[place[-1] if how == "set" else f"{place[-1]}x"] = value
        with in_time():
            try:
                load_run(config)
                outcomes["loaded"] += 1
            except ConfigurationError as error:
                check_message(str(error))
                outcomes["refused"] += 1

    check()
    assert outcomes["refused"] > number / 3


@few_and_many
def test_fuzzed_words_are_refused_or_compose(number, monkeypatch, tmp_path):
    """Random command lines; composing takes longer, so there are fewer of them."""
    monkeypatch.chdir(tmp_path)
    keys = ["seed", "agent", "env.robot", "group", "method", "+x", "~env", "agent.discount", "a@b"]
    words = st.builds(
        lambda key, mark, value: f"{key}{mark}{value}",
        st.sampled_from(keys) | st.text(max_size=6),
        st.sampled_from(["=", "", "==", "=="]),
        st.text(max_size=12) | JSON_VALUES.map(json.dumps) | st.sampled_from(["${seed}", "../x"]),
    )

    @examples(max(number // 40, 8))
    @given(line=st.lists(words, min_size=1, max_size=2))
    def check(line):
        with contextlib.suppress(ConfigurationError):
            compose_run(line)

    check()
    assert os.listdir(tmp_path) == []


@few_and_many
def test_fuzzed_logs_are_read_or_named(number, tmp_path):
    file = tmp_path / "x.csv"

    @examples(number)
    @given(
        data=st.binary(max_size=120)
        | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
        | JSON_VALUES.map(lambda value: json.dumps({"event": "switch", "regime": value}).encode())
        | JSON_VALUES.map(
            lambda value: json.dumps(
                {"event": "switch", "regime": 1, "env_steps": value, "friction": value}
            ).encode()
        ),
        end=st.sampled_from([b"", b"\n"]),
    )
    def check(data, end):
        file.write_bytes(data + end)
        with in_time():
            with contextlib.suppress(NotARun):
                read_table(file)
            with contextlib.suppress(NotARun):
                world_events(file)

    check()
