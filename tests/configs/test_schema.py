"""Typed loading of plain values: conversions and refusals."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from configs.schema import ConfigurationError, flat, load, to_plain


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outer:
    count: int
    mode: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    limit: float | None = None
    flag: bool = False

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}; give 0 or more")


def test_values_are_converted_exactly():
    outer = load(Outer, {"count": 2e6, "inner": {"rate": 1, "names": ["x"]}, "limit": 3})
    assert outer == Outer(2_000_000, "a", Inner(1.0, ["x"]), 3.0)
    assert type(outer.count) is int
    assert type(outer.inner.rate) is float
    assert load(Outer, to_plain(outer)) == outer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 1, "inner": {"rat": 1}}, r"no setting inner\.rat; did you mean inner\.rate\?"),
        ({}, "count is missing"),
        ({"count": 1.5}, "count is 1.5; it must be a whole number"),
        ({"count": True}, "count is True; it must be a whole number"),
        ({"count": "3"}, "count is '3'; it must be a whole number"),
        ({"count": 1, "flag": 1}, "flag is 1; it must be true or false"),
        ({"count": 1, "mode": "c"}, "mode is 'c'; it must be one of a, b"),
        ({"count": 1, "limit": "x"}, "limit is 'x'; it must be a number or null"),
        ({"count": 1, "inner": {"names": [1]}}, r"names\[0\] is 1; it must be a text"),
        ({"count": 1, "inner": 3}, "inner is 3; it must be a group of settings"),
        ({"count": -1}, "count is -1; give 0 or more"),
    ],
)
def test_refusals_name_the_key_and_the_remedy(values, message):
    with pytest.raises(ConfigurationError, match=message):
        load(Outer, values)


def test_flat_keys():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": [1, 2], "d": {}}
