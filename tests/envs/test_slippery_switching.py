"""Both switch rules and the accounting of steps."""

import gymnasium
import numpy as np
import pytest

from envs.clock import WorldClock
from envs.locomotion import Config, make
from envs.schedules import ScheduleConfig

MILLION = 1_000_000


def switches_of(num_envs, total_steps, interval=2 * MILLION):
    clock = WorldClock(ScheduleConfig(switch_interval=interval), num_envs, total_steps)
    nobody, events = np.zeros(num_envs, dtype=bool), []
    for _ in range(-(-total_steps // num_envs)):
        cut = clock.tick()
        new = clock.switch(nobody)
        assert cut == bool(new)
        events += new
    return clock, events


def test_sixteen_by_128_over_twenty_million_steps():
    clock, events = switches_of(16, 20 * MILLION)
    assert len(events) == 9
    vector_steps = [event["env_steps"] // 16 for event in events]
    assert [(step - 1) % 128 + 1 for step in vector_steps] == [72, 16, 88, 32, 104, 48, 120, 64, 8]
    rollouts = [(step - 1) // 128 + 1 for step in vector_steps]
    assert rollouts == [int(976.5625 * k) + 1 for k in range(1, 10)]
    assert [event["regime"] for event in events] == list(range(1, 10))
    assert all(event["env_index"] is None for event in events)
    assert clock.env_steps == 20 * MILLION
    assert clock.env_steps // 2048 == 9_765
    assert clock.env_steps % 2048 == 1_280


def test_overshoot_does_not_accumulate():
    _, events = switches_of(12, 6 * MILLION + 12)
    assert [event["env_steps"] for event in events] == [2_000_004, 4_000_008, 6_000_000]


def test_no_world_begins_at_the_end():
    assert switches_of(4, 400, interval=100)[1][-1]["env_steps"] == 300
    assert len(switches_of(4, 400, interval=100)[1]) == 3
    assert len(switches_of(4, 404, interval=100)[1]) == 4


def test_a_run_made_longer_at_a_switch_enters_the_next_world_a_step_late():
    ended, _ = switches_of(16, 3_200, interval=1_600)
    nobody, events = np.zeros(16, dtype=bool), []
    config = ScheduleConfig(switch_interval=1_600)
    longer, again = (WorldClock(config, 16, 6_400) for _ in range(2))
    longer.restore(ended.snapshot())
    again.restore(longer.snapshot())  # saved once more before its first step
    assert longer.switch(nobody)[0]["regime"] == 2  # a reset begins the new world itself
    WorldClock(config, 16, 6_400).restore(longer.snapshot())
    while again.env_steps < 6_400:
        cut, new = again.tick(), again.switch(nobody)
        assert cut == bool(new)
        events += new
    assert [(event["env_steps"], event["regime"]) for event in events] == [(3_216, 2), (4_800, 3)]
    longer.restore(again.snapshot())


@pytest.mark.parametrize(
    ("length", "expected"), [(300, [2_100, 4_200, 6_300]), (400, [2_400, 4_800, 7_200])]
)
def test_episode_end_rule_is_strict(length, expected):
    config = ScheduleConfig(switch_interval=2_000, switch_rule="episode_end")
    clock = WorldClock(config, num_envs=1, total_steps=8_000)
    changes = []
    for step in range(1, 8_000):
        assert clock.tick() is False  # this rule never cuts an episode
        changes += [e["env_steps"] for e in clock.switch(np.array([step % length == 0]))]
    assert changes == expected


@pytest.mark.parametrize(("length", "expected"), [(30, [210, 420, 630]), (40, [240, 480, 720])])
def test_episode_end_rule_in_the_simulator(length, expected):
    config = Config(
        num_envs=1, switch_interval=200, switch_rule="episode_end", max_episode_steps=length
    )
    env, _ = make(config, total_steps=730)
    env.reset()
    changes = []
    for _ in range(730):
        _, _, terminated, truncated, info = env.step(np.zeros((1, 8)))
        assert not terminated[0]
        assert not info["switch_truncated"][0]
        assert truncated[0] == (env.env_steps % length == 0)
        changes += info["events"]
    assert [event["env_steps"] for event in changes] == expected
    assert [event["env_index"] for event in changes] == [0, 0, 0]


def test_episode_end_rule_gives_every_environment_its_own_world():
    config = Config(num_envs=4, switch_interval=150, switch_rule="episode_end", world_seed=3)
    env, _ = make(config, total_steps=10_000)
    env.reset()
    periods = (10_000, 31, 44, 57)  # the first environment never falls
    indices_together, seen = set(), [set() for _ in range(4)]
    for step in range(1, 601):
        for data, period in zip(env.simulations.data, periods, strict=True):
            if step % period == 0:
                data.qpos[2] = 1.5
        _, _, terminated, _, info = env.step(np.zeros((4, 8)))
        assert terminated.tolist() == [step % period == 0 for period in periods]
        indices_together.add(tuple(info["regime"].tolist()))
        for event in info["events"]:
            assert terminated[event["env_index"]]
        for index, data in enumerate(env.simulations.data):
            if data.ncon and not terminated[index]:
                assert (data.contact.friction[:, :2] == info["friction"][index]).all()
                seen[index].add(info["friction"][index])
    assert max(len(set(indices)) for indices in indices_together) == 4
    assert len(seen[0]) == 1
    assert min(len(frictions) for frictions in seen[1:]) >= 5
    assert len({id(model) for model in env.simulations.models}) == 4


def hand_driven(config, tapes, total_steps):
    """The exact rule, written again with Gymnasium's own environments and nothing of ours."""
    spawn = [(config.world_seed, 1 + e) for e in range(config.num_envs)]
    envs = [gymnasium.make("Ant-v4", max_episode_steps=40) for _ in spawn]
    frictions, world, env_steps = config.friction_values, 0, 0
    for env, key in zip(envs, spawn, strict=True):
        bits = np.random.PCG64(np.random.SeedSequence(config.table_seed, spawn_key=key))
        env.unwrapped.np_random = np.random.Generator(bits)
        env.unwrapped.model.geom_friction[:, 0] = frictions[0]
        env.reset()
    for actions in tapes:
        env_steps += len(envs)
        rows = [env.step(action)[:4] for env, action in zip(envs, actions, strict=True)]
        switch = env_steps // config.switch_interval > world and env_steps < total_steps
        if switch:
            world += 1
            for env in envs:
                env.unwrapped.model.geom_friction[:, 0] = frictions[world]
        started = [
            env.reset()[0] if row[2] or row[3] or switch else row[0]
            for env, row in zip(envs, rows, strict=True)
        ]
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        yield started, columns, switch, env_steps


def test_exact_rule_equals_gymnasium_driven_by_hand():
    config = Config(
        num_envs=3,
        schedule="list",
        friction_values=[1.0, 0.05, 2.0, 0.1, 0.6],
        switch_interval=250,
        max_episode_steps=40,
        world_seed=11,
    )
    total_steps = 1_250
    tapes = np.random.default_rng(3).uniform(-1, 1, size=(-(-total_steps // 3), 3, 8))
    env, _ = make(config, total_steps, num_threads=2)
    env.reset()
    switch_steps, cut, kinds = [], 0, set()
    for actions, expected in zip(tapes, hand_driven(config, tapes, total_steps), strict=True):
        started, (successor, rewards, terminals, timeouts), switch, env_steps = expected
        observation, reward, terminated, truncated, info = env.step(actions)
        assert env.env_steps == env_steps
        assert np.array_equal(info["next_observation"], successor)
        assert np.array_equal(observation, started)
        assert np.array_equal(reward, rewards)
        assert np.array_equal(terminated, terminals)
        assert np.array_equal(truncated, timeouts | switch)
        ended_by_itself = terminals | timeouts
        assert np.array_equal(info["switch_truncated"], switch & ~ended_by_itself)
        assert bool(info["events"]) == switch
        cut += int(info["switch_truncated"].sum())
        if switch:
            switch_steps.append(env_steps)
            kinds |= set(ended_by_itself.tolist())
    assert switch_steps == [252, 501, 750, 1002]
    assert cut > 0
    env.close()


def test_at_the_event():
    """A terminated environment stays terminated, the rest are cut, new contacts are new."""
    config = Config(num_envs=4, schedule="list", friction_values=[0.9, 0.08], switch_interval=120)
    env, _ = make(config, total_steps=240)
    env.reset()
    for _ in range(29):
        _, _, terminated, truncated, info = env.step(np.zeros((4, 8)))
        assert not (terminated | truncated).any()
    env.simulations.data[2].qpos[2] = 1.5  # falls out of the healthy range in the next step
    _, _, terminated, truncated, info = env.step(np.zeros((4, 8)))
    assert terminated.tolist() == [False, False, True, False]
    assert truncated.tolist() == [True] * 4
    assert info["switch_truncated"].tolist() == [True, True, False, True]
    assert info["friction"].tolist() == [0.9] * 4
    assert info["regime"].tolist() == [0] * 4
    assert info["episode_length"].tolist() == [30] * 4
    assert env.friction.tolist() == [0.08] * 4
    assert info["events"] == [
        {"event": "switch", "env_steps": 120, "env_index": None, "regime": 1, "friction": 0.08}
    ]
    checked = np.zeros(4, dtype=bool)
    for _ in range(29):
        info = env.step(np.zeros((4, 8)))[4]
        assert info["friction"].tolist() == [0.08] * 4
        assert info["regime"].tolist() == [1] * 4
        for index, data in enumerate(env.simulations.data):
            if data.ncon:
                assert (data.contact.friction[:, :2] == 0.08).all()
                checked[index] = True
    assert checked.all()


@pytest.mark.parametrize("rule", ["exact", "episode_end"])
def test_every_transition_belongs_to_one_episode(rule):
    config = Config(num_envs=3, switch_interval=100, switch_rule=rule, max_episode_steps=25)
    env, _ = make(config, total_steps=900)
    env.reset()
    rng, lengths, returns, rewards = np.random.default_rng(0), 0, 0.0, np.zeros(3)
    open_episodes = np.zeros(3, dtype=int)
    start_regime, starts_seen = np.zeros(3, dtype=int), set()
    for _ in range(300):
        _, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, (3, 8)))
        rewards += reward
        open_episodes += 1
        ended = terminated | truncated
        assert np.array_equal(info["episode_length"][ended], open_episodes[ended])
        assert np.allclose(info["episode_return"][ended], rewards[ended], rtol=0, atol=1e-9)
        assert np.array_equal(info["episode_start_regime"][ended], start_regime[ended])
        starts_seen |= set(start_regime[ended].tolist())
        start_regime[ended] = env.regime[ended]
        lengths += int(info["episode_length"][ended].sum())
        returns += float(info["episode_return"][ended].sum())
        open_episodes[ended], rewards[ended] = 0, 0.0
    assert env.env_steps == 900
    assert lengths + int(open_episodes.sum()) == 900
    assert starts_seen >= {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["gradual", "sinusoidal"])
def test_drifting_friction_neither_cuts_nor_resets(kind):
    config = Config(
        num_envs=2,
        schedule=kind,
        update_every=20,
        switch_interval=100,
        **({"sinusoid_period": 200} if kind == "sinusoidal" else {}),
    )
    env, _ = make(config, total_steps=200)
    env.reset()
    events, frictions = [], []
    for _ in range(100):
        _, _, terminated, truncated, info = env.step(np.zeros((2, 8)))
        assert not (terminated | truncated).any()
        events += info["events"]
        frictions.append(info["friction"][0])
        for data in env.simulations.data:
            if data.ncon:
                assert (data.contact.friction[:, :2] == frictions[-1]).all()
    assert len(set(frictions)) >= 6
    assert {event["event"] for event in events} == {"drift"}
    assert all(event["env_steps"] % 20 == 0 for event in events)
    starts = range(0, 200, 2)
    expected = [env._clock.schedule.value_at(t) for t in starts]
    assert frictions == expected


def test_actions_do_not_reach_worlds_or_start_states():
    """Two agents that behave differently meet the same k-th start in every environment."""
    starts = []
    for seed in (0, 1):
        env, _ = make(Config(num_envs=2, switch_interval=60, max_episode_steps=15), 10**6)
        rng, rows = np.random.default_rng(seed), [env.reset()[0]]
        for step in range(1, 61):
            observation, _, terminated, _, _ = env.step(rng.uniform(-0.3, 0.3, (2, 8)))
            assert not terminated.any()
            if step % 15 == 0:
                rows.append(observation)
        starts.append((np.array(rows), env.friction))
    assert np.array_equal(starts[0][0], starts[1][0])
    assert np.array_equal(starts[0][1], starts[1][1])


@pytest.mark.slow
def test_normal_policy_on_the_stationary_ant():
    """Scale of reward and episode length; 38 whole episodes of each of 16 environments."""
    env, _ = make(Config(schedule="fixed"), total_steps=10**7)
    env.reset()
    rng = np.random.default_rng(0)
    counts, lengths, total, steps = np.zeros(16, dtype=int), [], 0.0, 0
    while counts.min() < 38:
        _, reward, terminated, truncated, info = env.step(rng.standard_normal((16, 8)))
        total, steps = total + reward.sum(), steps + 16
        for index in np.flatnonzero(terminated | truncated):
            if counts[index] < 38:
                counts[index] += 1
                lengths.append(info["episode_length"][index])
    assert total / steps == pytest.approx(-3.01, abs=0.1)
    assert np.median(lengths) == pytest.approx(45, abs=8)
