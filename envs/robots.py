"""What each robot observes, earns and dies of: Gymnasium's arithmetic, vectorised over a batch.

Every expression keeps Gymnasium's order of operations, so results are equal bit for bit.

Source: Gymnasium 1.4, ``envs/mujoco/{ant,hopper,walker2d,half_cheetah,humanoid}_{v4,v5}.py``.
Deviation: control costs are always computed in float64; Gymnasium computes them in the precision
of the action it is given (a float32 action changes the Ant's cost by up to 1e-6).
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

ANT_XML = ("ant.xml", "cd5f83ef0ea35b0969e65d360c5bacd5b74ccaef6b27e4433b5168c605e3e2be")
HOPPER_XML = ("hopper.xml", "3ce93a055ffdcd83c0c701d2400768e40d2cbb9532f3c4ae33377c27f8b39f9e")
WALKER_XML = ("walker2d.xml", "ac13373c7ac9003a5311c4704b314ed11149b3dd7600bbc02770487300f9ad2d")
WALKER_V5_XML = (
    "walker2d_v5.xml",
    "6bed53a6cc3ca73c4fe8ac3486d3b4228927264a6454f4ef16d3eed3c58bc09d",
)
CHEETAH_XML = (
    "half_cheetah.xml",
    "11797a5d69e8ac955e89ca6fdd3a0087f1c990094fda401ac51420de1b6c5494",
)
HUMANOID_XML = ("humanoid.xml", "85816f372c826d2094b4a598918233bd9c5843b2439119eece2733bdc2e0d073")
PUBLISHED_PADDING = 84
"""Contact forces (14 bodies x 6) that the published runs observed, probably always as zeros."""


@dataclass(frozen=True)
class Robot:
    """Numbers that tell one robot from another.

    Attributes:
        xml: File name among Gymnasium's models and its SHA-256.
        gymnasium_id: The environment that this one equals.
        num_substeps: Physics steps per environment step.
        skipped_qpos: Leading positions (x, or x and y) that are not observed.
        velocity_limit: Observed velocities are clipped to +- this.
        progress: Forward position is qpos[0] (qpos), or what is one physics step old by design:
            the torso's frame (xpos) or the centre of mass of all bodies (center_of_mass).
        control_cost_weight: Factor of the sum of squared actions.
        contact_forces: Whether contact forces are computed and observed.
        pays_when_unhealthy: Whether the last, unhealthy step also earns the healthy reward.
        height_index: Which element of qpos is the torso's height.
        healthy_height: Allowed heights in metres.
        closed_height: Whether the ends of that interval are healthy.
        healthy_angle: Allowed torso angles in radians (qpos[2]), None for any.
        healthy_state: All of qpos[2:] and qvel must stay strictly within +- this.
        reset_noise: Scale of the random start.
        normal_velocities: Start velocities are normal instead of uniform.
        forward_weight: Reward per metre per second.
        healthy_reward: Per step.
        contact_cost: Weight of squared forces, largest force that counts, largest cost; None
            where contacts cost nothing.
        force_limit: Observed contact forces are clipped to +- this, None for never.
        whole_body: Whether inertias, velocities and actuator forces of all bodies are observed.
        hides_world: Whether observations of bodies leave out those of the world and the free
            joint, which are always 0.
    """

    xml: tuple[str, str]
    gymnasium_id: str
    num_substeps: int
    skipped_qpos: int
    velocity_limit: float | None
    progress: str
    control_cost_weight: float
    contact_forces: bool
    pays_when_unhealthy: bool
    height_index: int
    healthy_height: tuple[float, float]
    closed_height: bool
    healthy_angle: tuple[float, float] | None
    healthy_state: float | None
    reset_noise: float
    normal_velocities: bool
    forward_weight: float = 1.0
    healthy_reward: float = 1.0
    contact_cost: tuple[float, float, float] | None = None
    force_limit: float | None = None
    whole_body: bool = False
    hides_world: bool = True


def _ant(gymnasium_id: str, *, v5: bool) -> Robot:
    return Robot(
        xml=ANT_XML,
        gymnasium_id=gymnasium_id,
        num_substeps=5,
        skipped_qpos=2,
        velocity_limit=None,
        progress="xpos",
        control_cost_weight=0.5,
        contact_forces=v5,
        pays_when_unhealthy=not v5,
        height_index=2,
        healthy_height=(0.2, 1.0),
        closed_height=True,
        healthy_angle=None,
        healthy_state=None,
        reset_noise=0.1,
        normal_velocities=True,
        contact_cost=(5e-4, 1.0, math.inf) if v5 else None,
        force_limit=1.0,
    )


def _planar(gymnasium_id: str, xml: tuple[str, str], *, v5: bool, hopper: bool) -> Robot:
    return Robot(
        xml=xml,
        gymnasium_id=gymnasium_id,
        num_substeps=4,
        skipped_qpos=1,
        velocity_limit=10.0,
        progress="qpos",
        control_cost_weight=1e-3,
        contact_forces=False,
        pays_when_unhealthy=not v5,
        height_index=1,
        healthy_height=(0.7, math.inf) if hopper else (0.8, 2.0),
        closed_height=False,
        healthy_angle=(-0.2, 0.2) if hopper else (-1.0, 1.0),
        healthy_state=100.0 if hopper else None,
        reset_noise=5e-3,
        normal_velocities=False,
    )


def _cheetah(gymnasium_id: str) -> Robot:
    return Robot(
        xml=CHEETAH_XML,
        gymnasium_id=gymnasium_id,
        num_substeps=5,
        skipped_qpos=1,
        velocity_limit=None,
        progress="qpos",
        control_cost_weight=0.1,
        contact_forces=False,
        pays_when_unhealthy=True,
        height_index=1,
        healthy_height=(-math.inf, math.inf),
        closed_height=True,
        healthy_angle=None,
        healthy_state=None,
        reset_noise=0.1,
        normal_velocities=True,
        healthy_reward=0.0,
    )


def _humanoid(gymnasium_id: str, *, v5: bool) -> Robot:
    return Robot(
        xml=HUMANOID_XML,
        gymnasium_id=gymnasium_id,
        num_substeps=5,
        skipped_qpos=2,
        velocity_limit=None,
        progress="center_of_mass",
        control_cost_weight=0.1,
        contact_forces=True,
        pays_when_unhealthy=not v5,
        height_index=2,
        healthy_height=(1.0, 2.0),
        closed_height=False,
        healthy_angle=None,
        healthy_state=None,
        reset_noise=1e-2,
        normal_velocities=False,
        forward_weight=1.25,
        healthy_reward=5.0,
        contact_cost=(5e-7, math.inf, 10.0) if v5 else None,
        whole_body=True,
        hides_world=v5,
    )


ROBOTS = {
    ("ant", "published"): _ant("Ant-v4", v5=False),
    ("ant", "v5"): _ant("Ant-v5", v5=True),
    ("hopper", "published"): _planar("Hopper-v4", HOPPER_XML, v5=False, hopper=True),
    ("hopper", "v5"): _planar("Hopper-v5", HOPPER_XML, v5=True, hopper=True),
    ("walker2d", "published"): _planar("Walker2d-v4", WALKER_XML, v5=False, hopper=False),
    ("walker2d", "v5"): _planar("Walker2d-v5", WALKER_V5_XML, v5=True, hopper=False),
    ("half_cheetah", "published"): _cheetah("HalfCheetah-v4"),
    ("half_cheetah", "v5"): _cheetah("HalfCheetah-v5"),
    ("humanoid", "published"): _humanoid("Humanoid-v4", v5=False),
    ("humanoid", "v5"): _humanoid("Humanoid-v5", v5=True),
}
ROBOT_NAMES = tuple(dict.fromkeys(name for name, _ in ROBOTS))


@dataclass(frozen=True)
class Motion:
    """State of a batch after one step; all arrays are float64 views of one buffer.

    Attributes:
        qpos: Positions, shape (N, nq).
        qvel: Velocities, shape (N, nv).
        x: Forward position from which progress is measured, shape (N,), metres.
        whole_body: ``cinert``, ``cvel`` and ``qfrc_actuator`` one after another, shape
            (N, 16 * bodies + nv); (N, 0) if unused.
        contact_forces: ``cfrc_ext`` of all bodies, shape (N, 6 * bodies); (N, 0) if unused.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    x: np.ndarray
    whole_body: np.ndarray
    contact_forces: np.ndarray


