"""The 50 goals of every task: drawn once by Meta-World's own classes, kept as JSON with a hash.

A goal is the vector (3 or 6 float64) that fixes where goal and objects are.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.meta_world_tasks import MT10, VERSIONS, build_task, checked_tasks

NUM_GOALS = 50
MAX_FILE_BYTES = 16 * 2**20
SEED_LIMIT = 2**32

MIN_DISTANCES = {
    "assembly-v3": 0.1,
    "basketball-v3": 0.15,
    "box-close-v3": 0.25,
    "coffee-pull-v3": 0.15,
    "coffee-push-v3": 0.15,
    "disassemble-v3": 0.1,
    "hand-insert-v3": 0.15,
    "peg-insert-side-v3": 0.1,
    "pick-out-of-hole-v3": 0.15,
    "pick-place-v3": 0.15,
    "pick-place-wall-v3": 0.15,
    "push-v3": 0.15,
    "push-back-v3": 0.15,
    "push-wall-v3": 0.15,
    "reach-v3": 0.15,
    "reach-wall-v3": 0.15,
    "shelf-place-v3": 0.1,
    "soccer-v3": 0.15,
    "stick-pull-v3": 0.1,
    "stick-push-v3": 0.1,
    "sweep-into-v3": 0.15,
}
"""Smallest xy distance in metres between object and goal. Upstream draws again until it is kept;
with a fixed vector that loop would never end."""


@dataclass(frozen=True)
class Goals:
    """The goals of a list of tasks.

    Attributes:
        tasks: Task names.
        generator: ``MT10`` or ``MT1``, the rule they were drawn by.
        goal_seed: Its seed.
        vectors: One array per task, shape (50, 3) or (50, 6), float64.
        sha256: Hash of all arrays, little-endian float64 in task order.
    """

    tasks: tuple[str, ...]
    generator: str
    goal_seed: int
    vectors: tuple[np.ndarray, ...]
    sha256: str

    def to_json(self) -> str:
        """Everything as text; Python's shortest float notation is read back exactly."""
        plain = {
            "metaworld": VERSIONS["metaworld"],
            "generator": self.generator,
            "goal_seed": self.goal_seed,
            "num_goals": NUM_GOALS,
            "tasks": list(self.tasks),
            "goals": [vectors.tolist() for vectors in self.vectors],
            "sha256": self.sha256,
        }
        return json.dumps(plain, allow_nan=False, sort_keys=True)


def goal_hash(vectors: Sequence[np.ndarray]) -> str:
    """SHA-256 of the arrays' little-endian float64 bytes, row by row, in order."""
    digest = hashlib.sha256()
    for array in vectors:
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


def generator_of(tasks: Sequence[str]) -> str:
    """Which rule draws the goals of a list: MT10's own for exactly its list, else one per task."""
    return "MT10" if tuple(tasks) == MT10 else "MT1"


def task_seed(task: str, goal_seed: int) -> int:
    """Seed of one task under the rule MT1: tasks differ, whatever list they are in."""
    return (zlib.crc32(task.encode()) + goal_seed) % SEED_LIMIT


def check_goals(tasks: Sequence[str], vectors: Sequence[np.ndarray]) -> None:
    """Refuse goals that upstream would hang on or that are not 50 different ones.

    Raises:
        ValueError: Naming the task and the goal.
    """
    if len(tasks) != len(vectors):
        raise ValueError(f"there are goals for {len(vectors)} tasks, but {len(tasks)} tasks.")
    for task, array in zip(tasks, vectors, strict=True):
        if array.shape not in ((NUM_GOALS, 3), (NUM_GOALS, 6)):
            raise ValueError(
                f"the goals of {task} have shape {array.shape}; expected ({NUM_GOALS}, 3 or 6)."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"the goals of {task} hold numbers that are not finite.")
        if len(np.unique(array, axis=0)) != NUM_GOALS:
            raise ValueError(f"the goals of {task} are not {NUM_GOALS} different ones.")
        smallest = MIN_DISTANCES.get(task)
        if smallest is None:
            continue
        if array.shape[1] != 6:
            raise ValueError(f"the goals of {task} have {array.shape[1]} numbers; it needs 6.")
        distances = np.linalg.norm(array[:, :2] - array[:, 3:5], axis=1)
        close = np.flatnonzero(distances < smallest)
        if close.size:
            index = int(close[0])
            raise ValueError(
                f"goal {index} of {task} is {distances[index]:.6f} m from its object, but at least "
                f"{smallest} m are needed; Meta-World's reset would never end. Choose another goal."
            )


def draw_goals(tasks: Sequence[str], goal_seed: int) -> Goals:
    """Draw 50 goals per task exactly as Meta-World does; about 0.35 s per task.

    The exact list MT10 is drawn by one stream through all ten tasks, as ``metaworld.MT10`` does;
    every other list as ``metaworld.MT1`` does, each task with its own ``task_seed``.

    Raises:
        ValueError: If ``goal_seed`` is not in [0, 2**32).
    """
    names = checked_tasks(list(tasks))
    if not 0 <= goal_seed < SEED_LIMIT:
        raise ValueError(f"goal_seed={goal_seed} must be at least 0 and below 2**32.")
    generator = generator_of(names)
    vectors: list[np.ndarray] = []
    with _legacy_random_state():
        if generator == "MT10":
            np.random.seed(goal_seed)  # noqa: NPY002 (upstream draws from the global generator)
        for name in names:
            if generator == "MT1":
                np.random.seed(task_seed(name, goal_seed))  # noqa: NPY002
            vectors.append(_draw_task(name))
    check_goals(names, vectors)
    return Goals(names, generator, goal_seed, tuple(vectors), goal_hash(vectors))


