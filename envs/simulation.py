"""N MuJoCo simulations of one robot: their memory, their exact state, their instabilities."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping

import mujoco
import numpy as np

from envs.robots import Motion, Robot
from envs.stepping import Stepper

LOGGER = logging.getLogger(__name__)
STATE_SPEC = mujoco.mjtState.mjSTATE_INTEGRATION
WARNING_NAMES = tuple(
    name.removeprefix("mjWARN_") for name in mujoco.mjtWarning.__members__ if "WARN_" in name
)
RENDER_ONLY = WARNING_NAMES.index("VGEOMFULL")
TORSO = 1
"""Body index of the robot's torso in every model used here."""


class WarningLog:
    """Receives MuJoCo's warnings and logs at most ten a minute.

    Without a receiver MuJoCo appends every warning to MUJOCO_LOG.TXT in the working directory.
    """

    def __init__(self, per_minute: int = 10) -> None:
        self._per_minute = per_minute
        self._window_start, self._count = time.monotonic(), 0

    def __call__(self, message: str) -> None:
        now = time.monotonic()
        if now - self._window_start >= 60.0:
            self._window_start, self._count = now, 0
        self._count += 1
        if self._count <= self._per_minute:
            LOGGER.warning("MuJoCo: %s", message)


def redirect_warnings() -> None:
    """Send this process's MuJoCo warnings to the log instead of a file."""
    mujoco.set_mju_user_warning(WarningLog())


def warning_text(counts: np.ndarray) -> str:
    """Name the warnings that were raised, for example ``BADQVEL x1``."""
    raised = np.flatnonzero(counts)
    return ", ".join(f"{WARNING_NAMES[k]} x{counts[k]}" for k in raised.tolist())


