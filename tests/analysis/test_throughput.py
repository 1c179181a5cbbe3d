"""The benchmark: windows, floors, equal work, ratios, and its real workers on tiny settings."""

import itertools
import time
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from rich.console import Console

from analysis import cost_model
from analysis.throughput import __main__ as command_line
from analysis.throughput import agents_at_work, floors, plan, ppo, processes, report, summary
from analysis.throughput.window import Window
from envs.locomotion import Config, make

CORES = [0, 1]


def nothing():
    pass


def tiny(worker, **changes):
    return {**worker, "seconds": 0.0, "cores": CORES[:1], **changes}


def by_name(name, methods=("redo",)):
    return next(m for m in plan.plan(CORES, 1.0, methods, None) if m.name == name)


def test_a_window_drops_the_first_lap_and_waits_for_the_others():
    calls, count = [], itertools.count(5)
    window = Window(lambda: calls.append(1), lambda: {"env_steps": next(count)}, 0.0, min_laps=2)
    assert [window.lap() for _ in range(3)] == [False, False, True]
    assert calls == [1]
    assert window.result()["laps"] == 2
    assert window.result()["env_steps"] == 1  # the counter is read at both ends only


def test_a_window_lasts_long_enough_and_can_add_a_lap():
    window = Window(nothing, dict, seconds=0.05, extra_lap=True)
    window.lap()
    with pytest.raises(RuntimeError, match="had ended"):
        window.result()
    laps = 1
    while not window.lap():
        time.sleep(0.02)
        laps += 1
    assert window.result()["seconds"] >= 0.05
    assert window.result()["laps"] == laps - 1  # all but the extra one


def test_products_do_exactly_the_counted_arithmetic():
    sizes, batch_size = [27, 256, 256, 8], 128
    products = floors.minibatch_products(sizes, batch_size)
    flop = sum(2 * len(left) * left.shape[1] * right.shape[1] for left, right, _ in products)
    assert flop == batch_size * cost_model.training_flop(sizes)
    assert all((left @ right).shape == output.shape for left, right, output in products)


def test_a_tape_replays_the_physics_of_the_environment():
    tape = floors.random_tape(150)
    assert sum(len(actions) for _, actions in tape) == 150
    assert len(tape) > 1
    envs, _ = make(Config(num_envs=1, schedule="fixed"), 10_000)
    envs.reset()
    simulations = envs.simulations
    model = simulations.models[0]
    data = mujoco.MjData(model)
    for start, actions in tape[:-1]:
        np.testing.assert_array_equal(simulations.states()[0], start)
        mujoco.mj_setState(model, data, start, mujoco.mjtState.mjSTATE_INTEGRATION)
        for action in actions:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 5)
            info = envs.step(action[None])[4]
        np.testing.assert_array_equal(data.qpos[2:], info["next_observation"][0, :13])


def test_every_row_of_the_plan_has_a_name_and_cores_of_its_own():
    rows = plan.plan(CORES, 1.0, ("redo",), "runs/x")
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert len(row.workers) in (1, 2)
        if (
            row.name[0] in "12" or len(row.workers) == 2
        ):  # side by side: single-threaded, one core each
            expected = [[0], [1]][: len(row.workers)]
            assert [worker["cores"] for worker in row.workers] == expected
            assert {worker["num_threads"] for worker in row.workers} == {1}
            assert all(worker["extra_lap"] for worker in row.workers)
    assert {r.name for r in rows if r.in_quick} >= {"suite, 8 envs", "SB3, 8 envs, 1 thread"}


def test_suite_and_sb3_do_equal_work():
    suite = by_name("suite, 16 envs, redo").workers[0]
    small = ["network.hidden_sizes=[8]", "agent.rollout_length=16", "agent.num_epochs=10"]
    worker = tiny(suite, overrides=[*suite["overrides"], *small])
    ours = agents_at_work.measure_suite(worker, nothing)
    assert (ours["env_steps"], ours["gradient_steps"]) == (256, 20)
    sb3 = by_name("SB3, 8 envs, 1 thread").workers[0]
    theirs = agents_at_work.measure_sb3(tiny(sb3, rollout_size=256, hidden_sizes=[8]), nothing)
    assert (theirs["env_steps"], theirs["gradient_steps"]) == (256, 20)
    summary.check_equal_work({"ours": [[ours]], "theirs": [[theirs]]})


