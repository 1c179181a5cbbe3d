"""The exact state of one Meta-World task, in memory and as plain numbers and text.

A task keeps its state in four places: MuJoCo's data, four arrays of MuJoCo's model that resets
edit, its own Python attributes, and attributes that are live views into MuJoCo's memory. All four
are needed for a bit-exact continuation.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Space
from metaworld.sawyer_xyz_env import SawyerXYZEnv

STATE_SPEC = mujoco.mjtState.mjSTATE_INTEGRATION
MODEL_FIELDS = ("site_pos", "site_quat", "body_pos", "body_quat")
VIEWED_FIELDS = ("xpos", "xquat", "site_xpos", "geom_xpos", "subtree_com", "qpos", "qvel")
CONSTANT = frozenset(
    {
        "model",
        "data",
        "mujoco_renderer",
        "metadata",
        "spec",
        "fullpath",
        "render_mode",
        "camera_id",
        "camera_name",
        "width",
        "height",
        "init_left_pad",
        "init_right_pad",
        "_np_random",
        "_np_random_seed",
        "_ezpickle_args",
        "_ezpickle_kwargs",
        "_views",
    }
)
"""Attributes that are set for good. The two pads are live views of MuJoCo's memory."""


@dataclass(frozen=True)
class View:
    """An attribute that shows a piece of MuJoCo's memory instead of holding numbers.

    Attributes:
        field: Name of the array of ``MjData``.
        start: First element within the flat array.
        shape: Shape of the piece, contiguous.
    """

    field: str
    start: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TaskState:
    """Everything the next steps of one task depend on.

    Attributes:
        integration: MuJoCo's integration state with warm starts, shape (267 to 304,).
        model: The arrays ``MODEL_FIELDS``, flat and joined.
        attributes: The task's own attributes, deep copies; live views as ``View``.
    """

    integration: np.ndarray
    model: np.ndarray
    attributes: dict[str, Any]


def capture(env: SawyerXYZEnv) -> TaskState:
    """Copy the state of a task.

    Raises:
        TypeError: If the task has an attribute of a kind that cannot be saved.
    """
    integration = np.empty(mujoco.mj_stateSize(env.model, STATE_SPEC))
    mujoco.mj_getState(env.model, env.data, integration, STATE_SPEC)
    model = np.concatenate([getattr(env.model, name).ravel() for name in MODEL_FIELDS])
    attributes = {
        name: _view_of(env, value) or copy.deepcopy(value)
        for name, value in vars(env).items()
        if name not in CONSTANT and not isinstance(value, Space)
    }
    return TaskState(integration, model, attributes)


def restore(env: SawyerXYZEnv, state: TaskState) -> None:
    """Continue exactly from a captured state, in this task or a newly built one.

    ``mj_forward`` is not called: it would change the solver's warm start. Until the next step
    ``data.xpos`` and its like are out of date, so neither read nor render them.

    Raises:
        ValueError: If the state does not fit this task.
    """
    expected = sum(getattr(env.model, name).size for name in MODEL_FIELDS)
    size = mujoco.mj_stateSize(env.model, STATE_SPEC)
    if state.model.shape != (expected,) or state.integration.shape != (size,):
        raise ValueError(
            f"the state has {state.integration.shape} and {state.model.shape} numbers, this task "
            f"needs ({size},) and ({expected},); it is of another task or damaged."
        )
    start = 0
    for name in MODEL_FIELDS:
        array = getattr(env.model, name)
        array[:] = state.model[start : start + array.size].reshape(array.shape)
        start += array.size
    mujoco.mj_resetData(env.model, env.data)  # also clears the warning counters
    mujoco.mj_setState(env.model, env.data, state.integration, STATE_SPEC)
    for name, value in state.attributes.items():
        is_state = name in vars(env) or not hasattr(type(env), name)  # never replaces a method
        if name in CONSTANT or not is_state:
            raise ValueError(f"the state sets {name!r}, which is no state of this task.")
        resolved = _resolve(env, value) if isinstance(value, View) else copy.deepcopy(value)
        setattr(env, name, resolved)


def _view_of(env: SawyerXYZEnv, value: Any) -> View | None:
    """Where in MuJoCo's memory an array lies, None if it holds its own numbers."""
    if not isinstance(value, np.ndarray) or value.base is None:
        return None
    address = value.__array_interface__["data"][0]
    for field in VIEWED_FIELDS:
        array = getattr(env.data, field)
        start, rest = divmod(address - array.__array_interface__["data"][0], array.itemsize)
        if rest == 0 and start >= 0 and start + value.size <= array.size:
            return View(field, start, value.shape)
    return None


def _resolve(env: SawyerXYZEnv, view: View) -> np.ndarray:
    size = int(np.prod(view.shape))
    if view.field in VIEWED_FIELDS:
        flat = getattr(env.data, view.field).reshape(-1)
        if 0 <= view.start <= flat.size - size:
            return flat[view.start : view.start + size].reshape(view.shape)
    raise ValueError(f"the state has the view {view}, which this task does not have.")


def encode_attributes(attributes: dict[str, Any]) -> str:
    """Attributes as JSON; floats and arrays bit by bit.

    Raises:
        TypeError: If a value is of a kind that is not known here.
    """
    encoded = {name: _encode(value, name) for name, value in sorted(attributes.items())}
    return json.dumps(encoded, allow_nan=False)


def decode_attributes(text: str) -> dict[str, Any]:
    """The attributes back.

    Raises:
        ValueError: If the text was not written by ``encode_attributes``.
    """
    try:
        plain = json.loads(text)
        return {str(name): _decode(value) for name, value in plain.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the saved attributes of a task are damaged: {error}.") from error


def _encode(value: Any, where: str) -> Any:
    """JSON of one value: containers and numbers beyond JSON become one-key objects."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return {"float": value.hex()}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"attribute {where} has the dtype {array.dtype}, which is not saved.")
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        # The shape is taken before: ascontiguousarray turns 0 dimensions into 1.
        return {kind: [array.dtype.str.lstrip("<>|="), list(array.shape), little.tobytes().hex()]}
    if isinstance(value, View):
        return {"view": [value.field, value.start, list(value.shape)]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, where) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, f"{where}.{key}") for key, item in value.items()}}
    raise TypeError(
        f"attribute {where} is a {type(value).__name__}, which snapshots do not know; Meta-World "
        "must have changed."
    )


def _decode(plain: Any) -> Any:
    if not isinstance(plain, dict):
        if plain is None or isinstance(plain, bool | int | str):
            return plain
        raise ValueError(f"{plain!r} stands where a value should be")
    if len(plain) != 1:
        raise ValueError(f"{sorted(plain)} stands where one tag should be")
    ((kind, content),) = plain.items()
    if kind == "float":
        return float.fromhex(content)
    if kind in ("array", "scalar"):
        name, shape, data = content
        dtype = np.dtype(name).newbyteorder("<")
        if dtype.kind not in "biuf":
            raise ValueError(f"the dtype {dtype} is not allowed")
        array = np.frombuffer(bytes.fromhex(data), dtype).reshape(shape)
        array = array.astype(dtype.newbyteorder("="))
        return array if kind == "array" else array[()]
    if kind == "view":
        field, start, shape = content
        return View(str(field), int(start), tuple(int(size) for size in shape))
    if kind in ("list", "tuple"):
        items = [_decode(item) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {str(key): _decode(item) for key, item in content.items()}
    raise ValueError(f"the tag {kind!r} is not known")
