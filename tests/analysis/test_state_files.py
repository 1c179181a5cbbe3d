"""Nested state <-> tensors and JSON: nothing is lost, nothing unknown gets in."""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.canonical_json import MAX_BYTES, JsonError, canonical_json, parse_json, plain
from analysis.state_files import flatten, state_hash, unflatten
from analysis.state_tree import DTYPES, FlatState, StateError, tensor_name
from analysis.tensor_files import TensorFileError, check_header, decode_tensors, encode_tensors


def through_bytes(state: Any) -> Any:
    """The state after a round trip through the bytes of both files."""
    flat = flatten(state)
    tree = parse_json(canonical_json(flat.tree, max_depth=80), max_depth=80)
    return unflatten(FlatState(tree, decode_tensors(encode_tensors(flat.tensors))))


def bits(value: Any) -> bytes:
    """The bytes of an array in the order of its elements."""
    if not isinstance(value, torch.Tensor):
        return value.tobytes()
    # An integer type of the same size, because NumPy has no bfloat16.
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.itemsize]
    return value.detach().clone().view(integer).numpy().tobytes()


def assert_same(found: Any, expected: Any) -> None:
    """Same types, same bits; tuples may have become lists."""
    if isinstance(expected, tuple):
        expected = list(expected)
    if isinstance(expected, torch.Tensor | np.ndarray | np.generic):
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        assert tuple(found.shape) == tuple(expected.shape)
        assert bits(found) == bits(expected)
    elif isinstance(expected, dict):
        assert type(found) is dict
        assert set(found) == set(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert type(found) is list
        assert len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_same(left, right)
    elif isinstance(expected, float):
        assert type(found) is float
        assert found.hex() == expected.hex()
    else:
        assert type(found) is type(expected)
        assert found == expected


NUMPY_DTYPES = [
    np.dtype(str(d).removeprefix("torch.")) for d in DTYPES.values() if "bf" not in str(d)
]
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = draw(st.sampled_from(NUMPY_DTYPES))
    shape = draw(SHAPES)
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == np.bool_:
        data = bytes(byte % 2 for byte in data)
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    kind = draw(st.sampled_from(["numpy", "torch", "strided", "scalar"]))
    if kind == "torch":
        return torch.from_numpy(array.copy())
    if kind == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    if kind == "scalar" and array.ndim == 0:
        return array[()]
    return array


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**128), 2**128),
    st.floats(allow_nan=True),
    st.text(max_size=8),
)
STATES = st.recursive(
    SCALARS | arrays(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=6) | st.sampled_from(["$", "$int", "$$x", ".."]), inner),
        st.dictionaries(st.integers(-3, 2**40), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STATES)
def test_any_state_comes_back_as_it_was(state: Any) -> None:
    found = through_bytes(state)
    assert_same(found, state)
    assert state_hash(found) == state_hash(state)


def test_generators_go_on_where_they_were() -> None:
    torch_generator = torch.Generator().manual_seed(3)
    numpy_generator = np.random.default_rng(3)
    legacy = np.random.RandomState(3)
    python = random.Random(3)
    torch.rand(5, generator=torch_generator)
    legacy.normal()
    state = through_bytes(
        {
            "torch": torch_generator.get_state(),
            "numpy": numpy_generator.bit_generator.state,
            "legacy": legacy.get_state(legacy=False),
            "python": python.getstate(),
        }
    )
    other = torch.Generator()
    other.set_state(state["torch"])
    assert torch.equal(torch.rand(7, generator=other), torch.rand(7, generator=torch_generator))
    fresh = np.random.default_rng(99)
    fresh.bit_generator.state = state["numpy"]
    assert fresh.integers(2**60) == numpy_generator.integers(2**60)
    new = np.random.RandomState(99)
    new.set_state(state["legacy"])
    assert new.normal() == legacy.normal()
    version, internal, gauss = state["python"]
    twin = random.Random(99)
    twin.setstate((version, tuple(internal), gauss))
    assert twin.random() == python.random()


def test_a_real_optimizer_and_network_continue_bit_for_bit() -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        return network, torch.optim.Adam(network.parameters(), lr=0.01)

    def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        network(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    network, optimizer = build()
    step(network, optimizer)
    state = through_bytes({"net": network.state_dict(), "opt": optimizer.state_dict()})
    twin, twin_optimizer = build()
    twin.load_state_dict(state["net"])
    twin_optimizer.load_state_dict(state["opt"])
    for _ in range(3):
        step(network, optimizer)
        step(twin, twin_optimizer)
    for left, right in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10)[::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6)[::-1],
        np.broadcast_to(np.float32(2), (3, 2)),
        np.arange(4, dtype=">f8"),
        torch.arange(6).reshape(2, 3).t(),
        torch.arange(10)[::3],
        torch.ones(1).expand(4),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.ones(2)),
    ],
)
def test_odd_memory_layouts_keep_their_values(array: Any) -> None:
    found = through_bytes({"x": array})["x"]
    if isinstance(array, torch.Tensor):
        assert type(found) is torch.Tensor
        assert torch.equal(found, array.detach())
    else:
        assert np.array_equal(found, array)


