"""What is measured: the rows of the benchmark at equal hyper-parameters on every side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OBSERVATION_DIM, ACTION_DIM = 27, 8
ROLLOUT_SIZE, NUM_EPOCHS, MINIBATCH_SIZE = 2_048, 10, 128
HIDDEN_SIZES = [256, 256]
LEARNING_RATE = 1e-4
GRADIENT_STEPS_PER_ENV_STEP = NUM_EPOCHS / MINIBATCH_SIZE
# After that many iterations every diagnostic has had its turn.
PROFILE_LAPS = 25


@dataclass(frozen=True)
class Measurement:
    """One row of raw numbers.

    Attributes:
        name: Unique name.
        workers: Settings of each process, see `processes.measure`.
        in_quick: Part of the quick benchmark.
        max_repeats: Measured at most this often, None for every repeat.
    """

    name: str
    workers: tuple[Mapping[str, Any], ...]
    in_quick: bool = False
    max_repeats: int | None = None


def plan(
    cores: Sequence[int], seconds: float, methods: Sequence[str], run_dir: str | None
) -> list[Measurement]:
    """All measurements in the order in which every repeat runs them.

    Args:
        cores: Cores to use; side-by-side measurements run one process on each.
        seconds: Shortest window of one measurement.
        methods: Ids of the methods whose overhead is measured.
        run_dir: A run whose policy gives a second physics tape, or None.
    """
    rows = [
        _side_by_side("physics, untrained", cores, _physics(None, seconds), in_quick=True),
        _side_by_side("matrix products", cores, _products(seconds), in_quick=True),
    ]
    if run_dir is not None:
        rows.append(_side_by_side("physics, trained", cores, _physics(run_dir, seconds)))
    for num_envs, threads, in_quick in ((8, 1, True), (8, 2, False), (1, 1, False), (1, 2, False)):
        name = f"SB3, {_envs(num_envs)}, {threads} thread{'s' * (threads > 1)}"
        worker = {**_sb3(num_envs, threads, seconds), "cores": list(cores)}
        rows.append(Measurement(name, (worker,), in_quick))
    for num_envs in (8, 1, 16):
        worker = {**_suite(num_envs, len(cores), seconds), "cores": list(cores)}
        rows.append(Measurement(f"suite, {_envs(num_envs)}", (worker,), in_quick=num_envs > 1))
    for num_envs in (8, 1):
        workers = {"suite": _suite(num_envs, 1, seconds), "SB3": _sb3(num_envs, 1, seconds)}
        for name, worker in workers.items():
            label = f"{len(cores)} x {name}, {_envs(num_envs)}"
            rows.append(_side_by_side(label, cores, worker, in_quick=num_envs == 8))
    rows.append(_side_by_side("1 x suite, 8 envs", cores[:1], _suite(8, 1, seconds), in_quick=True))
    for method in methods:
        worker = {**_suite(16, len(cores), seconds, f"method={method}"), "cores": list(cores)}
        quick = method == "continual_backprop"
        rows.append(Measurement(f"suite, 16 envs, {method}", (worker,), in_quick=quick))
    rows.append(Measurement("profile", (_profile(cores),), in_quick=True, max_repeats=2))
    return rows


def _envs(num_envs: int) -> str:
    return f"{num_envs} env{'s' * (num_envs > 1)}"


def _side_by_side(
    name: str, cores: Sequence[int], worker: Mapping[str, Any], in_quick: bool = False
) -> Measurement:
    """One single-threaded process per core, each pinned to its own."""
    workers = tuple({**worker, "cores": [core], "extra_lap": True} for core in cores)
    return Measurement(name, workers, in_quick)


def _suite(num_envs: int, num_threads: int, seconds: float, *overrides: str) -> dict[str, Any]:
    """Our training on the Ant at friction 1; diagnostics off, because SB3 has none."""
    return {
        "kind": "suite",
        # Our own threads; each of them computes with one thread of torch.
        "num_threads": 1,
        "overrides": [
            f"env.num_envs={num_envs}",
            f"agent.rollout_length={ROLLOUT_SIZE // num_envs}",
            f"agent.num_epochs={NUM_EPOCHS}",
            f"agent.minibatch_size={MINIBATCH_SIZE}",
            f"optimizer.learning_rate={LEARNING_RATE}",
            "env.schedule=fixed",
            f"num_threads={num_threads}",
            "log.diagnostics=false",
            *overrides,
        ],
        "seconds": seconds,
        "min_laps": 1,
        "extra_lap": False,
        "profile": False,
    }


def _profile(cores: Sequence[int]) -> dict[str, Any]:
    """The default 16 x 128 with everything on, over one full cycle of diagnostics."""
    worker = _suite(16, len(cores), 0.0, "log.diagnostics=true")
    return {**worker, "cores": list(cores), "min_laps": PROFILE_LAPS, "profile": True}


def _sb3(num_envs: int, num_threads: int, seconds: float) -> dict[str, Any]:
    return {
        "kind": "sb3",
        "num_threads": num_threads,
        "num_envs": num_envs,
        "rollout_size": ROLLOUT_SIZE,
        "num_epochs": NUM_EPOCHS,
        "minibatch_size": MINIBATCH_SIZE,
        "hidden_sizes": HIDDEN_SIZES,
        "learning_rate": LEARNING_RATE,
        "seconds": seconds,
        "min_laps": 1,
        "extra_lap": False,
    }


def _physics(run_dir: str | None, seconds: float) -> dict[str, Any]:
    return {"kind": "physics", "num_threads": 1, "run_dir": run_dir, "seconds": seconds}


def _products(seconds: float) -> dict[str, Any]:
    networks = [[OBSERVATION_DIM, *HIDDEN_SIZES, outputs] for outputs in (ACTION_DIM, 1)]
    return {
        "kind": "products",
        "num_threads": 1,
        "networks": networks,
        "minibatch_size": MINIBATCH_SIZE,
        "seconds": seconds,
    }
