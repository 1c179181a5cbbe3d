"""Counts that reports derive from the settings of a run, against the environments themselves."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_runs import add_episodes, make_run

import evaluate
from agents.update_clock import UpdateClock
from analysis.compare.flags import method_flags
from analysis.compare.measuring import gradient_steps
from analysis.run_clock import learning_steps, num_envs
from analysis.run_files import read_episodes
from configs.compose import compose_run

REPOSITORY = Path(evaluate.__file__).parent


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["env=slippery_ant"], 16),
        (["env=mt1", "env.task=reach-v3", "env.copies=3"], 3),
        (["env=mt10", "agent=sac"], 10),
        (["env=mt10", "agent=sac", "env.copies=2"], 20),
        (["experiment=mt10_sequence_ppo"], 10),
    ],
)
def test_environments_of_a_run(words, expected):
    assert num_envs(compose_run(words).plain["env"]) == expected


@pytest.mark.parametrize("method", ["l2_init", "redo"])
def test_methods_of_meta_world_runs_can_be_described(method):
    plain = compose_run(["experiment=mtppo_cpu", f"method=[{method}]"]).plain
    assert method_flags(plain) == method_flags(compose_run(["env=ant", f"method=[{method}]"]).plain)


def test_gradient_steps_of_meta_world_runs():
    plain = compose_run(["experiment=mtppo_paper"]).plain
    agent, rows = plain["agent"], num_envs(plain["env"])
    rollout = agent["rollout_length"] * rows
    batches = math.ceil(rollout / agent["minibatch_size"])
    done = 3 * rollout + 1
    assert gradient_steps(plain, done) == 3 * batches * agent["num_epochs"]


def test_gradient_steps_of_the_reference_workloads():
    ant = {"rollout_length": 2_048, "num_epochs": 10, "minibatch_size": 128}
    config = {"agent": ant, "env": {"num_envs": 1}}
    assert [gradient_steps(config, n) for n in (2_047, 2_048)] == [0, 160]
    assert gradient_steps(config, 20_000_000) == 1_562_400
    mt10 = {"agent": {"updates_per_env_step": 0.1, "warmup_steps": 10_000}, "env": {}}
    assert gradient_steps(mt10, 20_000_000) == 2_000_000 - 1_000
    assert gradient_steps(mt10, 5_000) == 0


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("starts", [None, 40])
def test_steps_that_owe_gradient_steps_are_those_of_the_clock(again, starts):
    clock = UpdateClock(100, 0.5, 10, learning_starts=starts)
    for step in range(750):
        if again and step in (300, 600):
            clock.restart_warmup()
        clock.observe(1, can_learn=True)
    agent = {"kind": "sac", "warmup_steps": 100, "learning_starts": starts}
    config = {
        "agent": {**agent, "updates_per_env_step": 0.5, "warmup_on_switch": again},
        "env": {"steps_per_task": 300},
        "boundary": "oracle",
    }
    assert math.floor(learning_steps(config, 750) * 0.5) == clock.num_due
    assert gradient_steps(config, 750) == clock.num_due


def test_every_life_of_a_fresh_agent_waits_again():
    sac = {"warmup_steps": 10_000, "learning_starts": None, "updates_per_env_step": 1.0}
    config = {"agent": sac, "env": {"steps_per_task": 100_000}, "boundary": "oracle"}
    assert learning_steps(config, 1_000_000) == 990_000
    assert learning_steps({**config, "fresh_at_switch": True}, 1_000_000) == 900_000
    assert learning_steps({**config, "fresh_at_switch": True}, 1_050_000) == 940_000


@pytest.mark.parametrize(("env", "per_task"), [("slippery", 1), ("sequences", 2)])
def test_a_fresh_agent_drops_rollouts_at_switches(env, per_task):
    """Of the last one learns only who is told of the switch after it; half ones are lost anyway."""
    agent = {"rollout_length": 25, "minibatch_size": 50, "num_epochs": 3}
    settings = {"kind": env, "num_envs": 2}
    config = {"agent": agent, "env": {**settings, "switch_interval": 130}, "boundary": "oracle"}
    config |= {"fresh_at_switch": True}
    assert gradient_steps(config, 4 * 130 + 50) == 3 * (4 * 2 + 1)
    config["env"]["switch_interval"] = 100
    assert gradient_steps(config, 4 * 100) == 3 * (3 * per_task + 2)
    assert gradient_steps({**config, "fresh_at_switch": False}, 4 * 100) == 3 * 8


def test_episodes_of_several_copies_begin_where_they_began(tmp_path):
    env = {"kind": "sequences", "copies": 2, "steps_per_task": 400}
    path = make_run(tmp_path / "seed_0", env=env)
    add_episodes(path, (200, 1.0, 100, 0, False), (200, 2.0, 100, 0, False))
    assert read_episodes(path).start_steps.tolist() == [0, 0]


def test_reading_runs_does_not_import_mujoco():
    """Films choose its OpenGL, which cannot be changed after the first import."""
    code = "import sys, evaluate, analysis.run_files; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
