"""The sections of the benchmark that run in one process: pairs, tables, and what is written."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis.throughput import __main__ as command_line
from analysis.throughput import gpu, interleave, methods, processes, scaling, updates
from analysis.throughput import section as sections
from analysis.throughput.learners import PPOLearner, PresetSACLearner, SACLearner, SB3Learner
from analysis.throughput.processes import WorkerFailed
from analysis.throughput.section import Options, Section, Table
from analysis.throughput.summary import Spread

OPTIONS = Options(cores=[0], repeats=3, seconds=0.0)
QUIET = Console(quiet=True)


def nothing():
    pass


class Clock:
    """Time that only work moves."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def work(self, name, seconds, units=1.0):
        def lap():
            self.now += seconds
            self.order.append(name)
            return units

        return lap


def test_pairs_are_interleaved_warmed_up_and_counted_per_unit():
    clock = Clock()
    pairs = interleave.interleaved(
        clock.work("a", 1.0),
        {"b": clock.work("b", 6.0, units=2.0)},
        repeats=2,
        seconds=2.5,
        clock=lambda: clock.now,
    )
    assert pairs == {"b": [interleave.Pair(1.0, 3.0)] * 2}
    assert pairs["b"][0].ratio == 3.0
    groups = [name for name, _ in itertools.groupby(clock.order)]
    assert groups == ["a", "b", "a", "b", "a"]  # warm-up, pair, pair the other way round
    assert clock.order.count("a") == 1 + 2 * 3


def test_overhead_per_gradient_step_and_per_environment_step():
    pairs = [(1e-3, 1.1e-3), (1e-3, 1.2e-3), (2e-3, 2.6e-3)]
    assert methods.overhead(pairs).median == pytest.approx(0.2)
    # 0.078125 gradient steps: 15.6 us more where simulation takes 121.9 us and learning 78.1 us.
    one = methods.env_step_overhead([(1e-3, 1.2e-3)], interaction=121.875e-6)
    assert one.median == pytest.approx(15.625 / 200.0)


def test_every_preset_has_a_row():
    rows = methods.subjects(quick=False)
    assert {"method=redo", "method=spectral", "optimizer=trac", "network=crelu"} <= set(rows)
    assert not any("smoke" in name for name in rows)
    assert len(methods.subjects(quick=True)) == 2
    sac = methods.subjects(quick=False, agent="sac")
    # SAC has no such setting, and its objective never changes.
    assert set(rows) - set(sac) == {"agent.matmul_precision=bfloat16", "optimizer=adam_rel"}
    assert "method=continual_backprop_contexts" not in rows  # refused where there are no contexts


def test_methods_are_measured_and_outliers_explained():
    rows = {name: methods.subjects(False)[name] for name in ("method=ewc", "network=crelu")}
    settings = {"rows": rows, "repeats": 1, "num_epochs": 1, "vector_steps": 16, "seconds": 0.0}
    found = methods.measure_in_worker(settings, nothing)
    assert list(found["pairs"]) == list(rows)
    assert list(found["events"]) == ["method=ewc"]  # the one that hears of task changes
    pairs = {"method=continual_backprop": [(1.0, 1.04)], "method=spectral": [(1.0, 1.5)]}
    made = methods.section({**found, "pairs": pairs}, OPTIONS)
    bars, overheads, events = made.tables
    assert bars.cells[0] == ["median method", "27.0 %", "at most 15 %"]
    assert bars.cells[1] == ["method=continual_backprop", "4.0 %", "at most 5 %"]
    assert overheads.cells[0][3] == ""
    assert "power iteration" in overheads.cells[1][3]
    assert events.cells[0][0] == "method=ewc"


def test_methods_are_measured_with_sac_too():
    rows = {"method=ewc": ["method=ewc"]}
    settings = {"agent": "sac", "rows": rows, "repeats": 2, "seconds": 0.0}
    found = methods.measure_in_worker(settings, nothing)
    assert {name: len(pairs) for name, pairs in found["pairs"].items()} == {"method=ewc": 2}
    assert list(found["events"]) == ["method=ewc"]
    assert found["rate"] == 0.125
    assert all(seconds > 0.0 for pair in found["pairs"]["method=ewc"] for seconds in pair)
    pairs = {"method=redo": [(2e-3, 2.2e-3)], "method=spectral": [(2e-3, 3e-3)]}
    made = methods.section({**found, "pairs": pairs, "interaction": [1e-3]}, OPTIONS)
    assert made.name == "methods_sac"
    short, overheads, _ = made.tables
    # No bar was ever set for SAC.
    assert short.header == ("what", "overhead per gradient step")
    assert short.cells == [["median method", "30.0 %"]]
    # An eighth of 0.2 ms more, beside 1 ms of simulation and an eighth of 2 ms of learning.
    assert overheads.cells[0][1:3] == ["10.0 %", "2.0 %"]
    assert command_line.SECTIONS["methods_sac"] is methods.measure_sac


def test_a_sac_learner_of_a_preset_holds_its_method_and_stands_still():
    learner = PresetSACLearner(["method=l2_init", "network.hidden_sizes=[8]"])
    before = learner.agent.critic_1.value.weight.detach().clone()
    assert learner.lap() == learner.lap() == 1.0
    for update in learner.agent.updates.values():
        assert list(update.methods) == ["l2_init"]
        assert update.num_steps == 2
    np.testing.assert_allclose(learner.agent.critic_1.value.weight.detach(), before, atol=1e-7)
    learner.agent.close()


