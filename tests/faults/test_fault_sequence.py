"""Runs on tasks one after another that are killed around the border of two tasks.

At the border replay and optimizers begin anew, methods take stock of the old task, and the border
is evaluated first: none of it may be lost, and none of it may happen twice.
"""

import json

import pytest
from fault_tools import OFTEN, ending, kill_at, newest, run, run_dir

import train

pytestmark = pytest.mark.metaworld

BORDER, END = 120, 240
COMMON = (
    "env=mt10_sequence",
    "env.benchmark=custom",
    "env.tasks=[reach-v3,drawer-close-v3]",
    f"env.steps_per_task={BORDER}",
    "env.copies=2",
    "env.horizon=20",
    "env.num_goals=3",
    "env.num_workers=0",
    f"total_steps={END}",
    "boundary=oracle",
    "agent.optimizer_on_switch=reset",
    "network=multi_head",
    "network.hidden_sizes=[16,16]",
    "method=[continual_backprop_smoke,si]",  # one with a clock, one that acts at the border
    "log.diagnostics=false",
    "log.log_every_iterations=1",
    "log.quick_evaluation_steps=60",
    "log.quick_evaluation_goals=[0]",
)
SEQUENCES = {
    "sac": (
        *COMMON,
        "agent=sac",
        "agent.batch_size=8",
        "agent.replay_size=200",
        "agent.warmup_steps=8",
        "agent.warmup_on_switch=true",
        "agent.buffer_on_switch=clear",
        "agent.critic_on_switch=reset",
        "agent.temperature_per_task=true",
        "agent.updates_per_env_step=0.25",
        "agent.steps_per_iteration=28",  # one ends at the border
    ),
    "mtppo": (
        *COMMON,
        "agent=mtppo",
        "agent.rollout_length=20",
        "agent.num_epochs=2",
        "agent.minibatch_size=20",
    ),
}
# Where the SIGKILL falls and, then the newest, a checkpoint from before the border, from the border
# (the next task has begun, the agent has not heard of it), or from after it.
KILLS = {
    "sac": {"before": (118, 94), "at": (120, 94), "next": (122, 120), "after": (126, 124)},
    "mtppo": {"before": (118, 80), "at": (120, 80), "next": (122, 120), "after": (162, 160)},
}
# Gradient steps for the steps of one task: a quarter after the warm-up; 4 per rollout of 40.
LEARNT = {"sac": lambda steps: max(0, steps - 8) // 4, "mtppo": lambda steps: steps // 10}
QUICK = {("sac", "after")}
CASES = [
    pytest.param(
        agent,
        moment,
        id=f"{agent}-{moment}",
        marks=[] if (agent, moment) in QUICK else [pytest.mark.slow],
    )
    for agent, moments in KILLS.items()
    for moment in moments
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Endings of runs that nobody killed, by agent."""
    found = {}

    def get(agent):
        if agent not in found:
            root = tmp_path_factory.mktemp(agent)
            assert run(root, SEQUENCES[agent]) == train.EXIT_DONE
            found[agent] = ending(root)
        return found[agent]

    return get


def ages(state):
    """Gradient steps that the moments of each optimizer have seen."""
    optimizers = [update["optimizer"] for update in state["agent"]["updates"].values()]
    return [max((int(e["step"].max()) for e in o.values()), default=0) for o in optimizers]


@pytest.mark.parametrize(("agent", "moment"), CASES)
def test_f24_kill_around_a_task_switch(agent, moment, undisturbed, tmp_path):
    (kill, kept), words = KILLS[agent][moment], [*SEQUENCES[agent], OFTEN]
    kill_at(tmp_path, words, kill)
    saved = newest(tmp_path)
    assert saved.env_steps == kept
    assert int(saved.state["env"]["stage"]) == int(kept >= BORDER)
    assert ("unannounced" in saved.state["loop"]) == (kept == BORDER)
    own_steps = kept - BORDER if kept > BORDER else kept  # of the task that the agent knows of
    if agent == "sac":
        assert int(saved.state["agent"]["replay"]["size"]) == own_steps
    assert max(ages(saved.state)) == LEARNT[agent](own_steps)
    assert run(tmp_path, words) == train.EXIT_DONE
    assert ending(tmp_path) == undisturbed(agent)
    events = map(json.loads, (run_dir(tmp_path) / "events.jsonl").read_text().splitlines())
    switches = [event["env_steps"] for event in events if event["event"] == "switch"]
    assert switches == [BORDER]  # not lost, not doubled
