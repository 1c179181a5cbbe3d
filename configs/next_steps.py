"""Which command makes the report of a sweep: one that would not refuse its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.compose import Composed
from configs.run import AGENTS, EXECUTION_KEYS

# Streams that `analysis.supervised_results` has a table for.
_TABLES = {"bit_flipping": "regression", "permuted_tasks": "tasks"}
_FIXED = ("fixed_friction", "fixed_value")
_SEEDS = frozenset({"seed", "world_seed"})


def facts(composed: Composed) -> dict[str, Any]:
    """What decides about the report of a run, as plain values.

    Args:
        composed: The run.
    """
    ignored = _SEEDS | {key.removeprefix("env.") for key in EXECUTION_KEYS}
    env = {key: value for key, value in composed.plain["env"].items() if key not in ignored}
    agent = AGENTS.get(composed.config.agent.kind)
    return {
        "answers": hasattr(agent, "LEARNS_FROM_ANSWERS"),
        "kept": composed.config.init_from is not None and not composed.config.fresh_parts,
        "fixed": [env.pop(key, None) for key in _FIXED] if env.get("schedule") == "fixed" else [],
        "world": {**env, "total_steps": composed.config.total_steps},
    }


def next_steps(group: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Command lines that report on the runs of a sweep, one for each environment.

    Args:
        group: Folder of the runs, such as `runs/compare_slippery_ant`.
        rows: One per run: `directory`, and its `facts`.

    Returns:
        Lines to print; none for runs that no single command reports on.
    """
    worlds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        worlds.setdefault(Path(row["directory"]).parts[-3], []).append(row)
    lines, name = [], Path(group).name
    for world, members in sorted(worlds.items()):
        place = (group, name) if len(worlds) == 1 else (f"{group}/{world}", f"{name}_{world}")
        lines += _report(*place, members)
    return lines


def _report(runs: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    known = [row["facts"] for row in rows]
    first = known[0]
    env, out = first["world"], f"--out results/{name}"
    if all(one["answers"] for one in known):
        table = _TABLES.get(env["kind"])
        return [f"python -m analysis.supervised_results {table} {runs} {out}"] if table else []
    if any(one["world"] != env for one in known):
        return []
    if env["kind"] == "sequences":
        # References of single tasks are found by the report of the sequences.
        is_reference = env.get("only_task") is not None
        return [] if is_reference else [f"python evaluate.py sequence {runs} {out}"]
    if any(one["fixed"] != first["fixed"] for one in known):
        return [f"python evaluate.py oracle {runs} {out}"]
    line = f"python evaluate.py compare {runs} {out}"
    return [line if _has_baseline(rows) else f"{line} --baseline NAME_OF_AN_ARM"]


def _has_baseline(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `compare` finds the arm that the others are measured against by itself."""
    arms = {Path(row["directory"]).parent.name: row["facts"]["kept"] for row in rows}
    standard = [arm for arm in arms if "standard" in arm.split("-")]
    return len(arms) == 1 or len(standard) == 1 or sum(arms.values()) == 1