def test_the_trap_that_contiguity_avoids_exists() -> None:
    array = np.arange(10)[::2]
    raw = safetensors.numpy.load(safetensors.numpy.save({"x": array}))["x"]
    ours = safetensors.numpy.load(encode_tensors(flatten({"x": array}).tensors))["x"]
    assert ours.tolist() == [0, 2, 4, 6, 8]
    if np.array_equal(raw, array):
        pytest.skip("this release of safetensors copies strided arrays itself")


def test_tied_and_overlapping_tensors_are_stored() -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    state = {"a": weight, "tied": weight, "view": weight[1:], "transposed": weight.t()}
    assert_same(through_bytes(state), {**state, "transposed": weight.t().contiguous()})


def test_files_are_plain_safetensors_and_equal_in_any_order() -> None:
    state = {"b": torch.arange(3), "a": np.array([1.0, 2.0]), "c": torch.ones(2, 2)}
    first = encode_tensors(flatten(state).tensors)
    turned = encode_tensors(dict(reversed(list(flatten(state).tensors.items()))))
    assert first == turned
    loaded = safetensors.torch.load(first)
    assert sorted(loaded) == ["a", "b", "c"]
    assert torch.equal(loaded["b"], torch.arange(3))


def test_hash_ignores_key_order_and_sees_everything_else() -> None:
    base = {"x": torch.ones(2, 3), "n": 1, "f": 0.5, "deep": {"seconds": 1.5, "steps": 3}}
    reference = state_hash(base)
    assert state_hash(OrderedDict(reversed(list(base.items())))) == reference
    for other in (
        {**base, "x": torch.ones(3, 2)},
        {**base, "x": torch.ones(2, 3, dtype=torch.float64)},
        {
            **base,
            "x": torch.ones(2, 3).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(2.0)),
        },
        {**base, "n": True},
        {**base, "n": 1.0},
        {**base, "f": math.nextafter(0.5, 1)},
        {**base, "more": None},
        {**base, "deep": {"seconds": 2.5, "steps": 3}},
    ):
        assert state_hash(other) != reference
    later = {**base, "deep": {"seconds": 2.5, "steps": 3}}
    assert state_hash(base, ["deep.seconds"]) == state_hash(later, ["deep.seconds", "deep.none"])
    assert base["deep"]["seconds"] == 1.5


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        Colour.RED,
        np.array([object()], dtype=object),
        np.array(["text"]),
        np.array([1j]),
        np.zeros(2, dtype=[("a", "i4")]),
        np.datetime64("2020-01-01"),
        np.ma.masked_array([1, 2], [True, False]),
        torch.zeros(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.nn.Linear(1, 1),
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_the_name_of_its_path(value: Any) -> None:
    with pytest.raises(StateError, match=r"state\['outer'\]\['1'\]\['inner'\]"):
        flatten({"outer": [0, {"inner": value}]})


def test_keys_of_two_kinds_are_refused() -> None:
    for keys in ({1: 0, "1": 0}, {1.5: 0}, {(1, 2): 0}, {True: 0}, {None: 0}):
        with pytest.raises(StateError, match=r"state\['a'\] has the keys"):
            flatten({"a": keys})


def test_depth_is_limited_to_32() -> None:
    def nested(levels: int) -> Any:
        state: Any = np.float64(1)
        for _ in range(levels):
            state = {7: state}
        return state

    assert_same(through_bytes(nested(32)), nested(32))
    with pytest.raises(StateError, match="32 levels"):
        flatten(nested(33))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(StateError, match="32 levels"):
        flatten(endless)


def test_long_lists_are_refused_when_written_not_when_read() -> None:
    with pytest.raises(JsonError, match="arrays"):
        state_hash({"x": list(range(300_000))})
    with pytest.raises(JsonError, match="bytes"):
        canonical_json("x" * (MAX_BYTES + 1))
    with pytest.raises(StateError, match="bits"):
        flatten({"x": 1 << 20_000})


def test_odd_names_become_harmless_and_stay_apart() -> None:
    odd = [
        ("a", ".."),
        ("a", "b c"),
        ("a", "b/c"),
        ("a", ""),
        ("a", "x" * 300),
        ("ä",),
        ("a", "b\0"),
    ]
    names = [tensor_name(path) for path in [*odd, ("a", "b", "c"), ("a", "b.c")]]
    assert len(set(names)) == len(names)
    assert names[-2:] == ["a/b/c", "a/b.c"]
    for name in names:
        assert ".." not in name
        assert len(name) <= 200
        assert name.isascii()
    assert tensor_name(("a", "sha256-" + "0" * 64)) != "a/sha256-" + "0" * 64


@pytest.mark.parametrize(
    "tree",
    [
        {"$eval": "1"},
        {"$int": "1; 2"},
        {"$int": 3},
        {"$int": "9" * 5000},
        {"$float": "1.5"},
        {"$float": "0x1p999999"},
        {"$float": "0x2.0p+0"},
        {"$torch": "missing"},
        {"$torch": ["x"]},
        {"$ints": [1]},
        {"$ints": {"a": 1}},
        {"$ints": {"1": 1, "01": 2}},
        {"$int": "1", "b": 2},
        1.5,
        {"a": {"$torch": "x"}, "b": {"$torch": "x"}},
        {"a": 1},
        {"$scalar": "x"},
    ],
)
def test_malformed_trees_are_refused(tree: Any) -> None:
    with pytest.raises(StateError):
        unflatten(FlatState(tree, {"x": torch.ones(2)}))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"1" * 30,
        b"[" * 40 + b"]" * 40,
        b"[" * 100_000,
        b'{"a":' * 33 + b"1" + b"}" * 33,
        b"\xff",
        b"{",
        b"",
        b'"' + b"x" * (MAX_BYTES + 1) + b'"',
        b"[" + b"0," * 300_000 + b"0]",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_json_is_refused(text: bytes) -> None:
    with pytest.raises(JsonError):
        parse_json(text)


def test_plain_converts_scalars_and_names_what_it_refuses() -> None:
    record = {"a": np.float32(0.5), "b": [np.int64(3), np.bool_(True)], "c": torch.tensor(2)}
    converted = plain(record)
    assert converted == {"a": 0.5, "b": [3, True], "c": 2}
    assert json.dumps(converted)
    with pytest.raises(ValueError, match=r"a\.b\[1\] is nan"):
        plain({"a": {"b": [0, math.nan]}})
    assert plain({"a": math.inf}, non_finite_as_null=True) == {"a": None}
    with pytest.raises(ValueError, match="tolist"):
        plain({"a": np.ones(2)})
    with pytest.raises(ValueError, match="keys are strings"):
        plain({"a": {1: 2}})


def header_file(entries: Any, data: bytes = b"", raw: bytes | None = None) -> bytes:
    header = json.dumps(entries).encode() if raw is None else raw
    return len(header).to_bytes(8, "little") + header + data


def entry(shape: list[Any], begin: int, end: int, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (2**40).to_bytes(8, "little") + b"{}",
        header_file({"../../x": entry([1], 0, 1)}, b"1"),
        header_file({"a..b": entry([1], 0, 1)}, b"1"),
        header_file({"a b": entry([1], 0, 1)}, b"1"),
        header_file({"": entry([1], 0, 1)}, b"1"),
        header_file({"x" * 201: entry([1], 0, 1)}, b"1"),
        header_file({"x": entry([10**12], 0, 10**12)}, b"1"),
        header_file({"x": entry([10**12], 0, 1)}, b"1"),
        header_file({"x": entry([2**40, 2**40], 0, 0)}),
        header_file({"x": entry([-1], 0, 1)}, b"1"),
        header_file({"x": entry([1.0], 0, 1)}, b"1"),
        header_file({"x": entry([True], 0, 1)}, b"1"),
        header_file({"x": entry([1] * 33, 0, 1)}, b"1"),
        header_file({"x": entry([1], 0, 1, "O")}, b"1"),
        header_file({"x": entry([1], 0, 8, "C64")}, b"12345678"),
        header_file({"x": {**entry([1], 0, 1), "code": "1"}}, b"1"),
        header_file({"x": entry([1], 0, 1)}, b"12"),
        header_file({"x": entry([2], 0, 2)}, b"1"),
        header_file({"x": entry([1], 1, 2)}, b"12"),
        header_file({"x": entry([2], 0, 2), "y": entry([2], 1, 3)}, b"123"),
        header_file({"x": entry([1], 0, 1), "y": entry([1], 2, 3)}, b"123"),
        header_file({"__metadata__": {"a": "b"}}),
        header_file([1, 2]),
        header_file(None, b"1", raw=b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2),
        header_file(
            None,
            b"1",
            raw=b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        ),
    ],
)
def test_hostile_headers_are_refused_before_anything_is_built(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(data: bytes) -> Any:
        raise AssertionError("the library saw an unchecked file")

    monkeypatch.setattr(safetensors.torch, "load", never)
    with pytest.raises(TensorFileError):
        decode_tensors(data)


def test_a_header_of_another_writer_is_read() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    data = safetensors.numpy.save({"x": array, "empty": np.zeros((0, 2)), "point": np.array(1.5)})
    header = check_header(data, len(data))
    assert header["x"] == (torch.int16, (2, 3))
    assert np.array_equal(decode_tensors(data)["x"].numpy(), array)
    assert decode_tensors(data)["point"].shape == ()
