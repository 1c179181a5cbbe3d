"""`train.py tune`: equal budgets, tuning worlds only, the first k percent only, resumable."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import train
from analysis import tuning_plan
from analysis.tune import choose
from analysis.tuning_plan import prepare
from analysis.tuning_space import RANGES, axes_of, draw
from configs.compose import CONFIG_FOLDER, compose_run
from configs.run import AGENTS, METHODS, OPTIMIZERS
from configs.schema import ConfigurationError

SMALL = [
    *("experiment=compare_smoke", "arm=standard,redo", "total_steps=40960", "agent.num_epochs=1"),
    *("env.max_episode_steps=50", "log.diagnostics=false", "tune.workers=1", "tune.seeds=1"),
    *("tune.budget=2", "tune.presets=presets"),
]
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="pip install -e '.[tune]'")


def drawn(axes, defaults, budget, seed):
    """In place of Optuna: the first values of the learning rate."""
    key = "optimizer.learning_rate"
    values = [value for value in axes[key] if value != defaults[key]]
    found = {"default": {}}
    return found | {f"draw_{i}": {key: values[-i]} for i in range(1, budget)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning_plan, "draw", drawn)
    return tmp_path


@pytest.fixture
def trials(place, monkeypatch):
    """No training: a trial earns ten times its learning rate, in units of the default."""
    seen = []

    def run(composed):
        config = composed.config
        seen.append(composed)
        directory = Path(config.runs_root) / composed.relative_directory
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / "config.yaml").write_text(yaml.safe_dump(composed.plain))
        score = 1e5 * config.optimizer.learning_rate
        lines = ["episode_return,episode_length,env_steps,regime,switch_truncated"]
        lines += [f"{score},50,{step},0,0" for step in range(200, config.total_steps + 1, 200)]
        (directory / "episodes.csv").write_text("\n".join(lines) + "\n")
        summary = {"env_steps": config.total_steps, "final_return": score}
        done = {"status": "finished", "summary": summary}
        (directory / "done.json").write_text(json.dumps(done))
        return train.EXIT_DONE

    monkeypatch.setattr(train, "run", run)
    return seen


def small(*words):
    """The last of two words for one key counts here."""
    return [*{word.partition("=")[0]: word for word in (*SMALL, *words)}.values()]


def tune(*words):
    return train.main(["tune", *small(*words)])


def test_every_arm_gets_equal_trials_on_tuning_worlds(trials, capsys):
    assert tune("tune.seeds=2", "tune.budget=3") == train.EXIT_DONE
    assert len(trials) == 2 * 3 * 2
    assert {c.config.total_steps for c in trials} == {4_096}  # the first tenth
    assert {(c.config.seed, c.config.env.world_seed) for c in trials} == {(0, 10_000), (1, 10_001)}
    rates = {arm: set() for arm in ("standard", "redo")}
    for composed in trials:
        arm = "redo" if composed.config.method else "standard"
        rates[arm].add(composed.config.optimizer.learning_rate)
    assert rates["standard"] == rates["redo"]
    assert sorted(rates["redo"]) == pytest.approx([1e-4 / 3, 1e-4, 3e-4])
    report = json.loads(Path("runs/tuning/tuning.json").read_text())["arms"]
    for arm in ("standard", "redo"):
        assert report[arm]["num_configurations"] == 3
        assert report[arm]["chosen"] == "draw_1"
        assert report[arm]["sensitivity"] == pytest.approx({"min": 10 / 3, "median": 10, "max": 30})
    out = capsys.readouterr().out
    assert "first 4,096 steps (10%), mean of 2 seeds" in out
    assert "redo_tuned.yaml, to be copied to configs/arm and used as arm=redo_tuned" in out


def test_the_preset_is_the_arm_and_what_was_chosen(trials, monkeypatch):
    assert tune() == train.EXIT_DONE
    text = Path("presets/redo_tuned.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert "2 configurations x 1 seeds" in text
    assert yaml.safe_load(text) == {
        "defaults": ["redo"],
        "optimizer": {"learning_rate": pytest.approx(3e-4)},
    }


def test_a_written_preset_composes(trials, tmp_path, monkeypatch, capsys):
    presets = tmp_path / "configs"
    shutil.copytree(CONFIG_FOLDER, presets)
    for module in [m for m in sys.modules.values() if "CONFIG_FOLDER" in vars(m)]:
        monkeypatch.setattr(module, "CONFIG_FOLDER", presets)
    assert tune(f"tune.presets={presets / 'arm'}", "tune.suffix=mine") == 0
    assert "redo_mine.yaml, to be used as arm=redo_mine" in capsys.readouterr().out
    config = compose_run(["arm=redo_mine", "agent=ppo"]).config
    assert config.optimizer.learning_rate == pytest.approx(3e-4)
    assert config.optimizer.weight_decay == 1e-4
    assert list(config.method) == ["redo"]


def test_an_interrupted_command_chooses_nothing_and_goes_on(trials, monkeypatch, capsys):
    run, calls = train.run, []

    def interrupted(composed):
        calls.append(composed)
        return train.EXIT_SIGNAL if len(calls) == 2 else run(composed)

    monkeypatch.setattr(train, "run", interrupted)
    assert tune("arm=redo") == train.EXIT_SIGNAL
    assert "1 of 2 trials have not ended" in capsys.readouterr().err
    assert not Path("presets").exists()
    monkeypatch.setattr(train, "run", run)
    assert tune("arm=redo") == train.EXIT_DONE
    first = Path("runs/tuning/tuning.json").read_bytes()
    assert tune("arm=redo") == train.EXIT_DONE
    assert Path("runs/tuning/tuning.json").read_bytes() == first


def test_a_failed_trial_counts_as_the_untrained_policy(trials, monkeypatch):
    run = train.run

    def failing(composed):
        code = run(composed)
        if composed.config.optimizer.learning_rate < 2e-4 or "redo" in composed.relative_directory:
            return code
        directory = Path(composed.config.runs_root) / composed.relative_directory
        rows = (directory / "episodes.csv").read_text().splitlines()[:6]  # five episodes
        (directory / "episodes.csv").write_text("\n".join(rows) + "\n")
        done = {"status": "failed", "summary": {"env_steps": 1_096}}
        (directory / "done.json").write_text(json.dumps(done))
        return train.EXIT_NUMERICAL

    monkeypatch.setattr(train, "run", failing)
    assert tune() == train.EXIT_DONE
    arms = json.loads(Path("runs/tuning/tuning.json").read_text())["arms"]
    assert arms["standard"]["num_configurations"] == 2
    untrained = (10 + 30) / 2  # every trial's first episodes, all arms
    expected = (5 * 50 * 30 + 3_000 * untrained) / (5 * 50 + 3_000)
    assert arms["standard"]["scores"]["draw_1"] == pytest.approx(expected)
    assert arms["redo"]["scores"]["draw_1"] == pytest.approx(30)


def test_the_selector_never_sees_later_rows_or_evaluation_worlds(trials):
    assert tune("arm=redo") == train.EXIT_DONE
    study = prepare(small("arm=redo"))
    directories = {
        trial: study.root / compose_run(trial.words).relative_directory for trial in study.trials
    }
    expected = choose(study, directories)
    for trial, directory in directories.items():
        with (directory / "episodes.csv").open("a") as stream:
            poison = 1e9 if trial.configuration == "default" else -1e9
            stream.write(f"{poison},50,{study.early_steps + 1},0,0\n")
    assert choose(study, directories) == expected
    config = next(iter(directories.values())) / "config.yaml"
    config.write_text(config.read_text().replace("world_seed: 10000", "world_seed: 9999"))
    with pytest.raises(ValueError, match="evaluation worlds"):
        choose(study, directories)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("tune.first_world=9999", "is an evaluation world"),
        ("env.world_seed=3", "tuning chooses env.world_seed itself"),
        ("seed=1", "tuning chooses seed itself"),
        ("tune.k=10", "share of the lifetime"),
        ("method=[l2_init]", "so that method would be lost; write it into a preset"),
        ("optimizer.weight_decay=1e-3", "optimizer.weight_decay would be lost"),
        ("init_from=runs/some/checkpoint", "leave init_from out"),
        ("tune.budgte=3", "tune.budgte"),
        ("arm=standard,rdeo", "there is no arm 'rdeo' (did you mean 'redo'?)"),
        ("arm=redo,redo", "names redo twice"),
        ("arm=", "name the arms to tune"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(trials, capsys, word, said):
    assert tune(word) == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert trials == []
    assert not Path("runs").exists()


def test_another_plan_needs_another_group(trials, capsys):
    assert tune("arm=standard") == train.EXIT_DONE
    assert tune("arm=standard", "tune.budget=3") == train.EXIT_CONFIGURATION
    assert "name another group" in capsys.readouterr().err
    assert tune("arm=standard", "tune.budget=3", "group=tuning_2") == train.EXIT_DONE


def test_a_preset_of_somebody_else_is_not_overwritten(trials, capsys):
    Path("presets").mkdir()
    Path("presets/redo_tuned.yaml").write_text("defaults: [redo]\n")
    assert tune() == train.EXIT_CONFIGURATION
    assert "exists with other settings" in capsys.readouterr().err
    assert not Path("presets/standard_tuned.yaml").exists()


@pytest.mark.parametrize("kind", sorted(path.stem for path in RANGES.glob("*.yaml")))
def test_ranges_name_keys_of_their_part(kind):
    registry = next(r for r in (AGENTS, OPTIMIZERS, METHODS) if kind in r.names())
    content = yaml.safe_load((RANGES / f"{kind}.yaml").read_text())
    fields = set(registry.get(kind).Config.__dataclass_fields__)
    assert set(content) <= {"values", "multiples"}
    assert all(set(part) <= fields for part in content.values())


def test_the_learning_rate_is_an_axis_of_every_arm():
    for arm in ("standard", "l2", "continual_backprop", "redo"):
        axes = axes_of(compose_run(["agent=ppo", f"arm={arm}"]).plain)
        assert axes["optimizer.learning_rate"] == pytest.approx([1e-4 / 3, 1e-4, 3e-4])
        assert {"agent.clip_range", "agent.gae_lambda"} <= set(axes)
        assert ("optimizer.weight_decay" in axes) == (arm != "standard")


def test_a_method_without_ranges_is_refused():
    plain = compose_run(["agent=ppo", "method=[redo]"]).plain
    plain["method"]["redo"] = {**plain["method"]["redo"], "kind": "unheard_of"}
    with pytest.raises(ConfigurationError, match="unheard_of"):
        axes_of(plain)


AXES = {"a": (1, 2, 3), "b": (0.5, 1.0), "c": ("auto", 7)}
DEFAULTS = {"a": 2, "b": 1.0, "c": "auto"}


def test_more_configurations_than_exist_are_refused():
    with pytest.raises(ConfigurationError, match="allow 12 configurations"):
        draw(AXES, DEFAULTS, budget=13, seed=0)


@needs_optuna
def test_draws_are_distinct_reproducible_and_begin_with_the_default():
    found = draw(AXES, DEFAULTS, budget=12, seed=0)
    assert next(iter(found.items())) == ("default", {})
    full = [tuple({**DEFAULTS, **changed}.items()) for changed in found.values()]
    assert len(set(full)) == 12
    assert all(v in AXES[key] for changed in found.values() for key, v in changed.items())
    assert draw(AXES, DEFAULTS, budget=12, seed=0) == found
    assert draw(AXES, DEFAULTS, budget=6, seed=1) != draw(AXES, DEFAULTS, budget=6, seed=0)


@pytest.mark.skipif(find_spec("optuna") is not None, reason="Optuna is installed")
def test_without_optuna_the_command_that_installs_it_is_named():
    with pytest.raises(ConfigurationError, match=r"pip install -e '.\[tune\]'"):
        draw(AXES, DEFAULTS, budget=2, seed=0)


def test_a_real_tuning_run(place):
    words = ["tune", *small("arm=standard", "total_steps=10240")]
    assert train.main(words) == train.EXIT_DONE
    arms = json.loads(Path("runs/tuning/tuning.json").read_text())["arms"]
    scores = arms["standard"]["scores"]
    assert len(set(scores.values())) == 2
    # Only the first tenth was trained: 1,024 of 10,240 steps.
    done = [json.loads(p.read_text()) for p in Path("runs").rglob("done.json")]
    assert [d["summary"]["env_steps"] for d in done] == [1_024, 1_024]
