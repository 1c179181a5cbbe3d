"""Runs on tasks one after another: evaluated, interrupted at borders, compared with references."""

import csv
import json

import numpy as np
import pytest

import evaluate
import train
from agents.sac import SAC
from analysis.checkpoint import CheckpointStore
from analysis.multitask import load_evaluations
from analysis.multitask.training import TrainingEvaluation
from analysis.restored import load_agent
from analysis.run_files import NotARun
from analysis.sequences import find_references, read_matrix, study
from analysis.sequences.references import GROUP, reference_key
from configs.compose import compose_run

pytestmark = pytest.mark.metaworld
TASKS = ("handle-press-v3", "reach-v3")
PRESS = np.array([[0.02, 0.9, -0.71, 0.9]], dtype=np.float32)
WORDS = [
    "env=mt10_sequence",
    "env.benchmark=custom",
    f"env.tasks=[{','.join(TASKS)}]",
    "env.steps_per_task=120",
    "env.copies=2",
    "env.horizon=30",
    "env.num_goals=4",
    "env.num_workers=0",
    "boundary=oracle",
    "agent=sac",
    "agent.warmup_steps=20",
    "agent.warmup_on_switch=true",
    "agent.buffer_on_switch=clear",
    "agent.optimizer_on_switch=reset",
    "agent.temperature_per_task=true",
    "agent.batch_size=16",
    "agent.replay_size=200",
    "agent.steps_per_iteration=40",
    "network=multi_head",
    "network.hidden_sizes=[16,16]",
    "log.diagnostics=false",
    "log.figures=false",
    "log.tensorboard=false",
    "log.checkpoint_minutes=1000",
    "log.quick_evaluation_steps=60",
    "log.quick_evaluation_goals=[0,3]",
    "log.stage_evaluation=true",
    "progress=false",
    "num_threads=1",
]


AGNOSTIC = [
    *(w for w in WORDS if not w.startswith(("agent.", "network", "log.quick", "log.stage"))),
    *(w for w in WORDS if w.startswith(("agent.warmup_steps", "agent.batch", "agent.replay"))),
    "agent.steps_per_iteration=40",
    "env.task_agnostic=true",
    "network=small",
]


def pressing(agent):
    """Pushes forward and down, which solves some goals of the first task; no learning is tested."""
    return lambda observation, context: np.repeat(PRESS, len(observation), axis=0)


@pytest.fixture(autouse=True, scope="module")
def _no_reserve():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "reserved_bytes", 0)
        patch.setattr("analysis.multitask.measuring.deterministic_policy", pressing)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("sequences") / "runs"


def run(root, *words):
    words = [*WORDS, "total_steps=240", *words, f"runs_root={root}"]
    code = train.main(words)
    return code, root / compose_run(words).relative_directory


@pytest.fixture(scope="module")
def trained(root):
    code, place = run(root)
    assert code == train.EXIT_DONE
    return place


def test_an_agent_comes_back_in_the_middle_of_its_sequence(trained):
    first = load_agent(trained, step=last_steps(trained)[0])
    found = load_agent(trained)
    assert first.env_steps < found.env_steps
    for one in (first, found):
        observation, context = one.envs.last_observation, one.envs.context
        one.envs.step(one.agent.act(observation, context, explore=False))
        one.close()


def last_steps(place):
    return sorted(int(path.name[5:17]) for path in (place / "checkpoints").iterdir())


def rows_of(place, column):
    with (place / "progress.csv").open() as stream:
        return [row for row in csv.DictReader(stream) if row[column]]


def last_state(place):
    loaded = CheckpointStore(place / "checkpoints").load_latest()
    assert loaded is not None
    return loaded.state


def flat(state, name=""):
    if isinstance(state, dict):
        return {k: v for key, item in state.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)), name)
    return {name: np.asarray(state)}


