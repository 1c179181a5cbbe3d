"""Meta-World's scripted experts through this suite's layer: does the layer measure success rightly?

`python -m analysis.scripted_experts --out DIR` runs the expert of every task of MT10 on all 50
goals and writes a page with the success rates and a CSV with every episode. The experts solve their
tasks, so any-step success near 1 says that goals, horizon, actions, observations and the success
latch are right, and the gap to final-step success says how much the definition matters.

Source: the policies are ``metaworld.policies`` (Yu et al., "Meta-World", 2019).
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from analysis.multitask.evaluation import Outcomes, Policy, run_goals
from analysis.provenance import describe_environment
from analysis.storage import atomic_write_text
from envs.meta_world import Config, make_evaluation

GOAL_SEED = 42
CSV_COLUMNS = (
    "task",
    "goal",
    "success",
    "final_success",
    "first_success_step",
    "episode_return",
)


def expert_policy(tasks: Sequence[str], rows_per_task: int) -> Policy:
    """All experts as one policy of the batch; rows are task-major.

    Args:
        tasks: Task names.
        rows_per_task: Rows of each.
    """
    experts = [ENV_POLICY_MAP[task]() for task in tasks for _ in range(rows_per_task)]

    def act(observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        rows = zip(experts, observation.astype(np.float64), strict=True)
        return np.clip([expert.get_action(row) for expert, row in rows], -1.0, 1.0)

    return act


def run_experts(config: Config, num_goals: int, num_threads: int = 1) -> Outcomes:
    """One whole episode of the expert for every task and goal.

    Args:
        config: The environments.
        num_goals: Goals per task, the first ones.
        num_threads: See ``envs.meta_world.make``; results do not depend on it.
    """
    worlds = make_evaluation(config, copies=1, num_threads=num_threads)
    try:
        outcomes = run_goals(
            expert_policy(config.task_names, 1),
            worlds,
            len(config.task_names),
            range(num_goals),
        )
    finally:
        worlds.close()
    assert outcomes is not None  # nothing stops it
    return outcomes


def episodes_csv(tasks: Sequence[str], outcomes: Outcomes) -> str:
    """One line per episode."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for index, task in enumerate(tasks):
        for column, goal in enumerate(outcomes.goals):
            cell = index, column
            writer.writerow(
                [
                    task,
                    goal,
                    int(outcomes.success[cell]),
                    int(outcomes.final_success[cell]),
                    int(outcomes.first_success_step[cell]) or "",
                    f"{outcomes.episode_return[cell]:.4f}",
                ]
            )
    return text.getvalue()


def page(
    tasks: Sequence[str], outcomes: Outcomes, goal_seed: int, command: str, about: dict[str, Any]
) -> str:
    """The result as Markdown."""
    count = len(outcomes.goals)
    any_step, final = outcomes.success.sum(axis=1), outcomes.final_success.sum(axis=1)
    lines = [
        "# Meta-World's scripted experts through our layer",
        "",
        "**Question.** Does the layer measure success as Meta-World means it? The experts solve",
        "their tasks, so success at any step should be near 1 on every task.",
        "",
        "```bash",
        command,
        "```",
        "",
        f"MT10, goal seed {goal_seed}, goals 0 to {count - 1} of every task once, reward v2, whole",
        "episodes of 500 steps, fast path. Every episode is in [episodes.csv](episodes.csv).",
        "",
        "| task | any step | last step | median first step of success | mean return |",
        "|---|---|---|---|---|",
    ]
    for index, task in enumerate(tasks):
        first = outcomes.first_success_step[index][outcomes.success[index]]
        median = f"{np.median(first):.0f}" if first.size else "never"
        mean_return = outcomes.episode_return[index].mean()
        lines.append(
            f"| {task} | {any_step[index]}/{count} | {final[index]}/{count} | {median} | "
            f"{mean_return:,.0f} |"
        )
    rates = outcomes.success.mean(), outcomes.final_success.mean()
    lines += [
        f"| **mean over tasks** | **{rates[0]:.3f}** | **{rates[1]:.3f}** | | |",
        "",
        "**Reading.** An expert that goes on moving after it has succeeded can undo its success",
        "(door-open swings the door too far every time), so the two columns are different",
        "measures. Everything in this suite reports success at any step and names the last step",
        "apart. The fast path moves the same bits as Meta-World's own classes, so these are the",
        "counts of the stock tasks.",
        "",
        f"{about['cpu']['model']}, {about['platform']}, Python {about['python']}, "
        + ", ".join(f"{name} {about['packages'][name]}" for name in ("metaworld", "mujoco"))
        + f", numpy {about['packages']['numpy']}. Other processors may differ by one goal.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run the experts, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.scripted_experts")
    parser.add_argument("--out", type=Path, required=True, help="folder for README.md and CSV")
    parser.add_argument("--goal-seed", type=int, default=GOAL_SEED)
    parser.add_argument("--goals", type=int, default=50, help="goals per task (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="above 1 uses worker processes")
    chosen = parser.parse_args(arguments)
    try:
        config = Config(goal_seed=chosen.goal_seed, num_goals=chosen.goals)
    except ValueError as error:
        parser.error(str(error))
    outcomes = run_experts(config, chosen.goals, chosen.threads)
    command = shlex.join(["python", "-m", "analysis.scripted_experts", *arguments])
    chosen.out.mkdir(parents=True, exist_ok=True)
    tasks, about = config.task_names, describe_environment()
    atomic_write_text(chosen.out / "episodes.csv", episodes_csv(tasks, outcomes))
    atomic_write_text(
        chosen.out / "README.md", page(tasks, outcomes, chosen.goal_seed, command, about)
    )
    print(f"success at any step {outcomes.success.mean():.3f}, wrote {chosen.out / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
