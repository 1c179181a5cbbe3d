"""Train one agent in one changing world: `python train.py env=slippery_ant agent=ppo`.

The same command continues an interrupted run and leaves a finished one alone. Exit codes: 0 done,
1 failed, 2 configuration, 3 numerical failure, 4 storage, 75 stopped by a signal and resumable.
"""

from __future__ import annotations

import os

# Before NumPy and torch start their own threads: small networks are faster on one.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.base import Transition
from agents.baselines import UnequalEpisodes
from agents.update import NumericalFailure
from analysis.adoption import adopt, begin_from, fitting
from analysis.beginning import begin_run, note_changes
from analysis.checkpoint import CheckpointError, CheckpointStore
from analysis.commands import COMMANDS, help_text
from analysis.crash import end_failed_run
from analysis.ending import earlier, end_run, run_costs, same_command
from analysis.interruption import Interruption
from analysis.multitask.training import TrainingEvaluation
from analysis.process_memory import PeakMemory
from analysis.progress import Progress, summary_of
from analysis.recorder import Recorder
from analysis.run_directory import ConfigurationChanged, RunDirectory, RunLocked
from analysis.run_refusals import refuse_shorter, refuse_start
from analysis.save_clock import Milestones, SaveClock
from analysis.storage import StorageError, StorageLostError
from analysis.world_changes import WorldChanges
from configs.build import build_agent, build_environment, build_probe, rehearse, resolve_threads
from configs.compose import Composed, compose_run
from configs.exit_codes import (
    EXIT_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_NUMERICAL,
    EXIT_SIGNAL,
    EXIT_STORAGE,
)
from configs.members import check_single
from configs.output import output_may_fail
from configs.run import EXECUTION_KEYS, RunConfig
from configs.schema import ConfigurationError
from configs.sweep import is_multirun, sweep
from envs.base import SimulatorError, WorkerError

MAX_FAILED_SAVES = 3
# What may change within a run, with accept_change=true; anything else makes another run.
RELEASED_KEYS = frozenset(
    {
        "total_steps",
        "agent.device",
        "log.log_every_iterations",
        "log.ranks_every_iterations",
        "log.all_ranks_every_iterations",
    }
)


