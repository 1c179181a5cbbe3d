"""The layer between environments and agent that decides what the agent is told.

The contract of a step stays as it was: `info["context"]` belongs to the returned observation, which
after an episode's end is already the next episode's first, and `info["next_context"]` to the true
successor `info["next_observation"]`, which is never acted on then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from envs.base import EnvInfo
from envs.snapshots import Snapshot

PREFIX = "context_"


@dataclass(frozen=True)
class Step:
    """One vector step, as a provider of contexts may learn from it.

    Attributes:
        envs: The environments after the step, without the layer.
        info: Their info; `next_observation` holds the true successors (N, obs).
        observation: (N, obs) what the actions answered.
        action: (N, act).
        reward: (N,).
        terminated: (N,) bool.
        truncated: (N,) bool.
        context: (N, C) what was shown beside `observation`.
    """

    envs: Any
    info: dict[str, Any]
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    context: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        """Rows whose episode has ended, (N,) bool."""
        return self.terminated | self.truncated


class Provider(Protocol):
    """Where contexts come from: given, or learnt from transitions.

    Causal: the context for action t may use the steps up to t - 1 and nothing later, and no
    transition crosses a reset. Randomness and learning are the provider's own.

    Attributes:
        dim: Length of what `context` returns.
        discrete: Whether that is one of `dim` one-hot vectors (or zeros).
        gate_dim: If not 0, the last `gate_dim` entries are for gates of hidden layers alone, and
            `dim` counts the others only.
        gate_discrete: Whether that part is one-hot.
    """

    @property
    def dim(self) -> int: ...
    @property
    def discrete(self) -> bool: ...
    @property
    def gate_dim(self) -> int: ...
    @property
    def gate_discrete(self) -> bool: ...

    def observe(self, step: Step) -> None:
        """Take in a step; afterwards `context` is that of the true successors."""
        ...

    def start(self, rows: np.ndarray, envs: Any) -> None:
        """Episodes begin in some rows (indices); afterwards `context` is that of their start."""
        ...

    def forget(self) -> None:
        """Begin anew with what was felt or lived; what was learnt stays."""
        ...

    def context(self, envs: Any) -> np.ndarray:
        """What is shown beside the observations that are to be answered next, (N, dim + gate_dim).

        A fresh float32 array; asking changes nothing.
        """
        ...

    def probe_contexts(self, probe: Any) -> np.ndarray:
        """Contexts of a fixed sample set, as a network would be shown them.

        Args:
            probe: `observations` (M, obs) and, where there are tasks, their one-hot `contexts`.

        Returns:
            (M, dim + gate_dim) float32.
        """
        ...

    def snapshot(self) -> Snapshot:
        """State as plain arrays, integers and text, with names of its own."""
        ...

    def restore(self, snapshot: Snapshot, envs: Any) -> None:
        """Take over a state; the environments have been restored before."""
        ...

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what another one had learnt or remembered, not what it felt last; to be
        measured: neither learn nor remember any more."""
        ...


@runtime_checkable
class LearningProvider(Provider, Protocol):
    """A provider that learns, and can be measured with what it has learnt.

    Attributes:
        waits_for: Settings that decide how long it is silent.
    """

    @property
    def waits_for(self) -> tuple[str, ...]: ...

    def take_over(self, snapshot: Snapshot) -> None:
        """Take over what another one had learnt, not what it felt last, and go on as it would.

        One that still learned goes on learning, with random draws of its own.

        Raises:
            ValueError: It is of another kind or form; then this one is of no use.
        """
        ...

    def silent_steps(self) -> int:
        """Environment steps from now in which nothing but the neutral context can be shown."""
        ...


