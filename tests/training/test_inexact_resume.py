"""Environments that cannot save themselves: a resumed run joins no lost episode to a new one."""

from typing import Any

import numpy as np
import pytest

import train
from analysis.checkpoint import CheckpointStore
from configs.compose import compose_run
from envs.locomotion import LocomotionVectorEnv

TINY = [
    *("env=ant", "env.num_envs=2", "env.max_episode_steps=8", "num_threads=1"),
    *("network=mlp", "total_steps=64", "log.diagnostics=false"),
    *("agent.rollout_length=16", "agent.minibatch_size=16", "agent.num_epochs=1"),
]


def begin_anew(env, snapshot):
    """As EnvPool goes on: the count of steps, and new episodes in all rows."""
    exact(env, snapshot)
    env.reset()


exact = LocomotionVectorEnv.restore


def opened(words, folder):
    composed = compose_run([*TINY, *words, f"run_dir={folder}"])
    directory = train.RunDirectory.open(folder.parent, folder.name, composed.plain)
    return train.Training(composed, directory), directory


def closed(training, directory):
    training.close()
    directory.close()


def advance(training, count):
    """The loop's own vector step, so often."""
    for _ in range(count):
        action = training.agent.act(training.observation, training.context, explore=True)
        observation, reward, terminated, truncated, info = training.envs.step(action)
        shown = training.context, info["next_context"], info["regime"]
        before = training.observation, action, reward, info["next_observation"]
        training.agent.observe(train.Transition(*before, terminated, truncated, *shown))
        training.observation, training.context = observation, info["context"]


@pytest.mark.parametrize("agent", ["ppo", "sb3_ppo", "fresh"])
@pytest.mark.parametrize("resume", ["exact", "inexact"])
def test_a_half_rollout_is_dropped_with_its_episodes(tmp_path, monkeypatch, agent, resume):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", lambda *_: None)
    if resume == "inexact":
        monkeypatch.setattr(LocomotionVectorEnv, "resume", "inexact", raising=False)
        monkeypatch.setattr(LocomotionVectorEnv, "restore", begin_anew)
    words = {
        "ppo": ["agent=ppo"],
        "sb3_ppo": ["agent=sb3_ppo"],
        "fresh": ["agent=ppo", "boundary=oracle", "fresh_at_switch=true"],
    }[agent]
    training, directory = opened(words, tmp_path / "run")
    advance(training, 5)
    assert not training.agent.is_at_quiet_point
    training.checkpoint(pinned=False)
    before = training.observation
    closed(training, directory)

    training, directory = opened(words, tmp_path / "run")
    assert training.envs.env_steps == 10
    assert training.agent.is_at_quiet_point == (resume == "inexact")
    assert np.array_equal(training.observation, before) == (resume == "exact")
    advance(training, 10)
    assert not training.agent.update_is_due
    advance(training, 1)
    assert training.agent.update_is_due == (resume == "exact")
    if resume == "exact":
        closed(training, directory)
        return
    advance(training, 5)
    assert training.agent.update_is_due
    learner: Any = training.agent
    if agent == "ppo":  # the time limit counts from the first row, as whole episodes need it
        assert learner.rollout.truncated[7].any()
        assert not learner.rollout.truncated[:7].any()
    if agent == "sb3_ppo":
        assert learner._buffer.episode_starts[0].all()
    learner.update()
    closed(training, directory)
