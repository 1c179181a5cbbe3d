"""What the agents of stable-baselines3 share when they run in our loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import Logger
from torch import Tensor

from agents.base import Agent
from agents.global_streams import GlobalStreams
from agents.parts import Parts
from agents.sb3_parts import refuse_what_sb3_cannot_take
from agents.update import NumericalFailure

Model = TypeVar("Model", PPO, SAC)


class SB3Agent(Agent, Generic[Model]):
    """A model of SB3's that draws from streams of its own and says what it has learnt.

    Args:
        config: Settings of the agent.
        parts: What the run is configured with.
        build_model: Builds SB3's model from them.

    Attributes:
        model: SB3's model.
        statistics: Our name of what is logged: SB3's name, and the factor between the two.

    Raises:
        ValueError: The run is configured with something that SB3 would ignore.
    """

    model: Model
    statistics: Mapping[str, tuple[str, float]]

    def __init__(
        self, config: Any, parts: Parts, build_model: Callable[[Any, Parts], Model]
    ) -> None:
        refuse_what_sb3_cannot_take(config.kind, parts)
        self.config = config
        self.iteration = 0
        self._draws = GlobalStreams(parts.streams, "sb3")
        self._streams = parts.streams
        self.begin_sampling()
        self._logger = Logger(folder=None, output_formats=[])  # only to read what SB3 logs
        with self._draws.lent():
            self.model = build_model(config, parts)
        self.model.set_logger(self._logger)

    def begin_sampling(self) -> None:
        """Draw noise from the beginning; see `Agent.begin_sampling`."""
        self._prediction_draws = GlobalStreams(self._streams, "sb3_prediction")

    def _learn(self, train: Callable[[], None]) -> dict[str, float]:
        """Let SB3 learn; returns what it has logged, by our names.

        Raises:
            NumericalFailure: SB3 found numbers that are not finite.
        """
        try:
            with self._draws.lent():
                train()
        except ValueError as error:  # SB3's distributions refuse means that are not numbers
            self._check_finite(error)
            raise
        self.model.policy.set_training_mode(False)
        logged = {
            name: factor * float(self._logger.name_to_value[key])
            for name, (key, factor) in self.statistics.items()
        }
        self._logger.name_to_value.clear()
        return logged

    def _check_finite(self, cause: Exception | None = None) -> None:
        for name, network in self.networks().items():
            if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
                raise NumericalFailure(name, "weights") from cause

    def statistic_names(self) -> tuple[str, ...]:
        """Keys of what `update` returns."""
        return tuple(self.statistics)


def as_tensors(logged: Mapping[str, float]) -> dict[str, Tensor]:
    """0-dim tensors, as `Agent.update` returns them."""
    return {name: torch.tensor(value) for name, value in logged.items()}
