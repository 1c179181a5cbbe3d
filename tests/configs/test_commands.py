"""Words before a configuration: show, and the help of all commands; sweeps that undo arms."""

import os
import sys
from dataclasses import fields

import pytest
import yaml

import train
from analysis.commands import COMMANDS
from configs import sweep as sweeping
from configs.compose import compose_run, presets
from configs.members import check_single, swept_by_experiment
from configs.run import load_run
from configs.schema import ConfigurationError, flat


def test_show_prints_all_settings_and_trains_nothing(capsys, tmp_path):
    words = ["env=mt10", "agent=sac", "arm=dendritic", f"runs_root={tmp_path / 'runs'}", "seed=3"]
    assert train.main(["show", *words]) == train.EXIT_DONE
    text = capsys.readouterr().out
    composed = compose_run(words)
    shown = flat(yaml.safe_load(text))
    assert shown.items() >= flat(composed.plain).items()
    assert load_run(yaml.safe_load(text)) == composed.config
    # Also what came later and is left out of config.yaml at its default.
    assert "log.extended" not in flat(composed.plain)
    assert (shown["log.extended"], shown["log.trainability_steps"]) == (False, None)
    assert shown["value_network"] is None
    for part in ("env", "agent", "network", "optimizer", "context", "log"):
        names = {field.name for field in fields(getattr(composed.config, part))}
        assert {key.split(".")[1] for key in shown if key.startswith(f"{part}.")} == names
    assert text.splitlines()[0] == f"# {tmp_path / 'runs' / composed.relative_directory}"
    assert list(tmp_path.iterdir()) == []


def test_show_lists_the_members_of_a_sweep(capsys):
    assert train.main(["show", "-m", "experiment=compare_smoke", "seed=4,5"]) == train.EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert sum("seed_4 " in line for line in lines) == 3
    assert all("experiment=compare_smoke" in line for line in lines)
    assert any(line.split()[0].endswith("-redo/seed_5") for line in lines)


def test_show_ends_quietly_where_its_reader_has_seen_enough(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        words = ["show", "-m", "experiment=compare_smoke", "seed=4,5"]
        assert train.main(words) == train.EXIT_DONE
        print("what the interpreter writes at its end")  # lands nowhere and raises nothing


def test_show_takes_the_run_directory_that_is_named(capsys):
    assert train.main(["show", "env=ant", "run_dir=somewhere/else"]) == train.EXIT_DONE
    assert capsys.readouterr().out.startswith("# somewhere/else\n")


@pytest.mark.parametrize(
    "words",
    [
        ["env=nope"],
        ["-m", "env=ant,nope"],
        ["-m", "env=ant", "hydra/launcher=nope"],
        ["agent.nope=1"],
        ["experiment=compare_methods"],
        ["seed=0", "seed=1"],
        ["-m", "seed=0,0"],
        # Refused only when the run is built.
        ["method=[ewc]"],
        ["network=dendrites", "env.num_envs=2"],
        ["env=ant", "init_from=/nowhere/step-1"],
    ],
)
def test_show_refuses_as_training_does(words, capsys):
    assert train.main(["show", *words]) == train.EXIT_CONFIGURATION
    assert "configuration: " in capsys.readouterr().err


def test_help_names_every_command_and_tells_more_about_each(capsys):
    assert train.main(["--help"]) == train.EXIT_DONE
    general = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in general
        assert train.main([name, "--help"]) == train.EXIT_DONE
        text = capsys.readouterr().out
        assert f"python train.py {name}" in text
        assert text != general
        for field in vars(command.settings()) if command.settings else ():
            assert f"{name}.{field}=" in text
            assert f"    {field}: " in text


def test_words_of_hydra_that_show_replaces_say_so(capsys):
    assert train.main(["env=ant", "--cfg", "job"]) == train.EXIT_CONFIGURATION
    assert "python train.py show" in capsys.readouterr().err


def test_several_runs_in_one_directory_are_refused(capsys):
    words = ["-m", "experiment=compare_smoke", "arm=standard"]
    assert train.main([*words, "run_dir=X"]) == train.EXIT_CONFIGURATION
    assert "run_dir=X would be the directory of several of the 2 runs" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="of the 4 runs"):
        sweeping.check_sweep([*words, "run_dir=X,Y"])
    for alone in (["seed=0", "run_dir=X"], ["seed=0", "run_dir=X,Y"], ["run_dir=X/${seed}"]):
        sweeping.check_sweep([*words, *alone])


