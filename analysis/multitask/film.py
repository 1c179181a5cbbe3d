"""Films one episode of every task, side by side, the right way up.

The episodes are played first and only simulation states are kept; then the tasks are drawn one
after the other, because several open renderers in one process can mix up their meshes.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.multitask.evaluation import Policy
from analysis.multitask.measuring import Evaluator
from analysis.storage import StorageError, temporary_name
from analysis.video import INSTALL_LINE, RenderingUnavailable
from configs.run import RunConfig
from envs.snapshots import Snapshot

STEPS_PER_FRAME = 4  # 20 frames per second in real time
MAX_WIDTH = 1200
MAX_TILE, MIN_TILE = 480, 120
CAMERA = "corner2"
_WON, _RUNNING = "#7CFC00", "white"


@dataclass(frozen=True)
class Episode:
    """What one task's row looked like at every frame.

    Attributes:
        label: Name of the task.
        states: (frames, n) float64, MuJoCo's integration states.
        success_step: First step with success, 0 for never.
    """

    label: str
    states: np.ndarray
    success_step: int


def film_tasks(
    policy: Policy,
    config: RunConfig,
    trained_in: Snapshot,
    labels: tuple[str, ...],
    path: Path,
    goal: int = 0,
) -> list[Episode]:
    """Film one whole deterministic episode per task.

    Args:
        policy: Chooses actions.
        config: Of the run.
        trained_in: State of the environments of training, which contexts may be learnt in.
        labels: Names of the tasks.
        path: The .mp4 file; an older one is replaced.
        goal: Index of the goal, the same for all tasks.

    Returns:
        What is shown.

    Raises:
        RenderingUnavailable: No OpenGL.
        StorageError: The file cannot be written.
    """
    evaluator = Evaluator(replace(config, env=replace(config.env, num_workers=0)))
    temporary = path.parent / f"{temporary_name(path.stem)}.mp4"
    try:
        evaluator.adopt(trained_in)
        episodes = play(policy, evaluator.envs, labels, goal)
        tiles = draw(evaluator.envs, episodes, tile_size(len(episodes)))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, tiles, episodes, evaluator.info.step_seconds)
        os.replace(temporary, path)
        return episodes
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}", path) from error
    finally:
        evaluator.close()
        temporary.unlink(missing_ok=True)


def play(policy: Policy, envs: Any, labels: tuple[str, ...], goal: int) -> list[Episode]:
    """Play one episode per task, one row each, and keep the state of every frame."""
    num_rows = len(labels)
    states: list[list[np.ndarray]] = [[] for _ in labels]
    success = np.zeros(num_rows, dtype=np.int64)
    observation = envs.start_episodes(range(num_rows), [goal] * num_rows)
    step, running = 0, np.ones(num_rows, dtype=bool)
    while running.any():
        if step % STEPS_PER_FRAME == 0:
            _keep(envs, states)
        observation, _, _, truncated, info = envs.step(policy(observation, envs.context))
        step += 1
        success[info["success"] & running & (success == 0)] = step
        running &= ~truncated
    _keep(envs, states)
    return [
        Episode(label, np.array(kept), int(first))
        for label, kept, first in zip(labels, states, success, strict=True)
    ]


def _keep(envs: Any, states: list[list[np.ndarray]]) -> None:
    import mujoco

    from envs.meta_world_snapshot import STATE_SPEC

    for row, kept in enumerate(states):
        model, data = envs.physics(row)
        state = np.empty(mujoco.mj_stateSize(model, STATE_SPEC))
        mujoco.mj_getState(model, data, state, STATE_SPEC)
        kept.append(state)


def draw(envs: Any, episodes: list[Episode], size: int) -> np.ndarray:
    """Draw the kept states, (frames, tasks, size, size, 3) uint8; the environments end there.

    Raises:
        RenderingUnavailable: No OpenGL.
    """
    import mujoco

    from envs.meta_world_snapshot import STATE_SPEC
    from envs.meta_world_video import Camera

    shape = (len(episodes[0].states), len(episodes), size, size, 3)
    tiles = np.empty(shape, dtype=np.uint8)
    for row, episode in enumerate(episodes):
        model, data = envs.physics(row)
        try:
            camera = Camera(envs, row, CAMERA, size, size)
        except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
            raise RenderingUnavailable(f"cannot draw ({error}); install: {INSTALL_LINE}") from error
        try:
            for index, state in enumerate(episode.states):
                mujoco.mj_setState(model, data, state, STATE_SPEC)
                tiles[index, row] = camera.frame()
        finally:
            camera.close()
    return tiles


def grid(num_tiles: int) -> tuple[int, int]:
    """Rows and columns, wider than high, with as few empty places as possible."""
    columns = range(math.isqrt(num_tiles - 1) + 1, 2 * math.isqrt(num_tiles) + 1)
    best = min(columns, key=lambda c: (-num_tiles % c, c), default=1)
    return -(-num_tiles // best), best


def tile_size(num_tiles: int) -> int:
    """Pixels of a square tile; a multiple of 8, which video needs."""
    width = MAX_WIDTH // grid(num_tiles)[1]
    return max(MIN_TILE, min(MAX_TILE, width)) // 8 * 8


def composed(tiles: np.ndarray) -> np.ndarray:
    """Tiles (tasks, size, size, 3) of one moment as one picture; empty places are black."""
    num_rows, num_columns = grid(len(tiles))
    size = tiles.shape[1]
    picture = np.zeros((num_rows * size, num_columns * size, 3), dtype=np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, num_columns)
        picture[row * size : (row + 1) * size, column * size : (column + 1) * size] = tile
    return picture


def labelled(tile: np.ndarray, text: str, is_won: bool) -> np.ndarray:
    """A copy of a tile with text in its upper left corner, green after success."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(tile)
    style: dict[str, Any] = {"fill": _WON if is_won else _RUNNING, "stroke_fill": "black"}
    font = ImageFont.load_default(max(9, tile.shape[0] // 18))
    ImageDraw.Draw(image).text((5, 4), text, font=font, stroke_width=2, **style)
    return np.asarray(image)


def _pictures(tiles: np.ndarray, episodes: list[Episode]) -> Iterator[np.ndarray]:
    for index, moment in enumerate(tiles):
        step = index * STEPS_PER_FRAME
        shown = []
        for tile, episode in zip(moment, episodes, strict=True):
            is_won = 0 < episode.success_step <= step
            text = episode.label + (f"\nsuccess at step {episode.success_step}" if is_won else "")
            shown.append(labelled(tile, text, is_won))
        yield composed(np.array(shown))


def _write(path: Path, tiles: np.ndarray, episodes: list[Episode], step_seconds: float) -> None:
    import imageio.v2 as imageio

    frames_per_second = round(1.0 / (step_seconds * STEPS_PER_FRAME))
    settings: dict[str, Any] = {"fps": frames_per_second, "macro_block_size": 8}
    with imageio.get_writer(path, **settings) as writer:
        for picture in _pictures(tiles, episodes):
            writer.append_data(picture)
