"""How long a command would take: members, extrapolation, and real rehearsals of small runs."""

from __future__ import annotations

import time

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

import train
from analysis import planning
from analysis.multitask.measuring import Evaluator
from analysis.throughput.rehearsal import measure_rehearsal
from configs.compose import compose_run
from configs.members import member_words
from configs.schema import ConfigurationError

SMALL = ["experiment=slippery_ant_smoke", "log.tensorboard=false", "log.figures=false"]


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    "words",
    [
        ["arm=standard,l2", "seed=range(0,3)", "agent.discount=0.9,0.99"],
        ["method=[redo],[]", "seed=3"],
        ["network.hidden_sizes=[8,8],[16]", "env.friction_values=[0.1,0.2]", "seed=choice(1,2)"],
    ],
)
def test_members_are_those_of_hydras_own_sweeper(words):
    parsed = OverridesParser.create().parse_overrides(words)
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    assert [sorted(member) for member in member_words(words)] == [sorted(m) for m in batch]


def test_an_experiment_brings_its_sweep_and_the_command_line_wins():
    members = member_words(["experiment=stationary_ant"])
    assert len(members) == 12
    assert ["seed=0", "arm=standard", "experiment=stationary_ant"] in members
    members = member_words(["experiment=stationary_ant", "seed=7", "hydra/launcher=basic"])
    assert len(members) == 4
    assert all("seed=7" in member for member in members)
    gradual = member_words(["experiment=compare_methods_gradual"])  # varies another experiment
    assert len(gradual) == 55


@pytest.mark.parametrize(
    ("words", "message"),
    [(["seed"], "key=value"), (["agent.discount=interval(0,1)"], "list its values")],
)
def test_words_that_name_no_members_are_refused(words, message):
    with pytest.raises(ConfigurationError, match=message):
        member_words(words)


def test_seeds_are_counted_and_everything_else_is_told_apart():
    kinds = planning.find_kinds(["experiment=stationary_ant", "seed=0,1"], swept=True)
    assert [kind.runs for kind in kinds] == [2, 2, 2, 2]
    assert [kind.name for kind in kinds][:2] == ["ant/ppo-mlp-standard", "ant/ppo-mlp-ns_adam"]
    assert {kind.composed.config.num_threads for kind in kinds} == {1}
    (one,) = planning.find_kinds(["experiment=stationary_ant", "seed=5"], swept=False)
    assert (one.runs, one.composed.config.seed) == (1, 5)


def test_extrapolation_by_hand():
    words = ["experiment=mt10_sequence_ppo", "total_steps=2_000_000"]
    config = compose_run(words).config
    window = {
        "env_steps": 30_000,
        "seconds": 12.0,
        "evaluation": 2.0,
        "first_evaluation": 1.5,
        "warmup_steps": 5_000,
        "warmup_seconds": 4.0,
    }
    found = planning.estimate(config, window, floor=100e-6, num_cores=2)
    assert found.steps_per_second == pytest.approx(3_000.0)
    # 101 quick evaluations on 5 goals, and all 50 goals at the end: as much as 10 of them.
    training, evaluating = 4.0 + 1_995_000 / 3_000, 111 * 1.5
    assert found.seconds == pytest.approx(training + evaluating)
    assert found.evaluation_share == pytest.approx(evaluating / (training + evaluating))
    assert found.floor_share == pytest.approx(100e-6 * 3_000 / 2)


@pytest.mark.parametrize(
    ("words", "rounds"),
    [
        (["log.final_evaluation=true"], 50),
        (["log.final_evaluation=true", "log.evaluation_rows_per_task=5"], 10),
        (["log.stage_evaluation=true"], 10 * 50),
        ([], 0),
    ],
)
def test_runs_without_quick_evaluations_pay_for_full_ones(words, rounds):
    off = ["log.quick_evaluation_steps=null", "log.final_evaluation=false"]
    words = [*off, "log.stage_evaluation=false", *words]
    given = {word.partition("=")[0]: word for word in words}
    config = compose_run(["experiment=mt10_sequence_ppo", *given.values()]).config
    window = {"env_steps": 1_000, "seconds": 1.0, "evaluation": 0.0, "first_evaluation": 2.0}
    window |= {"warmup_steps": 0, "warmup_seconds": 0.0}
    found = planning.estimate(config, window, floor=None, num_cores=1)
    assert found.seconds == pytest.approx(config.total_steps / 1_000 + 2.0 * rounds)