class ContextLayer(VectorWrapper):
    """Environments whose contexts come from a provider; everything else is passed on.

    Args:
        envs: The environments; closed together with the layer.
        info: Their description.
        provider: Where contexts come from.

    Attributes:
        info: The description with the provider's contexts.
        provider: The same as given.
    """

    def __init__(self, envs: VectorEnv, info: EnvInfo, provider: Provider) -> None:
        super().__init__(envs)
        self._inner: Any = envs  # which can do more than a `VectorEnv`
        self.provider = provider
        self.info = replace(
            info,
            context_dim=provider.dim,
            context_discrete=provider.discrete,
            gate_context_dim=provider.gate_dim,
            gate_context_discrete=provider.gate_discrete,
        )
        self._resets_itself = envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP
        self._observation: np.ndarray | None = None

    def __getattr__(self, name: str) -> Any:
        """Whatever else the environments can do."""
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def context(self) -> np.ndarray:
        """What is shown beside the observations that are to be answered next, (N, C)."""
        return self.provider.context(self.env)

    def reset(  # type: ignore[override]
        self, *arguments: Any, **options: Any
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes; takes what the environments' own `reset` takes."""
        observation, info = self.env.reset(*arguments, **options)
        mask = arguments[0] if arguments else options.get("mask")
        mask = (options.get("options") or {}).get("reset_mask", mask)
        rows = np.arange(self.env.num_envs) if mask is None else np.flatnonzero(mask)
        return observation, self._started(rows, observation, info)

    def _started(
        self, rows: np.ndarray, observation: np.ndarray, info: dict[str, Any]
    ) -> dict[str, Any]:
        self.provider.start(rows, self.env)
        self._observation = observation
        return {**info, "context": self.context, "next_context": self.context}

    def set_value(self, value: float) -> None:
        """Choose the world from outside, where the environments can do that.

        Contexts that are inferred or delayed begin anew, so that no world is measured with what
        was felt in the one before.
        """
        self._inner.set_value(value)
        self.provider.forget()

    def start_episodes(self, rows: Iterable[int], goal_index: Iterable[int]) -> np.ndarray:
        """Start chosen rows from chosen goals, where the environments can do that."""
        rows = [int(row) for row in rows]
        observation = self._inner.start_episodes(rows, goal_index)
        self._started(np.array(rows, dtype=np.int64), observation, {})
        return observation

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every environment by one step."""
        answered = self._observation
        if answered is None:  # restored
            answered = self._inner.last_observation
        shown = self.context
        observation, reward, terminated, truncated, info = self.env.step(actions)
        step = Step(self.env, info, answered, actions, reward, terminated, truncated, shown)
        self.provider.observe(step)
        info["next_context"] = self.context
        if self._resets_itself and step.ended.any():
            self.provider.start(np.flatnonzero(step.ended), self.env)
        info["context"] = self.context
        self._observation = observation
        return observation, reward, terminated, truncated, info

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on, the provider's state included."""
        state: Snapshot = self._inner.snapshot()
        return state | self.context_snapshot()

    def context_snapshot(self) -> Snapshot:
        """The provider's state alone, under the names of `snapshot`; enough for `adopt`."""
        return {f"{PREFIX}{key}": value for key, value in self.provider.snapshot().items()}

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what the contexts of a snapshot's environments were learnt to be, or are
        played back from.

        The environments themselves stay as they are: they measure what was trained in others.

        Raises:
            ValueError: It is of another kind of context.
        """
        self.provider.adopt(_of_provider(snapshot))

    def take_over(self, snapshot: Snapshot) -> None:
        """Go on with what the contexts of another run's environments were learnt to be.

        Call it before the first `reset`; a refusal leaves everything as it was.

        Raises:
            ValueError: Contexts are not learnt here, or were learnt in another form there.
        """
        if not isinstance(self.provider, LearningProvider):
            raise ValueError("its contexts are not learnt")
        before = self.provider.snapshot()
        try:
            self.provider.take_over(_of_provider(snapshot))
        except ValueError:
            self.provider.restore(before, self.env)
            raise

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises:
            ValueError: It is of other environments or of another kind of context.
        """
        self._inner.restore(snapshot)
        self.provider.restore(_of_provider(snapshot), self.env)
        self._observation = None


def learning_provider(envs: Any) -> LearningProvider | None:
    """The provider of environments whose contexts are learnt, None for all others."""
    provider = envs.provider if isinstance(envs, ContextLayer) else None
    return provider if isinstance(provider, LearningProvider) else None


def _of_provider(snapshot: Snapshot) -> Snapshot:
    return {
        key.removeprefix(PREFIX): value for key, value in snapshot.items() if key.startswith(PREFIX)
    }
