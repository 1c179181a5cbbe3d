"""The replay: what it stores, forgets and samples, against a deque and against statistics."""

import subprocess
import sys
from collections import Counter, deque

import numpy as np
import pytest
import torch
from scipy import stats

from agents import memory_limits, replay
from agents.base import Transition
from agents.replay import Columns, Replay

CPU = torch.device("cpu")
CAPACITY, WIDTH = 24, 7


def transition(numbers, context_dim=2):
    """A vector step whose every value can be told from its number."""
    numbers = np.asarray(numbers, dtype=np.float64)

    def wide(offset, size):
        return numbers[:, None] + offset + 0.125 * np.arange(size)

    return Transition(
        observation=wide(0.0, 3),
        action=wide(1000.0, 2),
        reward=numbers + 2000.0,
        next_observation=wide(3000.0, 3),
        terminated=numbers % 2 == 0,
        truncated=numbers % 3 == 0,
        context=wide(4000.0, context_dim),
        next_context=wide(5000.0, context_dim),
        regime=numbers.astype(int) % 5,
    )


def make(capacity=CAPACITY, context_dim=2):
    return Replay(capacity, Columns(3, 2, context_dim), CPU)


def numbers_in(batch):
    return batch.observation[:, 0].tolist()


def live(replay):
    return sorted(numbers_in(replay.rows(slice(0, replay.size))))


def sample(replay, batch_size, generator):
    return replay.rows(replay.draw(batch_size, generator))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("total", [1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 3 * CAPACITY])
@pytest.mark.parametrize("seed", range(5))
def test_holds_what_a_deque_holds(total, seed):
    rng, replay, expected = np.random.default_rng(seed), make(), deque(maxlen=CAPACITY)
    added = 0
    while added < total:
        width = min(int(rng.integers(1, WIDTH + 1)), total - added)
        numbers = np.arange(added, added + width)
        replay.add(transition(numbers))
        expected.extend(numbers)
        added += width
        assert replay.size == len(expected)
        assert live(replay) == sorted(expected)
        assert numbers_in(replay.last(5)) == list(expected)[-5:]
    drawn = {round(n) for n in numbers_in(sample(replay, 4_000, generator()))}
    assert drawn == set(expected)


def test_a_vector_step_wider_than_the_capacity_leaves_its_last_rows():
    replay = make(capacity=4)
    replay.add(transition(np.arange(3)))
    replay.add(transition(np.arange(10, 19)))
    assert live(replay) == [15, 16, 17, 18]


def test_every_field_comes_back_in_its_own_row():
    replay = make()
    numbers = np.arange(CAPACITY + 5)
    for start in range(0, len(numbers), 4):
        replay.add(transition(numbers[start : start + 4]))
    batch = sample(replay, 300, generator())
    expected = transition(batch.observation[:, 0].numpy())
    answers = {"target", "split"}  # of supervised problems, which no replay serves
    for name in Transition.__dataclass_fields__.keys() - answers:
        stored = getattr(batch, name).numpy()
        np.testing.assert_array_equal(stored, np.asarray(getattr(expected, name), np.float32))
        assert stored.dtype == np.float32
    # Both flags were stored apart: all four combinations occur.
    flags = {(bool(a), bool(b)) for a, b in zip(batch.terminated, batch.truncated, strict=True)}
    assert len(flags) == 4


def test_without_a_context_there_is_none():
    replay = make(context_dim=0)
    replay.add(transition([1, 2], context_dim=0))
    batch = sample(replay, 3, generator())
    assert batch.context is None
    assert batch.next_context is None


@pytest.mark.parametrize("added", [10, CAPACITY, 2 * CAPACITY + 3])
def test_draws_are_uniform(added):
    replay = make()
    for number in range(added):
        replay.add(transition([number]))
    counts = Counter(replay.draw(20_000, generator(7)).tolist())
    assert set(counts) == set(range(min(added, CAPACITY)))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_large_replays_are_reached_everywhere():
    """A float32 uniform has 2^24 values and would never draw some rows of a large replay."""
    replay = make(capacity=50)
    replay._size.fill_(2.0**26)
    drawn = replay.draw(4_096, generator())
    assert (drawn % 2 == 1).float().mean() > 0.4
    assert (drawn % 4 == 3).float().mean() > 0.2


