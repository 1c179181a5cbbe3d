"""Runs that are evaluated while they train, and `python evaluate.py run` on them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from metaworld.policies import ENV_POLICY_MAP

import evaluate
import train
from analysis.checkpoint import CheckpointStore
from analysis.multitask import deterministic_policy, load_evaluations, study
from analysis.multitask.film import composed, grid, labelled, tile_size
from analysis.multitask.measuring import Evaluator, describe_measured, goal_policy
from analysis.multitask.training import TrainingEvaluation
from analysis.restored import load_agent, restore_on_tasks
from analysis.video import RenderingUnavailable, find_backend
from configs.compose import compose_run
from envs.meta_world import Config

pytestmark = pytest.mark.metaworld
REPOSITORY = Path(train.__file__).parent
TASKS = ("handle-press-v3", "reach-v3")
PRESS = np.array([[0.02, 0.9, -0.71, 0.9]], dtype=np.float32)
WORDS = [
    "env=mt10",
    "env.benchmark=custom",
    f"env.tasks=[{','.join(TASKS)}]",
    "env.horizon=30",
    "env.num_goals=4",
    "env.num_workers=0",
    "agent=sac",
    "agent.warmup_steps=40",
    "agent.batch_size=32",
    "agent.replay_size=400",
    "agent.steps_per_iteration=40",
    "network=dendrites",
    "network.hidden_sizes=[32,32]",
    "log.diagnostics=false",
    "log.figures=false",
    "log.tensorboard=false",
    "log.checkpoint_minutes=0",
    "progress=false",
    "num_threads=1",
    "total_steps=240",
]
EVALUATED = [
    "log.quick_evaluation_steps=60",
    "log.quick_evaluation_goals=[0,3]",
    "log.final_evaluation=true",
]


@pytest.fixture(autouse=True, scope="module")
def _no_reserve():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "reserved_bytes", 0)
        patch.setattr("analysis.multitask.measuring.deterministic_policy", pressing)
        yield


def pressing(agent):
    """A little of what the agent does, and a push forward and down that reaches some goals."""
    act = deterministic_policy(agent)
    return lambda observation, context: 0.1 * act(observation, context) + PRESS


def run(place, *words):
    """The last of two words for one key counts here."""
    by_key = {word.partition("=")[0]: word for word in (*WORDS, *words, f"run_dir={place}")}
    return train.main([*by_key.values()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluated") / "seed_0"
    assert run(place, *EVALUATED) == train.EXIT_DONE
    return place


def rows_of(place):
    with (place / "progress.csv").open() as stream:
        return list(csv.DictReader(stream))


def last_state(place):
    return CheckpointStore(place / "checkpoints").load_latest().state


def flat(state, name=""):
    if isinstance(state, dict):
        return {k: v for key, item in state.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)), name)
    return {name: state}


def assert_same_state(first, second):
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        assert np.array_equal(np.asarray(value), np.asarray(other)), key


def test_an_agent_comes_back_with_the_worlds_of_its_training(trained):
    found, stored = load_agent(trained), last_state(trained)
    assert_same_state(found.agent.state_dict(), stored["agent"])
    np.testing.assert_array_equal(found.envs.last_observation, stored["loop"]["observation"])
    np.testing.assert_array_equal(found.envs.context, stored["loop"]["context"])
    found.envs.step(found.agent.act(found.envs.last_observation, found.envs.context, explore=False))
    found.close()


# While training -------------------------------------------------------------------------------


def test_quick_evaluations_follow_the_clock_of_environment_steps(trained):
    rows = [row for row in rows_of(trained) if row["eval_quick/success"]]
    assert [int(row["env_steps"]) for row in rows] == [0, 60, 120, 180, 240]
    for row in rows:
        rates = [float(row[f"eval_quick/{task}/success"]) for task in TASKS]
        assert rates == [0.5, 0.0]  # one of two goals, none of two
        assert float(row["eval_quick/success"]) == 0.25
        assert row["eval/success"] == row["critic_loss"] == ""
        assert row["iteration"].isdecimal()
    assert any(row["critic_loss"] for row in rows_of(trained))


def test_the_full_evaluation_is_logged_and_written_as_the_command_would(trained, tmp_path):
    (row,) = [row for row in rows_of(trained) if row["eval/success"]]
    assert (int(row["env_steps"]), row["eval_quick/success"]) == (240, "")
    (found,) = load_evaluations(trained)
    assert (found.kind, found.tasks, found.num_goals) == ("full", TASKS, 4)
    rates = found.outcomes.rates
    assert 0 < rates[0] < 1
    assert [float(row[f"eval/{task}/success"]) for task in TASKS] == rates.tolist()
    assert float(row["eval/success"]) == pytest.approx(rates.mean())
    returns = found.outcomes.episode_return
    assert float(row["eval/episode_return"]) == pytest.approx(returns.mean())
    assert len(set(returns.ravel())) == 8  # eight different episodes
    done = json.loads((trained / "done.json").read_text())
    assert done["summary"]["evaluation"]["success"] == pytest.approx(rates.mean())
    words = ["run", str(trained), "--out", str(tmp_path)]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    assert (tmp_path / "evaluation.csv").read_bytes() == (trained / "evaluation.csv").read_bytes()
    records = [json.loads((place / "evaluation.json").read_text()) for place in (tmp_path, trained)]
    for record in records:
        record["about"].pop("commit")  # somebody may commit meanwhile
    assert records[0] == records[1]


def test_training_does_not_notice_evaluations(trained, tmp_path):
    """Not a bit of agent, environments and episodes, with k-winners that count their duty."""
    assert run(tmp_path / "run") == train.EXIT_DONE
    plain, evaluated = last_state(tmp_path / "run"), last_state(trained)
    assert_same_state(plain["agent"], evaluated["agent"])
    assert_same_state(plain["env"], evaluated["env"])
    for name in ("episodes.csv", "events.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()
    columns = list(rows_of(tmp_path / "run")[0])
    assert not any(column.startswith("eval") for column in columns)
    kept = [r for r in rows_of(trained) if not r["eval/success"] and not r["eval_quick/success"]]
    assert [{c: row[c] for c in columns} for row in kept] == rows_of(tmp_path / "run")
    assert not (tmp_path / "run" / "evaluation.json").exists()


class Killed(BaseException):
    """The process ends without a word."""


@pytest.mark.parametrize("calls", [4, pytest.param(11, marks=pytest.mark.slow)])
def test_a_killed_run_has_the_same_evaluations(trained, tmp_path, monkeypatch, calls):
    """Killed in the middle of a quick evaluation, and in the middle of the final one."""
    place, measured = tmp_path / "run", []
    original = Evaluator.measure

    def killed(self, model, about, goals=None, **options):
        measured.append(1)
        if len(measured) == min(calls, 6):
            steps = iter(range(calls))
            options["is_stopped"] = lambda: next(steps, None) is None and die()
        return original(self, model, about, goals, **options)

    def die():
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", killed)
        with pytest.raises(Killed):
            run(place, *EVALUATED)
    assert not (place / "done.json").exists()
    assert run(place, *EVALUATED) == train.EXIT_DONE
    same_as(place, trained)


def same_as(place, trained):
    assert_same_state(last_state(place), last_state(trained))
    for name in ("progress.csv", "episodes.csv", "evaluation.csv"):
        assert (place / name).read_bytes() == (trained / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("asked", [30, 140, 350])
def test_a_signal_during_an_evaluation_stops_the_run_and_loses_nothing(
    trained, tmp_path, monkeypatch, asked, capsys
):
    """Signals while the first, a later and the final evaluation step their environments."""
    place, count = tmp_path / "run", []

    def is_requested(self):
        count.append(1)
        if len(count) >= asked:
            self.requested = 15
        return self.requested is not None

    with monkeypatch.context() as patch:
        patch.setattr(train.Interruption, "is_requested", is_requested)
        assert run(place, *EVALUATED) == train.EXIT_SIGNAL
    assert "the same command goes on" in capsys.readouterr().out
    assert not (place / "evaluation.json").exists()
    assert run(place, *EVALUATED) == train.EXIT_DONE
    same_as(place, trained)


@pytest.mark.parametrize("agent", ["sb3_sac", pytest.param("ppo", marks=pytest.mark.slow)])
def test_every_kind_of_agent_is_evaluated(tmp_path, agent):
    words = [word for word in WORDS if not word.startswith(("agent", "network", "total"))]
    words += {
        "sb3_sac": ["agent.warmup_steps=20", "agent.batch_size=16", "agent.replay_size=100"],
        "ppo": ["agent.rollout_length=20", "agent.minibatch_size=20", "agent.num_epochs=1"],
    }[agent]
    words += [f"agent={agent}", "total_steps=40", *EVALUATED]
    assert train.main([*words, f"run_dir={tmp_path / 'run'}"]) == train.EXIT_DONE
    (found,) = load_evaluations(tmp_path / "run")
    assert found.about["agent"] == agent
    assert found.outcomes.success.shape == (2, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["log.quick_evaluation_steps=0"], "log.quick_evaluation_steps is 0"),
        (["log.evaluation_rows_per_task=0"], "log.evaluation_rows_per_task is 0"),
        (["log.quick_evaluation_goals=[]"], "log.quick_evaluation_goals is []"),
        (["log.quick_evaluation_goals=[1,1]"], "each once"),
        (["log.quick_evaluation_goals=[-1]"], "numbers from 0"),
        (["log.quick_evaluation_steps=100"], "names goal 40, but env.num_goals=4 allows 0 to 3"),
        (["log.quick_evaluation_step=100"], "did you mean log.quick_evaluation_steps"),
    ],
)
def test_impossible_settings_are_refused(words, message, tmp_path, capsys):
    assert run(tmp_path / "run", *words) == train.EXIT_CONFIGURATION
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["log.quick_evaluation_steps=1000", "log.final_evaluation=true"])
def test_walking_robots_are_not_evaluated_while_they_train(word, tmp_path, capsys):
    code = train.main(["env=slippery_ant", word, f"run_dir={tmp_path / 'run'}"])
    assert code == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert "needs tasks with goals to visit, such as env=mt10" in error
    assert "python evaluate.py run" in error


def test_worlds_that_cannot_be_measured_later_are_not_sent_there(tmp_path, capsys):
    words = ["env=bit_flipping", "agent=supervised", "log.final_evaluation=true"]
    code = train.main([*words, f"run_dir={tmp_path / 'run'}"])
    assert code == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert "leave it out; after training, draw its curves with: python evaluate.py fig" in error


# Afterwards -----------------------------------------------------------------------------------


def test_the_manifest_says_everything_that_makes_results_comparable(trained):
    (found,) = load_evaluations([trained])
    manifest = {
        "benchmark": "meta-world-custom",
        "tasks": list(TASKS),
        "reward_version": "v2",
        "horizon": 30,
        "success": "any step of the episode",
        "num_goals": 4,
        "goal_generator": "MT1",
        "goal_policy": "run seed",
        "goal_seed": 0,
        "backend": "stock",
        "episodes": 8,
        "rows_per_task": 1,
        "policy": "deterministic",
        "metaworld": "3.1.1",
        "mujoco": "3.3.0",
    }
    assert {key: found.manifest[key] for key in manifest} == manifest
    assert len(found.manifest["goal_sha256"]) == 64
    about = {"agent": "sac", "network": "dendritic", "seed": 0, "env_steps": 240}
    assert {key: found.about[key] for key in about} == about
    assert found.about["checkpoint"].startswith("step-000000000240")
    assert found.about["packages"]["torch"]
    assert study([found]).mean_per_seed == (found.outcomes.rates.mean(),)


def test_goal_policies_have_names(tmp_path):
    assert goal_policy(Config(goal_seed=3)) == "fixed seed"
    assert goal_policy(Config(goal_manifest=str(tmp_path))) == "file"


@pytest.fixture
def copied(trained, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(trained, tmp_path / "seed_0")
    return tmp_path / "seed_0"


def test_a_checkpoint_alone_and_fewer_goals(copied, capsys):
    before = (copied / "evaluation.json").read_bytes()
    first = min((copied / "checkpoints").iterdir())
    assert evaluate.main(["run", str(first), "--goals", "2"]) == evaluate.EXIT_DONE
    shown = capsys.readouterr().out
    assert "only 2 of 4 goals per task: not for result tables" in shown
    assert "reach-v3" in shown
    folder = copied / "evaluations" / first.name
    (found,) = load_evaluations(folder / "evaluation_partial.json")
    assert (found.kind, found.outcomes.goals) == ("partial", (0, 1))
    assert found.about["checkpoint"] == first.name
    assert (copied / "evaluation.json").read_bytes() == before
    assert (folder / "figures" / "evaluation_partial.png").exists()


def test_an_older_checkpoint_never_replaces_the_results_of_the_newest(copied, capsys):
    names = ("evaluation.json", "evaluation.csv", "figures/evaluation.png")
    newest = max((copied / "checkpoints").iterdir())
    assert evaluate.main(["run", str(newest)]) == evaluate.EXIT_DONE
    before = [(copied / name).read_bytes() for name in names]
    first = min((copied / "checkpoints").iterdir())
    words = ["run", str(copied), "--checkpoint", str(first)]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    assert [(copied / name).read_bytes() for name in names] == before
    folder = copied / "evaluations" / first.name
    assert f"its results go to {folder}" in capsys.readouterr().out
    (found,) = load_evaluations(folder)
    assert found.about["checkpoint"] == first.name


def refused(capsys, words, *expected):
    assert evaluate.main(["run", *map(str, words)]) == evaluate.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1, error
    for word in expected:
        assert word in error


def test_wrong_options_are_refused_in_one_sentence(copied, capsys):
    checkpoint = max((copied / "checkpoints").iterdir())
    refused(capsys, [copied, "--goals", "5"], "--goals is 5", "4 goals per task")
    refused(capsys, [copied, "--goals", "0"], "not a whole number above 0")
    refused(capsys, [copied, "--rows-per-task", "-1"], "not a whole number above 0")
    for option in ("--frictions", "--episodes", "--seed"):
        refused(capsys, [copied, option, "2"], f"{option} has no meaning", "--goals")
    refused(capsys, [checkpoint, "--checkpoint", checkpoint], "leave out --checkpoint")
    refused(capsys, [copied / "checkpoints"], "not a run directory")


OTHER_WORLDS = {
    "environment": {"benchmark": "mt1", "tasks": [], "task": "reach-v3"},
    "tasks": {"tasks": ["handle-press-v3", "window-close-v3"]},
    "reward_version": {"reward_version": "v1"},
    "horizon": {"horizon": 40},
    "num_goals": {"num_goals": 5},
    "goal_sha256": {"goal_seed": 1},
}


@pytest.mark.parametrize("key", OTHER_WORLDS)
def test_a_checkpoint_of_another_world_is_refused(copied, capsys, key):
    change(copied, OTHER_WORLDS[key])
    checkpoint = max((copied / "checkpoints").iterdir())
    before = (copied / "evaluation.json").read_bytes()
    refused(capsys, [copied, "--checkpoint", checkpoint], f"was trained with {key}=", "own run")
    assert (copied / "evaluation.json").read_bytes() == before


def change(run_dir, env):
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["env"] |= env
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))


def test_walking_robots_and_tasks_are_never_mixed_up(copied, tmp_path, capsys):
    ant = tmp_path / "ant"
    ant.mkdir()
    plain = compose_run(["env=slippery_ant", "network=small"]).plain
    (ant / "config.yaml").write_text(yaml.safe_dump(plain))
    state = {"agent": {"x": torch.zeros(1)}, "env": {"environment": "ant-published"}}
    CheckpointStore(ant / "checkpoints").save(16, state)
    walker, tasks = (max((place / "checkpoints").iterdir()) for place in (ant, copied))
    words = "was trained with environment="
    refused(capsys, [copied, "--checkpoint", walker], f"{words}ant-published", "meta_world")
    refused(capsys, [ant, "--checkpoint", tasks], f"{words}meta-world-custom", "locomotion")
    refused(capsys, [ant, "--goals", "2"], "--goals has no meaning", "--frictions")
    refused(capsys, [ant, "--rows-per-task", "2"], "--rows-per-task has no meaning")
    # What is offered instead is taken: friction changed, so --values is not.
    assert evaluate.main(["run", str(ant), "--goals", "2"]) == evaluate.EXIT_CONFIGURATION
    assert "--values" not in capsys.readouterr().err
    refused(capsys, [ant, "--values", "1,2"], "--values has no meaning", "--frictions")
    change(ant, {"modifier": "mass"})
    refused(capsys, [ant, "--goals", "2"], "--goals has no meaning", "--values")
    refused(capsys, [ant, "--frictions", "1,2"], "--frictions has no meaning", "--values")


def test_another_network_is_refused(copied, capsys):
    config = (copied / "config.yaml").read_text()
    assert "- 32\n" in config
    (copied / "config.yaml").write_text(config.replace("- 32\n", "- 33\n"))
    refused(capsys, [copied], "does not fit the configuration")


# The same numbers from any number of processes ------------------------------------------------


def measured(agent, run_dir, num_workers, rows_per_task):
    config = compose_run([*WORDS, f"env.num_workers={num_workers}"]).config
    evaluator = Evaluator(config, rows_per_task)
    try:
        about = describe_measured(config, run_dir, 240, "c")
        return flat(vars(evaluator.measure(agent, about).outcomes))
    finally:
        evaluator.close()


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 5])
def test_results_do_not_depend_on_the_number_of_workers(trained, num_workers):
    restored = restore_on_tasks(trained, rows_per_task=3)
    found = restored.evaluator.measure(restored.agent, {})
    alone, spread = flat(vars(found.outcomes)), measured(restored.agent, trained, num_workers, 3)
    restored.close()
    assert alone.keys() == spread.keys()
    for key, value in alone.items():
        assert np.array_equal(value, spread[key]), key


def test_a_blown_up_simulation_ends_its_episode_and_nothing_else(trained):
    restored = restore_on_tasks(trained)
    worlds = restored.evaluator.envs
    assert worlds.settings.on_simulator_reset == "count"
    act, steps = deterministic_policy(restored.agent), []

    class Explosive:
        def act(self, observation, context, explore):
            steps.append(1)
            if len(steps) == 5:
                worlds.physics(0)[1].qvel[0] = 1e11
            return act(observation, context)

    found = restored.evaluator.measure(Explosive(), {})
    assert found.outcomes.unstable.tolist() == [[True, False, False, False], [False] * 4]
    assert found.outcomes.episode_length.ravel().tolist() == [5, *[30] * 7]
    restored.close()


class Experts:
    """Meta-World's scripted policies, one per row."""

    def __init__(self, tasks):
        self.policies = [ENV_POLICY_MAP[task]() for task in tasks]

    def act(self, observation, context, explore):
        assert context.argmax(axis=1).tolist() == list(range(len(self.policies)))
        rows = zip(self.policies, observation.astype(np.float64), strict=True)
        return np.array([np.clip(policy.get_action(row), -1, 1) for policy, row in rows])


