"""Where the value of world 0, 1, 2, ... comes from: a generator, a table or a list."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.laws import Law
from envs.modifiers.friction import LAW as FRICTION

TABLE_PATH = Path(__file__).with_name("friction_table.csv")
TABLE_SHAPE = (100, 50)
TABLE_SHA256 = "368d24938b1d507e1ed4cf164f53e1e6a1199ab5ca4f5881c022ee2d4a8612d5"
"""SHA-256 of the table's little-endian float64 bytes, row by row."""


class ScheduleExhausted(ValueError):
    """A world was asked for that the list or the table does not hold."""


def raw_bits(table_seed: int, *key: int) -> np.random.PCG64:
    """A stream of raw 64-bit numbers of its own."""
    return np.random.PCG64(np.random.SeedSequence(entropy=table_seed, spawn_key=key))


def uniform(bits: np.random.PCG64) -> float:
    """The next number in [0, 1) with 53 random bits."""
    return (int(bits.random_raw()) >> 11) * 2.0**-53


class Worlds(Protocol):
    """A sequence of values, one per world index."""

    def value(self, index: int) -> float:
        """Value of world ``index`` (0, 1, ...)."""
        ...

    @property
    def length(self) -> int | None:
        """Number of worlds, or None when the sequence never ends."""
        ...

    def describe(self) -> dict[str, object]:
        """Plain values that identify the sequence; part of the schedule hash."""
        ...


class GeneratedWorlds:
    """Values drawn from a law, reproducible one by one and without an end.

    Row ``row`` is PCG64 seeded with ``SeedSequence(entropy=table_seed, spawn_key=(row, *stream))``.
    World k takes the k-th raw 64-bit output as u = (raw >> 11) 2^-53, for a logarithmic law
    exp(ln low + u (ln high - ln low)). Raw outputs, because numpy promises their stability and not
    that of its distributions.

    Source: Dohare et al., Nature 632:768-774 (2024): friction log-uniform on [0.02, 2.0].
    """

    def __init__(self, row: int, table_seed: int, law: Law, stream: tuple[int, ...] = ()) -> None:
        self._row, self._table_seed, self._law, self._stream = row, table_seed, law, stream
        self._bits = raw_bits(table_seed, row, *stream)
        self._values: list[float] = []

    @property
    def length(self) -> int | None:
        return None

    def value(self, index: int) -> float:
        while len(self._values) <= index:
            previous = self._values[-1] if self._values else None
            self._values.append(self._law.draw(uniform(self._bits), previous))
        return self._values[index]

    def describe(self) -> dict[str, object]:
        named: dict[str, object] = {"stream": list(self._stream)} if self._stream else {}
        return {
            "source": "generated",
            "row": self._row,
            "table_seed": self._table_seed,
            "range": [self._law.low.hex(), self._law.top.hex()],
            "first_values": [float(self.value(k)).hex() for k in range(TABLE_SHAPE[1])],
            **named,
        }


class ListWorlds:
    """Values written down one by one; past the end it raises or starts again.

    Args:
        values: At least one value.
        law: What values are possible.
        cycle: Whether world ``len(values)`` is world 0 again.
        name: What the values are called in error messages.
    """

    def __init__(self, values: Sequence[float], law: Law, *, cycle: bool, name: str) -> None:
        if len(values) == 0:
            example = f"[{law.nominal:g}, {law.low:g}]"
            raise ValueError(f"{name} is empty; give at least one value, for example {example}.")
        self._values = [law.check(value, f"{name}[{k}]") for k, value in enumerate(values)]
        self._cycle, self._name = cycle, name

    @property
    def length(self) -> int | None:
        return None if self._cycle else len(self._values)

    def value(self, index: int) -> float:
        if self._cycle:
            return self._values[index % len(self._values)]
        if index >= len(self._values):
            raise ScheduleExhausted(
                f"world {index} was reached, but {self._name} holds only {len(self._values)} "
                "values; give more values, train for fewer steps, or choose on_exhausted=cycle."
            )
        return self._values[index]

    def describe(self) -> dict[str, object]:
        return {
            "source": "list",
            "cycle": self._cycle,
            "values": [value.hex() for value in self._values],
        }


def friction_table(path: Path = TABLE_PATH) -> np.ndarray:
    """Read the materialised worlds: rows 0-99 x columns 0-49 of the generator with table seed 0.

    Returns:
        Frictions, shape (100, 50), float64.

    Raises:
        ValueError: If the file is not the one this code was tested with.
    """
    table = np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2)
    digest = hashlib.sha256(np.ascontiguousarray(table, dtype="<f8").tobytes()).hexdigest()
    if table.shape != TABLE_SHAPE or digest != TABLE_SHA256:
        raise ValueError(
            f"{path} has shape {table.shape} and SHA-256 {digest}, expected {TABLE_SHAPE} and "
            f"{TABLE_SHA256}; restore the file from the repository."
        )
    return table


def table_worlds(row: int) -> ListWorlds:
    """Row ``row`` of the table as a sequence of 50 worlds.

    Raises:
        ValueError: If the row is outside the table.
    """
    if not 0 <= row < TABLE_SHAPE[0]:
        raise ValueError(
            f"world_seed={row} is outside the table's rows 0-{TABLE_SHAPE[0] - 1}; choose a row in "
            "the table or source=generated, which has no end."
        )
    values, name = friction_table()[row].tolist(), f"row {row} of the table"
    return ListWorlds(values, FRICTION, cycle=False, name=name)
