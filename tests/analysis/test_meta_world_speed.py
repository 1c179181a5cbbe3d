"""The benchmark of Meta-World: ratios within repeats, equal work, and its real worlds."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from analysis.throughput import meta_world
from analysis.throughput.meta_world import Window, rows, tables, write
from analysis.throughput.meta_world_worlds import SYNC, World, build_worlds


def window(cpu, wall=1.0, steps=1000):
    return Window(steps, cpu, wall, 1.0)


RESULTS = {
    SYNC: [window(0.4, 0.5), window(0.8, 1.0), window(0.4, 0.5)],
    "ours": [window(0.2, 0.25), window(0.4, 0.25), window(0.1, 0.25)],
}
ABOUT = {
    "repeats": 3,
    "steps": 100,
    "num_cores": 2,
    "cpu": {"model": "a processor"},
    "load_before": 0.0,
}


def test_ratios_are_taken_within_each_repeat():
    stock, ours = rows(RESULTS)
    assert (stock.per_core.low, stock.per_core.high) == (1.0, 1.0)
    assert (ours.per_core.low, ours.per_core.median, ours.per_core.high) == (2.0, 2.0, 4.0)
    assert ours.speed.median == pytest.approx(2.0)
    assert ours.speed.high == pytest.approx(4.0)
    assert ours.cpu_micros.median == pytest.approx(200.0)
    assert ours.rate.median == pytest.approx(4000.0)
    assert ours.per_core.interval is not None


def test_the_table_is_written_for_people_and_for_machines(tmp_path):
    markdown, data = write(tmp_path / "new", RESULTS, ABOUT, "python -m this")
    ((_, header, cells),) = tables(rows(RESULTS))
    assert len(header) == len(cells[0])
    text = markdown.read_text()
    assert "Made by `python -m this`" in text
    assert f"| {SYNC} | 400 (" in text
    content = json.loads(data.read_text())
    assert content["windows"]["ours"][2]["cpu_seconds"] == 0.1
    assert content["rows"][1]["per_core"]["median"] == 2.0


def fake(name, reward, is_ours=True):
    def step(actions):
        return None, np.full(10, reward), None, None, {}

    return World(name, 1, step, (), lambda: None, is_ours)


def test_worlds_that_should_be_equal_and_are_not_stop_the_benchmark(monkeypatch):
    worlds = [fake(SYNC, 3.0, is_ours=False), fake("a", 1.0), fake("b", 1.0)]
    monkeypatch.setattr(meta_world, "build_worlds", lambda count, seed: worlds)
    results = meta_world.measure_meta_world(repeats=2, steps=3)
    assert [len(windows) for windows in results.values()] == [2, 2, 2]
    assert results["a"][0].env_steps == 30
    assert results["a"][0].total_reward == pytest.approx(30.0)
    worlds[2] = replace(worlds[2], step=fake("b", 1.1).step)
    with pytest.raises(RuntimeError, match="equal results"):
        meta_world.measure_meta_world(repeats=1, steps=3)


def test_time_of_other_processes_is_counted():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        world = replace(fake("a", 1.0), pids=(process.pid,))
        own, before = time.process_time(), world.cpu_seconds()
        deadline = time.monotonic() + 20
        while world.cpu_seconds() - before < 0.2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert world.cpu_seconds() - before >= 0.2
        assert time.process_time() - own < 0.2
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.metaworld
def test_the_real_worlds_step_and_ours_is_ahead():
    cores = len(os.sched_getaffinity(0))
    names = [world.name for world in _closed(build_worlds(cores))]
    assert names[0] == SYNC
    results = meta_world.measure_meta_world(repeats=3, steps=60)
    assert list(results) == names
    by_name = {row.name: row for row in rows(results)}
    assert by_name["ours, fast path"].per_core.median >= 1.6
    assert by_name["ours, fast path and reset cache"].per_core.median >= 1.6


def _closed(worlds):
    for world in worlds:
        world.close()
    return worlds
