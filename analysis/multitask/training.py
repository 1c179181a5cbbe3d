"""Evaluations of a run while it trains: cheap ones by the clock, a full one at its end.

They see frozen weights, separate environments and no random stream, so training is the same bit
for bit with and without them, and a resumed run repeats one that was lost exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from analysis.multitask.measuring import Evaluator, describe_measured
from analysis.multitask.records import Evaluation, task_labels, write_evaluation
from analysis.multitask.scores import Scores, score
from configs.run import RunConfig
from envs.contexts.layer import ContextLayer

QUICK, FULL, STAGE = "eval_quick", "eval", "eval_stage"


class Rows(Protocol):
    """Where results are logged; see `analysis.recorder.Recorder`."""

    def evaluated(self, env_steps: int, values: Mapping[str, float]) -> None: ...


class TrainingEvaluation:
    """When a run is evaluated, and where the results go.

    Quick evaluations are due at step 0 and at every multiple of their period. They visit a few
    goals, end episodes at their first success, and are no result: they are logged as
    `eval_quick/...` only. The full one follows the last checkpoint, is logged as `eval/...`, and
    written as evaluation.json and evaluation.csv.

    Of sequences of tasks, the end of every stage can be evaluated on all goals, too: logged as
    `eval_stage/...`, with files in the folder `stages`. That is before the agent hears of the
    next task, so that it belongs to the stage that ends.

    Args:
        config: Of the run.
        run_dir: Where the files of the full evaluation go.
        num_threads: Results do not depend on it.
        envs: Of the run: contexts that are learnt there are shown as they are by then.
    """

    def __init__(
        self, config: RunConfig, run_dir: Path, num_threads: int = 1, envs: Any = None
    ) -> None:
        self._envs = envs
        self._config, self._run_dir, self._num_threads = config, run_dir, num_threads
        self._every = config.log.quick_evaluation_steps
        self._is_final = config.log.final_evaluation
        self._done_periods = self._done_stages = 0
        self._stage_steps = config.env.steps_per_task if config.log.stage_evaluation else None
        self._evaluator: Evaluator | None = None
        is_on = self._every is not None or self._is_final or self._stage_steps is not None
        self._labels = task_labels(config.env.task_names) if is_on else ()

    @property
    def columns(self) -> list[str]:
        """Names of everything that will be logged; none if evaluations are off."""
        columns = []
        if self._every is not None:
            columns += [f"{QUICK}/success", *(f"{QUICK}/{t}/success" for t in self._labels)]
        if self._stage_steps is not None:
            columns += [f"{STAGE}/success", *(f"{STAGE}/{t}/success" for t in self._labels)]
        if self._is_final:
            overall = ("success", "success_iqm", "final_success", "episode_return")
            columns += [f"{FULL}/{name}" for name in overall]
            by_task = ("success", "final_success", "episode_return")
            columns += [f"{FULL}/{task}/{name}" for task in self._labels for name in by_task]
        return columns

    def if_due(
        self, agent: Any, env_steps: int, rows: Rows, is_stopped: Callable[[], bool]
    ) -> bool:
        """Evaluate as the clocks say; see `quick_if_due`."""
        return self.quick_if_due(agent, env_steps, rows, is_stopped) and self._stage_if_due(
            agent, env_steps, rows, is_stopped
        )

    def _stage_if_due(
        self, agent: Any, env_steps: int, rows: Rows, is_stopped: Callable[[], bool]
    ) -> bool:
        if self._stage_steps is None or env_steps // self._stage_steps <= self._done_stages:
            return True
        about = describe_measured(self._config, self._run_dir, env_steps, "")
        evaluation = self._informed().measure(agent, about, is_stopped=is_stopped)
        if evaluation is None:
            return False
        self._done_stages = env_steps // self._stage_steps
        rows.evaluated(env_steps, self._rates(STAGE, evaluation))
        folder = self._run_dir / "stages" / f"stage_{self._done_stages:02d}"
        write_evaluation(folder, evaluation, score(evaluation).plain())
        return True

    def _rates(self, prefix: str, evaluation: Evaluation) -> dict[str, float]:
        rates = evaluation.outcomes.rates.tolist()
        by_task = zip(self._labels, rates, strict=True)
        values = {f"{prefix}/{task}/success": rate for task, rate in by_task}
        return {f"{prefix}/success": sum(rates) / len(rates), **values}

    def quick_if_due(
        self, agent: Any, env_steps: int, rows: Rows, is_stopped: Callable[[], bool]
    ) -> bool:
        """Evaluate on a few goals if the clock says so.

        Args:
            agent: Stays as it is.
            env_steps: Of the run so far.
            rows: Gets the results.
            is_stopped: Asked before every step; True abandons the evaluation.

        Returns:
            False if it was abandoned: it is still due then.
        """
        if self._every is None or env_steps // self._every < self._done_periods:
            return True
        evaluation = self._informed().measure(
            agent,
            {},
            self._config.log.quick_evaluation_goals,
            cut_at_success=True,
            is_stopped=is_stopped,
        )
        if evaluation is None:
            return False
        self._done_periods = env_steps // self._every + 1
        rows.evaluated(env_steps, self._rates(QUICK, evaluation))
        return True

    def final(
        self,
        agent: Any,
        env_steps: int,
        rows: Rows,
        checkpoint: str,
        is_stopped: Callable[[], bool],
    ) -> dict[str, float] | None:
        """Evaluate on all goals if the run is to end so; log and write the results.

        Args:
            agent: Stays as it is.
            env_steps: Of the run.
            rows: Gets the results.
            checkpoint: Name of the one that holds the same agent.
            is_stopped: Asked before every step; True abandons the evaluation.

        Returns:
            `success` and `success_iqm` over tasks, nothing if it is off; None if abandoned.

        Raises:
            StorageError: A file cannot be written.
        """
        if not self._is_final:
            return {}
        about = describe_measured(self._config, self._run_dir, env_steps, checkpoint)
        evaluation = self._informed().measure(agent, about, is_stopped=is_stopped)
        if evaluation is None:
            return None
        scores = score(evaluation)
        rows.evaluated(env_steps, _final_values(scores))
        write_evaluation(self._run_dir, evaluation, scores.plain())
        return {"success": scores.mean.estimate, "success_iqm": scores.iqm.estimate}

    def prepare(self) -> None:
        """Build the environments now if they will be needed, so that clocks can leave that out."""
        if self._labels:
            self._built()

    def rehearse(self, agent: Any) -> None:
        """Visit `rehearsed_goals` where the run has no quick evaluations, and log nothing.

        Args:
            agent: Stays as it is.
        """
        if self._labels and self._every is None:
            self._informed().measure(agent, {}, rehearsed_goals(self._config))

    def _informed(self) -> Evaluator:
        """The environments, with contexts as they have been learnt by now."""
        evaluator = self._built()
        if isinstance(self._envs, ContextLayer):
            evaluator.adopt(self._envs.context_snapshot())
        return evaluator

    def _built(self) -> Evaluator:
        """Environments are built when first needed, and kept."""
        if self._evaluator is None:
            log = self._config.log
            self._evaluator = Evaluator(
                self._config, log.evaluation_rows_per_task, self._num_threads
            )
        return self._evaluator

    def state_dict(self) -> dict[str, Any]:
        """How far the clocks are; nothing of those that are off."""
        quick = {} if self._every is None else {"quick_evaluations": self._done_periods}
        stages = {} if self._stage_steps is None else {"stage_evaluations": self._done_stages}
        return quick | stages

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; other keys are left alone."""
        if self._every is not None:
            self._done_periods = int(state["quick_evaluations"])
        if self._stage_steps is not None:
            self._done_stages = int(state["stage_evaluations"])

    def close(self) -> None:
        """Release the environments."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None


def rehearsed_goals(config: RunConfig) -> tuple[int, ...]:
    """Goals per task of the evaluation that costs are extrapolated from.

    Those of a quick one, or where a run has none, one for every row.
    """
    log = config.log
    if log.quick_evaluation_steps is not None:
        return log.quick_evaluation_goals
    return tuple(range(min(log.evaluation_rows_per_task, config.env.num_goals)))


def _final_values(scores: Scores) -> dict[str, float]:
    values = {
        f"{FULL}/success": scores.mean.estimate,
        f"{FULL}/success_iqm": scores.iqm.estimate,
        f"{FULL}/final_success": scores.final_success,
        f"{FULL}/episode_return": scores.episode_return.estimate,
    }
    for task in scores.tasks:
        values[f"{FULL}/{task.task}/success"] = task.success.estimate
        values[f"{FULL}/{task.task}/final_success"] = task.final_success
        values[f"{FULL}/{task.task}/episode_return"] = task.episode_return.estimate
    return values