@pytest.mark.metaworld
def test_rehearsals_of_runs_without_quick_evaluations_visit_one_goal_per_row(monkeypatch):
    original, visited = Evaluator.measure, []

    def noted(self, model, about, goals=None, **options):
        visited.append((tuple(goals), options.get("cut_at_success", False)))
        return original(self, model, about, goals, **options)

    monkeypatch.setattr(Evaluator, "measure", noted)
    words = ["env=mt1", "env.task=reach-v3", "env.horizon=20", "env.num_goals=3"]
    words += ["env.num_workers=0", "agent=sac", "agent.warmup_steps=10", "agent.batch_size=8"]
    words += ["agent.replay_size=50", "network=small", "log.diagnostics=false", "num_threads=1"]
    words += ["log.tensorboard=false", "log.final_evaluation=true", "total_steps=40"]
    window = measure_rehearsal({"words": words, "seconds": 60.0, "extra_lap": False}, nothing)
    assert visited == [((0,), False)]
    assert window["first_evaluation"] > 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.6, "45s"), (95.0, "2m"), (5_340.0, "89m"), (12_000.0, "3h20m")]
)
def test_durations_for_people(seconds, text):
    assert planning.duration(seconds) == text


def test_a_run_that_is_over_before_its_window_is_no_extrapolation():
    config = compose_run(SMALL).config
    window = dict.fromkeys(("env_steps", "seconds", "evaluation", "first_evaluation"), 0.0)
    window |= {"warmup_steps": 12_288, "warmup_seconds": 7.5}
    found = planning.estimate(config, window, floor=None, num_cores=1)
    assert (found.steps_per_second, found.seconds, found.floor_share) == (None, 7.5, None)


def test_rehearsals_measure_learning_and_not_the_warmup():
    settings = {"words": SMALL, "seconds": 0.0, "extra_lap": False}
    window = measure_rehearsal(settings, nothing)
    assert window["warmup_steps"] == window["env_steps"] == 512  # a rollout of 4 x 128 each
    assert window["seconds"] > 0.0
    assert window["warmup_seconds"] > 0.0
    assert window["first_evaluation"] + window["evaluation"] < 0.01  # there are none
    words = ["experiment=slippery_ant_sac_smoke", "log.tensorboard=false", "log.figures=false"]
    settings = {"words": words, "seconds": 0.0, "extra_lap": False}
    warmup = compose_run(words).config.agent.warmup_steps
    assert measure_rehearsal(settings, nothing)["warmup_steps"] > warmup > 0


def test_a_short_run_is_measured_whole():
    settings = {"words": [*SMALL, "total_steps=1024"], "seconds": 60.0, "extra_lap": False}
    calls = []
    window = measure_rehearsal(settings, lambda: calls.append(1))
    assert (window["env_steps"], window["warmup_steps"]) == (0, 1_024)
    assert len(calls) == 1  # the others are told once that they may begin


def test_the_command_prints_a_table_and_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    root = tmp_path / "runs"
    words = [*SMALL, "arm=standard,l2", "seed=0,1,2", "plan.seconds=0.1", f"runs_root={root}"]
    assert train.main(["plan", "-m", *words]) == train.EXIT_DONE
    printed = capsys.readouterr().out
    for words in ("ppo-small-standard", "ppo-small-l2", "about ", "at a time"):
        assert words in printed
    assert not root.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan.seconds=0"], "plan.seconds is 0.0; give a positive number"),
        (["plan.seconds=soon"], "plan.seconds"),
        (["plan.second=3"], "seconds"),
        (["env=slipery_ant"], "slippery_ant"),
        (["-m", "arm=standard,l3"], "l3"),
    ],
)
def test_bad_plans_are_refused_in_one_sentence(words, message, capsys):
    assert train.main(["plan", *words]) == train.EXIT_CONFIGURATION
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not printed.out


@pytest.mark.slow
def test_a_plan_comes_within_a_fifth_of_the_run(tmp_path, monkeypatch):
    """Half a minute of one core; another try where the load changed between plan and run."""
    words = ["env=slippery_ant", "num_threads=1", "progress=false", "total_steps=60_000"]
    words += ["log.tensorboard=false", "log.figures=false"]
    monkeypatch.setattr(planning.os, "sched_getaffinity", lambda pid: {0})
    (kind,) = planning.find_kinds(words, swept=False)
    ratios = []
    while len(ratios) < 3 and not (ratios and 0.8 < ratios[-1] < 1.2):
        found = planning._rehearsed(kind.composed, 6.0, [0], 1)
        assert found.floor_share is not None
        assert 0.3 < found.floor_share < 1.2
        begin = time.perf_counter()
        assert train.main([*words, f"runs_root={tmp_path / str(len(ratios))}"]) == train.EXIT_DONE
        ratios.append(found.seconds / (time.perf_counter() - begin))
    assert 0.8 < ratios[-1] < 1.2, ratios


def test_what_training_would_refuse_is_not_planned(capsys, tmp_path):
    words = [*SMALL, "agent.log_std_min=-5"]  # read with state_dependent_std=true only
    place = f"runs_root={tmp_path}"
    assert train.main([*words, place]) == planning.EXIT_CONFIGURATION
    said = capsys.readouterr().err
    assert said.startswith("configuration: ")
    assert planning.plan([*words, place]) == planning.EXIT_CONFIGURATION
    assert capsys.readouterr().err == said
    assert planning.plan([*SMALL, place, f"init_from={tmp_path}"]) == planning.EXIT_CONFIGURATION
    assert str(tmp_path) in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
