"""The floor of a machine: its bare physics and its bare matrix products.

Floor time per environment step and core = t_physics + gradient steps per environment step x
t_products. Acting, the optimizer, element-wise work and bookkeeping are overhead by definition.
"""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.throughput.window import Window

TAPE_STEPS = 1_500
PRODUCTS_PER_LAP = 50

Episode = tuple[np.ndarray, np.ndarray]
"""INTEGRATION state at the start, and actions (steps, 8)."""


def measure_physics(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, float]:
    """Replay a tape of actions with `mj_step` and `mj_rnePostConstraint` and nothing else.

    Args:
        settings: `seconds`, `extra_lap`, and `run_dir`: a run whose policy acts, None for
            actions drawn from N(0, 1) as an untrained policy acts.
        wait: See `Window`.
    """
    import mujoco

    from envs.robots import ROBOTS, load_model
    from envs.simulation import STATE_SPEC

    robot = ROBOTS["ant", "published"]
    run_dir = settings["run_dir"]
    tape = random_tape() if run_dir is None else trained_tape(Path(run_dir))
    model = load_model(robot)
    data = mujoco.MjData(model)
    control, num_substeps = data.ctrl, robot.num_substeps
    step, post_constraint = mujoco.mj_step, mujoco.mj_rnePostConstraint
    env_steps = 0
    window = Window(
        wait,
        lambda: {"env_steps": env_steps},
        settings["seconds"],
        extra_lap=settings["extra_lap"],
    )
    while True:
        for start, actions in tape:
            mujoco.mj_setState(model, data, start, STATE_SPEC)
            for action in actions:
                control[:] = action
                step(model, data, num_substeps)
                post_constraint(model, data)
            env_steps += len(actions)
        if window.lap():
            return window.result()


def random_tape(num_steps: int = TAPE_STEPS) -> list[Episode]:
    """Episodes at friction 1 under actions from N(0, 1)."""
    from envs.locomotion import Config, make

    envs, info = make(Config(num_envs=1, schedule="fixed"), total_steps=10 * num_steps)
    rng = np.random.default_rng(0)
    tape = _record(envs, lambda observation: rng.standard_normal((1, info.action_dim)), num_steps)
    envs.close()
    return tape


def trained_tape(run_dir: Path, num_steps: int = TAPE_STEPS) -> list[Episode]:
    """Episodes of the first environment of a run under the policy of its newest checkpoint."""
    from analysis.restored import restore

    restored = restore(run_dir)
    robot, semantics = restored.config.env.robot, restored.config.env.semantics
    if (robot, semantics) != ("ant", "published"):
        raise ValueError(
            f"{run_dir} trained robot={robot} semantics={semantics}; give a run of the published "
            "Ant, which is what is measured"
        )
    agent, envs = restored.agent, restored.envs
    tape = _record(envs, lambda observation: agent.sample(observation, envs.context), num_steps)
    restored.close()
    return tape


def _record(envs: Any, policy: Callable[[np.ndarray], np.ndarray], num_steps: int) -> list[Episode]:
    tape: list[Episode] = []
    observation, _ = envs.reset()
    start, actions = envs.simulations.states()[0], []
    for _ in range(num_steps):
        action = policy(observation)
        observation, _, terminated, truncated, _ = envs.step(action)
        actions.append(np.asarray(action[0], dtype=np.float64))
        if terminated[0] or truncated[0]:
            tape.append((start, np.array(actions)))
            start, actions = envs.simulations.states()[0], []
    if actions:
        tape.append((start, np.array(actions)))
    return tape


def measure_products(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, float]:
    """Run the matrix products of minibatch updates of both networks and nothing else.

    Args:
        settings: `seconds`, `extra_lap`, `networks` (widths of each), `minibatch_size`.
        wait: See `Window`.
    """
    import torch

    torch.set_num_threads(1)
    updates = [
        minibatch_products(sizes, settings["minibatch_size"]) for sizes in settings["networks"]
    ]
    gradient_steps = 0
    window = Window(
        wait,
        lambda: {"gradient_steps": gradient_steps},
        settings["seconds"],
        extra_lap=settings["extra_lap"],
    )
    with torch.inference_mode():
        while True:
            for _ in range(PRODUCTS_PER_LAP):
                for products in updates:
                    for first, second, output in products:
                        torch.mm(first, second, out=output)
            gradient_steps += PRODUCTS_PER_LAP
            if window.lap():
                return window.result()


def minibatch_products(sizes: list[int], batch_size: int) -> list[tuple[Any, Any, Any]]:
    """Operands and preallocated outputs of all products of one gradient step.

    Forward, weight gradients, and input gradients except at the first layer.

    Args:
        sizes: Widths of the network.
        batch_size: Rows.

    Returns:
        (left, right, output) per product, in the order of a training step.
    """
    import torch

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns)

    weights = [matrix(outputs, inputs) for inputs, outputs in itertools.pairwise(sizes)]
    values = [matrix(batch_size, width) for width in sizes]
    deltas = [matrix(batch_size, width) for width in sizes]
    gradients = [torch.empty_like(weight) for weight in weights]
    products = [(values[i], weight.t(), values[i + 1]) for i, weight in enumerate(weights)]
    for i in reversed(range(len(weights))):
        products.append((deltas[i + 1].t(), values[i], gradients[i]))
        if i:
            products.append((deltas[i + 1], weights[i], deltas[i]))
    return products