def test_every_task_is_evaluated_on_the_grid_and_the_matrix_is_written(trained):
    quick = rows_of(trained, "eval_quick/success")
    assert [int(row["env_steps"]) for row in quick] == [0, 60, 120, 180, 240]
    record = json.loads((trained / "success_matrix.json").read_text())
    assert record["env_steps"] == [60, 120, 180, 240]
    assert record["tasks"] == list(TASKS)
    assert (record["evaluations_per_stage"], record["goals_per_task"]) == (2, 2)
    expected = [[float(row[f"eval_quick/{task}/success"]) for task in TASKS] for row in quick[1:]]
    assert record["success"] == expected
    assert expected[0] == [0.5, 0.0]
    matrix = read_matrix(trained)
    assert np.array_equal(matrix.success, expected)
    with (trained / "success_matrix.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["stage", "task", "env_steps", *TASKS]
    assert rows[2] == ["0", TASKS[0], "120", "0.5", "0.0"]


def test_the_ends_of_stages_are_evaluated_on_all_goals(trained):
    rows = rows_of(trained, "eval_stage/success")
    assert [int(row["env_steps"]) for row in rows] == [120, 240]
    matrix = read_matrix(trained, "eval_stage")
    assert (matrix.evaluations_per_stage, matrix.goals) == (1, 4)
    first, _ = load_evaluations(
        [trained / "stages" / f"stage_{stage:02d}" / "evaluation.json" for stage in (1, 2)]
    )
    assert first.kind == "full"
    assert matrix.success[0].tolist() == first.outcomes.rates.tolist()
    assert (trained / "success_matrix_all_goals.json").exists()


def test_the_agent_hears_of_the_border_after_its_evaluation(monkeypatch, tmp_path):
    heard = []
    agent = train.build_agent(*_agent_arguments())
    monkeypatch.setattr(
        type(agent), "on_task_change", lambda self, task: heard.append(("switch", task))
    )
    original = TrainingEvaluation.quick_if_due

    def noted(self, agent, env_steps, rows, is_stopped):
        due = env_steps // 60 >= self._done_periods
        heard.extend([("evaluated", env_steps, agent.clock.gradient_steps)] if due else [])
        return original(self, agent, env_steps, rows, is_stopped)

    monkeypatch.setattr(TrainingEvaluation, "quick_if_due", noted)
    code, _ = run(tmp_path / "runs")
    assert code == train.EXIT_DONE
    names = [entry[:2] for entry in heard]
    place = names.index(("switch", 1))
    assert names[place - 1] == ("evaluated", 120)
    assert names.count(("switch", 1)) == 1
    # All that was owed for the first task has been learnt: an eighth of 100 steps.
    assert heard[place - 1][2] == 12
    agent.close()


@pytest.mark.slow
def test_an_agnostic_sequence_changes_the_task_and_nothing_else(monkeypatch, tmp_path):
    """No replay, optimizer or warm-up hears of the border, though the run would announce it."""
    heard, place = [], tmp_path / "run"
    monkeypatch.setattr(SAC, "on_task_change", lambda self, task: heard.append(task))
    assert train.main([*AGNOSTIC, "total_steps=240", f"run_dir={place}"]) == train.EXIT_DONE
    assert heard == []
    assert "boundary: oracle" in (place / "config.yaml").read_text()
    events = (place / "events.jsonl").read_text()
    assert '"hidden_switch"' in events
    assert '"switch"' not in events
    state = flat(last_state(place)["agent"])
    assert len(state["/replay/rows"]) == 200  # full: nothing was forgotten
    assert int(state["/clock/gradient_steps"]) == (240 - 20) // 8  # one warm-up only


def _agent_arguments():
    config = compose_run([*WORDS, "total_steps=240"]).config
    envs, info = train.build_environment(config)
    envs.close()
    return config, info


@pytest.mark.parametrize(
    "stop_at",
    [pytest.param(60, marks=pytest.mark.slow), 120, pytest.param(180, marks=pytest.mark.slow)],
)
def test_a_signal_within_an_evaluation_costs_nothing(tmp_path, monkeypatch, trained, stop_at):
    """In the middle of a stage, and where the next task was begun but not announced yet."""
    original, stopped = TrainingEvaluation.if_due, []

    def stopping(self, agent, env_steps, rows, is_stopped):
        if env_steps == stop_at and not stopped:
            stopped.append(env_steps)
            is_stopped.__self__.requested = 15
        return original(self, agent, env_steps, rows, is_stopped)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingEvaluation, "if_due", stopping)
        code, place = run(tmp_path / "runs")
        assert code == train.EXIT_SIGNAL
    assert ("unannounced" in last_state(place)["loop"]) == (stop_at == 120)
    assert int(last_state(place)["env"]["stage"]) == int(stop_at >= 120)
    code, place = run(tmp_path / "runs")
    assert code == train.EXIT_DONE
    first, second = flat(last_state(trained)), flat(last_state(place))
    assert first.keys() == second.keys()
    assert [k for k, v in first.items() if not np.array_equal(v, second[k])] == []
    for name in ("progress.csv", "episodes.csv", "success_matrix.json"):
        assert (place / name).read_bytes() == (trained / name).read_bytes(), name


@pytest.mark.slow
def test_ppo_crosses_the_border_too(tmp_path):
    words = [word for word in WORDS if not word.startswith("agent")]
    words += ["agent=ppo", "agent.rollout_length=30", "agent.minibatch_size=20"]
    words += ["agent.num_epochs=1", "agent.optimizer_on_switch=reset"]
    place = tmp_path / "run"
    assert train.main([*words, "total_steps=240", f"run_dir={place}"]) == train.EXIT_DONE
    assert read_matrix(place).success.shape == (4, 2)
    assert len(rows_of(place, "eval_quick/success")) == 5


