"""Choosing hyperparameters from the first k percent of a lifetime, equally for every method.

Tuning on whole lifetimes makes all methods look alike and could not be done in the field.
Source: Mesbahi et al. (2024), arXiv 2404.02113.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.continual import lifetime_average

FIRST_TUNING_WORLD = 10_000
K_PERCENT = 0.1


@dataclass(frozen=True)
class TuningRow:
    """One training episode of one tuning run.

    Attributes:
        configuration: Name of the hyperparameter configuration.
        world_seed: At least 10,000: tuning worlds are never evaluation worlds.
        agent_seed: Seed of the agent.
        env_step: Global environment step at which the episode ended.
        episode_return: Undiscounted return.
        episode_length: Steps.
    """

    configuration: str
    world_seed: int
    agent_seed: int
    env_step: int
    episode_return: float
    episode_length: float


@dataclass(frozen=True)
class Selection:
    """The configuration chosen for one method.

    Attributes:
        configuration: Its name.
        scores: Mean over seeds of the lifetime average of the early part, per configuration.
        num_configurations: How many were tried, to be printed in the table.
    """

    configuration: str
    scores: Mapping[str, float]
    num_configurations: int

    @property
    def sensitivity(self) -> tuple[float, float, float]:
        """Minimum, median and maximum score over the configurations."""
        values = list(self.scores.values())
        return min(values), float(np.median(values)), max(values)


def early_rows(
    rows: Sequence[TuningRow], total_steps: int, k: float = K_PERCENT
) -> list[TuningRow]:
    """Episodes that ended within the first k of the lifetime, on tuning worlds only.

    Raises:
        ValueError: An evaluation world is among the rows, or k is outside (0, 1].
    """
    if not 0.0 < k <= 1.0:
        raise ValueError(f"k is {k}; give a share of the lifetime in (0, 1], such as 0.1")
    forbidden = sorted({row.world_seed for row in rows if row.world_seed < FIRST_TUNING_WORLD})
    if forbidden:
        raise ValueError(
            f"world seeds {forbidden[:5]} are evaluation worlds; tune on world seeds of "
            f"{FIRST_TUNING_WORLD} and above"
        )
    return [row for row in rows if row.env_step <= k * total_steps]


def _scores(rows: Sequence[TuningRow]) -> dict[str, float]:
    """Mean over seeds of the lifetime average, per configuration."""
    runs: dict[str, dict[tuple[int, int], list[TuningRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        runs[row.configuration][row.world_seed, row.agent_seed].append(row)
    if len({frozenset(seeds) for seeds in runs.values()}) > 1:
        counts = {name: len(seeds) for name, seeds in runs.items()}
        raise ValueError(
            f"configurations were tried on different seeds ({counts} runs); run every one on the "
            "same worlds, counting a failed run at the random policy's score"
        )
    return {
        name: float(
            np.mean(
                [
                    lifetime_average(
                        [row.episode_return for row in run], [row.episode_length for row in run]
                    )
                    for run in seeds.values()
                ]
            )
        )
        for name, seeds in runs.items()
    }


def select_configurations(
    rows: Mapping[str, Sequence[TuningRow]],
    defaults: Mapping[str, str],
    total_steps: int,
    k: float = K_PERCENT,
) -> dict[str, Selection]:
    """Choose one configuration per method from the first k of the lifetime.

    Args:
        rows: Method -> its tuning episodes; later rows than k are never looked at.
        defaults: Method -> name of its default configuration, which wins ties.
        total_steps: T, the planned lifetime in global environment steps.
        k: Share of the lifetime.

    Raises:
        ValueError: Evaluation worlds, unequal numbers of configurations between methods (the
            baseline included), unequal seeds within a method, or an untried default.
    """
    scores = {method: _scores(early_rows(found, total_steps, k)) for method, found in rows.items()}
    counts = {method: len(found) for method, found in scores.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(
            f"methods tried different numbers of configurations within the first {k:.0%}: "
            f"{counts}; give every method, the baseline included, the same number"
        )
    selections = {}
    for method, found in scores.items():
        default = defaults[method]
        if default not in found:
            raise ValueError(f"the default {default!r} of {method} was not tried; include it")
        best = max(found, key=lambda name: (found[name], name == default))
        selections[method] = Selection(best, found, len(found))
    return selections
