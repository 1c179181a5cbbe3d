"""What is done and said when a run has finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.base import Agent
from analysis.checkpoint_reading import LoadedCheckpoint
from analysis.process_memory import PeakMemory
from analysis.run_directory import RunDirectory
from analysis.sequences.command import conclude_sequence, has_matrix
from analysis.summary import final_return, outcome, summary_table
from configs.run import RunConfig, can_be_measured


def earlier(loaded: LoadedCheckpoint | None, name: str) -> float:
    """What a checkpoint notes about the lives of its run before, 0 without one."""
    noted = {} if loaded is None else loaded.manifest.get("metadata", {})
    return float(noted.get(name, 0.0))


def run_costs(agent: Agent, memory: PeakMemory) -> dict[str, float]:
    """What a run needed: `parameters` of all networks at its end, and `peak_memory_mib`.

    Memory may differ between equal runs, and parameters that networks share count once.
    """
    found = {id(p): p.numel() for net in agent.networks().values() for p in net.parameters()}
    costs: dict[str, float] = {"parameters": sum(found.values())} if found else {}
    return {**costs, "peak_memory_mib": round(memory.mib, 1)}


def same_command(config: RunConfig) -> str:
    """What to type to continue a run: `fresh=true` would move it aside and begin anew."""
    return "the same command without fresh=true" if config.fresh else "the same command"


def end_run(
    directory: RunDirectory,
    config: RunConfig,
    env_steps: int,
    seconds: float,
    evaluation: Mapping[str, float],
    costs: Mapping[str, float] | None = None,
) -> None:
    """Draw the figures, write done.json and say what comes next.

    Args:
        directory: Of the run; its files are closed.
        config: Of the run.
        env_steps: Environment steps done.
        seconds: Spent on the run.
        evaluation: Results of its final evaluation, empty without one.
        costs: What it needed, see `run_costs`.

    Raises:
        StorageError: A file cannot be written.
    """
    summary: dict[str, Any] = {"env_steps": env_steps, **(costs or {})}
    if config.log.figures:
        from analysis.plots import draw_run

        summary["figures"] = [path.name for path in draw_run(directory.path)]
    summary["final_return"] = final_return(directory.path)
    stages = conclude_sequence(directory.path, config)
    if evaluation:
        summary["evaluation"] = dict(evaluation)
    directory.finish("finished", summary)
    print(summary_table(directory.path))
    for line in stages:
        print(line)
    if evaluation:
        print(
            f"success on all goals, mean over tasks {evaluation['success']:.3f} (IQM "
            f"{evaluation['success_iqm']:.3f}); by task and goal in evaluation.csv"
        )
    look = "run" if can_be_measured(config) and not evaluation else "figures"
    look = "sequence" if has_matrix(config) else look
    more = " --out results/NAME" if has_matrix(config) else ""
    print(
        f"finished {env_steps:,} steps in {seconds:,.0f} s; {outcome(directory.path)}\n"
        f"next: python evaluate.py {look} {directory.path}{more}"
    )