@contextmanager
def _legacy_random_state() -> Iterator[None]:
    """Give NumPy's global generator back as it was."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _draw_task(name: str) -> np.ndarray:
    """Reset a stock task 50 times; each of the two passes of a reset draws, the last one counts."""
    env = build_task(name, fast=False)
    env._freeze_rand_vec = False
    env._set_task_called = True
    env._set_task_inner()
    drawn = []
    for _ in range(NUM_GOALS):
        env.reset()
        drawn.append(np.array(env._last_rand_vec, dtype=np.float64))
    env.close()
    return np.stack(drawn)


def parse_goals(text: str, where: str) -> Goals:
    """Read what ``Goals.to_json`` wrote, and check it.

    Raises:
        ValueError: If it is not a goal manifest, is of another Meta-World, is damaged, or holds
            goals that cannot be used.
    """
    try:
        plain: dict[str, Any] = json.loads(text)
        names = checked_tasks([str(name) for name in plain["tasks"]])
        vectors = tuple(np.array(rows, dtype=np.float64) for rows in plain["goals"])
        stored = (str(plain["generator"]), int(plain["goal_seed"]), str(plain["sha256"]))
        metaworld_version, num_goals = plain["metaworld"], plain["num_goals"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is no goal manifest: {error}.") from error
    if metaworld_version != VERSIONS["metaworld"] or num_goals != NUM_GOALS:
        raise ValueError(
            f"{where} holds {num_goals} goals of metaworld {metaworld_version}; expected "
            f"{NUM_GOALS} of {VERSIONS['metaworld']}."
        )
    check_goals(names, vectors)
    generator, goal_seed, digest = stored
    if goal_hash(vectors) != digest:
        raise ValueError(
            f"{where} is damaged: its goals have SHA-256 {goal_hash(vectors)}, it says {digest}."
        )
    return Goals(names, generator, goal_seed, vectors, digest)


def read_goals(path: Path) -> Goals:
    """Read a manifest file.

    Raises:
        ValueError: If the file cannot be read, is too large, or is not a valid manifest.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {size} bytes; a goal manifest has at most 16 MiB.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the goal manifest {path} cannot be read: {error}.") from error
    return parse_goals(text, str(path))


def cache_folder() -> Path:
    """Where drawn goals are kept: ``$XDG_CACHE_HOME/neoteny/goals`` or under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "neoteny" / "goals"


def load_goals(tasks: Sequence[str], goal_seed: int, manifest: Path | None = None) -> Goals:
    """The goals of a task list, from a file, from the cache, or drawn now and cached.

    Args:
        tasks: Task names; a name may occur twice.
        goal_seed: Seed of the drawing.
        manifest: A file to use instead; it may hold more tasks than needed.

    Raises:
        ValueError: If the file is not usable or lacks a task, or the seed is out of range.
    """
    names = checked_tasks(list(tasks))
    if manifest is not None:
        return _select(read_goals(manifest), names, str(manifest))
    generator = generator_of(names)
    if generator == "MT10":
        return _cached("mt10", names, goal_seed)
    per_task = {name: _cached(name, (name,), goal_seed) for name in dict.fromkeys(names)}
    vectors = tuple(per_task[name].vectors[0] for name in names)
    return Goals(names, generator, goal_seed, vectors, goal_hash(vectors))


def _select(goals: Goals, names: tuple[str, ...], where: str) -> Goals:
    missing = [name for name in names if name not in goals.tasks]
    if missing:
        raise ValueError(
            f"{where} has no goals for {', '.join(missing)}; it holds {', '.join(goals.tasks)}."
        )
    vectors = tuple(goals.vectors[goals.tasks.index(name)] for name in names)
    return Goals(names, goals.generator, goals.goal_seed, vectors, goal_hash(vectors))


def _cached(key: str, names: tuple[str, ...], goal_seed: int) -> Goals:
    """Goals from the cache if it holds them intact; otherwise draw them and store them."""
    path = cache_folder() / f"{key}-seed{goal_seed}-metaworld{VERSIONS['metaworld']}.json"
    if path.is_file():
        try:
            goals = read_goals(path)
        except ValueError as error:
            warnings.warn(f"cached goals are drawn again: {error}", RuntimeWarning, stacklevel=2)
        else:
            if (goals.tasks, goals.goal_seed) == (names, goal_seed):
                return goals
    goals = draw_goals(names, goal_seed)
    try:
        _store(path, goals.to_json())
    except OSError as error:
        warnings.warn(
            f"goals are not cached and will be drawn again next time: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
    return goals


def _store(path: Path, text: str) -> None:
    """Write a file so that another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    os.replace(file.name, path)
