# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.
"""Changing physics for any single Gymnasium MuJoCo environment, as a wrapper."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit

from envs.base import SimulatorError
from envs.clock import Event, WorldClock
from envs.modifiers.base import Subject
from envs.modifiers.batch import build_modifiers
from envs.robots import ROBOT_NAMES, ROBOTS
from envs.schedules import ScheduleConfig, at_least, one_of
from envs.simulation import RENDER_ONLY, redirect_warnings, warning_text
from envs.snapshots import reset_noise_generator


class PhysicsSchedule(gymnasium.Wrapper):
    """Changes friction, gravity, masses ... on schedule and cuts episodes where worlds begin.

    Same schedules, same switch rules and same random streams as the batched environment; with
    one environment both give the same transitions bit for bit. Put a ``TimeLimit`` inside this
    wrapper, so that it sees every episode end.

    Every ``info`` holds ``regime``, ``regime_value`` and the latter by the name of its quantity
    (``friction``) of the transition just taken (after ``reset``: of the next one),
    ``switch_truncated``, ``unstable`` and ``events``.

    Deviation: floating-point actions are handed on in float64, because Gymnasium would compute
    the control cost in the precision of the action.

    Args:
        env: Any environment whose ``unwrapped`` has MuJoCo's ``model`` and ``data``.
        config: The schedule; alternatively its fields as keywords.
        total_steps: Transitions after which nothing changes any more, None for never.
        on_simulator_reset: fail (raise SimulatorError) or count (end the episode with reward 0).
        env_index: Which of several copies this is, so that they start in different states; those of
            copy i are of row i of `envs.locomotion`, until a seed is given to `reset`.
        **schedule: Fields of ``ScheduleConfig``, for example ``world_seed=3``.

    Raises:
        ValueError: If the environment is not a MuJoCo environment or a setting is not valid.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        config: ScheduleConfig | None = None,
        *,
        total_steps: int | None = None,
        on_simulator_reset: str = "fail",
        env_index: int = 0,
        **schedule: Any,
    ) -> None:
        super().__init__(env)
        one_of("on_simulator_reset", on_simulator_reset, ("fail", "count"))
        at_least("env_index", env_index, 0)
        self.schedule_config = _schedule_config(config, schedule)
        self._model, self._data = _model_and_data(env)
        self._count_resets = on_simulator_reset == "count"
        self._clock = WorldClock(
            self.schedule_config, 1, total_steps, num_actuators=int(self._model.nu)
        )
        self._modifiers = build_modifiers(self.schedule_config, self._subject(env))
        self._modifiers.write(self._clock.values)
        self._open_episode = False
        self._observation: Any = None
        self.num_simulator_resets = 0
        redirect_warnings()
        env.unwrapped.np_random = reset_noise_generator(
            self.schedule_config.table_seed, self.schedule_config.world_seed, env_index
        )

    def _subject(self, env: gymnasium.Env) -> Subject:
        space, dim = env.observation_space, 0
        if isinstance(space, Box) and len(space.shape) == 1:
            dim = int(space.shape[0])
        return Subject([self._model], [self._data], dim, forward_weight(env))

    @property
    def env_steps(self) -> int:
        """Transitions so far, over all episodes."""
        return self._clock.env_steps

    @property
    def regime(self) -> int:
        """World index that holds for the next transition."""
        return int(self._clock.regime[0])

    @property
    def friction(self) -> float:
        """Friction that holds for the next transition.

        Raises:
            AttributeError: Friction is not what changes here; see ``regime_value``.
        """
        if "friction" not in self._clock.values:
            raise AttributeError(
                f"this environment changes {', '.join(self._clock.values)} and leaves friction "
                "alone; ask for regime_value."
            )
        return float(self._clock.values["friction"][0])

    @property
    def regime_value(self) -> float:
        """Value of the (first) changing quantity for the next transition."""
        return float(self._clock.friction[0])

    @property
    def schedule_hash(self) -> str:
        """Identity of the schedule."""
        return self._clock.schedule_hash

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the count of transitions and the world go on.

        An episode that was still open ends here, which counts as an episode end for the
        ``episode_end`` rule (a time limit outside this wrapper arrives like this).
        """
        events = self._change_worlds() if self._open_episode else []
        observation, info = self.env.reset(seed=seed, options=options)
        self._open_episode = False
        observation = self._seen(observation)
        self._observation = observation
        return observation, {**info, **self._status(events, False, False)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one step in the world that the schedule says.

        Raises:
            SimulatorError: If the action is not finite, a contact does not have the scheduled
                friction, or (``on_simulator_reset=fail``) the simulation blew up.
        """
        action = self._checked_action(action)
        time_before = self._data.time
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation, reward = self._seen(observation), self._earned(reward, info)
        unstable = self._instability(time_before, observation, reward)
        violation = self._modifiers.violation()
        if violation is not None:
            raise self._error(violation[1], action)
        if unstable is not None:
            if not self._count_resets:
                raise self._error(unstable, action)
            observation, reward, terminated = self._observation, 0.0, True
            self.num_simulator_resets += 1
        switch_truncated = False
        if self._clock.tick():
            switch_truncated = not (terminated or truncated)
            truncated = True
        status = self._status([], switch_truncated, unstable is not None)
        self._open_episode = not (terminated or truncated)
        status["events"] = self._change_worlds(ended=not self._open_episode)
        self._observation = observation
        return observation, reward, bool(terminated), bool(truncated), {**info, **status}

    def _seen(self, observation: Any) -> Any:
        if not self._modifiers.changes_observation:
            return observation
        return self._modifiers.seen(observation[None])[0].astype(observation.dtype)

    def _earned(self, reward: Any, info: dict[str, Any]) -> Any:
        if not self._modifiers.changes_reward:
            return reward
        velocity = np.array([info["x_velocity"]], dtype=np.float64)
        return self._modifiers.earned(np.array([reward], dtype=np.float64), velocity)[0]

    def _checked_action(self, action: Any) -> Any:
        array = np.asarray(action)
        if not np.issubdtype(array.dtype, np.floating):
            return action
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise self._error(f"action is not finite: {array.tolist()}", array)
        return array

    def _status(
        self, events: list[Event], switch_truncated: bool, unstable: bool
    ) -> dict[str, Any]:
        return {
            **{name: float(values[0]) for name, values in self._clock.values.items()},
            "regime": self.regime,
            "regime_value": self.regime_value,
            "switch_truncated": switch_truncated,
            "unstable": unstable,
            "events": events,
        }

    def _change_worlds(self, ended: bool = True) -> list[Event]:
        events = self._clock.switch(np.array([ended]))
        if events:
            self._modifiers.write(self._clock.values)
        return events

    def _instability(self, time_before: float, observation: Any, reward: Any) -> str | None:
        counts = np.array(self._data.warning.number)
        counts[RENDER_ONLY] = 0
        if counts.any():
            return f"MuJoCo warning {warning_text(counts)}"
        if self._data.time <= time_before:
            return f"simulated time did not increase (it is {self._data.time})"
        if not (np.isfinite(observation).all() and np.isfinite(reward)):
            return "the observation or the reward is not finite"
        return None

    def _error(self, reason: str, action: Any) -> SimulatorError:
        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, spec))
        mujoco.mj_getState(self._model, self._data, state, spec)
        dump = {
            "qpos": self._data.qpos.copy(),
            "qvel": self._data.qvel.copy(),
            "integration_state": state,
            "warning_counts": np.array(self._data.warning.number),
            "action": np.array(action),
            "observation": np.array(self._observation),
            "env_steps": np.array([self.env_steps]),
        }
        return SimulatorError(0, reason, dump)


