"""The batch of walking robots as a Gymnasium vector environment.

Equal bit for bit to Gymnasium's environments at the same friction, but one call steps all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs import robots
from envs.clock import Event, WorldClock
from envs.description import describe
from envs.episodes import Episodes
from envs.faults import Guard, Situation
from envs.modifiers.base import Subject
from envs.modifiers.batch import build_modifiers
from envs.schedules import at_least
from envs.simulation import Simulations
from envs.snapshots import (
    Snapshot,
    load_arrays,
    load_generators,
    require,
    require_equal,
    reset_noise_generator,
    save_generators,
)

if TYPE_CHECKING:
    from envs.locomotion import Config


class LocomotionVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N robots with SAME_STEP autoreset: an ended episode's successor starts in the same step.

    ``reset`` starts new episodes (running ones end without a transition); the count of transitions
    and the world go on, because they belong to the world and not to the episode.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(self, config: Config, total_steps: int | None, num_threads: int = 1) -> None:
        at_least("num_threads", num_threads, 1)
        self.config = config
        self.num_envs = config.num_envs
        self._robot = robots.ROBOTS[config.robot, config.semantics]
        model = robots.load_model(self._robot)
        self._clock = WorldClock(config, config.num_envs, total_steps, int(model.nu))
        self._simulations = Simulations(
            self._robot,
            model,
            config.num_envs,
            model_per_env=self._clock.per_env,
            num_threads=num_threads,
        )
        self._padding = robots.PUBLISHED_PADDING if config.obs_pad_to_111 else 0
        self._make_spaces()
        self._generators = [
            reset_noise_generator(config.table_seed, config.world_seed, index)
            for index in range(self.num_envs)
        ]
        self._modifiers = build_modifiers(config, self._subject())
        self._modifiers.write(self._clock.values)
        self._running = False
        self._observation = np.zeros((self.num_envs, self.info.observation_dim))
        self._episodes = Episodes(config.num_envs, config.max_episode_steps)
        self._context = np.zeros((self.num_envs, 0), dtype=np.float32)
        self._guard = Guard(
            self._simulations,
            self._modifiers,
            fail_on_reset=config.on_simulator_reset == "fail",
        )

    def _subject(self) -> Subject:
        simulations, dim = self._simulations, self.info.observation_dim
        return Subject(simulations.models, simulations.data, dim, self._robot.forward_weight)

    def _make_spaces(self) -> None:
        simulations = self._simulations
        observed = robots.observe(self._robot, simulations.read(), self._padding)
        self.info = describe(
            self.config, simulations.models[0], observed.shape[1], simulations.step_seconds
        )
        low, high = self.info.action_low, self.info.action_high
        self.single_observation_space = Box(-np.inf, np.inf, observed.shape[1:], np.float64)
        self.single_action_space = Box(low.copy(), high.copy(), dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def env_steps(self) -> int:
        """Transitions of all environments so far."""
        return self._clock.env_steps

    @property
    def regime(self) -> np.ndarray:
        """World index that holds for the next transition, shape (N,), a copy."""
        return self._clock.regime.copy()

    @property
    def friction(self) -> np.ndarray:
        """Friction that holds for the next transition, shape (N,), a copy.

        Raises:
            AttributeError: Friction is not what changes here; see ``regime_values``.
        """
        if "friction" not in self._clock.values:
            raise AttributeError(
                f"these environments change {', '.join(self._clock.values)} and leave friction "
                "alone; ask for regime_value or regime_values."
            )
        return self._clock.values["friction"].copy()

    @property
    def regime_value(self) -> np.ndarray:
        """Value of the (first) changing quantity for the next transition, shape (N,), a copy."""
        return self._clock.friction.copy()

    @property
    def regime_values(self) -> dict[str, np.ndarray]:
        """The same for every quantity that changes, by name, shape (N,) each, copies."""
        return {name: values.copy() for name, values in self._clock.values.items()}

    @property
    def context(self) -> np.ndarray:
        """What is announced about the next transition: nothing, shape (N, 0), float32."""
        return self._context.copy()

    @property
    def schedule_hash(self) -> str:
        """Identity of the schedule; part of every snapshot."""
        return self._clock.schedule_hash

    @property
    def num_simulator_resets(self) -> int:
        """Blow-ups that were counted instead of failing the run."""
        return self._guard.num_simulator_resets

    @property
    def simulations(self) -> Simulations:
        """The physics, for rendering and for tests."""
        return self._simulations

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode in every environment.

        Args:
            seed: None continues the environments' own streams of start states, which depend only
                on ``table_seed``, ``world_seed`` and the index. An integer gives environment i
                the stream of Gymnasium's ``reset(seed=seed + i)``.
            options: Not used; must be empty.

        Returns:
            Observations, shape (N, obs), float64, and an info with context, regime and friction.
        """
        if self.closed:
            raise ClosedEnvironmentError("reset was called on closed environments; make new ones.")
        if options:
            raise ValueError(f"options {sorted(options)} are not known; leave options empty.")
        if seed is not None:
            self._generators = [seeding.np_random(seed + i)[0] for i in range(self.num_envs)]
        events = self._change_worlds(self._episodes.elapsed > 0)
        self._start_episodes(np.arange(self.num_envs))
        observation = self._modifiers.seen(
            robots.observe(self._robot, self._simulations.read(), self._padding)
        )
        self._observation[:] = observation
        self._running = True
        info = {
            "context": self._context.copy(),
            "regime": self.regime,
            "regime_value": self.regime_value,
            **self.regime_values,
            "next_context": self._context.copy(),
            "events": events,
        }
        return observation, info

    def _change_worlds(self, ended: np.ndarray) -> list[Event]:
        """Let the clock decide, and write the values it has changed."""
        events = self._clock.switch(ended)
        if events:
            self._modifiers.write(self._clock.values)
        return events

    def _start_episodes(self, indices: np.ndarray) -> None:
        simulations = self._simulations
        for index in indices.tolist():
            start = robots.start_state(
                self._robot,
                simulations.start_qpos,
                simulations.start_qvel,
                self._generators[index],
            )
            simulations.reset(index, start)
        self._episodes.start(indices, self._clock.regime)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every environment by one step.

        Args:
            actions: Raw actions, shape (N, act); used in float64 and not clipped unless
                ``clip_action_in_env`` is on.

        Returns:
            observation (N, obs): where an episode ended, already the next episode's first.
            reward (N,), terminated (N,), truncated (N,).
            info, dense arrays that describe the transition just taken: ``next_observation`` (N,
            obs) its true successor, ``context`` (N, 0) of the returned observation and
            ``next_context`` (N, 0) of the successor, ``regime`` and
            ``regime_value`` (N,) that held, the latter also by the name of its quantity
            (``friction``), like that of every quantity that changes, ``switch_truncated`` (N,) cut
            by a new world and by nothing else, ``unstable`` (N,), ``episode_return`` and
            ``episode_length`` (N,) valid where the episode ended, ``episode_start_regime`` (N,),
            and ``events``, usually an empty list.
            All arrays are fresh; the caller may keep them.

        Raises:
            SimulatorError: If an action is not finite, a contact does not have the scheduled
                friction where that is what changes, or (``on_simulator_reset=fail``) a simulation
                blew up.
            ValueError: If the actions have the wrong shape.
        """
        simulations, robot = self._simulations, self._robot
        actions = self._checked_actions(actions)
        situation = Situation(actions, self._observation, self.env_steps)
        self._guard.before_step(situation)
        if self.config.clip_action_in_env:
            actions = np.clip(actions, self.info.action_low, self.info.action_high)
        simulations.controls[:] = actions
        x_before = simulations.step()
        motion = simulations.read()
        successor = self._modifiers.seen(robots.observe(robot, motion, self._padding))
        is_healthy = robots.healthy(robot, motion)
        reward = robots.rewards(
            robot, motion, x_before, actions, is_healthy, simulations.step_seconds
        )
        if self._modifiers.changes_reward:
            velocity = (motion.x - x_before) / simulations.step_seconds
            reward = self._modifiers.earned(reward, velocity)
        terminated = ~is_healthy
        unstable = self._guard.after_step(situation, reward)
        if unstable.any():  # a finite row without a future, instead of what MuJoCo made of it
            successor[unstable] = self._observation[unstable]
            reward[unstable], terminated[unstable] = 0.0, True
        truncated = self._episodes.advance(reward)
        info = self._transition_info(successor, unstable)

        if self._clock.tick():
            info["switch_truncated"] = ~(terminated | truncated)
            truncated[:] = True
        ended = terminated | truncated
        info["events"] = self._change_worlds(ended)
        observation = successor.copy()
        if ended.any():
            self._start_next_episodes(observation, ended, info)
        self._observation[:] = observation
        return observation, reward, terminated, truncated, info

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        if self.closed:
            raise ClosedEnvironmentError("step was called on closed environments; make new ones.")
        if not self._running:
            raise ResetNeeded("call reset() once, or restore(), before the first step().")
        actions = np.asarray(actions, dtype=np.float64)
        expected = self._simulations.controls.shape
        if actions.shape != expected:
            raise ValueError(f"actions have shape {actions.shape}, expected {expected}.")
        return actions

    def _transition_info(self, successor: np.ndarray, unstable: np.ndarray) -> dict[str, Any]:
        """Describe the transition just taken, before anything changes for the next one."""
        return {
            "next_observation": successor,
            "context": self._context.copy(),
            "next_context": self._context.copy(),
            "regime": self.regime,
            "regime_value": self.regime_value,
            **self.regime_values,
            "switch_truncated": np.zeros(self.num_envs, dtype=bool),
            "unstable": unstable,
            **self._episodes.info(),
        }

    def _start_next_episodes(
        self, observation: np.ndarray, ended: np.ndarray, info: dict[str, Any]
    ) -> None:
        """Reset ended environments in place and add Gymnasium's own keys for final rows."""
        final = np.full(self.num_envs, None, dtype=object)
        indices = np.flatnonzero(ended)
        for index in indices.tolist():
            final[index] = info["next_observation"][index].copy()
        info["final_obs"], info["_final_obs"] = final, ended.copy()
        self._start_episodes(indices)
        started = robots.observe(self._robot, self._simulations.read(), self._padding)
        observation[indices] = self._modifiers.seen(started[indices], indices)

    def set_value(self, value: float) -> None:
        """Choose the value of the (first) changing quantity, for an evaluation world.

        Raises:
            ValueError: If the schedule is not fixed, or ``value`` is not a possible one.
        """
        name = self.config.modifiers[0]
        if self.config.schedule != "fixed":
            raise ValueError(
                f"schedule={self.config.schedule} decides {name} itself; choose it by hand only "
                "on environments made with schedule=fixed."
            )
        value = self.config.laws[name].check(value, name)
        self._modifiers.members[name].check(value)
        self._clock.values[name][:] = value
        self._modifiers.write(self._clock.values)

    def set_friction(self, value: float) -> None:
        """Choose the friction of an evaluation world; see ``set_value``.

        Raises:
            ValueError: If friction is not what changes here, the schedule is not fixed, or
                ``value`` is not above 0.
        """
        if self.config.modifiers[0] != "friction":
            raise ValueError(
                f"these environments change {self.config.modifiers[0]} and not friction; use "
                "set_value."
            )
        self.set_value(value)

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on, as plain arrays, integers and strings.

        Raises:
            ResetNeeded: Before the first ``reset``.
        """
        if not self._running:
            raise ResetNeeded("there is nothing to save before the first reset().")
        state: Snapshot = {
            **self._clock.snapshot(),
            "environment": self.info.name,
            "num_envs": self.num_envs,
            "num_simulator_resets": self.num_simulator_resets,
            **self._arrays(),
        }
        save_generators(self._generators, state)
        return state

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a snapshot, all copies with the environment as first axis."""
        return {
            "integration_state": self._simulations.states(),
            "observation": self._observation.copy(),
            **self._simulations.stale_arrays(),
            **self._modifiers.arrays(),
            **self._episodes.arrays(),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where ``snapshot`` was taken; no ``reset`` afterwards.

        Raises:
            ValueError: If the snapshot is of another schedule, robot or number of environments,
                if a value is missing or has the wrong shape, or if its world indices are not the
                ones its ``env_steps`` lead to.
        """
        require_equal(snapshot, "environment", self.info.name)
        require_equal(snapshot, "num_envs", self.num_envs)
        arrays = load_arrays(snapshot, like=self._arrays())
        generators = load_generators(snapshot, self.num_envs)
        num_simulator_resets = int(require(snapshot, "num_simulator_resets"))
        self._clock.restore(snapshot)
        self._simulations.restore(arrays["integration_state"], arrays)
        self._modifiers.write(self._clock.values)
        self._modifiers.restore(arrays)
        self._observation[:] = arrays["observation"]
        self._episodes.restore(arrays)
        self._generators, self._guard.num_simulator_resets = generators, num_simulator_resets
        self._running = True

    @property
    def last_observation(self) -> np.ndarray:
        """Observation that the next action answers, shape (N, obs), a copy; use after restore."""
        return self._observation.copy()

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the physics threads."""
        self._simulations.close()