def test_the_profile_accounts_for_all_time():
    profile = by_name("profile").workers[0]
    short = ["agent.rollout_length=32"]  # all the rest as in the published profile
    worker = tiny(profile, overrides=[*profile["overrides"], *short], min_laps=2)
    result = agents_at_work.measure_suite(worker, nothing)
    shares = summary.budget({"profile": [[result]]})
    assert sum(shares.values()) == pytest.approx(1.0)
    assert 0.0 <= shares["rest"] <= 0.02  # the named parts sum to 98 to 100 % of wall time
    assert all(share > 0 for share in shares.values())
    assert result["checkpoint"] > 0


def test_workers_run_in_their_own_limited_processes():
    worker = by_name("matrix products").workers[0]
    small = {**worker, "seconds": 0.02, "networks": [[4, 8, 2]]}
    results = processes.measure([small, small])
    assert [result["torch_threads"] for result in results] == [1, 1]
    assert all(result["gradient_steps"] % floors.PRODUCTS_PER_LAP == 0 for result in results)
    assert all(result["peak_memory_mib"] > 10 for result in results)


def test_a_failing_worker_ends_the_measurement_with_its_last_words():
    good = by_name("matrix products").workers[0]
    with pytest.raises(processes.WorkerFailed, match="KeyError: 'marathon'"):
        processes.measure([good, {**good, "kind": "marathon"}])


def test_a_worker_that_hangs_is_ended():
    endless = {**by_name("matrix products").workers[0], "seconds": 1e9}
    with pytest.raises(processes.WorkerFailed, match="code -9"):
        processes.measure([endless], timeout_seconds=0.5)


def test_floor_share_and_rate_are_as_defined():
    physics = [{"env_steps": 1_000, "seconds": 0.1}, {"env_steps": 1_000, "seconds": 0.14}]
    products = [{"gradient_steps": 100, "seconds": 0.12}, {"gradient_steps": 200, "seconds": 0.26}]
    floor = summary.floor_seconds(physics, products)
    assert floor == pytest.approx(120e-6 + 0.078125 * 1.25e-3)
    # At 100 % every core takes exactly the floor time per environment step.
    assert summary.share_of_floor(floor, 2 / floor, num_cores=2) == pytest.approx(1.0)
    assert summary.share_of_floor(floor, 1 / floor, num_cores=2) == pytest.approx(0.5)
    assert summary.rate(physics) == pytest.approx(1_000 / 0.1 + 1_000 / 0.14)


def test_spread():
    assert summary.spread([3.0, 1.0]) == summary.Spread(2.0, 1.0, 3.0, None)
    five = summary.spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (five.median, five.low, five.high) == (3.0, 1.0, 5.0)
    assert five.interval is not None
    assert 1.0 <= five.interval[0] < 3.0 < five.interval[1] <= 5.0


def training(rate, **more):
    """A window of 2,048 steps at this rate."""
    counts = {"env_steps": 2_048, "gradient_steps": 160, "peak_memory_mib": 300.0}
    return {"seconds": 2_048 / rate, **counts, **more}


def synthetic():
    """Two repeats: floor 200 us, the suite 7,500 and 6,000 steps/s, SB3 at best 3,000."""
    floor = {
        "physics, untrained": [{"env_steps": 100, "seconds": 100 * 100e-6}],
        "matrix products": [{"gradient_steps": 100, "seconds": 100 * 1.28e-3}],
    }
    results = {name: [windows, windows] for name, windows in floor.items()}
    for name, rates in {
        "suite, 8 envs": (7_500, 6_000),
        "suite, 16 envs": (8_000, 8_000),
        "SB3, 8 envs, 1 thread": (3_000, 2_500),
        "SB3, 8 envs, 2 threads": (2_800, 3_000),
        "suite, 16 envs, redo": (7_500, 8_000),
    }.items():
        results[name] = [[training(rate)] for rate in rates]
    for name, rate in (("2 x suite, 8 envs", 4_500), ("2 x SB3, 8 envs", 2_000)):
        results[name] = [[training(rate), training(rate)]] * 2
    parts = {"simulate": 0.5, "act": 0.1, "store": 0.05, "learn": 0.25, "log": 0.01}
    parts |= {"events": 0.02, "diagnostics": 0.04, "checkpoint": 0.3, "checkpoint_period": 600.0}
    results["profile"] = [[training(2_048, **parts)]]
    return results