@pytest.mark.slow
def test_scripted_experts_succeed_where_they_are_known_to(monkeypatch):
    """Goals 0 to 5 of goal seed 42: any step and last step, in MT10's order."""
    config = compose_run(["env=mt10", "env.goal_seed=42", "agent=sac", "num_threads=1"]).config
    monkeypatch.setattr("analysis.multitask.measuring.deterministic_policy", deterministic_policy)
    evaluator = Evaluator(config)
    found = evaluator.measure(Experts(evaluator.tasks), {}, range(6))
    evaluator.close()
    assert found.kind == "partial"
    assert found.outcomes.success.sum(axis=1).tolist() == [6, 6, 6, 6, 6, 6, 6, 5, 6, 6]
    assert found.outcomes.final_success.sum(axis=1).tolist() == [6, 4, 6, 0, 6, 6, 6, 2, 6, 6]
    assert found.outcomes.first_success_step[0].tolist() == [42, 40, 38, 73, 46, 36]


# Contexts that are learnt in training -------------------------------------------------------


def learnt(state):
    """Encoder and decoder of a snapshot of environments, and how much they have seen."""
    names = ("context_steps", "context_encoder", "context_decoder", "context_moments")
    return {key: value for key, value in state.items() if key.startswith(names)}


class Watching:
    """Pushes forward, and notes what it is shown."""

    def __init__(self):
        self.shown = []

    def act(self, observation, context, explore):
        self.shown.append(context.copy())
        return np.repeat(PRESS, len(observation), axis=0)


