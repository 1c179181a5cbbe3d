"""Which runs may stand in one table, and what is measured of each."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from synthetic_studies import add_group, add_run, run_place

import evaluate
from analysis.compare.arms import CannotCompare, group_arms
from analysis.compare.collecting import collect
from analysis.compare.flags import UnknownSettings, method_flags, resets_replay
from analysis.compare.measuring import Clock, timelines
from analysis.compare.members import find_members
from analysis.continual import lifetime_average, regime_areas
from analysis.run_files import NotARun, read_episodes
from configs.compose import compose_run

LEVELS = {"standard": 100.0, "l2": 120.0, "redo": 140.0}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    add_group(root, LEVELS)
    return root


@pytest.fixture
def root(template, tmp_path):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(path, **env):
    config = yaml.safe_load((path / "config.yaml").read_text())
    total = env.pop("total_steps", config["total_steps"])
    config["env"].update(env)
    config["total_steps"] = total
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def refused(capsys, *words):
    """One sentence on stderr and exit code 2."""
    out = "never_written"
    code = evaluate.main(["compare", *map(str, words), "--out", out])
    error = capsys.readouterr().err
    assert code == evaluate.EXIT_CONFIGURATION
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1, error
    return error


def test_runs_become_arms_and_seeds(root):
    study = collect([root / "runs"])
    assert [arm.name for arm in study.arms] == ["standard", "l2", "redo"]
    assert list(study.runs["l2"]) == [(0, 0), (1, 1), (2, 2)]
    assert study.baseline == "standard"
    by_name = {arm.name: arm for arm in study.arms}
    assert by_name["l2"].settings == {"optimizer.weight_decay": "0.001"}
    assert by_name["redo"].resets_optimizer == "entries (zero_moments)"
    assert by_name["standard"].resets_optimizer == "no"
    assert by_name["redo"].directory == "study/slippery_ant/ppo-mlp-redo"
    assert study.about["end"] == 4_000
    assert not study.about["partial"]


def test_scores_are_those_of_the_pure_functions(root):
    study = collect([root / "runs"])
    path = run_place(root, "l2", 2)
    episodes = read_episodes(path)
    values = study.runs["l2"][2, 2].values
    assert values["lifetime"] == lifetime_average(episodes.returns, episodes.lengths)
    np.testing.assert_array_equal(values["regime/area"], regime_areas(episodes, 4))
    # The last eighth of 25 episodes of 40 steps: 3 of them, and a fifth of the one before; the
    # very last is cut by a switch, except in the last regime.
    shares = np.array([22, 23, 24, 25]) / 25
    weights = np.array([5, 40, 40, 40])
    last = 10 * np.sin(14.0) + 120 * shares - 60
    expected = (weights @ last) / weights.sum()
    assert values["regime/end_of_phase"][3] == pytest.approx(expected)
    expected = (weights[:3] @ (last + 60)[:3]) / weights[:3].sum()
    assert values["regime/end_of_phase"][0] == pytest.approx(expected)
    # The last eighth of 20 rows: those at 90, 95 and 100 %; ranks in per cent of 20 units.
    assert values["end/action_std"] == pytest.approx(1 - 0.3 * 0.95 + 0.02 * 2)
    assert values["end/stable_rank"] == pytest.approx(5 * (20 - 9 * 0.95 - 0.1 * 2))
    # 20 iterations of 200 transitions, 2 epochs, 10 minibatches each.
    assert study.runs["l2"][2, 2].gradient_steps == 20 * 2 * 10


def test_curves_have_bins_that_hold_enough_episodes(root):
    study = collect([root / "runs"])
    curve = study.matrix("standard", "curve/return")
    # 97 complete episodes would fill 19 bins; the next divisor of 100 below is 10.
    assert curve.shape == (3, 10)
    assert np.isfinite(curve).all()
    assert study.matrix("standard", "curve/dormant_fraction").shape == (3, 20)


def test_world_seeds_and_logging_may_differ(root):
    path = run_place(root, "redo", 1)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["log"] = {"log_every_iterations": 7}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(collect([root / "runs"]).runs["redo"]) == 3


def test_an_unfinished_run_is_refused_unless_partial(root, capsys):
    shutil.rmtree(run_place(root, "l2", 1))
    add_run(root, "l2", 1, until=2_500, status="unfinished")
    error = refused(capsys, root / "runs")
    assert "1 of 9 runs are not finished" in error
    assert "ppo-mlp-l2/seed_1 at step 2,480 of 4,000" in error
    study = collect([root / "runs"], partial=True)
    assert study.about["partial"]
    assert study.about["end"] == 2_480
    areas = study.matrix("standard", "regime/area")
    assert areas.shape == (3, 3)
    assert np.isfinite(areas).all()


def test_other_budgets_are_refused_unless_partial(tmp_path, capsys):
    """The shorter runs are compared with the beginnings of the longer ones."""
    add_group(tmp_path, {"standard": 100.0}, num_regimes=6)
    folder = add_group(tmp_path, {"redo": 100.0}, num_regimes=4)
    error = refused(capsys, folder)
    assert "total_steps is 4000 in" in error
    assert "--partial" in error
    study = collect([folder], partial=True)
    assert (study.about["end"], study.about["total_steps"]) == (4_000, 6_000)
    assert study.about["partial"]
    for quantity in ("lifetime", "regime/area", "curve/return"):
        long, short = (study.matrix(arm, quantity) for arm in ("standard", "redo"))
        # Both arms have the same returns; the last episode of the long ones is cut by a switch.
        whole = slice(None, -1 if quantity == "curve/return" else None)
        np.testing.assert_allclose(long[:, whole], short[:, whole])


def test_one_arm_may_hold_several_budgets_where_runs_are_cut(tmp_path):
    for arm in ("standard", "l2", "fresh_oracle"):
        for seed, num_regimes in enumerate((4, 4, 6)):
            add_run(tmp_path, arm, seed, num_regimes=num_regimes, group=f"of_{num_regimes}")
    study = collect([tmp_path], partial=True)
    assert {arm: len(runs) for arm, runs in study.runs.items()} == {
        "standard": 3,
        "l2": 3,
        "fresh_oracle": 3,
    }
    assert (study.about["end"], study.about["oracle"]) == (4_000, "fresh_oracle")


def test_a_failed_run_takes_later_worlds_from_runs_of_its_own_world_seed():
    def member(world_seed, num_regimes, status="unfinished"):
        values = tuple((world_seed + 1) * 0.1 * (k + 1) for k in range(num_regimes))
        starts = tuple(1_000 * k for k in range(num_regimes))
        return SimpleNamespace(key=(world_seed, 0), starts=starts, values=values, status=status)

    members: Any = [member(0, 1, "failed"), member(0, 3), member(1, 5), member(2, 1, "failed")]
    lines = timelines(members, Clock(3_000, False, False, 10, 10))
    np.testing.assert_allclose(lines[0][1], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(lines[0][0], [0, 1_000, 2_000, 3_000])
    # Nobody has seen the later worlds of seed 2.
    np.testing.assert_allclose(lines[3][1], [0.3, 0.4, 0.6])


def test_a_missing_seed_is_refused_unless_partial(root, capsys):
    shutil.rmtree(run_place(root, "l2", 2))
    assert "arm l2 lacks seed 2" in refused(capsys, root / "runs")
    study = collect([root / "runs"], partial=True)
    assert {arm: list(runs) for arm, runs in study.runs.items()} == {
        arm: [(0, 0), (1, 1)] for arm in LEVELS
    }
    assert study.about["partial"]


def test_a_sweep_that_has_not_begun_everything_is_refused_unless_partial(root, capsys):
    folder = root / "runs" / "study"
    commands = folder / "commands.txt"
    words = ["compare", str(folder), "--out", str(root / "out")]
    for command, said in (
        ("python train.py -m arm=standard seed=0,77", "seed 77"),
        ("python train.py -m arm=standard,l2_init 'seed=range(0,2)'", "arm l2_init"),
        # Seeds and arms of the experiment's own file.
        ("python train.py -m experiment=compare_slippery_ant", "arm ns_adam, continual_backprop"),
    ):
        commands.write_text(command + "\n")
        assert evaluate.main(words) == evaluate.EXIT_CONFIGURATION
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"study is half finished: nobody has begun {said} of `{command}`" in line
        assert "--partial" in line
        collect([folder], partial=True)
        # Naming some of the runs is a choice.
        collect(sorted(folder.glob("slippery_ant/ppo-mlp-standard/seed_*")))
    commands.write_text("python train.py -m arm=standard seed=0\nnothing that 'anybody can read\n")
    collect([folder])


def test_wrong_names_are_refused(root, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(capsys, tmp_path / "empty")
    assert "holds no run" in refused(capsys, tmp_path / "missing")
    error = refused(capsys, root / "runs", "--baseline", "standart")
    assert "did you mean 'standard'" in error
    assert "standard, l2, redo" in error or "l2, redo, standard" in error
    shutil.rmtree(run_place(root, "standard", 0).parent)
    assert "there is no arm 'standard'" in refused(capsys, root / "runs")
    assert collect([root / "runs"], baseline="redo").baseline == "redo"
    assert "no runs are named" in refused(capsys)


def test_damaged_files_are_refused_by_name(root, capsys):
    (run_place(root, "l2", 0) / "done.json").write_text("{")
    assert "done.json is damaged" in refused(capsys, root / "runs")
    (run_place(root, "l2", 0) / "done.json").write_text('{"status": "finished"}')
    (run_place(root, "l2", 0) / "episodes.csv").write_text("env_steps\n1\n")
    with pytest.raises(NotARun, match=r"episodes\.csv is damaged"):
        collect([root / "runs"])


def test_a_run_counts_once_however_often_it_is_named(root):
    place = run_place(root, "l2", 0)
    study = collect([root / "runs", place, place.parent / "." / place.name])
    assert len(study.runs["l2"]) == 3


def test_equal_settings_and_seeds_in_two_groups_are_refused(root):
    add_run(root, "standard", 1, group="again")
    with pytest.raises(CannotCompare, match="have the same settings and seeds"):
        collect([root / "runs"])


def test_arms_are_named_as_briefly_as_they_can_be_told_apart(tmp_path):
    add_run(tmp_path, "standard-0a1b2c3d", 0)
    add_run(tmp_path, "l2-0a1b2c3d", 0)
    assert [arm.name for arm in group_arms(find_members([tmp_path]))] == ["l2", "standard"]
    add_run(tmp_path, "standard-ffffffff", 0, boundary_extra=1)
    names = [arm.name for arm in group_arms(find_members([tmp_path]))]
    assert names == ["ppo-mlp-l2-0a1b2c3d"] + [
        f"ppo-mlp-standard-{digits}" for digits in ("0a1b2c3d", "ffffffff")
    ]


def test_transplants_are_named_after_what_is_new_and_compared_with_what_was_kept(tmp_path):
    parts = {"10a7b39f": [], "27a484ca": ["policy"], "82d41a0c": ["policy", "value", "optimizer"]}
    for digits, fresh in parts.items():
        for seed in range(2):
            donor = f"runs/a/seed_{seed}/checkpoints/step-000000000064"
            arm = f"standard-{digits}"
            add_run(tmp_path, arm, seed, init_from=donor, fresh_parts=fresh, num_regimes=1)
    study = collect([tmp_path])
    assert study.baseline == "standard-kept"
    everything = "standard-new_policy+value+optimizer"
    assert sorted(study.runs) == ["standard-kept", "standard-new_policy", everything]
    assert all(len(runs) == 2 for runs in study.runs.values())
    assert collect([tmp_path], baseline=everything).baseline == everything
    add_run(tmp_path, "standard", 0, num_regimes=1)
    assert collect([tmp_path], partial=True).baseline == "standard"


def fresh_copy_of_standard(root, changed):
    """Arms by name where the fresh copy has other settings; dotted names, None takes one away."""
    add_run(root, "standard", 0, learning_rate=0.1)
    path = add_run(root, "fresh_oracle", 0, learning_rate=0.1)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["fresh_at_switch"] = True
    for name, value in changed.items():
        *groups, last = name.split(".")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
        if value is None:
            del place[last]
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return {arm.name: arm.fresh_of for arm in group_arms(find_members([root]))}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"learning_rate": None},  # an older run lacks newer settings
        {"total_steps": 5_000, "boundary": "none"},
        {"init_from": "runs/a/seed_0/checkpoints/step-1", "fresh_parts": ["policy"]},
    ],
)
def test_a_fresh_copy_learns_with_the_settings_of_its_original(tmp_path, changed):
    assert fresh_copy_of_standard(tmp_path, changed)["fresh_oracle"] == "standard"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 0.2}, "learning_rate is 0.2 in"),
        ({"optimizer.weight_decay": 0.5}, "optimizer.weight_decay is 0.5 in"),
        ({"method.redo.kind": "redo"}, "method.redo.kind is redo in"),
    ],
)
def test_a_fresh_copy_with_other_settings_is_refused(tmp_path, changed, said):
    with pytest.raises(CannotCompare, match="fresh_oracle is no fresh copy of standard") as error:
        fresh_copy_of_standard(tmp_path, changed)
    assert said in str(error.value)


def test_a_name_says_whose_copy_a_run_is_where_its_original_is_absent(tmp_path):
    add_run(tmp_path, "redo", 0)
    add_run(tmp_path, "fresh_oracle", 0)
    arms = group_arms(find_members([tmp_path]))
    assert {arm.name: arm.fresh_of for arm in arms} == {"redo": None, "fresh_oracle": "standard"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_supervised_runs_are_sent_to_their_own_tables(tmp_path, capsys, seeds):
    for seed in range(seeds):
        path = add_run(tmp_path, "standard", seed, env={"kind": "bit_flipping", "seed": seed})
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["agent"]["kind"] = "supervised"
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        episodes = (path / "episodes.csv").read_text().splitlines()
        (path / "episodes.csv").write_text(episodes[0] + "\n")
    assert "python -m analysis.supervised_results" in refused(capsys, tmp_path)


def test_the_order_of_methods_makes_an_arm(tmp_path):
    kinds = {"redo": {"kind": "redo"}, "second": {"kind": "redo", "period": 7}}
    add_run(tmp_path, "redo.second", 0, method=kinds)
    add_run(tmp_path, "second.redo", 0, method=dict(reversed(kinds.items())))
    for path in tmp_path.glob("**/config.yaml"):
        config = yaml.safe_load(path.read_text())
        if "second.redo" in str(path):
            assert list(config["method"]) == ["second", "redo"]
    assert len(group_arms(find_members([tmp_path]))) == 2


def test_one_arm_is_its_own_baseline(tmp_path):
    add_group(tmp_path, {"redo": 1.0})
    assert collect([tmp_path]).baseline == "redo"


def settings_with(agent="ppo", network="mlp", **methods):
    words = [f"agent={agent}", f"network={network}", "env.num_envs=4", "boundary=oracle"]
    config = compose_run(words).plain
    return {**config, "method": {name: {"kind": name} | m for name, m in methods.items()}}


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_flags_are_asked_from_the_methods(agent):
    assert method_flags(settings_with(agent)) == (False, "no")
    kept, zeroed = ({"optimizer_state": policy} for policy in ("keep", "zero_moments"))
    assert method_flags(settings_with(agent, redo=kept)) == (False, "no")
    both = settings_with(agent, l2_init={}, redo=zeroed)
    assert method_flags(both) == (False, "entries (zero_moments)")
    per_unit = settings_with(agent, redo={"optimizer_state": "per_unit_step"})
    assert method_flags(per_unit) == (False, "entries (per_unit_step)")
    head = {"scope": "head", "period": 100_000}
    assert method_flags(settings_with(agent, reset=head)) == (False, "entries")
    assert method_flags(settings_with(agent, redo=zeroed, reset=head)) == (False, "entries")
    periodic = {"period": 100_000}
    assert method_flags(settings_with(agent, reset=periodic)) == (False, "all")
    at_switches = {"period": 0, "at_task_change": True}
    assert method_flags(settings_with(agent, reset=at_switches)) == (True, "all")


@pytest.mark.parametrize(
    ("agent", "setting", "expected", "replay"),
    [
        ("ppo", {"optimizer_on_switch": "reset"}, (True, "all"), False),
        ("sac", {"critic_on_switch": "reset"}, (True, "all"), False),
        ("sac", {"buffer_on_switch": "clear"}, (True, "no"), "clear"),
        ("sac", {"buffer_on_switch": "keep_last_n"}, (True, "no"), "keep_last_n"),
        ("sac", {"buffer_on_switch": "reservoir"}, (False, "no"), "reservoir"),
        ("sac", {"warmup_on_switch": True}, (True, "no"), False),
    ],
)
def test_what_the_agent_itself_does_at_switches_is_no_secret(agent, setting, expected, replay):
    config = settings_with(agent)
    assert (method_flags(config), resets_replay(config)) == ((False, "no"), False)
    config["agent"] = {**config["agent"], **setting}
    assert (method_flags(config), resets_replay(config)) == (expected, replay)
    fresh = {**config, "fresh_at_switch": True}
    assert (method_flags(fresh), resets_replay(fresh)) == ((True, "all"), True)


def test_flags_of_networks_that_need_a_context():
    zeroed = {"optimizer_state": "zero_moments"}
    assert method_flags(settings_with(network="dendrites", redo=zeroed)) == (
        False,
        "entries (zero_moments)",
    )


def test_runs_from_before_a_setting_of_a_method_belong_to_its_default(root):
    """One seed says what the other, of an earlier version, could not say."""
    for seed, later in ((0, {}), (1, {"utility_over_contexts": "pooled"})):
        add_run(root, "cbp", seed)
        file = run_place(root, "cbp", seed) / "config.yaml"
        config = yaml.safe_load(file.read_text())
        config["method"] = {"continual_backprop": {"kind": "continual_backprop", **later}}
        file.write_text(yaml.safe_dump(config))
    places = [run_place(root, "cbp", seed) for seed in (0, 1)]
    (arm,) = group_arms(find_members(places))
    assert len(arm.members) == 2


def test_settings_that_this_version_does_not_know_are_refused():
    with pytest.raises(UnknownSettings, match=r"methods redo .*did you mean"):
        method_flags(settings_with(redo={"dormancy_treshold": 0.1}))
    config = settings_with(redo={})
    config["method"]["redo"]["kind"] = "red"
    with pytest.raises(UnknownSettings, match="did you mean 'redo'"):
        method_flags(config)


def test_training_commands_of_sweeps_are_found(root):
    folder = root / "runs" / "study"
    (folder / "commands.txt").write_text("python train.py -m a=1\npython train.py -m a=1\n")
    study = collect([folder])
    assert study.about["training_commands"] == ["python train.py -m a=1"]
    assert study.about["machines"] == [
        "Test processor with 2 cores, Linux, Python 3.11.7, torch 2.13.0"
    ]
    assert study.about["commits"] == ["0123456789abcdef"]
    json.dumps(study.about)


def test_without_switches_ten_windows_stand_for_regimes(tmp_path):
    add_group(tmp_path, {"standard": 50.0}, num_regimes=1, interval=4_000, episodes_per_regime=100)
    study = collect([tmp_path])
    assert study.about["windows"]
    areas = study.matrix("standard", "regime/area")
    assert areas.shape == (3, 10)
    # Returns rise linearly by 50 over the run, 5 per window; the first window lacks nothing.
    np.testing.assert_allclose(np.diff(areas, axis=1), 5.0, atol=1e-9)