def load_model(robot: Robot) -> mujoco.MjModel:
    """Compile the robot's model from the file that Gymnasium ships.

    Raises:
        ValueError: If the file is not the one this suite was aligned with.
    """
    name, expected = robot.xml
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / name
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise ValueError(
            f"{path} has SHA-256 {digest}, expected {expected}: this Gymnasium ships another "
            "model, so results would not be comparable. Install the versions in constraints.txt."
        )
    return mujoco.MjModel.from_xml_string(content.decode())


def observe(robot: Robot, motion: Motion, padding: int = 0) -> np.ndarray:
    """Observations, shape (N, obs), a fresh float64 array with ``padding`` zeros at the end."""
    position = motion.qpos[:, robot.skipped_qpos :]
    velocity = motion.qvel
    if robot.velocity_limit is not None:
        velocity = np.clip(velocity, -robot.velocity_limit, robot.velocity_limit)
    parts = [position, velocity]
    if robot.whole_body:
        parts += _whole_body(robot, motion)
    if robot.contact_forces:
        forces = motion.contact_forces[:, 6 if robot.hides_world else 0 :]
        limit = robot.force_limit
        parts.append(forces if limit is None else np.clip(forces, -limit, limit))
    if padding:
        parts.append(np.zeros((len(position), padding)))
    return np.concatenate(parts, axis=1)


