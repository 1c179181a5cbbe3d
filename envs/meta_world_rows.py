"""One row of the batch: one task, its episode, its choice of goals.

A row behaves the same wherever it runs, in this process or in a worker: everything random comes
from its own stream, and nothing is shared with other rows but the block of arrays it writes to.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from envs.meta_world_block import Block
from envs.meta_world_choice import GoalChoice, row_stream
from envs.meta_world_reset_cache import ResetCache
from envs.meta_world_snapshot import (
    STATE_SPEC,
    TaskState,
    capture,
    decode_attributes,
    encode_attributes,
    restore,
)
from envs.meta_world_tasks import OBSERVATION_DIM, build_task, set_goal
from envs.simulation import RENDER_ONLY, warning_text
from envs.snapshots import Snapshot, load_arrays, require


@dataclass(frozen=True)
class RowSpec:
    """What one row is; plain values, so that a worker can be told in JSON.

    Attributes:
        task: Task name.
        goals: The goals to choose from, one list of 3 or 6 numbers each.
        reward_version: v1 or v2.
        horizon: Steps of an episode.
        fast_path: See ``meta_world_fast``.
        reset_cache: Keep the state after the first reset to each goal and reuse it.
        goal_order: uniform (with replacement) or cycle (a fresh permutation per pass).
        autoreset: Start the next episode in the step that ends one.
        run_seed: Seed of the run.
        stream: Domain, task index, copy index.
    """

    task: str
    goals: list[list[float]]
    reward_version: str
    horizon: int
    fast_path: bool
    reset_cache: bool
    goal_order: str
    autoreset: bool
    run_seed: int
    stream: tuple[int, int, int]


class Row:
    """One task with its running episode.

    Args:
        spec: What to build.
        index: Which row of the block belongs to it.
        block: Where results go and actions come from.
        cache: States after resets, shared with other rows; used if ``spec.reset_cache``.
    """

    def __init__(self, spec: RowSpec, index: int, block: Block, cache: ResetCache) -> None:
        self.spec, self._index, self._block = spec, index, block
        self.env = build_task(spec.task, spec.reward_version, fast=spec.fast_path)
        # A first goal, so that bounds are known; every episode sets its own.
        self._goals = [np.array(goal, dtype=np.float64) for goal in spec.goals]
        for goal in self._goals:
            set_goal(self.env, spec.task, goal)
        self._warnings = self.env.data.warning.number
        self._no_warnings = np.zeros_like(self._warnings).tobytes()
        self._choice = self._new_choice(spec.run_seed)
        self._goal, self._steps, self._return, self._succeeded = 0, 0, 0.0, False
        self._running = False
        self._cache = cache if spec.reset_cache else None
        self.failure: tuple[str, dict[str, np.ndarray]] | None = None

    def _new_choice(self, run_seed: int) -> GoalChoice:
        generator = row_stream(run_seed, *self.spec.stream)
        return GoalChoice(len(self._goals), self.spec.goal_order, generator)

    def reseed(self, run_seed: int) -> None:
        """Begin the row's stream again, as a run with this seed would."""
        self._choice = self._new_choice(run_seed)

    def start(self, goal: int | None = None) -> None:
        """Begin an episode; without a goal the row's stream chooses one."""
        self._goal = self._choice.next() if goal is None else goal
        self._steps, self._return, self._succeeded = 0, 0.0, False
        self._running = True
        observation = self._reset_task()
        if not np.isfinite(observation).all():
            raise RuntimeError(f"the reset of {self.spec.task} to goal {self._goal} is not finite.")
        self._block.observation[self._index] = observation
        self._block.goal_index[self._index] = self._goal

    def _reset_task(self) -> np.ndarray:
        """Reset as upstream does, both passes: the second one changes 13 of the 50 tasks."""
        goal, spec = self._goals[self._goal], self.spec
        key = (spec.task, spec.reward_version, spec.fast_path, goal.tobytes())
        if self._cache is not None:
            recalled = self._cache.recall(key, self.env)
            if recalled is not None:
                return recalled
        set_goal(self.env, spec.task, goal)
        if self._warnings.any():  # the first pass simulates on from what blew up
            mujoco.mj_resetData(self.env.model, self.env.data)
        observation, _ = self.env.reset()
        if self._cache is not None:
            self._cache.keep(key, self.env, observation)
        return observation

    def stop(self) -> None:
        """Stand still until the next ``start``."""
        self._running = False

    def step(self) -> None:
        """Take the block's action; a row without a running episode stands still.

        A step that blew the simulation up becomes one that earned nothing and led nowhere, and the
        episode is cut there.

        Deviation: agents store that step, which would better be left out, because rollouts and
        replays hold whole vector steps. Cut and not terminated, it is worth discount times the
        value of the observation before it, so blowing up costs about the reward of one step; the
        walking robots terminate, where it costs all that would have come.
        """
        block, index = self._block, self._index
        block.goal_index[index] = self._goal
        block.active[index] = self._running
        if not self._running:
            block.next_observation[index] = block.observation[index]
            block.reward[index] = 0.0
            block.success[index] = block.truncated[index] = block.unstable[index] = False
            return
        action = block.action[index]
        time_before = self.env.data.time
        observation, raw_reward, _, _, info = self.env.step(action)
        reward, success = float(raw_reward), bool(info["success"])
        reason = self._invalid(observation, reward, time_before)
        if reason is not None:  # a finite row that stands still instead of what is not a number
            self.failure = (reason, self._dump(action))
            observation, reward, success = block.observation[index].copy(), 0.0, False
        self._steps += 1
        self._return += reward
        self._succeeded |= success
        ended = reason is not None or self._steps >= self.spec.horizon
        block.next_observation[index] = observation
        block.reward[index], block.truncated[index] = reward, ended
        block.success[index], block.episode_success[index] = success, self._succeeded
        block.episode_return[index], block.episode_length[index] = self._return, self._steps
        block.unstable[index] = reason is not None
        if ended and self.spec.autoreset:
            self._start_next()
        else:
            block.observation[index] = observation
            self._running = not ended

    def _start_next(self) -> None:
        """Begin the next episode; the block goes on naming the goal of the one that ended."""
        ended_goal = self._goal
        self.start()
        self._block.goal_index[self._index] = ended_goal

    def _invalid(self, observation: np.ndarray, reward: float, before: float) -> str | None:
        """What is wrong with the last step, None if all is well.

        MuJoCo resets a simulation that blew up without any sign in the observation, hence the
        warning counters and the clock.
        """
        if self._warnings.tobytes() != self._no_warnings:
            counts = self._warnings.copy()
            counts[RENDER_ONLY] = 0
            if counts.any():
                return f"MuJoCo warning {warning_text(counts)}"
        if not math.isfinite(observation.dot(observation)):  # the fastest look at all numbers
            return "the observation is not finite"
        if not math.isfinite(reward):
            return f"the reward is {reward}"
        if not self.env.data.time > before:
            return f"simulated time did not increase (it is {self.env.data.time})"
        return None

    def _dump(self, action: np.ndarray) -> dict[str, np.ndarray]:
        state = capture(self.env)
        return {
            "integration_state": state.integration,
            "model": state.model,
            "qpos": self.env.data.qpos.copy(),
            "qvel": self.env.data.qvel.copy(),
            "warning_counts": self._warnings.copy(),
            "goal": self._goals[self._goal].copy(),
            "action": action.copy(),
            "observation": self._block.observation[self._index].copy(),
        }

    def snapshot(self) -> Snapshot:
        """Everything the row's next steps depend on, as plain numbers and text."""
        state = capture(self.env)
        snapshot: Snapshot = {
            "integration": state.integration,
            "model": state.model,
            "attributes": encode_attributes(state.attributes),
            "observation": self._block.observation[self._index].copy(),
            "episode_return": np.array([self._return]),
            "goal_index": self._goal,
            "episode_length": self._steps,
            "succeeded": int(self._succeeded),
            "running": int(self._running),
        }
        self._choice.save(snapshot)
        return snapshot

    def load(self, snapshot: Snapshot) -> None:
        """Continue exactly where ``snapshot`` was taken.

        Raises:
            ValueError: If it is incomplete, damaged or of another task.
        """
        sizes = {
            "integration": np.empty(mujoco.mj_stateSize(self.env.model, STATE_SPEC)),
            "observation": np.empty(OBSERVATION_DIM, dtype=np.float32),
            "episode_return": np.empty(1),
        }
        arrays = load_arrays(snapshot, like=sizes)
        model = np.asarray(require(snapshot, "model"), dtype=np.float64)
        attributes = decode_attributes(str(require(snapshot, "attributes")))
        goal = int(require(snapshot, "goal_index"))
        if not 0 <= goal < len(self._goals):
            raise ValueError(f"the snapshot has goal {goal} of {len(self._goals)}; it is damaged.")
        restore(self.env, TaskState(arrays["integration"], model, attributes))
        self._choice.load(snapshot)
        self._goal, self._return = goal, float(arrays["episode_return"][0])
        self._steps = int(require(snapshot, "episode_length"))
        self._succeeded = bool(require(snapshot, "succeeded"))
        self._running = bool(require(snapshot, "running"))
        self._block.observation[self._index] = arrays["observation"]
        self._block.goal_index[self._index] = goal

    def close(self) -> None:
        """Release what rendering may hold."""
        self.env.close()
