"""Contexts that an encoder reads from the last transitions, made for agents with a replay.

A replay keeps contexts for a long time, and those of an encoder that goes on learning would grow
stale in it: the same numbers would come to mean other worlds. So the encoder learns first, until
`freeze_after`, while everybody is shown the neutral context; from then on it is a fixed function of
the last transitions, and whatever is stored stays true.

Deviation: encoders of this kind are usually trained for ever and asked again when a transition is
drawn from the replay (Rakelly et al. 2019; Zintgraf et al. 2020). What they learn after the first
worlds is given up here for contexts that agents can store like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts.controls import own_stream
from envs.contexts.layer import Step
from envs.contexts.running import Moments, nested, part_of
from envs.contexts.shown import Showing, Shown
from envs.contexts.small_network import Reservoir, SmallNetwork
from envs.schedules import at_least
from envs.snapshots import (
    Snapshot,
    load_arrays,
    load_generators,
    require_equal,
    save_generators,
)

is_oracle, uses_boundaries = False, False
FEWEST = 4  # transitions below which nothing is said


@dataclass(frozen=True)
class Config(Showing):
    """How windows are read.

    Attributes:
        kind: Name of this file.
        length: Transitions of a window.
        code: Numbers that say what it is like.
        freeze_after: Transitions after which the encoder stays as it is and is shown. Give it
            several worlds; a run that is no longer is refused.
        train_every: Transitions between its gradient steps.
        hidden: Widths of the encoder's two hidden layers.
        decoder_hidden: Width of the hidden layer that predicts a transition from the code.
        learning_rate: Of Adam.
        reservoir: Windows it learns from, a uniform sample of all; forgotten when it is frozen.
        minibatch_size: Windows of a gradient step.
    """

    kind: str = "window"
    length: int = 16
    code: int = 8
    freeze_after: int = 100_000
    train_every: int = 32
    hidden: tuple[int, int] = (128, 64)
    decoder_hidden: int = 64
    learning_rate: float = 1e-3
    reservoir: int = 20_000
    minibatch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("context.length", self.length, FEWEST)
        names = ("code", "train_every", "decoder_hidden", "reservoir", "minibatch_size")
        for name in names:
            at_least(f"context.{name}", getattr(self, name), 1)
        for width in self.hidden:
            at_least("context.hidden", width, 1)
        at_least("context.freeze_after", self.freeze_after, 0)
        if not 0.0 < self.learning_rate < 1.0:
            raise ValueError(
                f"context.learning_rate is {self.learning_rate}; give a number between 0 and 1"
            )


class Window(Shown):
    """tanh(encoder(last transitions)) and a 1; the neutral 0, ..., 0, 1 until it is frozen.

    The encoder is trained so that a decoder predicts the change of the observation and the reward
    from observation, action and code. No gradient of an agent reaches it.

    Args:
        config: How.
        info: The environments.
        seed: Of all streams.
    """

    waits_for = ("freeze_after",)

    def __init__(self, config: Config, info: EnvInfo, seed: int) -> None:
        super().__init__(config.code + 1, False, config, info, seed)
        self._config = config
        self._low, self._high = info.action_low, info.action_high
        self._given = info.observation_dim + info.action_dim
        self._width = self._given + info.observation_dim + 1  # inputs, change, reward
        self._generator = own_stream(seed, config.kind)
        self._encoder = SmallNetwork(
            (config.length * (self._width + 1), *config.hidden, config.code),
            config.learning_rate,
            self._generator,
        )
        outputs = self._width - self._given
        self._decoder = SmallNetwork(
            (self._given + config.code, config.decoder_hidden, outputs),
            config.learning_rate,
            self._generator,
        )
        self._moments = Moments(self._width)
        self._arrays = {
            "window": np.zeros((info.num_envs, config.length, self._width), dtype=np.float32),
            "filled": np.zeros(info.num_envs, dtype=np.int64),
            "mean": np.zeros(self._width),
            "scale": np.ones(self._width),
        }
        self._steps = self._since = 0
        self._has_adopted = False
        self._reservoir = self._new_reservoir()
        self._known = self._told()

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder has learnt all it will."""
        return self._steps >= self._config.freeze_after

    def _new_reservoir(self) -> Reservoir:
        places = 1 if self.is_frozen or self._has_adopted else self._config.reservoir
        row = self._config.length * (self._width + 1) + self._width
        return Reservoir(places, row, self._generator)

    def learn(self, step: Step) -> np.ndarray:
        """Take in a step; contexts of the true successors."""
        action = np.clip(step.action, self._low, self._high)
        change = step.info["next_observation"] - step.observation
        rows = np.concatenate((step.observation, action, change, step.reward[:, None]), axis=1)
        if not (self.is_frozen or self._has_adopted):
            self._study(rows)
        state = self._arrays
        state["window"] = np.concatenate(
            (state["window"][:, 1:], rows[:, None].astype(np.float32)), axis=1
        )
        state["filled"] = np.minimum(state["filled"] + 1, self._config.length)
        return self._told()

    def _study(self, rows: np.ndarray) -> None:
        """Remember windows with the transitions that followed them, and learn when it is time."""
        self._moments.update(rows)
        flat = self._arrays["window"].reshape(self._num_envs, -1)
        self._reservoir.add(np.concatenate((flat, self._mask(), rows), axis=1))
        self._steps += len(rows)
        self._since += len(rows)
        while self._since >= self._config.train_every:
            self._since -= self._config.train_every
            self._train()
        if self.is_frozen:
            self._arrays["mean"], self._arrays["scale"] = self._moments.mean, self._moments.scale()
            self._reservoir = self._new_reservoir()

    def _mask(self) -> np.ndarray:
        """1 where a place of the window is filled, (N, length); the newest place is the last."""
        ages = np.arange(self._config.length, 0, -1)
        return (ages <= self._arrays["filled"][:, None]).astype(np.float32)

    def _train(self) -> None:
        """One gradient step on the mean squared error, in units of standard deviations."""
        state = self._arrays
        state["mean"], state["scale"] = self._moments.mean, self._moments.scale()
        sample = self._reservoir.sample(self._config.minibatch_size)
        length = self._config.length
        windows, mask, rows = np.split(
            sample, [length * self._width, length * (self._width + 1)], axis=1
        )
        codes, values = self._encode(windows.reshape(len(sample), length, self._width), mask)
        normal = self._normal(rows)
        told = np.concatenate((normal[:, : self._given], codes), axis=1)
        decoded = self._decoder.forward(told)
        error = decoded[-1] - normal[:, self._given :]
        slope = (2.0 / error.size) * error
        found, of_inputs = self._decoder.gradients(decoded, slope.astype(np.float32))
        of_codes = of_inputs[:, self._given :] * (1.0 - codes**2)
        of_codes *= mask.sum(axis=1, keepdims=True) >= FEWEST
        self._encoder.step(self._encoder.gradients(values, of_codes)[0])
        self._decoder.step(found)

    def _normal(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self._arrays["mean"]) / self._arrays["scale"]).astype(np.float32)

    def _encode(self, windows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Codes (B, code), 0 for windows of too few transitions, and values of all layers."""
        normal = self._normal(windows) * mask[:, :, None]
        inputs = np.concatenate((normal.reshape(len(windows), -1), mask), axis=1)
        values = self._encoder.forward(inputs)
        enough = mask.sum(axis=1, keepdims=True) >= FEWEST
        return np.tanh(values[-1]) * enough, values

    def _told(self) -> np.ndarray:
        told = self.neutral(self._num_envs)
        if self.is_frozen:
            told[:, :-1] = self._encode(self._arrays["window"], self._mask())[0]
        return told

    def _silent_vector_steps(self) -> int:
        """Until the encoder is frozen, and has a window that says something."""
        left = max(0, self._config.freeze_after - self._steps)
        return max(-(-left // self._num_envs), FEWEST)

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what was learnt, not what was felt last, and learn no more: to be measured.

        An encoder that was not frozen yet stays so, and everybody is shown the neutral context.

        Raises:
            ValueError: It is of other settings.
        """
        self._require_form(snapshot)
        self._has_adopted = True
        self._load(snapshot, self._generator)
        self._control.adopt(part_of(snapshot, "control"))
        self.forget()

    def take_over(self, snapshot: Snapshot) -> None:
        """Take over what was learnt, not what was felt last, and go on as that one would.

        A frozen encoder stays so, whatever `freeze_after` says here; another one learns on until
        its transitions of both lives are that many.

        Raises:
            ValueError: It is of other settings.
        """
        self._require_form(snapshot)
        if int(snapshot["reservoir_seen"]) == 0:  # only frozen encoders have forgotten windows
            steps = max(int(snapshot["steps"]), self._config.freeze_after)
            snapshot = {**snapshot, "steps": steps}
        self._load(snapshot, self._generator)
        self.forget()

    def forget(self) -> None:
        """Begin anew with what was felt, as in a world never seen; what was learnt stays."""
        super().forget()
        self._arrays["window"][:], self._arrays["filled"][:] = 0.0, 0
        self._known = self._told()

    def snapshot(self) -> Snapshot:
        """Everything that later contexts depend on."""
        state: Snapshot = {
            "label": self._label,
            "steps": self._steps,
            "since": self._since,
            **nested("felt", {key: value.copy() for key, value in self._arrays.items()}),
            **nested("control", self._control.snapshot()),
            **nested("encoder", self._encoder.snapshot()),
            **nested("decoder", self._decoder.snapshot()),
            **nested("reservoir", self._reservoir.snapshot()),
            **nested("moments", self._moments.snapshot()),
        }
        if self._has_adopted:
            state["has_adopted"] = 1
        save_generators([self._generator], state)
        return state

    def restore(self, snapshot: Snapshot, envs: Any) -> None:
        """Take over a state.

        Raises:
            ValueError: It is of other settings.
        """
        require_equal(snapshot, "label", self._label)
        self._has_adopted = bool(snapshot.get("has_adopted", 0))
        (generator,) = load_generators(snapshot, 1)
        self._load(snapshot, generator)
        self._control.restore(part_of(snapshot, "control"))
        felt = part_of(snapshot, "felt")
        self._arrays = load_arrays(felt, self._arrays)
        self._known = self._told()

    def _load(self, snapshot: Snapshot, generator: np.random.Generator) -> None:
        self._steps, self._since = int(snapshot["steps"]), int(snapshot["since"])
        self._generator = generator
        self._encoder.restore(part_of(snapshot, "encoder"))
        self._decoder.restore(part_of(snapshot, "decoder"))
        self._moments.restore(part_of(snapshot, "moments"))
        self._reservoir = self._new_reservoir()
        if not (self.is_frozen or self._has_adopted):
            self._reservoir.restore(part_of(snapshot, "reservoir"), self._generator)
        felt = part_of(snapshot, "felt")
        scales = load_arrays(felt, {key: self._arrays[key] for key in ("mean", "scale")})
        self._arrays |= scales

    @property
    def _form(self) -> str:
        config = self._config
        return f"{config.kind}/{config.length}/{config.code}"


def provide(
    config: Config, envs: Any, info: EnvInfo, settings: Any, total_steps: int, seed: int
) -> Window:
    """Build the provider of a run; see `given.provide`."""
    return Window(config, info, seed)
