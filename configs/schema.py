"""Turns plain configuration values into typed, frozen dataclasses, with helpful refusals."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigurationError(ValueError):
    """A configuration that cannot run; the message is one sentence for the user."""


class UnknownSetting(ConfigurationError):
    """A key that nobody reads.

    Attributes:
        key: Its dotted name.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def load(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from a mapping.

    Args:
        kind: A dataclass; nested dataclass fields are loaded too.
        values: Keys and plain values, as read from YAML.
        where: Path of the mapping within the configuration, for messages.

    Raises:
        ConfigurationError: Unknown key (with the closest known one), missing key, a value of the
            wrong type, or one that the dataclass itself refuses.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            path = _join(where, str(key))
            raise UnknownSetting(unknown_key(path, list(fields)), path)
    arguments = {}
    for name, field in fields.items():
        path = _join(where, name)
        if name in values:
            arguments[name] = _convert(hints[name], values[name], path)
        elif field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        ):
            raise ConfigurationError(f"{path} is missing")
    try:
        return kind(**arguments)
    except ConfigurationError:
        raise
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def unknown_key(path: str, allowed: list[str]) -> str:
    """Sentence about a key nobody reads, naming the closest one that exists."""
    parent, _, name = path.rpartition(".")
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    prefix = f"{parent}." if parent else ""
    hint = f"; did you mean {prefix}{close[0]}?" if close else f"; known are {', '.join(allowed)}"
    return f"there is no setting {path}{hint}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return load(hint, value, path)  # type: ignore[arg-type]
    if origin in (list, tuple) and isinstance(value, list | tuple):
        items = [_convert(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict and isinstance(value, Mapping):
        return {
            str(key): _convert(arguments[1], item, _join(path, str(key)))
            for key, item in value.items()
        }
    if origin is typing.Literal and value in arguments:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigurationError(f"{path} is {value}; it must be a finite number")
        return float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int and is_number and float(value).is_integer():  # 2e6 is a float in YAML
        return int(value)
    if hint in (bool, str, type(None)) and type(value) is hint:
        return value
    raise ConfigurationError(f"{path} is {value!r}; it must be {_describe(hint)}")


def _convert_union(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    for option in arguments:
        try:
            return _convert(option, value, path)
        except ConfigurationError:
            continue
    described = " or ".join(_describe(option) for option in arguments)
    raise ConfigurationError(f"{path} is {value!r}; it must be {described}")


def _describe(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (list, tuple):
        return f"a list of which each item is {_describe(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    return names.get(hint, "a group of settings")


def later(default: Any) -> Any:
    """Field of a setting that came after the first runs.

    At its default it is left out of config.yaml, so that runs from before it can go on.
    """
    return dataclasses.field(default=default, metadata={"later": True})


def to_plain(value: Any, complete: bool = False) -> Any:
    """Turn dataclasses into plain nested values, as written to config.yaml.

    Args:
        value: A dataclass, or a value inside one.
        complete: Also the settings of `later` that are at their default, as people want to see
            them.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_plain(getattr(value, f.name), complete)
            for f in dataclasses.fields(value)
            if complete or not (f.metadata.get("later") and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, complete) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, complete) for item in value]
    return value


def flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Flatten nested settings to `a.b.c` keys; lists are values."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        path = _join(where, str(key))
        if isinstance(value, Mapping) and value:
            result.update(flat(value, path))
        else:
            result[path] = value
    return result