# References -----------------------------------------------------------------------------------


def test_references_are_trained_once_found_again_and_compared(root, trained, tmp_path, capsys):
    found = study([trained])
    assert found.arms[0].transfer is None
    assert found.missing == TASKS
    command = ["references", *WORDS, f"runs_root={root}", "seed=0", "hydra/launcher=basic"]
    assert train.main(command) == train.EXIT_DONE
    config = compose_run([*WORDS, "total_steps=240"]).config
    references = find_references(config, root)
    assert {task: sorted(seeds) for task, seeds in references.items()} == {t: [0] for t in TASKS}
    place = references[TASKS[0]][0]
    assert GROUP in place.parts
    assert read_matrix(place).success.tolist() == [[0.5], [0.5]]
    before = (place / "done.json").stat().st_mtime_ns
    assert train.main([*command, "method=[ewc]"]) == train.EXIT_DONE  # the same ones
    assert (place / "done.json").stat().st_mtime_ns == before

    out = tmp_path / "report"
    assert evaluate.main(["sequence", str(root), "--out", str(out)]) == 0
    assert "forward transfer" in (out / "report.md").read_text()
    with (out / "results.csv").open() as stream:
        scores = {row["score"]: row for row in csv.DictReader(stream)}
    assert float(scores["performance"]["estimate"]) == 0.25
    # (0.5 - 0.5) / (1 - 0.5) and (0 - 0) / (1 - 0).
    assert float(scores["transfer"]["estimate"]) == 0.0
    assert scores["transfer"]["low"] == ""  # a single seed has no interval
    for name in ("sequence_matrix.png", "sequence_curves.svg"):
        assert (out / "figures" / name).stat().st_size > 1_000
    assert "exploratory: 1 seed" in capsys.readouterr().err
    # A reference that failed half-way counts, with no success after that.
    header, *rows = (place / "progress.csv").read_text().splitlines()
    column = header.split(",").index("eval_quick/success")
    evaluated = [row for row in rows if row.split(",")[column]]
    kept = rows[: rows.index(evaluated[-1])]
    (place / "progress.csv").write_text("\n".join([header, *kept]) + "\n")
    done = json.loads((place / "done.json").read_text())
    (place / "done.json").write_text(json.dumps({**done, "status": "failed"}))
    assert read_matrix(place).success.tolist() == [[0.5], [0.0]]
    assert find_references(config, root)[TASKS[0]] == {0: place}
    assert study([trained]).reference_seeds == (0,)


def key_of(*words, task=TASKS[0]):
    return reference_key(compose_run([*WORDS, "total_steps=120", *words]).config, task)


def test_the_key_of_a_reference_holds_what_matters_and_nothing_else():
    same = key_of()
    assert key_of("seed=3", "method=[ewc]", "env.order_seed=2", "group=other") == same
    assert key_of(f"env.only_task={TASKS[0]}", "env.num_workers=2", "log.figures=true") == same
    rules = ("buffer_on_switch=keep", "optimizer_on_switch=keep", "warmup_on_switch=false")
    assert key_of(*(f"agent.{rule}" for rule in rules)) == same
    reservoir = "agent.buffer_on_switch=reservoir"
    assert key_of(reservoir) == same  # it never fills within a stage
    assert key_of(reservoir, "agent.replay_size=100") != key_of("agent.replay_size=100")
    for words in (
        ["env.steps_per_task=240"],
        ["env.num_goals=5"],
        ["env.goal_seed=1"],
        ["agent.tau=0.01"],
        ["network.hidden_sizes=[16,17]"],
        ["optimizer.learning_rate=0.1"],
        ["log.quick_evaluation_steps=30"],
    ):
        assert key_of(*words) != same, words
    assert key_of(task=TASKS[1]) != same


def test_a_run_shorter_than_its_sequence_says_so_and_has_no_matrix(tmp_path, capsys):
    words = [*WORDS, "total_steps=120", f"run_dir={tmp_path / 'run'}"]
    assert train.main(words) == train.EXIT_DONE
    said = capsys.readouterr().out
    warning = "warning: total_steps=120 ends the run in stage 1 of 2 (handle-press-v3)"
    assert said.count(warning) == said.count("set total_steps=240") == 2  # at its start and end
    assert f"next: python evaluate.py sequence {tmp_path}" not in said  # it would be refused
    with pytest.raises(NotARun, match="2 of 4 evaluations"):
        read_matrix(tmp_path / "run")


def test_references_of_what_is_no_sequence_are_refused(capsys):
    assert train.main(["references", "env=mt10", "agent=sac"]) == train.EXIT_CONFIGURATION
    assert "experiment=mt10_sequence_cpu" in capsys.readouterr().err
