"""Meta-World's tasks: their names, their orders, and how one is built and given a goal.

Source: Yu et al., "Meta-World" (2019); McLean et al., "Meta-World+" (arXiv 2505.11289); task order
of CW10: Wołczyk et al., "Continual World" (2021).
"""

from __future__ import annotations

import difflib
from importlib.metadata import version
from typing import Any

import metaworld
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3, MT25_V3, MT50_V3
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.meta_world_fast import fast_class

REQUIRED_VERSIONS = {"metaworld": "3.1.1", "mujoco": "3.3.0"}
"""Goals, rewards and trajectories were checked under these; others may differ silently."""


def check_versions() -> dict[str, str]:
    """Versions of what decides about trajectories.

    Raises:
        ImportError: If an installed version is another one than the code was tested with.
    """
    found = {name: version(name) for name in REQUIRED_VERSIONS}
    for name, required in REQUIRED_VERSIONS.items():
        if found[name] != required:
            raise ImportError(
                f"{name} {found[name]} is installed, but these environments need {name} {required};"
                f" run: pip install {name}=={required}"
            )
    return found


VERSIONS = check_versions()

ALL_TASKS = tuple(ALL_V3_ENVIRONMENTS)
MT10 = tuple(MT10_V3)
CW10 = (
    "hammer-v3",
    "push-wall-v3",
    "faucet-close-v3",
    "push-back-v3",
    "stick-pull-v3",
    "handle-press-side-v3",
    "push-v3",
    "shelf-place-v3",
    "window-close-v3",
    "peg-unplug-side-v3",
)
BENCHMARKS = {
    "mt10": MT10,
    "mt25": tuple(MT25_V3),
    "mt50": tuple(MT50_V3),
    "cw10": CW10,
}
"""Task lists that have a name; the order is the order of the one-hot context."""

OBSERVATION_DIM, ACTION_DIM = 39, 4
MAX_HORIZON = 500
STEP_SECONDS = 0.0125
COSTLY_TASKS = frozenset(
    {
        "coffee-pull-v3",
        "coffee-push-v3",
        "hand-insert-v3",
        "peg-insert-side-v3",
        "pick-place-v3",
        "pick-place-wall-v3",
        "push-v3",
        "push-back-v3",
        "push-wall-v3",
        "shelf-place-v3",
        "soccer-v3",
        "stick-pull-v3",
        "stick-push-v3",
        "sweep-into-v3",
        "sweep-v3",
    }
)
"""Tasks that look at contacts: a step costs about 1.5 times that of the others."""


def checked_tasks(tasks: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The list itself, if every name is a task.

    Raises:
        ValueError: If the list is empty or holds an unknown name; the closest one is suggested.
    """
    if not tasks:
        raise ValueError("tasks is empty; name at least one, for example [reach-v3, push-v3].")
    for name in tasks:
        if name not in ALL_V3_ENVIRONMENTS:
            close = difflib.get_close_matches(str(name), ALL_TASKS, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(ALL_TASKS)}."
            raise ValueError(f"there is no Meta-World task {name!r}; {hint}")
    return tuple(tasks)


def benchmark_tasks(benchmark: str, task: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The task list of a benchmark.

    Args:
        benchmark: mt1, custom, or a name in ``BENCHMARKS``.
        task: The task of mt1.
        tasks: The tasks of custom, each at most once; must be empty elsewhere.

    Raises:
        ValueError: If the benchmark or a task is unknown, or the settings do not fit together.
    """
    if benchmark != "custom" and tasks:
        raise ValueError(
            f"tasks={list(tasks)} was given with benchmark={benchmark}; choose benchmark=custom "
            "for a list of your own, or leave tasks empty."
        )
    if benchmark == "mt1":
        return checked_tasks([task])
    if benchmark == "custom":
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks={list(tasks)} names a task twice; use copies for more rows.")
        return checked_tasks(tasks)
    if benchmark not in BENCHMARKS:
        known = ["mt1", *BENCHMARKS, "custom"]
        close = difflib.get_close_matches(benchmark.lower(), known, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"there is no benchmark {benchmark!r}{hint}; choose one of {', '.join(known)}."
        )
    return BENCHMARKS[benchmark]


def build_task(
    name: str, reward_version: str = "v2", *, fast: bool = True, **rendering: Any
) -> SawyerXYZEnv:
    """Build one simulation; it needs a goal (``set_goal``) before its first reset.

    Args:
        name: For example ``reach-v3``.
        reward_version: v1 or v2.
        fast: Replace two slow Python parts by equal ones (see ``meta_world_fast``).
        **rendering: ``render_mode``, ``camera_name``, ``width``, ``height``.
    """
    stock = ALL_V3_ENVIRONMENTS[name]
    chosen = fast_class(stock) if fast else stock
    # Every task class takes these keywords; the base class declares others.
    return chosen(reward_function_version=reward_version, **rendering)  # type: ignore[call-arg]


def set_goal(env: SawyerXYZEnv, name: str, rand_vec: np.ndarray) -> None:
    """Fix the positions of goal and objects; takes effect at the next reset.

    ``set_task`` takes a pickled dict, made here in this process from our own values by Meta-World's
    own helper; nothing pickled is ever read from a file.

    Raises:
        ValueError: If the vector is not one that this task can draw.
    """
    space = env._random_reset_space
    assert space is not None
    vector = np.array(rand_vec, dtype=np.float64)
    if vector.shape != space.shape or not space.contains(vector):
        raise ValueError(
            f"{vector.tolist()} is no goal of {name}: it must be {space.shape} numbers between "
            f"{space.low.tolist()} and {space.high.tolist()}."
        )
    values = {
        "env_cls": ALL_V3_ENVIRONMENTS[name],
        "rand_vec": vector,
        "partially_observable": False,
    }
    env.set_task(metaworld._encode_task(name, values))


def observation_bounds(env: SawyerXYZEnv) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest observation of a task with its goal shown, shape (39,) float64 each."""
    goal = env.goal_space
    assert goal is not None
    space = env.sawyer_observation_space
    low, high = np.array(space.low), np.array(space.high)
    low[36:], high[36:] = goal.low, goal.high
    return low, high