def center_of_mass(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """Forward position of the centre of mass in metres, summed in Gymnasium's order."""
    weighted = np.einsum("b,bj->j", model.body_mass, data.xipos)
    return (weighted / model.body_mass.sum())[0]


class Simulations:
    """The physics of N robots.

    Reading all robots costs one concatenation into a preallocated buffer; the views of MuJoCo's
    memory that it reads are made once.

    Args:
        robot: Which robot.
        model: Its model, used by the first robot; the others get copies.
        num_envs: N.
        model_per_env: One model copy per robot (needed where worlds differ between them).
        num_threads: Threads that step the physics.
    """

    def __init__(
        self,
        robot: Robot,
        model: mujoco.MjModel,
        num_envs: int,
        *,
        model_per_env: bool,
        num_threads: int,
    ) -> None:
        redirect_warnings()
        self.robot = robot
        first = model
        copies = num_envs if model_per_env else 1
        self.models = [first, *(copy.copy(first) for _ in range(copies - 1))]
        self._model_of = [self.models[k % copies] for k in range(num_envs)]
        self.data = [mujoco.MjData(model) for model in self._model_of]
        self.step_seconds = float(first.opt.timestep * robot.num_substeps)
        self.start_qpos, self.start_qvel = self.data[0].qpos.copy(), self.data[0].qvel.copy()
        self.controls = np.zeros((num_envs, first.nu))
        self._centres = np.zeros(num_envs)
        self._make_views(first, num_envs)
        controls = [d.ctrl for d in self.data]
        clocks = self._clocks.reshape(num_envs, 1)
        simulations = list(
            zip(self._model_of, self.data, controls, self.controls, clocks, strict=True)
        )
        self._stepper = Stepper(simulations, robot.num_substeps, robot.contact_forces, num_threads)
        self._state_size = mujoco.mj_stateSize(first, STATE_SPEC)

    def _make_views(self, model: mujoco.MjModel, num_envs: int) -> None:
        """Cache views of MuJoCo's memory and of the buffers that they are gathered into."""
        self._x_sources = [self._progress(data, k) for k, data in enumerate(self.data)]
        self._x_before = np.empty(num_envs)
        self._sources: list[np.ndarray] = []
        for data, x in zip(self.data, self._x_sources, strict=True):
            self._sources += [data.qpos, data.qvel, x]
            if self.robot.whole_body:
                self._sources += [data.cinert.reshape(-1), data.cvel.reshape(-1)]
                self._sources.append(data.qfrc_actuator)
            if self.robot.contact_forces:
                self._sources.append(data.cfrc_ext.reshape(-1))
        nq, nv = model.nq, model.nv
        body = 16 * model.nbody + nv if self.robot.whole_body else 0
        width = nq + nv + 1 + body + (6 * model.nbody if self.robot.contact_forces else 0)
        self._buffer = np.empty((num_envs, width))
        self._flat_buffer = self._buffer.reshape(-1)
        self._motion = Motion(
            qpos=self._buffer[:, :nq],
            qvel=self._buffer[:, nq : nq + nv],
            x=self._buffer[:, nq + nv],
            whole_body=self._buffer[:, nq + nv + 1 : nq + nv + 1 + body],
            contact_forces=self._buffer[:, nq + nv + 1 + body :],
        )
        self._warning_sources = [d.warning.number for d in self.data]
        self._warnings = np.zeros((num_envs, len(WARNING_NAMES)), dtype=np.int32)
        self._flat_warnings = self._warnings.reshape(-1)
        self._times = np.zeros(num_envs)  # before the step
        self._clocks = np.zeros(num_envs)  # after it
        self._clock_ran = np.ones(num_envs, dtype=bool)

    def _progress(self, data: mujoco.MjData, index: int) -> np.ndarray:
        """Where the forward position is read from, shape (1,)."""
        if self.robot.progress == "center_of_mass":
            return self._centres[index : index + 1]
        return data.xpos[TORSO, :1] if self.robot.progress == "xpos" else data.qpos[:1]

    def _find_centres(self) -> None:
        """Bring centres of mass up to date with bodies, where these are what progress is."""
        if self.robot.progress == "center_of_mass":
            for index, (model, data) in enumerate(zip(self._model_of, self.data, strict=True)):
                self._centres[index] = center_of_mass(model, data)

    def step(self) -> np.ndarray:
        """Apply ``controls`` for one environment step.

        Returns:
            Forward positions before the step, shape (N,); valid until the next step.
        """
        self._find_centres()
        np.concatenate(self._x_sources, out=self._x_before)
        self._stepper.step()
        return self._x_before

    def read(self) -> Motion:
        """Gather all states; the views are valid until the next call."""
        self._find_centres()
        np.concatenate(self._sources, out=self._flat_buffer)
        return self._motion

    def unstable(self) -> np.ndarray | None:
        """Find robots whose last step is not valid; call once after ``step`` and ``read``.

        A blown-up simulation is reset by MuJoCo without any sign in the observation, hence the
        warning counters and the clock.

        Returns:
            None if all is well, otherwise a mask of shape (N,).
        """
        np.concatenate(self._warning_sources, out=self._flat_warnings)
        self._clock_ran = self._clocks > self._times
        self._times[:] = self._clocks
        if self._clock_ran.all() and np.isfinite(self._buffer).all() and not self._warnings.any():
            return None
        self._warnings[:, RENDER_ONLY] = 0
        bad = self._warnings.any(axis=1) | ~self._clock_ran | ~np.isfinite(self._buffer).all(axis=1)
        return bad if bad.any() else None

    def reason(self, index: int) -> str:
        """What was wrong with the last step of robot ``index``."""
        if self._warnings[index].any():
            return f"MuJoCo warning {warning_text(self._warnings[index])}"
        if not np.isfinite(self._buffer[index]).all():
            return "a position, velocity or force is not finite"
        if not self._clock_ran[index]:
            return f"simulated time did not increase (it is {self.data[index].time})"
        return "the physics is valid, but the reward is not finite: the action is too large"

    def reset(self, index: int, start: tuple[np.ndarray, np.ndarray]) -> None:
        """Put robot ``index`` into a start state (qpos, qvel) with everything else fresh."""
        data = self.data[index]
        mujoco.mj_resetData(self._model_of[index], data)
        data.qpos[:], data.qvel[:] = start
        mujoco.mj_forward(self._model_of[index], data)
        self._times[index] = data.time

    def states(self) -> np.ndarray:
        """INTEGRATION states (with warm starts), shape (N, state size), a fresh array."""
        states = np.empty((len(self.data), self._state_size))
        for state, model, data in zip(states, self._model_of, self.data, strict=True):
            mujoco.mj_getState(model, data, state, STATE_SPEC)
        return states

    def stale_arrays(self) -> dict[str, np.ndarray]:
        """What is one physics step old and in no state vector, but read before the next step.

        Returns:
            Torso frame positions (N, 3), and centres of bodies (N, bodies, 3) where progress is
            measured from these.
        """
        arrays = {"torso_xpos": np.stack([data.xpos[TORSO] for data in self.data])}
        if self.robot.progress == "center_of_mass":
            arrays["body_xipos"] = np.stack([data.xipos for data in self.data])
        return arrays

    def restore(self, states: np.ndarray, stale: Mapping[str, np.ndarray]) -> None:
        """Continue exactly from what ``states`` and ``stale_arrays`` returned.

        The forward function is not called: it would change the solver's warm start, and the
        trajectory would differ from the first step on.
        """
        for index, (model, data) in enumerate(zip(self._model_of, self.data, strict=True)):
            mujoco.mj_resetData(model, data)
            mujoco.mj_setState(model, data, states[index], STATE_SPEC)
            data.xpos[TORSO] = stale["torso_xpos"][index]
            if "body_xipos" in stale:
                data.xipos[:] = stale["body_xipos"][index]
            self._times[index] = data.time

    def dump(self, index: int) -> dict[str, np.ndarray]:
        """Everything about one robot that a crash report should hold."""
        data = self.data[index]
        return {
            "qpos": data.qpos.copy(),
            "qvel": data.qvel.copy(),
            "integration_state": self.states()[index],
            "torso_xpos": data.xpos[TORSO].copy(),
            "warning_counts": data.warning.number.copy(),
            "time": np.array([data.time]),
        }

    def close(self) -> None:
        """Stop the physics threads."""
        self._stepper.close()
