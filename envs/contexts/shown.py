"""What all providers do with what they know: show it, or what a control makes of it, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts import controls
from envs.contexts.controls import Control, own_stream
from envs.contexts.layer import Step
from envs.schedules import at_least, one_of
from envs.snapshots import Snapshot

INPUTS = ("same", "source")


@dataclass(frozen=True)
class Showing:
    """How contexts are shown; part of the settings of every kind.

    Attributes:
        control: none (as they are), zero, constant, shuffled or delayed.
        delay: Steps of control=delayed.
        input: What the input of networks and agents see: same (as the gates of hidden layers), or
            source (contexts as they are, while gates alone see what the control makes of them).
    """

    control: str = "none"
    delay: int = 0
    input: str = "same"

    def __post_init__(self) -> None:
        one_of("context.control", self.control, controls.CONTROLS)
        one_of("context.input", self.input, INPUTS)
        if (self.control == "delayed") != (self.delay > 0):
            raise ValueError(
                f"context.delay is {self.delay} with context.control={self.control}; give a delay "
                "of at least 1 with control=delayed, and 0 without"
            )
        at_least("context.delay", self.delay, 0)
        if self.input == "source" and self.control == "none":
            raise ValueError(
                "context.input=source separates the input from what a control makes of it, but "
                "context.control is none; leave input=same"
            )


class Shown:
    """The part of a provider that does not depend on where its knowledge comes from.

    Args:
        dim: Length of a context.
        discrete: Whether it is one of `dim` one-hot vectors (or zeros).
        showing: What is made of it.
        info: The environments.
        seed: Of the control's own stream.
    """

    def __init__(
        self, dim: int, discrete: bool, showing: Showing, info: EnvInfo, seed: int
    ) -> None:
        self._control = make_control(showing.control, showing.delay, dim, discrete, info, seed)
        self._showing, self._num_envs = showing, info.num_envs
        self.dim, self.discrete = dim, discrete
        self.gate_dim = dim if showing.input == "source" else 0
        self.gate_discrete = discrete
        self._known = np.zeros((info.num_envs, dim), dtype=np.float32)

    def learn(self, step: Step) -> np.ndarray:
        """Take in a step; contexts of the true successors, (N, dim) float32, a fresh array."""
        raise NotImplementedError

    def observe(self, step: Step) -> None:
        """Take in a step and go on to the successors."""
        self._known = self.learn(step)
        self._control.advance(self._known)

    def start(self, rows: np.ndarray, envs: Any) -> None:
        """Begin episodes; what was found out about the world outlives them."""
        self._control.start(rows, self._known)

    def forget(self) -> None:
        """Begin anew with what was felt, as in a world never seen; what was learnt stays."""
        self._control.forget()

    def context(self, envs: Any) -> np.ndarray:
        """What is known, the control, or both side by side, (N, dim + gate_dim) float32."""
        return self._beside(self._known, self._control.show(self._known))

    def silent_steps(self) -> int:
        """Environment steps from now in which nothing but the neutral context can be shown.

        What is found out with the last of them is shown beside the observation after it, by
        `control=delayed` so many steps later.
        """
        return (self._silent_vector_steps() + self._showing.delay) * self._num_envs

    def _silent_vector_steps(self) -> int:
        """Vector steps from now before anything is known."""
        raise NotImplementedError

    @property
    def _form(self) -> str:
        """What kind of knowledge this is; another one's can be taken over if it is of the same."""
        raise NotImplementedError

    @property
    def _label(self) -> str:
        """Identity of the settings, part of every snapshot."""
        return f"{self._form}/{self._showing.control}"

    def _require_form(self, snapshot: Snapshot) -> None:
        """Refuse what was learnt in another form; what a control makes of it does not matter.

        Raises:
            ValueError: It is of another kind of context, or of other settings.
        """
        theirs = str(snapshot.get("label", "")).rpartition("/")[0]
        if theirs != self._form:
            raise ValueError(f"they are {theirs or 'not learnt'} there and {self._form} here")

    def _beside(self, known: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return np.concatenate((known, shown) if self.gate_dim else (shown,), axis=1)

    def neutral(self, count: int) -> np.ndarray:
        """What is shown before anything is known, (count, dim): 0, ..., 0, or 0, ..., 0, 1.

        A one-hot context is all zeros then; others end in a constant 1, which gates can use.
        """
        told = np.zeros((count, self.dim), dtype=np.float32)
        if not self.discrete:
            told[:, -1] = 1.0
        return told

    def probe_contexts(self, probe: Any) -> np.ndarray:
        """A fixed sample set has no past to infer from: the neutral context everywhere."""
        known = self.neutral(len(probe.observations))
        still = isinstance(self._control, controls.Zero | controls.Constant)
        return self._beside(known, self._control.show(known) if still else known)


def make_control(
    name: str, delay: int, dim: int, discrete: bool, info: EnvInfo, seed: int
) -> Control:
    """What is made of contexts before gates or networks see them.

    Args:
        name: One of `controls.CONTROLS`.
        delay: Steps of `delayed`.
        dim: Length of a context.
        discrete: Whether it is one of `dim` one-hot vectors.
        info: The environments.
        seed: Of the stream of `shuffled`.

    Raises:
        ValueError: `shuffled` on a stream, which has no episodes.
    """
    if name == "shuffled":
        if info.max_episode_steps == 0:
            raise ValueError(
                "context.control=shuffled draws at the start of every episode, and a stream of "
                f"examples such as {info.name} has none; choose control=zero or constant"
            )
        stream = own_stream(seed, "shuffled")
        if discrete:
            return controls.ShuffledIds(info.num_envs, dim, stream)
        return controls.PlayedBack(info.num_envs, dim, info.max_episode_steps, stream)
    if name == "delayed":
        return controls.Delayed(info.num_envs, dim, delay)
    kinds = {"none": controls.Truth, "zero": controls.Zero, "constant": controls.Constant}
    return kinds[name]()