WINDOW = [
    "context=window",
    "context.train_every=8",
    "context.reservoir=50",
    "context.minibatch_size=16",
    "log.final_evaluation=true",
]
FREEZING = pytest.mark.parametrize(("freeze_after", "is_frozen"), [(60, True), (10_000, False)])


@FREEZING
def test_a_learnt_context_is_shown_as_it_was_learnt(freeze_after, is_frozen, tmp_path, monkeypatch):
    """Neutral until the encoder is frozen; an evaluation teaches it nothing."""
    monkeypatch.setattr("analysis.multitask.measuring.deterministic_policy", deterministic_policy)
    config = compose_run([*WORDS, *WINDOW, f"context.freeze_after={freeze_after}"]).config
    envs, _ = train.build_environment(config, 1)
    evaluation, watching = TrainingEvaluation(config, tmp_path, 1, envs), [Watching(), Watching()]
    envs.reset()
    for _ in range(40):
        envs.step(np.repeat(PRESS, envs.num_envs, axis=0))
    before = envs.snapshot()
    for each in watching:  # no evaluation depends on the one before
        evaluation.rehearse(each)
    assert_same_state(envs.snapshot(), before)
    shown, again = (np.array(each.shown) for each in watching)
    np.testing.assert_array_equal(shown, again)
    assert (shown[..., :-1] != 0.0).any() == is_frozen
    assert_same_state(learnt(evaluation._built().envs.context_snapshot()), learnt(before))
    envs.close()
    evaluation.close()


