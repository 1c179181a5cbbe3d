"""What a switch of worlds does to a whole run: nothing at all to the agent."""

import json

import numpy as np
import pytest

import train
from analysis.checkpoint_reading import inspect_checkpoint
from analysis.interruption import Interruption
from analysis.progress import Progress
from analysis.state_files import state_hash
from configs.build import build_environment
from configs.compose import compose_run

SMOKE = ["experiment=slippery_ant_smoke", "log.figures=false", "progress=false", "num_threads=1"]
# 16 x 128 as in the reference; the switch comes after vector step 72 of the second rollout.
SWITCHING = [
    *("env.num_envs=16", "agent.minibatch_size=128", "total_steps=4096"),
    f"env.switch_interval={2048 + 72 * 16}",
]


@pytest.fixture
def training(tmp_path):
    composed = compose_run([*SMOKE, *SWITCHING, f"runs_root={tmp_path}"])
    directory = train.RunDirectory.open(tmp_path, "run", composed.plain)
    training = train.Training(composed, directory)
    yield training
    training.close()
    directory.close()


def test_a_switch_discards_no_rollout_and_touches_neither_weights_nor_moments_nor_utilities(
    training,
):
    agent, envs, hashes, seen, updates = training.agent, training.envs, [], [], []
    step, update = envs.step, agent.update

    def watched_step(action):
        hashes.append(state_hash({name: u.state_dict() for name, u in agent.updates.items()}))
        result = step(action)
        seen.append((*result[:1], *result[2:4], result[4]))
        return result

    def watched_update():
        if agent.update_is_due:
            updates.append((envs.env_steps, agent.rollout.position))
            rows = ("observation", "next_observation", "terminated", "truncated")
            rollouts.append({name: getattr(agent.rollout, name).copy() for name in rows})
        return update()

    rollouts = []
    envs.step, agent.update = watched_step, watched_update
    with Interruption() as interruption:
        assert training.run(interruption, Progress(4096, enabled=False))

    assert updates == [(2048, 128), (4096, 128)]
    switch = 128 + 72 - 1  # index of the vector step that reaches the switch
    events = [index for index, row in enumerate(seen) if row[3]["events"]]
    assert events == [switch]
    # From the end of the first update to the second one, across the switch, nothing changes.
    assert len(set(hashes[128:])) == 1
    assert hashes[127] != hashes[128]
    method = agent.updates["policy"].methods["continual_backprop"]
    assert all(bool(s.utility.any()) for s in method.statistics.values())

    stored, (observation, terminated, truncated, info) = rollouts[1], seen[switch]
    assert truncated.all()
    np.testing.assert_array_equal(stored["truncated"][71], truncated)
    np.testing.assert_array_equal(stored["terminated"][71], terminated)
    final = info["next_observation"].astype(np.float32)
    np.testing.assert_array_equal(stored["next_observation"][71], final)
    np.testing.assert_array_equal(stored["observation"][72], observation.astype(np.float32))
    assert (stored["observation"][72] != final).any(axis=1).all()


def worlds_and_starts(seed, world_seed):
    words = [*SMOKE, f"seed={seed}", f"env.world_seed={world_seed}", "env.max_episode_steps=5"]
    envs, _ = build_environment(compose_run(words).config)
    rows, zero = [envs.reset()[0]], np.zeros(envs.action_space.shape)
    for _ in range(12):  # two time limits: the third start state of every environment
        rows.append(envs.step(zero)[0])
    found = envs.schedule_hash, envs.friction.tolist(), np.array(rows).tolist()
    envs.close()
    return found


def test_the_seed_of_the_agent_changes_no_world_and_no_start_state():
    reference = worlds_and_starts(0, 3)
    assert worlds_and_starts(1, 3) == reference
    other = worlds_and_starts(0, 4)
    assert all(a != b for a, b in zip(other, reference, strict=True))


def test_a_world_that_environments_enter_one_by_one_pins_one_checkpoint(tmp_path):
    words = [*SMOKE, "env.num_envs=4", "env.max_episode_steps=90", "env.switch_interval=1024"]
    words += ["env.switch_rule=episode_end", "agent.rollout_length=32", "agent.minibatch_size=64"]
    words += ["total_steps=2048", "log.diagnostics=false", f"runs_root={tmp_path}"]
    assert train.main(words) == train.EXIT_DONE
    (path,) = (file.parent for file in tmp_path.glob("*/*/*/seed_*/config.yaml"))
    lines = (path / "events.jsonl").read_text().splitlines()
    switches = [event for event in map(json.loads, lines) if event["event"] == "switch"]
    assert len({event["env_steps"] for event in switches}) > 1  # over several rollouts
    assert {event["regime"] for event in switches} == {1}
    pinned = [p for p in (path / "checkpoints").iterdir() if inspect_checkpoint(p)["pinned"]]
    assert len(pinned) == 1
