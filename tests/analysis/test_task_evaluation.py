"""Every task and goal once, whoever runs it, and no episode counted for being short."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest, trim_mean
from simulated_tasks import SimulatedTasks, evaluation_of, outcomes_of, rates_to_success

from analysis.multitask import (
    NotAnEvaluation,
    UnlikeRuns,
    check_alike,
    deterministic_policy,
    load_evaluations,
    run_goals,
    score,
    study,
    write_evaluation,
)
from analysis.multitask.evaluation import checked_goals
from analysis.multitask.records import CSV_COLUMNS, MUST_AGREE, task_labels
from analysis.multitask.report import draw_evaluation, results_table
from analysis.multitask.scores import goal_iqm
from analysis.statistics import wilson_interval
from analysis.storage import StorageError

# Two tasks, five goals: the step of success, 0 for never; 10 is the last one.
TABLE = [[3, 0, 10, 1, 9], [0, 0, 7, 0, 2]]


def ones(observation, context):
    return np.ones((len(observation), 1), dtype=np.float32)


def run(copies=1, goals=(0, 1, 2, 3, 4), policy=ones, **options):
    worlds = SimulatedTasks(TABLE, copies)
    return run_goals(policy, worlds, 2, goals, **options), worlds


# The episodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 3, 5, 7])
def test_every_goal_is_visited_once_and_results_do_not_depend_on_the_rows(copies):
    found, worlds = run(copies)
    begun = [pair for pair in worlds.started if pair != (0, 0) and pair != (1, 0)]
    assert sorted(begun) == [(task, goal) for task in range(2) for goal in range(1, 5)]
    assert found.first_success_step.tolist() == TABLE
    assert found.success.tolist() == [[s > 0 for s in row] for row in TABLE]
    assert found.final_success.tolist() == [[s == 10 for s in row] for row in TABLE]
    assert (found.episode_length == 10).all()
    assert (found.episode_return == 10.0).all()
    assert found.rates.tolist() == [0.8, 0.4]
    assert worlds.num_steps == 100  # rows without a goal of their own take no step


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
def test_episodes_may_end_at_their_first_success(copies):
    found, worlds = run(copies, cut_at_success=True)
    assert found.first_success_step.tolist() == TABLE
    assert found.episode_length.tolist() == [[s or 10 for s in row] for row in TABLE]
    assert worlds.num_steps == found.episode_length.sum()
    assert not found.final_success.any()  # unknown, so never claimed


def test_some_goals_in_any_order():
    found, worlds = run(1, goals=(4, 2))
    assert worlds.started == [(0, 4), (1, 4), (0, 2), (1, 2)]
    assert found.goals == (4, 2)
    assert found.first_success_step.tolist() == [[9, 10], [2, 7]]


def test_the_policy_always_sees_all_rows_and_the_context_of_the_step():
    seen = []

    def policy(observation, context):
        seen.append((observation.shape, context[:, 1].tolist(), observation[:, 1].tolist()))
        return np.zeros((len(observation), 1))

    run(3, policy=policy)
    assert {shape for shape, _, _ in seen} == {(6, 2)}
    assert all(asked == elapsed for _, asked, elapsed in seen)


def test_an_evaluation_can_be_abandoned():
    asked = []

    def is_stopped():
        asked.append(1)
        return len(asked) > 4

    found, worlds = run(1, is_stopped=is_stopped)
    assert found is None
    assert worlds.num_steps == 8


def test_unequal_rows_and_impossible_goals_are_refused():
    worlds = SimulatedTasks(TABLE, 2)
    with pytest.raises(ValueError, match="equally many"):
        run_goals(ones, worlds, 3, [0])
    worlds.task[1] = 1
    with pytest.raises(ValueError, match="task 0 has 1 of 4 rows"):
        run_goals(ones, worlds, 2, [0])
    for goals, words in (([], "at least one"), ([0, 5], "goal 5"), ([-1], "-1"), ([1, 1], "twice")):
        with pytest.raises(ValueError, match=words):
            checked_goals(goals, 5)


# Bias -----------------------------------------------------------------------------------------


def naive(generator, copies, episodes):
    """What upstream does: copies restart at once, and the first episodes to end are counted."""
    ends = []
    for _ in range(copies):
        success = generator.random(episodes) < 0.5
        ends += zip(np.cumsum(np.where(success, 80, 500)), success, strict=True)
    first = sorted(ends, key=lambda pair: pair[0])[:episodes]
    return np.mean([success for _, success in first])


def test_the_evaluator_is_unbiased_where_counting_what_ends_first_is_not():
    """Success takes 80 steps and failure 500; here a tenth of both. 600 evaluations."""
    generator, rates = np.random.default_rng(0), []
    for _ in range(30):
        table = np.where(generator.random((20, 50)) < 0.5, 8, 0)
        worlds = SimulatedTasks(table, copies=10, horizon=50)
        found = run_goals(ones, worlds, 20, range(50), cut_at_success=True)
        rates.extend(found.rates)
    assert len(rates) == 600
    assert np.mean(rates) == pytest.approx(0.5, abs=0.01)
    assert np.mean([naive(generator, 10, 50) for _ in range(600)]) == pytest.approx(0.57, abs=0.01)
    assert np.mean([naive(generator, 4, 3) for _ in range(600)]) == pytest.approx(0.79, abs=0.03)


# Who acts -------------------------------------------------------------------------------------


class Ours:
    def act(self, observation, context, explore):
        assert explore is False
        return observation[:, :1] + context[:, :1]


class Theirs:
    def predict(self, observation, deterministic=False):
        assert deterministic is True
        return observation[:, :1] + observation[:, 2:3], None


def test_agents_and_models_of_stable_baselines3_act_alike():
    observation, context = np.ones((3, 2)), np.full((3, 1), 2.0)
    for model in (Ours(), Theirs()):
        action = deterministic_policy(model)(observation, context)
        assert action.tolist() == [[3.0]] * 3
    with pytest.raises(TypeError, match="neither act"):
        deterministic_policy(object())


# One evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 50), (50, 50), (1, 5), (17, 50), (1, 1)])
def test_wilson_intervals_equal_scipys(k, n):
    expected = binomtest(k, n).proportion_ci(method="wilson")
    found = wilson_interval(k, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.estimate == k / n <= found.high
    with pytest.raises(ValueError, match="impossible"):
        wilson_interval(n + 1, n)


def test_scores_of_one_evaluation():
    found = score(evaluation_of(rates_to_success([0, 0.2, 0.4, 1.0])), num_resamples=500)
    assert [task.solved for task in found.tasks] == [0, 1, 2, 5]
    assert [task.median_first_step for task in found.tasks[1:]] == [3.0] * 3
    assert np.isnan(found.tasks[0].median_first_step)
    assert found.mean.estimate == pytest.approx(0.4)
    assert found.iqm.estimate == pytest.approx(0.3)
    assert found.episode_return.estimate == pytest.approx(4.0)
    assert found.mean.low < 0.4 < found.mean.high
    cut = score(evaluation_of(rates_to_success([0, 1.0]), cut=True), num_resamples=50)
    assert np.isnan(cut.final_success)
    assert np.isnan(cut.episode_return.estimate)


def test_the_interval_of_the_iqm_resamples_goals_within_tasks():
    success = np.array(rates_to_success([0, 0.4, 0.6, 1.0]), dtype=float)
    found = goal_iqm(success, num_resamples=2000, seed=1)
    assert found.estimate == pytest.approx(0.5)
    generator, draws = np.random.default_rng(5), []
    for _ in range(2000):
        rates = [generator.choice(row, size=5).mean() for row in success]
        draws.append(trim_mean(rates, 0.25))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.051)
    certain = goal_iqm(np.ones((4, 5)), num_resamples=10)
    assert (certain.low, certain.high) == (1.0, 1.0)


def test_the_table_shows_every_task_and_says_what_was_measured():
    evaluation = evaluation_of(rates_to_success([0, 0.2, 1.0]))
    table = results_table(evaluation, score(evaluation, 100))
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["task"] == ["a", "b", "c", "mean over tasks", "IQM over tasks"]
    assert columns["success"] == ["0/5", "1/5", "5/5", "0.400", "0.400"]
    assert columns["first at"][:3] == ["-", "3", "3"]
    for words in ("reward v2", "horizon 500", "any step", "run seed", "stock", "000000000000"):
        assert words in str(table.title)
    partial = evaluation_of(rates_to_success([0.2]), num_goals=50)
    table = results_table(partial, score(partial, 100))
    assert "only 5 of 50 goals per task: not for result tables" in str(table.title)
    assert list(table.columns[0].cells) == ["a"]  # one task has no mean over tasks


def test_a_figure_is_drawn(tmp_path):
    evaluation = evaluation_of(rates_to_success([0, 0.2, 1.0]))
    paths = draw_evaluation(tmp_path / "figures", evaluation, score(evaluation, 100))
    assert [path.name for path in paths] == ["evaluation.png", "evaluation.svg"]
    text = paths[1].read_text()
    assert text.count("<path") > 20
    again = draw_evaluation(tmp_path / "again", evaluation, score(evaluation, 100))
    assert again[1].read_text() == text


# Files ----------------------------------------------------------------------------------------


def test_what_is_written_reads_back(tmp_path):
    evaluation = evaluation_of([[1, 0], [0, 0]], seed=3)
    paths = write_evaluation(tmp_path / "run", evaluation, {"note": float("nan")})
    assert [path.name for path in paths] == ["evaluation.json", "evaluation.csv"]
    (found,) = load_evaluations(tmp_path / "run")
    assert (found.tasks, found.kind) == (evaluation.tasks, "full")
    assert (found.manifest, found.about) == (evaluation.manifest, evaluation.about)
    for name in ("success", "first_success_step", "episode_return", "episode_length"):
        expected, read = getattr(evaluation.outcomes, name), getattr(found.outcomes, name)
        assert read.dtype == expected.dtype
        assert read.tolist() == expected.tolist()
    lines = paths[1].read_text().splitlines()
    assert lines[0] == ",".join(CSV_COLUMNS)
    assert lines[1:3] == ["a,0,1,0,3,10.0,500,0", "a,1,0,0,,0.0,500,0"]
    assert len(lines) == 5


def test_fewer_goals_never_replace_all_goals(tmp_path):
    write_evaluation(tmp_path, evaluation_of([[1, 0]]), {})
    before = (tmp_path / "evaluation.json").read_bytes()
    paths = write_evaluation(tmp_path, evaluation_of([[1, 0]], num_goals=50), {})
    assert [path.name for path in paths] == ["evaluation_partial.json", "evaluation_partial.csv"]
    assert (tmp_path / "evaluation.json").read_bytes() == before
    (partial,) = load_evaluations([paths[0]])
    assert partial.kind == "partial"


def test_a_cut_evaluation_leaves_unknown_cells_empty(tmp_path):
    paths = write_evaluation(tmp_path, evaluation_of([[1, 0]], cut=True), {})
    assert paths[1].read_text().splitlines()[1:] == ["a,0,1,,3,,500,0", "a,1,0,,,,500,0"]


def test_tasks_that_occur_twice_have_two_labels():
    assert task_labels(["a", "b", "a", "a"]) == ("a", "b", "a#2", "a#3")


def test_files_that_are_no_evaluations_are_refused(tmp_path):
    with pytest.raises(NotAnEvaluation, match=r"does not exist; make it with: python evaluate\.py"):
        load_evaluations(tmp_path)
    path = write_evaluation(tmp_path, evaluation_of([[1, 0]]), {})[0]
    with pytest.raises(ValueError, match="named twice"):
        load_evaluations([tmp_path, path])
    with pytest.raises(ValueError, match="no evaluations are named"):
        load_evaluations([])
    record = json.loads(path.read_text())
    damages = {
        "holds no evaluation": {"worlds": []},
        "has shape": {**record, "goals": [0]},
        "says kind 'quick'": {**record, "kind": "quick"},
        "KeyError": {key: value for key, value in record.items() if key != "episodes"},
        "does not say its backend": {
            **record,
            "manifest": {k: v for k, v in record["manifest"].items() if k != "backend"},
        },
        "tasks and manifest differ": {**record, "tasks": ["b"]},
    }
    for words, damaged in damages.items():
        path.write_text(json.dumps(damaged))
        with pytest.raises(NotAnEvaluation, match=words):
            load_evaluations(path)
    path.write_text("{")
    with pytest.raises(NotAnEvaluation, match="is not JSON"):
        load_evaluations(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_evaluation(tmp_path / "file", evaluation_of([[1]]), {})


# Several seeds --------------------------------------------------------------------------------


def two_seeds():
    rates = ([0, 0.2, 0.4, 0.6], [0.2, 0.4, 0.6, 1.0])
    return [evaluation_of(rates_to_success(row), seed) for seed, row in enumerate(rates)]


def test_a_study_by_hand():
    found = study(two_seeds())
    assert found.iqm.estimate == pytest.approx(0.4)
    # Whole seeds: only {0, 0}, {0, 1} and {1, 1} can be drawn, with IQMs 0.3, 0.4 and 0.5.
    assert (found.iqm.low, found.iqm.high, found.iqm.n) == pytest.approx((0.3, 0.5, 2))
    assert found.mean.estimate == pytest.approx(0.425)
    assert (found.mean.low, found.mean.high) == pytest.approx((0.3, 0.55))
    assert found.mean_per_seed == pytest.approx((0.3, 0.55))
    assert found.seeds == (0, 1)
    assert found.num_goals == 5
    task = found.tasks[3]
    assert (task.task, task.rates) == ("d", (0.6, 1.0))
    assert (task.success.estimate, task.success.low, task.success.high) == (0.8, 0.6, 1.0)
    assert task.episode_return.estimate == pytest.approx(8.0)
    assert found.strength == "2 seeds: no claim"
    assert set(found.manifest) == set(MUST_AGREE)


def test_published_intervals_take_tasks_for_independent_and_are_narrower():
    """Seeds that are good or bad at everything: the worst case."""
    rows = [[level] * 8 for level in (0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    found = study([evaluation_of(rates_to_success(r), s) for s, r in enumerate(rows)])
    assert (found.iqm_by_task.estimate, found.iqm.estimate) == pytest.approx((0.5, 0.5))
    by_seed, by_task = (i.high - i.low for i in (found.iqm, found.iqm_by_task))
    assert by_task < 0.6 * by_seed
    assert found.strength == "6 seeds: exploratory"
    one = study([evaluation_of([[1, 0]])])
    assert np.isnan(one.iqm.low)
    assert np.isnan(one.iqm_by_task.low)


OTHERS = {
    "benchmark": "meta-world-mt50",
    "reward_version": "v1",
    "horizon": 200,
    "success": "last step",
    "goal_generator": "MT10",
    "goal_policy": "fixed seed",
    "backend": "envpool",
}


@pytest.mark.parametrize("key", OTHERS)
def test_unlike_runs_are_refused_by_name(key):
    other = evaluation_of(rates_to_success([0.2] * 4), 2, **{key: OTHERS[key]})
    words = rf"toy/seed_0 and toy/seed_2 cannot .*: {key} is .* {OTHERS[key]} in the other"
    with pytest.raises(UnlikeRuns, match=words):
        study([*two_seeds(), other])


def test_other_tasks_goals_steps_and_seeds_are_refused():
    rates = rates_to_success([0.2] * 4)

    def refused(words, *others, **options):
        with pytest.raises(UnlikeRuns, match=words):
            study([*two_seeds(), *others], **options)

    refused("tasks is a, b, c, d in the one and a in the other", evaluation_of(rates[:1], 2))
    refused("env_steps is 1000 .* and 500", evaluation_of(rates, 2, env_steps=500))
    refused("num_goals is 5 .* 2", evaluation_of(rates_to_success([0.5] * 4, 2), 2))
    refused("a quick evaluation", evaluation_of(rates, 2, cut=True), allow_partial=True)
    partial = evaluation_of(rates_to_success([0.5] * 4, 2), 2, num_goals=5)
    refused("a partial evaluation", partial)
    refused("goals is 0, 1, 2, 3, 4 in the one and 0, 1", partial, allow_partial=True)
    refused("seed 1 occurs twice", evaluation_of(rates, 1))
    refused("goal_seed=1 but different goals", evaluation_of(rates, 2, goal_seed=1))
    with pytest.raises(UnlikeRuns, match="no evaluations"):
        study([])


def test_goals_may_differ_between_seeds_only_where_every_run_draws_its_own():
    runs = [evaluation_of([[1, 0]], seed) for seed in range(2)]
    assert runs[0].manifest["goal_sha256"] != runs[1].manifest["goal_sha256"]
    check_alike(runs)
    for policy in ("file", "fixed seed"):
        runs = [evaluation_of([[1, 0]], seed, goal_policy=policy) for seed in range(2)]
        with pytest.raises(UnlikeRuns, match="goal_sha256"):
            check_alike(runs)
    same = {"goal_policy": "fixed seed", "goal_seed": 7, "goal_sha256": "7"}
    check_alike([evaluation_of([[1, 0]], seed, **same) for seed in range(2)])


def test_fewer_goals_can_be_put_together_on_request():
    runs = [evaluation_of([[1, 0], [1, 1]], seed, num_goals=50) for seed in range(2)]
    assert study(runs, allow_partial=True).mean.estimate == 0.75


def test_outcomes_have_rates():
    assert outcomes_of([[1, 0, 0, 1], [0, 0, 0, 1]]).rates.tolist() == [0.5, 0.25]
