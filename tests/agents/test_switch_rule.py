"""What agents begin anew at announced switches, and what stays as it was."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sac_toys import different, fill, learn, make, step, weights

from agents import ppo
from agents.base import Transition
from agents.parts import Parts
from agents.replay import Columns
from agents.reservoir import Reservoir
from agents.update_clock import UpdateClock
from networks import mlp
from plasticity.methods import continual_backprop, ewc
from plasticity.optimizers import adam


def learnt(**settings):
    agent = make(**settings)
    learn(agent, np.random.default_rng(0), 3)
    return agent


def moments(agent):
    return {name: len(update.optimizer.state) for name, update in agent.updates.items()}


def test_by_default_a_switch_changes_nothing():
    agent = learnt()
    before, size, memory = weights(agent), agent.replay.size, moments(agent)
    agent.on_task_change(1)
    assert not different(before, weights(agent))
    assert (agent.replay.size, moments(agent)) == (size, memory)
    assert not agent.clock.is_warming_up
    assert agent.methods_that_need_boundaries() == []


def test_optimizers_forget_and_weights_stay():
    agent = learnt(optimizer_on_switch="reset")
    before = weights(agent)
    assert all(moments(agent).values())
    agent.on_task_change(1)
    assert not different(before, weights(agent))
    assert set(moments(agent).values()) == {0}
    assert not agent.temperature.optimizer.state
    assert agent.methods_that_need_boundaries() == ["agent.optimizer_on_switch=reset"]
    learn(agent, np.random.default_rng(1))  # and it goes on


def test_critics_begin_anew_and_targets_follow_them():
    agent = learnt(critic_on_switch="reset")
    before = weights(agent)
    agent.on_task_change(1)
    after = weights(agent)
    assert different(before, after) == {"critic_1", "critic_2", "target_1", "target_2"}
    for index in (1, 2):
        for key, value in after.items():
            if key.startswith(f"critic_{index}."):
                assert torch.equal(value, after[key.replace("critic", "target")])
    assert not torch.equal(
        after["critic_1.torso.layers.0.linear.weight"],
        after["critic_2.torso.layers.0.linear.weight"],
    )
    assert moments(agent)["actor"] > 0
    assert moments(agent)["critic_1"] == 0
    # Every switch draws its own weights, and equal runs draw equal ones.
    twin = learnt(critic_on_switch="reset")
    twin.on_task_change(1)
    assert not different(after, weights(twin))
    twin.on_task_change(2)
    assert "critic_1" in different(after, weights(twin))


def test_methods_hear_of_critics_that_begin_anew():
    config = ewc.Config(networks="all", refresh_period=1)
    agent = learnt(critic_on_switch="reset", methods={"ewc": config})
    agent.on_task_change(1)
    importance = agent.updates["critic_1"].methods["ewc"].state_dict()["importance"]
    assert all(float(value.abs().sum()) == 0.0 for value in importance.values())
    of_actor = agent.updates["actor"].methods["ewc"].state_dict()["importance"]
    assert any(float(value.abs().sum()) > 0.0 for value in of_actor.values())


def test_ppo_resets_its_optimizers_and_its_value_network():
    parts = Parts(3, 2, 2, mlp.Config(hidden_sizes=[8]), adam.Config(learning_rate=1e-3))
    config = ppo.Config(rollout_length=8, minibatch_size=8, num_epochs=1)
    config = replace(config, optimizer_on_switch="reset", critic_on_switch="reset")
    agent, rng = ppo.build(config, parts), np.random.default_rng(0)
    context, ends = np.zeros((2, 0), dtype=np.float32), np.zeros(2, dtype=bool)
    for _ in range(8):
        observation = rng.normal(size=(2, 3)).astype(np.float32)
        action = agent.act(observation, context, explore=True)
        row = (observation, action, rng.normal(size=2), observation, ends, ends)
        agent.observe(Transition(*row, context, context, np.zeros(2)))
    agent.update()
    before = {n: [p.clone() for p in m.parameters()] for n, m in agent.networks().items()}
    assert all(moments(agent).values())
    agent.on_task_change(1)
    same = {
        name: all(map(torch.equal, before[name], network.parameters()))
        for name, network in agent.networks().items()
    }
    assert same == {"policy": True, "value": False}
    assert set(moments(agent).values()) == {0}
    assert len(agent.methods_that_need_boundaries()) == 2
    agent.close()


# Warm-up ---------------------------------------------------------------------------------------


def test_every_task_warms_up_with_a_cleared_replay():
    agent, rng = learnt(warmup_on_switch=True, buffer_on_switch="clear"), np.random.default_rng(1)
    agent.on_task_change(1)
    assert (agent.replay.size, agent.clock.is_warming_up) == (0, True)
    steps = agent.clock.gradient_steps
    for _ in range(64 // agent.num_envs):
        actions = step(agent, rng)
        assert np.abs(actions).max() <= 1.0
        assert agent.update() == {}
    assert agent.clock.gradient_steps == steps  # nothing is owed for random actions
    step(agent, rng)
    agent.update()
    assert agent.clock.gradient_steps == steps + 2
    assert "agent.warmup_on_switch=true" in agent.methods_that_need_boundaries()


def test_learning_may_start_within_the_warm_up():
    clock = UpdateClock(100, 0.5, 20, learning_starts=40)
    for _ in range(15):
        clock.observe(4, True)
    assert (clock.env_steps, clock.is_warming_up, clock.num_due) == (60, True, 10)
    clock.step(10)
    for _ in range(10):
        clock.observe(4, True)
    assert not clock.is_warming_up
    clock.step(clock.num_due)
    clock.restart_warmup()
    state = clock.state_dict()
    again = UpdateClock(100, 0.5, 20, learning_starts=40)
    again.load_state_dict(state)
    for one in (clock, again):
        for _ in range(11):
            one.observe(4, True)
        assert (one.is_warming_up, one.num_due) == (True, 2)
    del state["warmup_begins"]  # a checkpoint from before
    again.load_state_dict(state)
    assert not again.is_warming_up


@pytest.mark.parametrize(("starts", "steps"), [(None, 200 - 64), (40, 160), (0, 200)])
def test_the_plan_counts_from_where_learning_begins(starts, steps):
    settings = {"learning_starts": starts, "updates_per_env_step": 1.0, "batch_size": 4}
    barely = {"c": continual_backprop.Config(maturity_threshold=steps - 1)}
    agent, rng = make(total_steps=200, methods=barely, **settings), np.random.default_rng(0)
    assert all(f" of {steps:,}; expect" in line for line in agent.announcements())
    for _ in range(200 // agent.num_envs):
        step(agent, rng)
        agent.update()
    assert agent.clock.gradient_steps == steps
    never = {"c": continual_backprop.Config(maturity_threshold=steps)}
    with pytest.raises(ValueError, match=f"the run plans {steps} gradient steps"):
        make(total_steps=200, methods=never, **settings)


def test_a_run_may_end_within_the_warm_up_that_it_learns_from():
    make(total_steps=64, learning_starts=40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_starts": 65}, "learning_starts is 65"),
        ({"warmup_on_switch": True, "warmup_steps": 0}, "warmup_on_switch"),
        ({"buffer_on_switch": "reservoir", "task_balanced_batches": "shared"}, "reservoir"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


# Reservoir -------------------------------------------------------------------------------------


def rows_of(first, count):
    """A vector step whose rewards are first, first + 1, ..."""
    zeros, ends = np.zeros((count, 1)), np.zeros(count, dtype=bool)
    reward, nothing = np.arange(first, first + count), np.zeros((count, 0))
    row = (zeros, zeros, reward, zeros, ends, ends, nothing, nothing, np.zeros(count))
    return Transition(*row)


def reservoir(seed, capacity=20, newest=6):
    generator = torch.Generator().manual_seed(seed)
    return Reservoir(capacity, Columns(1, 1, 0), torch.device("cpu"), generator, newest)


def test_a_reservoir_keeps_an_equal_share_of_everything():
    """Each of 100 transitions stays with chance 0.2: binomial over 400 reservoirs."""
    kept = np.zeros(100)
    for seed in range(400):
        replay = reservoir(seed)
        for first in range(0, 100, 4):
            replay.add(rows_of(first, 4))
        held = replay.rows(slice(0, replay.size)).reward.long().numpy()
        assert len(set(held.tolist())) == 20
        kept[held] += 1
    assert (replay.size, replay.num_seen) == (20, 100)
    deviation = math.sqrt(400 * 0.2 * 0.8)
    assert np.abs(kept - 80).max() < 4.5 * deviation
    assert abs(kept[:50].sum() - kept[50:].sum()) < 6 * deviation * math.sqrt(50)


def test_a_reservoir_knows_the_newest_and_goes_on_bit_for_bit():
    replay, again = reservoir(1), reservoir(2)
    for first in range(0, 60, 3):
        replay.add(rows_of(first, 3))
    assert replay.last(4).reward.tolist() == [56.0, 57.0, 58.0, 59.0]
    again.load_state_dict(replay.state_dict())
    for one in (replay, again):
        for first in range(60, 90, 3):
            one.add(rows_of(first, 3))
    kept = [one.rows(slice(0, 20)).reward.tolist() for one in (replay, again)]
    assert kept[0] == kept[1]
    assert again.last(2).reward.tolist() == [88.0, 89.0]
    with pytest.raises(ValueError, match="reservoir forgets nothing"):
        replay.keep_last(0)


def test_an_agent_learns_from_a_reservoir_through_a_switch():
    agent, rng = make(buffer_on_switch="reservoir", replay_size=64), np.random.default_rng(0)
    learn(agent, rng, 3)
    agent.on_task_change(1)
    assert agent.replay.size == 64
    assert agent.methods_that_need_boundaries() == []
    twin = make(seed=5, buffer_on_switch="reservoir", replay_size=64)
    twin.load_state_dict(agent.state_dict())
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    fill(agent, first, 4)
    fill(twin, second, 4)
    learn(agent, first)
    learn(twin, second)
    assert not different(weights(agent), weights(twin))