@FREEZING
def test_a_run_and_its_checkpoint_are_measured_with_the_same_contexts(
    freeze_after, is_frozen, tmp_path, monkeypatch
):
    place = tmp_path / "run"
    if not is_frozen:  # a new run would be refused: its contexts never say anything
        monkeypatch.setattr(train, "refuse_start", lambda *_: None)
    words = [*WINDOW, f"context.freeze_after={freeze_after}", "total_steps=120"]
    assert run(place, *words) == train.EXIT_DONE
    (stored,) = load_evaluations([place / "evaluation.json"])
    restored = restore_on_tasks(place)
    found = restored.evaluator.measure(restored.agent, {})
    assert_same_state(vars(found.outcomes), vars(stored.outcomes))
    contexts = restored.evaluator.envs.context_snapshot()
    assert_same_state(learnt(contexts), learnt(last_state(place)["env"]))
    assert restored.evaluator.envs.provider.is_frozen == is_frozen
    restored.close()


def test_contexts_that_nobody_has_learnt_are_not_measured():
    evaluator = Evaluator(compose_run([*WORDS, "context=window"]).config)
    with pytest.raises(RuntimeError, match=r"Evaluator\.adopt"):
        evaluator.measure(Watching(), {})
    evaluator.close()


# Film -----------------------------------------------------------------------------------------