class Training:
    """One run: environments, agent, recorder and checkpoints around the one loop.

    Args:
        composed: The configuration.
        directory: Its open run directory.

    Raises:
        ConfigurationError: The parts do not fit together.
        CheckpointError: Checkpoints exist but none is intact, or `init_from` cannot be read.
    """

    def __init__(self, composed: Composed, directory: RunDirectory) -> None:
        self.config, self.directory = composed.config, directory
        torch.set_num_threads(1)
        num_threads = resolve_threads(self.config)
        self.envs, self.info = build_environment(self.config, num_threads)
        self.agent = build_agent(self.config, self.info, num_threads)
        self.store = CheckpointStore(
            directory.path / "checkpoints",
            keep=self.config.log.keep_checkpoints,
            config_hash=directory.config_hash,
        )
        loaded = self.store.load_latest()
        for problem in self.store.problems:
            print(f"checkpoint passed over: {problem}", file=sys.stderr)
        if loaded is None:
            begin_from(self.agent, self.config, self.envs)
        self.probe = build_probe(self.config, self.envs)
        self.evaluation = TrainingEvaluation(self.config, directory.path, num_threads, self.envs)
        self.recorder = Recorder(
            directory.path,
            self.agent,
            self.config.log,
            self.probe,
            start_steps=0 if loaded is None else loaded.env_steps,
            restarts=directory.restarts,
            active_seconds=earlier(loaded, "active_seconds"),
            evaluation_columns=self.evaluation.columns,
            task_names=self.info.task_names,
            tells_success=self.info.tells_success,
        )
        self.memory = PeakMemory(earlier(loaded, "peak_memory_mib"))
        self.observation, self.context = self.envs.reset()[0], self.envs.context
        self.changes = WorldChanges(self.envs.regime)
        if loaded is not None:
            with fitting(loaded.path):
                self._restore(loaded.state)
        self.save_clock = SaveClock(self.config.log.checkpoint_minutes)
        start = 0 if loaded is None else loaded.env_steps
        self.milestones = Milestones(self.config.log.checkpoint_steps, start)

    # The loop ------------------------------------------------------------------------------

    def run(self, interruption: Interruption, progress: Progress) -> bool:
        """Train until the end; False if a signal asked to stop before."""
        envs, agent, recorder = self.envs, self.agent, self.recorder
        while self._evaluated(interruption) and envs.env_steps < self.config.total_steps:
            self._announce()
            action = agent.act(self.observation, self.context, explore=True)
            observation, reward, terminated, truncated, info = envs.step(action)
            agent.observe(
                Transition(
                    self.observation,
                    action,
                    reward,
                    info["next_observation"],
                    terminated,
                    truncated,
                    self.context,
                    info["next_context"],
                    info["regime"],
                    info.get("target"),
                    info.get("split", "train"),
                )
            )
            recorder.step(envs.env_steps, reward, terminated, truncated, info)
            self.observation, self.context = observation, info["context"]
            self.changes.notice(info["events"], envs.regime)
            if not getattr(envs, "announces_after_update", False):
                self._announce()
            if agent.update_is_due:
                self._update(progress, info)
            progress.step(envs.env_steps)
            if interruption.requested is not None:
                break
            is_news = self.changes.switched or self.milestones.is_passed(envs.env_steps)
            if agent.is_at_quiet_point and self.save_clock.is_due(is_news):
                self._try_checkpoint()
        if interruption.requested is not None:
            self.checkpoint(pinned=False)
            return False
        return True

    def _announce(self) -> None:
        """Tell the agent of a world that it has not heard of, where the run announces worlds."""
        if self.changes.unannounced and self.config.boundary == "oracle":
            self.agent.on_task_change(int(self.envs.regime.max()))
            self.recorder.write_events(self.envs.env_steps)  # before a signal saves a checkpoint
        self.changes.unannounced = False

    def _evaluated(self, interruption: Interruption) -> bool:
        """Evaluate if the clock says so; False if a signal cut it short, so that it stays due."""
        steps, stop = self.envs.env_steps, interruption.is_requested
        return self.evaluation.if_due(self.agent, steps, self.recorder, stop)

    def conclude(self, interruption: Interruption) -> dict[str, float] | None:
        """Save the last checkpoint and evaluate it if configured; None if a signal stopped that."""
        checkpoint = self.checkpoint(pinned=False)
        steps, stop = self.envs.env_steps, interruption.is_requested
        return self.evaluation.final(self.agent, steps, self.recorder, checkpoint.name, stop)

    def _update(self, progress: Progress, info: Mapping[str, Any]) -> None:
        iteration = self.agent.iteration + 1
        if self.agent.begins_iteration:
            self.recorder.before_update(iteration)
        statistics = self.agent.update()
        if self.agent.iteration < iteration:  # it takes more updates
            self.recorder.write_events(self.envs.env_steps)
            return
        row = self.recorder.after_update(
            self.envs.env_steps, iteration, statistics, info["regime"], info["regime_value"]
        )
        if row is not None:
            name = next(iter(self.agent.networks()))
            progress.note(summary_of(row, name, self.info.regime_label, self.info.num_tasks))

    # Checkpoints ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        return {
            "agent": self.agent.state_dict(),
            "env": self.envs.snapshot(),
            "loop": {
                "observation": self.observation,
                "context": self.context,
                **self.changes.state_dict(),
                **self.evaluation.state_dict(),
            },
            "recorder": self.recorder.state_dict(),
        }

    def checkpoint(self, pinned: bool) -> Path:
        """Save; a pinned checkpoint is never pruned."""
        # None of it is part of the state: equal runs have equal state hashes.
        metadata = {
            "active_seconds": self.recorder.active_seconds,
            "peak_memory_mib": self.memory.mib,
            "bit_exact": self.directory.is_bit_exact,
        }
        steps = self.envs.env_steps
        pinned |= self.milestones.is_passed(steps)
        path = self.store.save(steps, self.state_dict(), pinned=pinned, metadata=metadata)
        self.save_clock.attempted(failed=False)
        self.milestones.saved(steps)
        return path

    def _try_checkpoint(self) -> None:
        """Save, but go on training when the disk is full; the third refusal in a row is final.

        So is the first where the directory is gone or read-only. The first checkpoint after a
        switch is pinned; if the disk refuses it, the next attempt waits for a while.
        """
        pinned = self.changes.switched and self.config.log.pin_switches
        self.changes.switched = False
        try:
            self.checkpoint(pinned)
        except StorageError as error:
            self.changes.switched = pinned
            if self.store.failed_saves >= MAX_FAILED_SAVES or isinstance(error, StorageLostError):
                raise
            self.save_clock.attempted(failed=True)
            print(f"checkpoint skipped, training goes on: {error}", file=sys.stderr, flush=True)

    def _restore(self, state: dict[str, Any]) -> None:
        adopt(self.agent, state["agent"])
        self.envs.restore(state["env"])
        self.observation = np.asarray(state["loop"]["observation"])
        self.context = np.asarray(state["loop"]["context"])
        if getattr(self.envs, "resume", "exact") != "exact":  # these began new episodes
            self.agent.drop_unfinished()
            self.observation, self.context = self.envs.last_observation, self.envs.context
        self.changes.load_state_dict(state["loop"], self.envs.regime)
        self.evaluation.load_state_dict(state["loop"])
        self.recorder.load_state_dict(state["recorder"])

    def close(self) -> None:
        """Release threads and files."""
        self.agent.close()
        self.envs.close()
        self.evaluation.close()
        self.recorder.close()