# Words that do not say which runs are meant ------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("compare_methods", "differ in arm; add -m to train them all, or name one, as in arm=stan"),
        ("compare_methods_gradual", "differ in arm; add -m"),  # what it builds on is swept
        ("inferred_context_cpu", "differ in arm; add -m"),
        ("transplant", "differ in fresh_parts; add -m"),
        ("sac_against_sb3", "name one, as in agent=sac_sb3_init"),
        ("oracle_grid", "differ in arm and env.fixed_friction; add -m"),
    ],
)
def test_one_run_of_several_arms_is_refused(experiment, message, tmp_path, capsys):
    words = [f"experiment={experiment}", "seed=0", f"runs_root={tmp_path}"]
    assert train.main(words) == train.EXIT_CONFIGURATION
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"configuration: experiment={experiment} is several runs, which ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=compare_methods", "arm=standard"],
        ["experiment=mt10_cpu"],  # seeds only
        ["experiment=slippery_ant_smoke"],
        ["arm=standard"],
    ],
)
def test_words_that_say_which_run_is_meant_are_taken(words):
    check_single(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0", "seed=1"], "seed=0 and seed=1 set seed twice; keep one of them, or sweep: -m"),
        (["-m", "seed=5,6", "seed=7"], "or sweep: -m seed=5,6,7"),
        (["arm=standard", "arm=l2"], "set arm twice"),
        (["seed=0", "seed=0"], "set seed twice; keep one of them\n"),
        (["agent.discount=0.9", "++agent.discount=0.8"], "set agent.discount twice"),
        (["experiment=parity", "experiment=quickstart"], "set experiment twice"),
        (["-m", "seed=0,0"], "seed=0,0 names 0 twice, which would be one run"),
        (["-m", "arm=l2,redo,l2", "seed=0,1"], "names l2 twice"),
        (["plan", "seed=0", "seed=1"], "set seed twice"),
        (["tune", "arm=standard,l2", "seed=0", "seed=1"], "set seed twice"),
    ],
)
def test_words_and_values_that_are_there_twice_are_refused(words, message, tmp_path, capsys):
    assert train.main([*words, f"runs_root={tmp_path}"]) == train.EXIT_CONFIGURATION
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Sweeps over what an arm decides ------------------------------------------------------------


def test_no_experiment_sweeps_over_what_arms_decide():
    for name in presets("experiment"):
        assert not sweeping.ARM_GROUPS & swept_by_experiment(name).keys(), name


def test_a_sweep_that_would_undo_an_arm_is_refused(monkeypatch, capsys):
    words = ["-m", "experiment=mt10_cpu", "arm=dendritic,mlp_matched", "seed=0"]
    sweeping.check_sweep(words)
    swept = {"seed": "0,1", "network": "mlp,dendrites"}
    monkeypatch.setattr(sweeping, "swept_by_experiment", lambda name: swept)
    with pytest.raises(ConfigurationError, match="sweeps over network, which would undo"):
        sweeping.check_sweep(words)
    assert train.main(words) == train.EXIT_CONFIGURATION
    assert "add network=" in capsys.readouterr().err
    sweeping.check_sweep([*words, "network=mlp"])  # said on the command line: meant
    sweeping.check_sweep([word for word in words if not word.startswith("arm=")])


def test_a_sweep_over_a_setting_of_an_arm_is_refused(monkeypatch):
    swept = {"seed": "0,1", "optimizer.weight_decay": "0,1e-4"}
    monkeypatch.setattr(sweeping, "swept_by_experiment", lambda name: swept)
    words = ["-m", "experiment=compare_smoke", "arm=standard,fresh_l2"]
    with pytest.raises(ConfigurationError, match=r"over optimizer\.weight_decay, which would undo"):
        sweeping.check_sweep(words)
    sweeping.check_sweep([*words[:-1], "arm=standard"])  # says nothing about decay


def test_arms_of_dendrites_train_their_own_networks_in_the_mt10_preset():
    chosen = {arm: compose_run(["experiment=mt10_cpu", f"arm={arm}"]).config.network
              for arm in ("dendritic", "mlp_matched", "mlp")}  # fmt: skip
    assert len({type(network).__module__ for network in chosen.values()}) == 3