def test_tiles_make_one_picture():
    assert [grid(n) for n in (1, 2, 10, 25, 50)] == [(1, 1), (1, 2), (2, 5), (5, 5), (5, 10)]
    assert [tile_size(n) for n in (1, 10, 50)] == [480, 240, 120]
    tiles = np.arange(3, dtype=np.uint8)[:, None, None, None] + np.ones((3, 8, 8, 3), np.uint8)
    picture = composed(tiles)
    assert picture.shape == (16, 16, 3)
    assert picture[::8, ::8, 0].tolist() == [[1, 2], [3, 0]]
    plain, won = (labelled(np.zeros((120, 120, 3), np.uint8), "reach", flag) for flag in (0, 1))
    assert plain.max() > 200
    assert won[..., 1].max() > won[..., 0].max()


FRAMES = """
import sys
import numpy as np
from analysis.multitask.evaluation import deterministic_policy
from analysis.multitask.film import draw, play
from analysis.restored import restore_on_tasks
from envs.meta_world_video import Camera
restored = restore_on_tasks(__import__("pathlib").Path(sys.argv[1]))
envs, act = restored.evaluator.envs, deterministic_policy(restored.agent)
episodes = play(act, envs, ("a", "b"), 1)
tiles = draw(envs, episodes, 120)
observation = envs.start_episodes([0, 1], [1, 1])
alone = []
for step in range(9):
    if step % 4 == 0:
        for row in (0, 1):
            camera = Camera(envs, row, "corner2", 120, 120)
            alone.append(camera.raw_frame()[::-1, ::-1].copy())
            camera.close()
    observation = envs.step(act(observation, envs.context))[0]
assert tiles.shape == (9, 2, 120, 120, 3), tiles.shape
assert np.array_equal(tiles[:3].reshape(6, 120, 120, 3), np.array(alone))
assert not np.array_equal(tiles[0, 0], tiles[0, 1])
restored.close()
import evaluate
sys.exit(evaluate.main(["run", sys.argv[1], "--goals", "1", "--video"]))
"""


@pytest.mark.gl
@pytest.mark.slow
def test_all_tasks_are_filmed_the_right_way_up(copied):
    try:
        backend = find_backend()
    except RenderingUnavailable as error:
        pytest.skip(f"no OpenGL: {error}")
    environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", FRAMES, str(copied)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "Error" not in result.stderr  # the process ends cleanly
    import imageio.v2 as imageio

    reader: Any = imageio.get_reader(copied / "videos" / "tasks.mp4")
    frames = list(iter(reader))
    assert len(frames) == 9
    assert frames[0].shape == (480, 960, 3)
    assert frames[0].std() > 20
    assert not np.array_equal(frames[0], frames[-1])


def test_without_opengl_the_numbers_come_all_the_same(copied, monkeypatch, capsys):
    def nothing_draws():
        raise RenderingUnavailable("nothing draws")

    monkeypatch.setattr("analysis.video.find_backend", nothing_draws)
    assert evaluate.main(["run", str(copied), "--goals", "1", "--video"]) == evaluate.EXIT_DONE
    assert "no video: nothing draws" in capsys.readouterr().err
    assert not (copied / "videos").exists()
