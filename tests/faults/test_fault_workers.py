"""Workers that die, raise or hang end the run with their traceback, and it resumes exactly."""

import os
import signal
import time

import numpy as np
import pytest
from fault_tools import OFTEN, ending, run

import train
from envs import meta_world_workers
from envs.base import WorkerError
from envs.meta_world_goals import load_goals
from envs.meta_world_settings import Settings
from envs.meta_world_vector import MetaWorldVec

pytestmark = pytest.mark.metaworld

WORDS = [
    "experiment=mt10_smoke",
    "env.benchmark=custom",
    "env.tasks=[reach-v3,drawer-close-v3]",
    "env.horizon=40",
    "env.num_goals=3",
    "env.num_workers=2",
    "network.hidden_sizes=[16,16]",
    "total_steps=400",
    "agent.batch_size=32",
    "agent.replay_size=300",
    "agent.warmup_steps=100",
    "agent.updates_per_env_step=0.25",
    "agent.steps_per_iteration=100",
    "log.final_evaluation=false",
    OFTEN,
]


def exists(pid):
    """Whether a process is there, a zombie included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def with_workers_at(monkeypatch, env_steps, action):
    """Let `action` see the workers' process ids in one vector step."""
    pids, step = [], MetaWorldVec.step

    def acting(self, actions):
        # Environments of evaluations have no workers.
        if self.env_steps == env_steps and self.worker_pids and not pids:
            pids.extend(self.worker_pids)
            action(pids)
        return step(self, actions)

    monkeypatch.setattr(MetaWorldVec, "step", acting)
    return pids


def test_f18_a_hanging_worker_is_not_waited_for_for_ever(monkeypatch):
    tasks = ("drawer-close-v3",)
    env = MetaWorldVec(Settings(tasks, run_seed=0), load_goals(tasks, 0), 1)
    env.reset()
    (pid,) = env._rows.pids
    os.kill(pid, signal.SIGSTOP)
    reply = meta_world_workers._Worker.reply
    monkeypatch.setattr(meta_world_workers._Worker, "reply", lambda self: reply(self, 0.3))
    start = time.monotonic()
    with pytest.raises(WorkerError, match="hangs"):
        env.step(np.zeros((1, 4)))
    assert time.monotonic() - start < 3
    env.close()  # a stopped process cannot end by itself
    assert not exists(pid)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "raises"])
def test_f18_a_lost_worker_ends_the_run_and_it_resumes_exactly(how, tmp_path, monkeypatch, capsys):
    def lose(pids):
        if how == "killed":
            os.kill(pids[0], signal.SIGKILL)
        else:
            monkeypatch.setattr(meta_world_workers, "STEP", b"a[[7, null]]")

    with monkeypatch.context() as patch:
        pids = with_workers_at(patch, 220, lose)
        code = run(tmp_path / "lost", WORDS)
        monkeypatch.setattr(meta_world_workers, "STEP", b"s")
    assert code == train.EXIT_FAILED
    error = capsys.readouterr().err
    assert ("exit code -9" if how == "killed" else "KeyError: 7") in error
    assert pids
    assert not any(exists(pid) for pid in pids)
    assert run(tmp_path / "lost", WORDS) == train.EXIT_DONE
    assert run(tmp_path / "whole", WORDS) == train.EXIT_DONE
    assert ending(tmp_path / "lost") == ending(tmp_path / "whole")


def test_f01_the_state_after_a_reset_does_not_tell_when_it_was_cached():
    """A continued run fills the cache at another time and must still save the same bytes."""
    tasks, snapshots = ("drawer-close-v3",), []
    for reset_cache in (False, True):
        settings = Settings(tasks, run_seed=0, reset_cache=reset_cache)
        env = MetaWorldVec(settings, load_goals(tasks, 0))
        for goal, steps in ((0, 5), (1, 9), (0, 7), (1, 0)):
            env.start_episodes([0], [goal])
            for _ in range(steps):
                env.step(np.full((1, 4), 0.1 * (1 + steps)))
        snapshots.append(env.snapshot())
        env.close()
    plain, cached = snapshots
    assert plain.keys() == cached.keys()
    assert {key for key in plain if not np.array_equal(plain[key], cached[key])} == set()
