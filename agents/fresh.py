"""The fresh-network oracle: at every announced task change, everything begins anew."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from agents.base import Agent, Transition
from agents.normalization import RunningNormalizer
from agents.update import Update
from networks.heads import Network

LIFE = "life"


class FreshAtTaskChange(Agent):
    """Stands for an agent that is built anew whenever the task changes.

    Nothing survives: networks, targets, temperature, optimizers, methods, normaliser, an
    unfinished rollout, the replay and its warm-up, and the random streams are those of a new
    agent. Only the count of iterations goes on, because log periods are counted in it, and the
    first answers of a task, which supervised problems tell before they announce it, go to the agent
    of that task. In its first life it is the plain agent, bit for bit. What is no part of the
    agent stays: contexts that are learnt would remember earlier worlds, and runs with them are
    refused (`configs.build.rehearse`).

    It knows when the task changes, so tables call it an oracle: what a learner could reach in
    every world if it had lost nothing and kept nothing.

    Args:
        build: Makes the agent of a life, 0, 1, ...; other lives draw from other streams.

    Attributes:
        life: How often everything has begun anew.
        inner: The agent of this life.
    """

    def __init__(self, build: Callable[[int], Agent]) -> None:
        self._build = build
        self.life = 0
        self.inner = build(0)
        self._iterations_before = 0
        self._events: list[dict[str, Any]] = []

    def on_task_change(self, task: int) -> None:
        """Begin anew."""
        self._events += self.inner.pop_events()
        self._iterations_before += self.inner.iteration
        waiting = self.inner.waiting()
        self._begin(self.life + 1)
        if waiting is not None:
            self.inner.take_over(waiting)
        self._events.append({"event": "begin_anew", "task": task, "life": self.life})

    def _begin(self, life: int) -> None:
        self.inner.close()
        del self.inner
        gc.collect()  # agents hold themselves in cycles, and two replays may not fit
        self.inner, self.life = self._build(life), life

    @property
    def iteration(self) -> int:  # type: ignore[override]
        """Update phases of all lives."""
        return self._iterations_before + self.inner.iteration

    @property
    def updates(self) -> Mapping[str, Update]:  # type: ignore[override]
        """Optimizers and methods of this life."""
        return self.inner.updates

    @property
    def normalizer(self) -> RunningNormalizer | None:
        """What standardises the observations of this life, None where nothing does."""
        return getattr(self.inner, "normalizer", None)

    @property
    def changes_objective(self) -> bool:  # type: ignore[override]
        """Whether optimizers of this life hear of new objectives."""
        return self.inner.changes_objective

    @property
    def learns_from_replay(self) -> bool:  # type: ignore[override]
        """Whether the agent of this life takes transitions in any order."""
        return self.inner.learns_from_replay

    # The agent of this life ------------------------------------------------------------------

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Choose actions; see `Agent.act`."""
        return self.inner.act(observation, context, explore)

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Sample actions for somebody who only watches; see `Agent.sample`."""
        return self.inner.sample(observation, context)

    def begin_sampling(self) -> None:
        """Draw noise from the beginning; see `Agent.begin_sampling`."""
        self.inner.begin_sampling()

    def observe(self, transition: Transition) -> None:
        """Take in the outcome of the last exploring `act`."""
        self.inner.observe(transition)

    def update(self) -> dict[str, Tensor]:
        """Learn if a gradient step is due."""
        return self.inner.update()

    def networks(self) -> dict[str, Network]:
        """Networks of this life; others after the next task change."""
        return self.inner.networks()

    def network_inputs(
        self, name: str, observation: np.ndarray, action: np.ndarray, context: np.ndarray
    ) -> tuple[Tensor, Tensor | None]:
        """Turn raw samples into what one network's forward takes."""
        return self.inner.network_inputs(name, observation, action, context)

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """Inputs of one network for the last on-policy transitions of this life."""
        return self.inner.window_inputs(name, size)

    @property
    def update_is_due(self) -> bool:
        """Whether the next `update` will learn."""
        return self.inner.update_is_due

    @property
    def begins_iteration(self) -> bool:
        """Whether the next `update` is the first of an iteration."""
        return self.inner.begins_iteration

    def statistic_names(self) -> tuple[str, ...]:
        """Keys of what `update` returns."""
        return self.inner.statistic_names()

    def methods_that_need_boundaries(self) -> list[str]:
        """The oracle itself, in whose place nothing else acts at announced task changes."""
        return ["fresh_at_switch"]

    def announcements(self) -> list[str]:
        """What happens at task changes, and what the methods will do."""
        own = "fresh networks, optimizers and memories at every task change (uses task boundary)"
        idle = self.inner.methods_that_need_boundaries()
        note = f"{', '.join(idle)}: nothing happens at task changes, where a new agent begins"
        return [own, *self.inner.announcements(), *([note] if idle else [])]

    def log_values(self) -> dict[str, float]:
        """Scalars of methods."""
        return self.inner.log_values()

    def pop_events(self) -> list[dict[str, Any]]:
        """Beginnings and unit resets since the last call."""
        events, self._events = self._events, []
        return [*events, *self.inner.pop_events()]

    @property
    def is_at_quiet_point(self) -> bool:
        """Whether nothing is half collected."""
        return self.inner.is_at_quiet_point

    # State -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of the agent of this life, and which life it is."""
        life = {"number": self.life, "iterations_before": self._iterations_before}
        return {**self.inner.state_dict(), LIFE: life}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        number = int(state[LIFE]["number"])
        if number != self.life:
            self._begin(number)
        self._iterations_before = int(state[LIFE]["iterations_before"])
        self.inner.load_state_dict({key: value for key, value in state.items() if key != LIFE})

    def drop_unfinished(self) -> None:
        """Forget transitions of episodes that will not go on."""
        self.inner.drop_unfinished()

    def organs(self) -> tuple[str, ...]:
        """Names that `transplant` accepts as fresh parts."""
        return self.inner.organs()

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Load another run's state into the first life."""
        self.inner.transplant(state, fresh_parts)

    def close(self) -> None:
        """Release threads."""
        self.inner.close()
