"""Films an agent, with friction and return written on every frame."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.storage import StorageError, temporary_name

if TYPE_CHECKING:
    from agents.base import Agent
    from envs.contexts.layer import ContextLayer
    from envs.vector import LocomotionVectorEnv

    Envs = LocomotionVectorEnv | ContextLayer

INSTALL_LINE = "apt-get install -y libegl1 libgl1   # then run again with MUJOCO_GL=egl"
BACKENDS = ("egl", "osmesa", "glfw")
WIDTH, HEIGHT = 480, 360
PROBE_SECONDS = 60.0
# A process of its own: a wrong driver may end the process instead of raising an error.
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
assert renderer.render().shape == (16, 16, 3)
renderer.close()
"""


class RenderingUnavailable(RuntimeError):
    """No picture can be drawn here; the message says what to install."""


def find_backend() -> str:
    """Find a value of MUJOCO_GL that draws pictures here.

    One that the user has set is tried first, and `disable` is respected. MuJoCo reads the variable
    when it is first imported, so set it before.

    Raises:
        RenderingUnavailable: Nothing draws.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen == "disable":
        raise RenderingUnavailable(
            f"MUJOCO_GL=disable switches drawing off; unset it, or install: {INSTALL_LINE}"
        )
    for backend in dict.fromkeys((chosen, *BACKENDS) if chosen else BACKENDS):
        environment = {**os.environ, "MUJOCO_GL": backend}
        try:
            result = subprocess.run(
                [sys.executable, "-c", _PROBE],
                env=environment,
                capture_output=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            continue
        if result.returncode == 0:
            return backend
    raise RenderingUnavailable(f"OpenGL draws nothing on this machine; install: {INSTALL_LINE}")


def choose_backend() -> bool:
    """Set MUJOCO_GL to what draws here, before MuJoCo is imported, or say why there is no video.

    Returns:
        Whether pictures can be drawn. If not, the variable is unset: MuJoCo cannot be imported
        where it has a value that MuJoCo does not know.
    """
    chosen = os.environ.get("MUJOCO_GL")
    try:
        found = find_backend()
    except RenderingUnavailable as error:
        print(f"no video: {error}", file=sys.stderr)
        os.environ.pop("MUJOCO_GL", None)
        return False
    if chosen and found != chosen:
        print(f"MUJOCO_GL={chosen} draws nothing here; taking {found}", file=sys.stderr)
    os.environ["MUJOCO_GL"] = found
    return True


def record_episode(
    agent: Agent,
    envs: Envs,
    path: Path | str,
    friction: float,
    seed: int | None = None,
    max_steps: int | None = None,
) -> float:
    """Film one deterministic episode in real time.

    Args:
        agent: Acts with its mean action and stays unchanged.
        envs: One environment with schedule=fixed.
        path: The .mp4 file; an older one is replaced.
        friction: Of the world.
        seed: Of the start state; None continues the environment's own stream.
        max_steps: Stop the film after so many steps, None at the end of the episode.

    Returns:
        The return of what is shown.

    Raises:
        ValueError: More than one environment, or the friction is not above 0.
        RenderingUnavailable: No OpenGL.
        StorageError: The file cannot be written.
    """
    path = Path(path)
    if envs.num_envs != 1:
        raise ValueError(f"a film shows one robot, but there are {envs.num_envs}; use num_envs=1")
    envs.set_value(friction)
    observation, _ = envs.reset(seed=seed)
    renderer = _renderer(envs)
    temporary = path.parent / f"{temporary_name(path.stem)}.mp4"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        total = _film(agent, envs, observation, renderer, temporary, max_steps)
        os.replace(temporary, path)
        return total
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    finally:
        renderer.close()
        temporary.unlink(missing_ok=True)


def _renderer(envs: Envs) -> Any:
    import mujoco

    try:
        renderer = mujoco.Renderer(envs.simulations.models[0], HEIGHT, WIDTH)
    except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
        raise RenderingUnavailable(f"cannot draw ({error}); install: {INSTALL_LINE}") from error
    # Shadows take two thirds of the time where a processor draws.
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    return renderer


def _film(
    agent: Agent,
    envs: Envs,
    observation: np.ndarray,
    renderer: Any,
    path: Path,
    max_steps: int | None,
) -> float:
    import imageio.v2 as imageio

    data, value = envs.simulations.data[0], float(envs.regime_value[0])
    steps, total, ended = 0, 0.0, False
    settings: dict[str, Any] = {"fps": round(1.0 / envs.info.step_seconds), "macro_block_size": 8}
    with imageio.get_writer(path, **settings) as writer:
        while not ended and steps != max_steps:
            # Before the step: an ended episode is replaced by the next one within the same step.
            renderer.update_scene(data, camera="track")
            frame = annotate(renderer.render(), value, total, envs.info.regime_label)
            writer.append_data(frame)
            action = agent.act(observation, envs.context, explore=False)
            observation, reward, terminated, truncated, _ = envs.step(action)
            steps, total = steps + 1, total + float(reward[0])
            ended = bool(terminated[0] or truncated[0])
    return total


def annotate(
    frame: np.ndarray, value: float, episode_return: float, quantity: str = "friction"
) -> np.ndarray:
    """Write the value of the changing quantity and the return into the upper left corner.

    Args:
        frame: (height, width, 3) uint8; not changed.
        value: Of the world.
        episode_return: So far.
        quantity: What the value is of.

    Returns:
        A new frame of the same shape.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(10, frame.shape[0] // 24))
    text = f"{quantity} {value:g}   return {episode_return:.0f}"
    # Light letters with a dark edge are legible on any sky and any floor.
    draw.text((10, 8), text, font=font, fill="white", stroke_width=2, stroke_fill="black")
    return np.asarray(image)
