"""The beginning of a real run, under the clock: what `python train.py plan` extrapolates from."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.throughput.agents_at_work import Budget, Finished
from analysis.throughput.window import Window


def measure_rehearsal(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, float]:
    """Train in a temporary place until the window ends, or the run.

    The window opens after the warm-up with random actions and the first update after it.

    Args:
        settings: `words` of the command line of one run, `seconds`, `extra_lap`.
        wait: See `Window`.

    Returns:
        `env_steps` and `seconds` of the window; `evaluation`: seconds of evaluations in it;
        `first_evaluation`: seconds of the quick one at step 0, or where there are only full ones,
        of one on `analysis.multitask.training.rehearsed_goals`; nothing without evaluations;
        `warmup_steps` and `warmup_seconds`: what came before the window, evaluations left out. A
        run that ends before its window is all warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _measure(settings, wait, Path(folder))


def _measure(
    settings: Mapping[str, Any], wait: Callable[[], None], folder: Path
) -> dict[str, float]:
    from analysis.interruption import Interruption
    from analysis.progress import Progress
    from analysis.run_directory import RunDirectory
    from configs.compose import compose_run
    from train import Training

    composed = compose_run([*settings["words"], "progress=false"])
    random_steps = getattr(composed.config.agent, "warmup_steps", 0)
    wait_once = functools.cache(wait)
    with RunDirectory.open(folder, "run", composed.plain) as directory:
        training = Training(composed, directory)
        agent, envs, budget = training.agent, training.envs, Budget()
        training.evaluation.prepare()
        for name in ("if_due", "rehearse"):
            budget.watch("evaluation", training.evaluation, name)
        training.evaluation.if_due(agent, 0, training.recorder, lambda: False)
        training.evaluation.rehearse(agent)
        first_evaluation = budget.seconds["evaluation"]

        def counters() -> dict[str, float]:
            return {"env_steps": envs.env_steps, **budget.seconds}

        window = Window(wait_once, counters, settings["seconds"], extra_lap=settings["extra_lap"])
        begin, update, warmup = time.perf_counter(), agent.update, {}

        def spent() -> dict[str, float]:
            evaluating = budget.seconds["evaluation"] - first_evaluation
            seconds = time.perf_counter() - begin - evaluating
            return {"warmup_steps": envs.env_steps, "warmup_seconds": seconds}

        def update_and_note() -> Any:
            statistics = update()
            if envs.env_steps > random_steps:
                if not warmup:
                    warmup.update(spent())
                if window.lap():
                    raise Finished
            return statistics

        agent.update = update_and_note
        try:
            training.run(Interruption(), Progress(0, enabled=False))
        except Finished:
            result = {**window.result(), **warmup}
        else:  # shorter than the window: the run has been measured whole
            result = {"env_steps": 0, "seconds": 0.0, "evaluation": 0.0, **spent()}
            wait_once()
        training.close()
        return {**result, "first_evaluation": first_evaluation}
