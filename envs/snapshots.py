"""Random streams of start states, and snapshots that hold nothing but plain numbers."""

from __future__ import annotations

import numpy as np

Snapshot = dict[str, np.ndarray | int | str]


def reset_noise_generator(table_seed: int, world_seed: int, index: int) -> np.random.Generator:
    """The stream of start states of environment ``index``; it never depends on the agent.

    World frictions use ``spawn_key=(world_seed,)``, environment ``index`` uses
    ``spawn_key=(world_seed, 1 + index)``.
    """
    sequence = np.random.SeedSequence(entropy=table_seed, spawn_key=(world_seed, 1 + index))
    return np.random.Generator(np.random.PCG64(sequence))


def save_generators(generators: list[np.random.Generator], snapshot: Snapshot) -> None:
    """Add the states of PCG64 generators to a snapshot, 128-bit integers as decimal strings.

    Raises:
        ValueError: If a generator is not a PCG64.
    """
    for index, generator in enumerate(generators):
        state = generator.bit_generator.state
        if state["bit_generator"] != "PCG64":
            raise ValueError(f"expected a PCG64 generator, got {state['bit_generator']}.")
        prefix = f"generator_{index}_"
        snapshot[prefix + "state"] = str(state["state"]["state"])
        snapshot[prefix + "inc"] = str(state["state"]["inc"])
        snapshot[prefix + "has_uint32"] = int(state["has_uint32"])
        snapshot[prefix + "uinteger"] = int(state["uinteger"])


def load_generators(snapshot: Snapshot, count: int) -> list[np.random.Generator]:
    """New generators that go on where ``save_generators`` was called.

    Raises:
        ValueError: If a generator's state is missing.
    """
    generators = []
    for index in range(count):
        state, inc, has_uint32, uinteger = (
            int(require(snapshot, f"generator_{index}_{key}"))
            for key in ("state", "inc", "has_uint32", "uinteger")
        )
        bits = np.random.PCG64()
        bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": inc},
            "has_uint32": has_uint32,
            "uinteger": uinteger,
        }
        generators.append(np.random.Generator(bits))
    return generators


def require(snapshot: Snapshot, key: str) -> np.ndarray | int | str:
    """The value of ``key``.

    Raises:
        ValueError: If the snapshot does not hold it.
    """
    if key not in snapshot:
        raise ValueError(f"the snapshot holds no {key!r}; it is incomplete or of another version.")
    return snapshot[key]


def require_equal(snapshot: Snapshot, key: str, expected: int | str) -> None:
    """Refuse a snapshot whose ``key`` is not ``expected``.

    Raises:
        ValueError: If it is missing or different.
    """
    if require(snapshot, key) != expected:
        raise ValueError(
            f"the snapshot has {key}={snapshot[key]}, this run has {expected}; restore it with the "
            "settings it was saved under."
        )


class Stored:
    """State that consists of arrays: `_arrays`, by name."""

    _arrays: dict[str, np.ndarray]

    def snapshot(self) -> Snapshot:
        """Copies of the arrays."""
        return {key: value.copy() for key, value in self._arrays.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state.

        Raises:
            ValueError: An array is missing, or has another shape than this one's.
        """
        self._arrays = load_arrays(snapshot, self._arrays)


def load_arrays(snapshot: Snapshot, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of the snapshot's arrays, in the dtype of ``like``.

    Raises:
        ValueError: If one is missing or has another shape than in ``like``.
    """
    arrays = {}
    for key, example in like.items():
        array = np.array(require(snapshot, key), dtype=example.dtype)
        if array.shape != example.shape:
            raise ValueError(
                f"the snapshot's {key} has shape {array.shape}, expected {example.shape}; it is "
                "damaged or of another environment."
            )
        arrays[key] = array
    return arrays