def test_a_ppo_learner_repeats_its_rollout_without_moving():
    learner = PPOLearner(["network.hidden_sizes=[8]"], num_epochs=2, vector_steps=16)
    before = learner.agent.policy.mean.weight.detach().clone()
    assert learner.lap() == learner.lap() == 4
    assert learner.agent.updates["policy"].num_steps == 8
    np.testing.assert_allclose(learner.agent.policy.mean.weight.detach(), before, atol=1e-7)
    learner.agent.close()


def test_both_sac_learners_make_one_gradient_step_per_lap():
    ours, theirs = SACLearner([8], 16), SB3Learner([8], 16)
    assert ours.lap() == theirs.lap() == 1
    assert ours.agent.clock.gradient_steps == 1
    assert theirs._model._n_updates == 1
    ours.agent.close()


def test_sac_rates_are_measured_and_compared():
    settings = {"sizes": {"small": [[8], 16]}, "num_threads_each": 1, "repeats": 1, "seconds": 0.0}
    found = updates.measure_in_worker(settings, nothing)
    assert len(found["pairs"]["small"]) == 1
    made = updates.section({1: {"pairs": {"small": [(0.02, 0.01)]}}}, OPTIONS)
    assert made.tables[0].cells == [["small, 1 thread", "100.0", "50.0", "2.00"]]


@pytest.mark.parametrize("axis", scaling.AXES)
def test_every_axis_has_work_at_its_base_and_beyond(axis):
    base = scaling.AXES[axis].base
    other = next(v for v in scaling.AXES[axis].values if v > base) if axis != "widths" else 512
    for value in (base, other):
        assert scaling.work_of(axis, value, small=True)() > 0


def test_width_arithmetic():
    """Forward, weight and input gradients of 27-256-256-8 and 27-256-256-1, the first without."""
    arithmetic = scaling.AXES["widths"].arithmetic
    assert arithmetic is not None
    assert arithmetic[256] == 1.0
    per_sample = 3 * (27 * 512 + 512 * 512 + 512 * 8) - 27 * 512
    per_sample += 3 * (27 * 512 + 512 * 512 + 512) - 27 * 512
    base = 3 * (27 * 256 + 256 * 256 + 256 * 8) - 27 * 256
    base += 3 * (27 * 256 + 256 * 256 + 256) - 27 * 256
    assert arithmetic[512] == pytest.approx(per_sample / base)


def test_scaling_table_and_figure(tmp_path):
    found = {
        "widths": {"256": [(1e-3, 1e-3)] * 3, "512": [(1e-3, 4e-3)] * 3},
        "tasks": {"1": [(1e-3, 1e-3)] * 3, "50": [(1e-3, 1.5e-3)] * 3},
    }
    made = scaling.section(found, OPTIONS)
    assert made.tables[0].cells[1] == ["512", "4,000", "4.00", "3.84"]
    assert made.tables[1].cells[1] == ["50", "1,500", "1.50"]
    assert scaling.draw(made, tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"


def test_scaling_takes_the_axes_from_what_a_worker_reports(monkeypatch):
    def run(workers, timeout_seconds):
        points = {name: {"1": [(1e-3, 1e-3)]} for name in workers[0]["axes"]}
        return [{**points, "peak_memory_mib": 100.0}]

    monkeypatch.setattr(processes, "measure", run)
    made = scaling.measure(replace(OPTIONS, quick=True), Console(quiet=True))
    assert list(made.data) == list(scaling.AXES)[:1]


def small_section(name, cell):
    table = Table("T", ["a"], [[cell]])
    return Section(name, name.upper(), "How.", [table], {"x": [1, 2]}, ["x.png"])


def test_the_document_holds_the_newest_of_every_section(tmp_path):
    order = ["first", "second"]
    sections.write(tmp_path, [small_section("second", "old")], order)
    sections.write(tmp_path, [small_section("first", "1")], order)
    written = sections.write(tmp_path, [small_section("second", "new")], order)
    assert [path.name for path in written] == ["second.json", sections.DOCUMENT]
    text = (tmp_path / sections.DOCUMENT).read_text()
    assert text.index("## FIRST") < text.index("## SECOND")
    assert "| new |" in text
    assert "| old |" not in text
    assert "![FIRST](x.png)" in text
    again = sections.read(tmp_path / sections.PARTS / "first.json")
    assert again == small_section("first", "1")


def test_numbers_as_text():
    assert sections.number(Spread(2.0, 1.0, 3.0, (1.5, 2.5)), 1) == "2.0 (1.5 to 2.5)"
    assert sections.number(Spread(2.0, 1.0, 3.0), 0) == "2 (1 to 3)"
    assert sections.percent(Spread(0.05, 0.05, 0.05)) == "5.0 %"


def test_one_section_alone_is_run_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "Console", lambda: QUIET)
    fake = {"sac": lambda options, console: small_section("sac", f"{options.repeats}")}
    monkeypatch.setattr(command_line, "SECTIONS", {**command_line.SECTIONS, **fake})
    arguments = ["--only", "sac", "--cores", "1", "--out", str(tmp_path)]
    assert command_line.main(arguments) == command_line.EXIT_DONE
    text = (tmp_path / sections.DOCUMENT).read_text()
    assert "Made by `python -m analysis.throughput --only sac --cores 1" in text
    assert "| 5 |" in text  # repeats

    def fail(options, console):
        raise WorkerFailed("no")

    monkeypatch.setitem(command_line.SECTIONS, "sac", fail)
    assert command_line.main(arguments) == command_line.EXIT_FAILED


@pytest.mark.skipif(gpu.has_device(), reason="there is a CUDA device")
def test_without_a_gpu_the_script_says_so(capsys):
    assert gpu.main([]) == 0
    assert capsys.readouterr().out.strip() == gpu.NO_DEVICE
