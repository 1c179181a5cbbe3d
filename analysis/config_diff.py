"""What changed between two nested configurations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

_SHOWN_CHANGES = 20
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Change:
    """One setting that differs.

    Attributes:
        key: dotted name, `agent.learning_rate`.
        kind: whether the key is new, gone, or has another value.
        old: value before, None for a new key.
        new: value now, None for a removed key.
    """

    key: str
    kind: Literal["added", "removed", "changed"]
    old: Any
    new: Any

    def __str__(self) -> str:
        old = "(absent)" if self.kind == "added" else _short(self.old)
        new = "(absent)" if self.kind == "removed" else _short(self.new)
        return f"{self.key}: {old} -> {new}"


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored_keys: Collection[str] = ()
) -> tuple[Change, ...]:
    """Every setting that differs, in the order of their names; 1, 1.0 and True are different.

    Args:
        old: nested plain values; lists are compared as a whole.
        new: the same.
        ignored_keys: dotted names that may differ, with everything below them.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    changes = []
    for key in sorted(set(before) | set(after)):
        if is_covered(key, ignored_keys):
            continue
        if key not in before:
            changes.append(Change(key, "added", None, after[key]))
        elif key not in after:
            changes.append(Change(key, "removed", before[key], None))
        elif yaml.safe_dump(before[key]) != yaml.safe_dump(after[key]):
            changes.append(Change(key, "changed", before[key], after[key]))
    return tuple(changes)


def describe(changes: Sequence[Change]) -> str:
    """One indented line per change, at most twenty."""
    lines = [f"  {change}" for change in changes[:_SHOWN_CHANGES]]
    if len(changes) > _SHOWN_CHANGES:
        lines.append(f"  and {len(changes) - _SHOWN_CHANGES} more")
    return "\n".join(lines)


def is_covered(key: str, names: Collection[str]) -> bool:
    """Whether a dotted key is one of `names` or lies below one."""
    return any(key == name or key.startswith(name + ".") for name in names)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name + ".")
        else:
            yield name, value


def _short(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    text = text.removesuffix("\n...\n").strip()
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