@output_may_fail()
def run(composed: Composed) -> int:
    """Run one configuration and return the exit code."""
    config = composed.config
    root, relative = Path(config.runs_root), composed.relative_directory
    if config.run_dir is not None:
        root, relative = Path(config.run_dir).parent, Path(config.run_dir).name
    try:
        refuse_start(config, root / relative)
        directory = RunDirectory.open(
            root,
            relative,
            composed.plain,
            fresh=config.fresh,
            fresh_token=composed.sweep,
            accept_change=config.accept_change,
            released_keys=RELEASED_KEYS,
            ignored_keys=EXECUTION_KEYS,
            rehearsal=functools.partial(_rehearse_change, config, root / relative),
        )
    except (ConfigurationChanged, RunLocked, CheckpointError, ValueError) as error:
        return _refuse("configuration", error, EXIT_CONFIGURATION)
    except StorageError as error:
        return _refuse("storage", error, EXIT_STORAGE)
    try:
        return _run_in(composed, directory)
    except (ConfigurationError, CheckpointError, UnequalEpisodes) as error:
        return _refuse("configuration", error, EXIT_CONFIGURATION)
    except StorageError as error:
        return _refuse("storage", error, EXIT_STORAGE)
    except torch.OutOfMemoryError as error:
        error.args = (f"{error}; the newest checkpoint is intact: give the same command again",)
        return _refuse("memory", error, EXIT_FAILED)
    except WorkerError as error:
        return _refuse("worker", error, EXIT_FAILED)
    finally:
        directory.close()


def _rehearse_change(config: RunConfig, path: Path) -> None:
    refuse_shorter(config, path)
    rehearse(config, is_new=False)


def _refuse(kind: str, error: Exception, code: int) -> int:
    print(f"{kind}: {error}", file=sys.stderr)
    return code


def _run_in(composed: Composed, directory: RunDirectory) -> int:
    config = composed.config
    try:
        done = directory.done
    except ValueError as error:  # a damaged file
        return _refuse("configuration", error, EXIT_CONFIGURATION)
    if done is not None:
        status = done.get("status")
        print(f"{directory.path} is {status} already; nothing to do (fresh=true starts it anew)")
        return EXIT_DONE if status == "finished" else EXIT_NUMERICAL
    training = Training(composed, directory)
    begin_run(directory, config, training.agent, training.envs, training.probe, training.info.name)
    note_changes(directory, training.recorder)
    start = training.envs.env_steps
    progress = Progress(config.total_steps, start, config.log.plain_seconds, None, config.progress)
    try:
        with Interruption() as interruption:
            finished = training.run(interruption, progress)
            progress.close()
            evaluation = training.conclude(interruption) if finished else None
            if evaluation is None:
                steps = training.envs.env_steps
                print(f"stopped at step {steps:,}; {same_command(config)} goes on")
                return EXIT_SIGNAL
        steps, seconds = training.envs.env_steps, training.recorder.active_seconds
        training.recorder.finish(steps)
        training.recorder.commit()
        training.recorder.close()
        costs = run_costs(training.agent, training.memory)
        end_run(directory, config, steps, seconds, evaluation, costs)
        return EXIT_DONE
    except SimulatorError as error:
        return _fail(training, directory, error, {k: np.asarray(v) for k, v in error.dump.items()})
    except NumericalFailure as error:
        batch = {} if error.batch is None else {"batch": dict(error.batch)}
        return _fail(training, directory, error, {"network": error.network, **batch})
    finally:
        progress.close()
        training.close()


def _fail(
    training: Training, directory: RunDirectory, error: Exception, dump: dict[str, Any]
) -> int:
    """Record a numerical failure: it is a result, and final."""
    steps = training.envs.env_steps
    training.recorder.note({"event": "failure", "env_steps": steps, "reason": str(error)})
    training.recorder.commit()
    costs = run_costs(training.agent, training.memory)
    end_failed_run(directory, training.agent, steps, str(error), dump, costs)
    return EXIT_NUMERICAL


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print(help_text(arguments, str(__doc__)))
        return EXIT_DONE
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]].run(arguments[1:])
    if is_multirun(arguments):
        return sweep(arguments)
    try:
        check_single(arguments)
        composed = compose_run(arguments)
    except ConfigurationError as error:
        return _refuse("configuration", error, EXIT_CONFIGURATION)
    return run(composed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