@pytest.mark.parametrize("shared", [True, False])
def test_balanced_batches_have_equally_many_rows_of_every_environment(shared):
    num_envs, replay = 4, make(capacity=20)
    for step in range(12):  # wraps
        replay.add(transition(100 * np.arange(num_envs) + step))
    indices = replay.draw_balanced(2_000, num_envs, shared, generator())
    numbers = np.array(numbers_in(replay.rows(indices))).reshape(-1, num_envs)
    environment, step = np.divmod(numbers, 100)
    assert (environment == np.arange(num_envs)).all()
    assert ((step == step[:, :1]).all()) == shared
    counts = Counter(step[:, 1].tolist())
    assert set(counts) == {7, 8, 9, 10, 11}
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("added", [10, CAPACITY, CAPACITY + 9])
@pytest.mark.parametrize("kept", [0, 1, 7, CAPACITY])
def test_forgetting_keeps_the_newest(added, kept):
    replay = make()
    for number in range(added):
        replay.add(transition([number]))
    expected = list(range(max(0, added - CAPACITY), added))
    expected = expected[-kept:] if kept else []
    replay.keep_last(kept)
    assert live(replay) == expected
    replay.add(transition([added, added + 1]))
    assert live(replay) == [*expected, added, added + 1][-CAPACITY:]
    assert numbers_in(replay.last(2)) == [added, added + 1]


@pytest.mark.parametrize("added", [0, 5, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY + 3])
def test_state_round_trip_samples_the_same_rows(added):
    replay, twin = make(), make()
    for number in range(added):
        replay.add(transition([number]))
    state = replay.state_dict()
    assert len(state.get("rows", ())) == min(added, CAPACITY)  # the filled part only
    twin.add(transition(np.arange(500, 511)))  # must be forgotten
    twin.load_state_dict(state)
    for both in (replay, twin):
        both.add(transition([901, 902, 903]))
    first, second = (sample(both, 50, generator(3)) for both in (replay, twin))
    assert numbers_in(first) == numbers_in(second)
    assert live(replay) == live(twin)
    if added:
        assert 901 not in state["rows"][:, 0]  # a copy


def test_a_state_of_another_shape_is_refused():
    replay = make()
    replay.add(transition([1, 2]))
    with pytest.raises(ValueError, match="rows of shape"):
        make(context_dim=3).load_state_dict(replay.state_dict())
    full = make(capacity=8)
    full.add(transition(np.arange(9)))
    with pytest.raises(ValueError, match=r"is not of a capacity of 6; leave agent\.replay_size"):
        make(capacity=6).load_state_dict(full.state_dict())
    with pytest.raises(ValueError, match="is not of a capacity of 24"):
        make().load_state_dict(full.state_dict())


def test_memory_is_touched_at_construction():
    """In a process of its own, whose resident set nobody else changes."""
    code = """
import os, torch
from agents.replay import Columns, Replay

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
replay = Replay(200_000, Columns(60, 8, 0), torch.device("cpu"))  # 103 MB
assert replay.num_bytes == 200_000 * 132 * 4
assert resident() - before > 0.95 * replay.num_bytes
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_replay_that_does_not_fit_is_refused_with_both_sizes():
    available = memory_limits.available_bytes(CPU)
    assert available is not None
    needed = 2 * 10**12 * 132 * 4
    words = rf"needs {needed:,} bytes on cpu, the copy for a checkpoint included, but only .* most"
    with pytest.raises(ValueError, match=words):
        Replay(10**12, Columns(60, 8, 0), CPU)


@pytest.mark.parametrize(("free", "fits"), [(1999, False), (2000, True)])
def test_a_full_replay_must_fit_twice(monkeypatch, free, fits):
    monkeypatch.setattr(replay, "available_bytes", lambda device: free)
    if fits:
        replay.check_memory(50, 5, CPU)
        return
    with pytest.raises(ValueError, match="replay_size to at most 49"):
        replay.check_memory(50, 5, CPU)


def test_the_limit_is_the_smallest_of_machine_and_control_groups(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def limit():
        return memory_limits.available_bytes(CPU, tmp_path)

    assert limit() is None
    write("proc/meminfo", "MemTotal: 99 kB\nMemAvailable:    1000 kB\n")
    assert limit() == 1_024_000
    write("proc/self/cgroup", "0::/outer/inner\n")
    assert limit() == 1_024_000
    group = "sys/fs/cgroup/outer"
    write(f"{group}/inner/memory.max", "max\n")
    write(f"{group}/inner/memory.current", "5\n")
    assert limit() == 1_024_000
    write(f"{group}/memory.max", "900000\n")  # an enclosing group binds
    write(f"{group}/memory.current", "500000\n")
    assert limit() == 400_000
    write(f"{group}/memory.stat", "anon 1\ninactive_file 100000\n")
    assert limit() == 500_000
    write("proc/self/cgroup", "4:cpu,memory:/job\n0::/outer\n")  # the older interface
    old = "sys/fs/cgroup/memory/job"
    write(f"{old}/memory.limit_in_bytes", "300000\n")
    write(f"{old}/memory.usage_in_bytes", "100000\n")
    write(f"{old}/memory.stat", "inactive_file 1\ntotal_inactive_file 50000\n")
    assert limit() == 250_000
    write(f"{old}/memory.usage_in_bytes", "9999999\n")
    assert limit() == 0