def _whole_body(robot: Robot, motion: Motion) -> list[np.ndarray]:
    """Inertias (10 per body), velocities (6 per body) and actuator forces (1 per velocity)."""
    num_velocities = motion.qvel.shape[1]
    num_bodies = (motion.whole_body.shape[1] - num_velocities) // 16
    inertia, velocity, force = np.split(motion.whole_body, [10 * num_bodies, 16 * num_bodies], 1)
    if robot.hides_world:
        return [inertia[:, 10:], velocity[:, 6:], force[:, 6:]]
    return [inertia, velocity, force]


def healthy(robot: Robot, motion: Motion) -> np.ndarray:
    """Which robots are still healthy, shape (N,), bool; non-finite states are found elsewhere."""
    height = motion.qpos[:, robot.height_index]
    low, high = robot.healthy_height
    if robot.closed_height:
        result = (low <= height) & (height <= high)
    else:
        result = (low < height) & (height < high)
    if robot.healthy_angle is not None:
        angle = motion.qpos[:, 2]
        result &= (robot.healthy_angle[0] < angle) & (angle < robot.healthy_angle[1])
    if robot.healthy_state is not None:
        result &= (np.abs(motion.qpos[:, 2:]) < robot.healthy_state).all(axis=1)
        result &= (np.abs(motion.qvel) < robot.healthy_state).all(axis=1)
    return result


def rewards(
    robot: Robot,
    motion: Motion,
    x_before: np.ndarray,
    actions: np.ndarray,
    is_healthy: np.ndarray,
    step_seconds: float,
) -> np.ndarray:
    """Rewards, shape (N,): (forward + healthy) - cost, in this order.

    Args:
        robot: Whose rules hold.
        motion: State after the step.
        x_before: Forward position before the step, shape (N,).
        actions: Raw actions, shape (N, act), float64.
        is_healthy: Result of ``healthy``, shape (N,).
        step_seconds: Simulated seconds of the step.
    """
    earned = robot.forward_weight * ((motion.x - x_before) / step_seconds)
    earned += robot.healthy_reward * (1.0 if robot.pays_when_unhealthy else is_healthy)
    cost = robot.control_cost_weight * np.square(actions).sum(axis=1)
    if robot.contact_cost is not None:
        weight, force_limit, cost_limit = robot.contact_cost
        forces = np.clip(motion.contact_forces, -force_limit, force_limit)
        cost += np.minimum(weight * np.square(forces).sum(axis=1), cost_limit)
    return earned - cost


def start_state(
    robot: Robot, qpos: np.ndarray, qvel: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random start around ``qpos`` and ``qvel``; positions are drawn first, then velocities."""
    scale = robot.reset_noise
    start_qpos = qpos + generator.uniform(low=-scale, high=scale, size=qpos.size)
    if robot.normal_velocities:
        start_qvel = qvel + scale * generator.standard_normal(qvel.size)
    else:
        start_qvel = qvel + generator.uniform(low=-scale, high=scale, size=qvel.size)
    return start_qpos, start_qvel
