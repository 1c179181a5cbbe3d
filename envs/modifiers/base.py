"""What a modifier may act on, what it may do, and all modifiers of one batch together."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np


@dataclass(frozen=True)
class Subject:
    """The environments that are changed.

    Attributes:
        models: One model per environment, or a single one that all share.
        data: One ``MjData`` per environment.
        observation_dim: Length of one observation.
        forward_weight: Reward per metre per second of forward velocity; None where the reward
            does not contain it.
    """

    models: Sequence[mujoco.MjModel]
    data: Sequence[mujoco.MjData]
    observation_dim: int
    forward_weight: float | None


class Modifier:
    """One quantity of a batch; every hook is optional, but ``write`` is always called first.

    Attributes:
        changes_observation: Whether ``seen`` does anything.
        changes_reward: Whether ``earned`` does anything.
    """

    changes_observation = False
    changes_reward = False

    def check(self, value: float) -> None:
        """Refuse a value that these environments cannot take.

        Raises:
            ValueError: The sentence says which values exist.
        """

    def write(self, values: np.ndarray) -> None:
        """Put values in force for the next transition, shape (N,), one per environment."""
        raise NotImplementedError

    def seen(self, observation: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """What the agent sees of true observations (n, obs) of the environments ``rows``."""
        return observation

    def earned(self, reward: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """The reward instead of the usual one; both and the forward velocity are (N,)."""
        return reward

    def violation(self) -> tuple[int, str] | None:
        """Environment and sentence if the last step did not obey the value in force."""
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """State beside the values, for a snapshot; copies."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what ``arrays`` returned."""


class OfModel(Modifier):
    """A modifier that writes a number into the model of each environment.

    What it writes must depend on the value and the untouched model only, never on values before,
    so that a restored run and an uninterrupted one have equal models.
    """

    def __init__(self, subject: Subject) -> None:
        self._models = subject.models

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        """Write one value into one model."""
        raise NotImplementedError

    def write(self, values: np.ndarray) -> None:
        """Write one value per environment, shape (N,); a shared model takes the first.

        Raises:
            ValueError: If environments with a shared model are given different values.
        """
        if len(self._models) < len(values) and (values != values[0]).any():
            raise ValueError(
                f"values {values.tolist()} differ, but the environments share a model; build "
                "them with switch_rule=episode_end."
            )
        for model, value in zip(self._models, values.tolist(), strict=False):
            self.apply(model, value)


class Modifiers:
    """All modifiers of a batch, in the order of their names' list.

    Args:
        members: Name -> modifier.
    """

    def __init__(self, members: Mapping[str, Modifier]) -> None:
        self.members = dict(members)
        values = self.members.values()
        self._observing = [member for member in values if member.changes_observation]
        self._rewarding = [member for member in values if member.changes_reward]

    @property
    def changes_observation(self) -> bool:
        """Whether the agent sees something else than the true observation."""
        return bool(self._observing)

    @property
    def changes_reward(self) -> bool:
        """Whether the agent earns something else than usual."""
        return bool(self._rewarding)

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Put the values of every quantity in force, shape (N,) each."""
        for name, member in self.members.items():
            member.write(values[name])

    def seen(self, observation: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """What the agent sees of true observations (n, obs) of the environments ``rows``."""
        for member in self._observing:
            observation = member.seen(observation, rows)
        return observation

    def earned(self, reward: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """What the agent earns instead of ``reward``, shape (N,), given forward velocities."""
        for member in self._rewarding:
            reward = member.earned(reward, velocity)
        return reward

    def violation(self) -> tuple[int, str] | None:
        """The first violation of any value in force, if there is one."""
        for member in self.members.values():
            found = member.violation()
            if found is not None:
                return found
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """State beside the values, for a snapshot."""
        found: dict[str, np.ndarray] = {}
        for member in self.members.values():
            found.update(member.arrays())
        return found

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what ``arrays`` returned."""
        for member in self.members.values():
            member.restore(arrays)