def _schedule_config(config: ScheduleConfig | None, schedule: dict[str, Any]) -> ScheduleConfig:
    known = [item.name for item in fields(ScheduleConfig)]
    unknown = sorted(set(schedule) - set(known))
    if unknown:
        raise ValueError(f"{', '.join(unknown)} unknown; schedule settings are {', '.join(known)}.")
    if config is not None and schedule:
        raise ValueError(f"give either config or {sorted(schedule)}, not both.")
    return ScheduleConfig(**schedule) if config is None else config


def _model_and_data(env: gymnasium.Env) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = getattr(env.unwrapped, "model", None)
    data = getattr(env.unwrapped, "data", None)
    if not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData):
        raise ValueError(
            f"{env.unwrapped!r} has no MuJoCo model and data; PhysicsSchedule needs a Gymnasium "
            "MuJoCo environment, for example Ant-v5."
        )
    return model, data


def forward_weight(env: gymnasium.Env) -> float | None:
    """Reward per metre per second of forward velocity; None where there is no such reward."""
    weight = getattr(env.unwrapped, "_forward_reward_weight", None)
    if weight is not None:
        return float(weight)
    kind = type(env.unwrapped)
    for robot in ROBOTS.values():  # Gymnasium's oldest Ant keeps no weight
        if gymnasium.spec(robot.gymnasium_id).entry_point == f"{kind.__module__}:{kind.__name__}":
            return robot.forward_weight
    return None


def make_slippery(
    robot: str,
    semantics: str = "published",
    episode_steps: int = 1000,
    render_mode: str | None = None,
    **settings: Any,
) -> PhysicsSchedule:
    """Entry point of the registered environments: Gymnasium's robot under a schedule.

    Args:
        robot: ant, hopper, walker2d, half_cheetah or humanoid.
        semantics: published (Gymnasium's v4) or v5.
        episode_steps: Time limit of an episode. Gymnasium's own `max_episode_steps` never arrives
            here: `gymnasium.make` puts that limit around everything, where it can only shorten.
        render_mode: Passed on to Gymnasium.
        **settings: Keywords of ``PhysicsSchedule``.
    """
    if (robot, semantics) not in ROBOTS:
        one_of("semantics", semantics, ("published", "v5"))
        one_of("robot", robot, ROBOT_NAMES)
    at_least("episode_steps", episode_steps, 1)
    spec = gymnasium.spec(ROBOTS[robot, semantics].gymnasium_id)
    build = load_env_creator(str(spec.entry_point))  # make() would warn that v4 is not the newest
    env = cast(gymnasium.Env, build(render_mode=render_mode))
    return PhysicsSchedule(TimeLimit(env, episode_steps), **settings)