def test_rows_compare_with_the_better_of_one_and_two_threads():
    first, *_, last = summary.rows(synthetic(), num_cores=2)
    assert first.name == "one run, 8 x 256"
    assert first.suite.median == pytest.approx(6_750)
    assert first.sb3.median == pytest.approx(3_000)
    assert (first.ratio.low, first.ratio.high) == (pytest.approx(2.0), pytest.approx(2.5))
    assert first.share.high == pytest.approx(200e-6 * 7_500 / 2)
    assert last.name == "2 runs, 8 x 256"
    assert last.suite.median == pytest.approx(9_000)
    assert last.ratio.median == pytest.approx(2.25)
    assert last.share.median == pytest.approx(200e-6 * 9_000 / 2)


def test_overheads():
    found = {o.name: o for o in summary.overheads(synthetic(), ["redo", "absent"])}
    assert found["redo"].fraction.high == pytest.approx(8_000 / 7_500 - 1)
    assert found["redo"].fraction.low == pytest.approx(0.0)
    assert found["diagnostics"].fraction.median == pytest.approx(0.04 / 0.96)
    assert found["checkpoints, one per period"].fraction.median == pytest.approx(0.3 / 600)
    assert "absent" not in found


def test_unequal_work_is_refused():
    results = synthetic()
    results["suite, 8 envs"][1] = [{**training(5_000), "gradient_steps": 159}]
    with pytest.raises(ValueError, match="made 159 gradient steps in 2048"):
        summary.check_equal_work(results)


def test_two_runs_side_by_side_against_twice_one():
    results = synthetic()
    results["1 x suite, 8 envs"] = [[training(5_000)], [training(4_500)]]
    found = summary.side_by_side(results, num_cores=2)
    assert list(found) == ["2 runs, 8 envs"]
    assert (found["2 runs, 8 envs"].low, found["2 runs, 8 envs"].high) == (
        pytest.approx(0.9),
        pytest.approx(1.0),
    )


def test_the_section_holds_the_tables_and_all_raw_windows():
    about = {"repeats": 2, "seconds": 1.0, "cores": CORES}
    section = report.Report(synthetic(), CORES, ["redo"], about).section()
    text = "\n".join(section.markdown())
    assert "| one run, 8 x 256 | 6,750 (6,000 to 7,500) | 68 (60 to 75) % | 3,000 |" in text
    assert section.data["windows"]["suite, 8 envs"][0][0]["env_steps"] == 2_048
    assert section.data["rows"][0]["ratio"]["median"] == pytest.approx(2.25)
    console = Console(record=True, width=200)
    section.show(console)
    assert "share of floor" in console.export_text()


def test_repeats_are_interleaved_and_stop_in_time(monkeypatch):
    order = []

    def fake(workers):
        order.append(workers[0]["kind"])
        time.sleep(0.02)
        return [training(1_000)]

    monkeypatch.setattr(ppo, "run_processes", fake)
    rows = [replace(by_name("profile"), name=n, workers=({"kind": n},)) for n in ("a", "b")]
    rows = [replace(rows[0], max_repeats=1), replace(rows[1], max_repeats=None)]
    quiet = Console(quiet=True)
    results = ppo.run(rows, 3, minutes=1.0, console=quiet)
    assert order == ["a", "b", "b", "b"]
    assert [len(results[name]) for name in ("a", "b")] == [1, 3]
    hurried = ppo.run(rows, 3, minutes=0.0, console=quiet)
    assert len(hurried["b"]) == 1


def test_the_command_line_refuses_nonsense(capsys):
    with pytest.raises(SystemExit) as refused:
        command_line.parse(["--repeats", "0"])
    assert refused.value.code == 2
    assert "give at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command_line.parse(["--only", "ppo,marathon"])
    assert "--only names marathon; choose from ppo, methods" in capsys.readouterr().err
    assert command_line.parse(["--only", "sac,ppo"]).only == ["sac", "ppo"]
