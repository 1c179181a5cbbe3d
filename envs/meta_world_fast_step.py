"""One step of a Meta-World task without the detours: the same physics, observation and reward.

What upstream does at every step and nothing ever reads is left out: forces on bodies
(``mj_rnePostConstraint``), and the goal's site, whose place ``mj_forward`` overwrites at once.
Bodies and sites are looked up by name once, and observations are written into one array.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import functools
import math
from typing import Any

import mujoco
import numpy as np

STACKED = 18
"""Numbers of one frame; an observation is two frames and the goal."""
FULLY_OPEN = 0.1
"""Distance of the fingers, in metres, that the observation calls 1."""


class Views:
    """Live views of the places of bodies and sites, looked up by name once.

    Args:
        model: Knows the names.
        data: Its memory is shown.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._model, self._data = model, data
        self._bodies: dict[str, np.ndarray] = {}
        self._sites: dict[str, np.ndarray] = {}
        self.hand = self.body("hand")
        self.claws = self.body("rightclaw"), self.body("leftclaw")
        self.fingers = self.site("rightEndEffector"), self.site("leftEndEffector")

    def body(self, name: str) -> np.ndarray:
        """Place of a body's frame, shape (3,)."""
        view = self._bodies.get(name)
        if view is None:
            view = self._bodies[name] = self._data.body(name).xpos
        return view

    def site(self, name: str) -> np.ndarray:
        """Place of a site, shape (3,)."""
        view = self._sites.get(name)
        if view is None:
            view = self._sites[name] = self._data.site(name).xpos
        return view


class FastStep:
    """Mixin that goes before a stock task class."""

    model: Any
    data: Any
    frame_skip: int
    action_scale: float
    curr_path_length: int
    max_path_length: int
    mocap_low: np.ndarray
    mocap_high: np.ndarray
    sawyer_observation_space: Any
    _get_pos_goal: Any
    _get_pos_objects: Any
    _get_quat_objects: Any
    _partially_observable: bool
    _set_task_called: bool
    evaluate_state: Any

    @functools.cached_property
    def _views(self) -> Views:
        return Views(self.model, self.data)

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        assert isinstance(state, dict)
        state["state"].pop("_views", None)  # they show the memory of this task, not of a copy
        return state

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """As upstream's ``step``.

        Raises:
            RuntimeError: If no task was set.
            ValueError: After the last step of an episode.
        """
        if not self._set_task_called:
            raise RuntimeError("You must call env.set_task before using env.step")
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        self.set_xyz_action(action[:3])
        grip = float(action[3])
        self.do_simulation((grip, -grip), self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, self.data)
        observation = self._get_obs()
        space = self.sawyer_observation_space
        np.maximum(observation, space.low, out=observation)
        np.minimum(observation, space.high, out=observation)
        self._last_stable_obs = observation
        reward, info = self.evaluate_state(observation, action)
        truncated = self.curr_path_length == self.max_path_length
        return observation.copy(), reward, False, truncated, info

    def set_xyz_action(self, action: np.ndarray) -> None:
        """Move the mocap body that the hand follows, within its bounds."""
        move = np.minimum(np.maximum(action, -1), 1) * self.action_scale
        place = self.data.mocap_pos[0]
        place += move
        np.maximum(place, self.mocap_low, out=place)
        np.minimum(place, self.mocap_high, out=place)
        self.data.mocap_quat[:] = (1.0, 0.0, 1.0, 0.0)

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        """Simulate without the forces on bodies that upstream computes afterwards."""
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def get_endeff_pos(self) -> np.ndarray:
        return self._views.hand

    def get_body_com(self, body_name: str) -> np.ndarray:
        return self._views.body(body_name)

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        return self._views.site(site_name).copy()

    @property
    def tcp_center(self) -> np.ndarray:
        """Centre between the two fingers, shape (3,)."""
        right, left = self._views.fingers
        return (right + left) / 2.0

    def _get_obs(self) -> np.ndarray:
        observation = np.zeros(2 * STACKED + 3)
        frame = self._get_curr_obs_combined_no_goal()
        observation[:STACKED], observation[STACKED:-3] = frame, self._prev_obs
        goal = self._get_pos_goal()
        if not self._partially_observable:
            observation[-3:] = goal
        self._prev_obs = frame
        return observation

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        views, frame = self._views, np.zeros(STACKED)
        right, left = views.claws
        apart = right - left
        places, turns = self._get_pos_objects(), self._get_quat_objects()
        frame[:3] = views.hand
        frame[3] = min(max(math.sqrt(apart.dot(apart)) / FULLY_OPEN, 0.0), 1.0)
        for index in range(len(places) // 3):
            start = 4 + 7 * index
            frame[start : start + 3] = places[3 * index : 3 * index + 3]
            frame[start + 3 : start + 7] = turns[4 * index : 4 * index + 4]
        return frame
