"""The presets compose into runs, wrong settings are refused with a hint, the probe set is fixed."""

import numpy as np
import pytest
import torch
from meta_world_tools import global_generators_untouched, goal_of

from configs.build import build_environment
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.meta_world import Config, choose_workers, make, probe
from envs.meta_world_probe import probe_set
from envs.meta_world_tasks import MT10, REQUIRED_VERSIONS, check_versions

pytestmark = pytest.mark.metaworld


@pytest.mark.parametrize(
    ("preset", "count"), [("mt1", 1), ("mt10", 10), ("mt25", 25), ("mt50", 50)]
)
def test_presets_hold_their_tasks(preset, count):
    config = compose_run([f"env={preset}", "agent=ppo", "seed=3"]).config
    assert isinstance(config.env, Config)
    assert len(set(config.env.task_names)) == count
    assert config.env.world_seed == config.env.resolved_goal_seed == 3
    if preset != "mt50":  # Meta-World lists all fifty by name
        assert config.env.task_names[:10] == MT10[:count]


def test_presets_spell_out_every_default():
    config = compose_run(["env=mt10", "agent=ppo", "seed=0"]).config.env
    assert config == Config()


def test_a_preset_builds_what_the_training_loop_needs():
    composed = compose_run(
        ["env=mt1", "env.task=drawer-close-v3", "env.copies=2", "agent=ppo", "seed=0"]
    )
    envs, info = build_environment(composed.config)
    assert (info.num_envs, info.context_dim, info.regime_label) == (2, 1, "task")
    assert envs.context.tolist() == [[1.0], [1.0]]
    envs.reset()
    envs.step(np.zeros((2, 4)))
    assert envs.env_steps == 2
    envs.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["env=mt1", "env.task=reach"], "did you mean 'reach-v3'"),
        (["env=mt10", "env.benchmark=mt-25"], "did you mean 'mt25'"),
        (["env=mt10", "env.benchmark=custom"], "tasks is empty"),
        (["env=mt10", "env.tasks=[push-v3]"], "benchmark=custom"),
        (["env=mt10", "env.benchmark=custom", "env.tasks=[push-v3,push-v3]"], "twice"),
        (["env=mt10", "env.copies=0"], "copies=0"),
        (["env=mt10", "env.num_goals=51"], "num_goals=51 must be at most 50"),
        (["env=mt10", "env.horizon=501"], "500 steps"),
        (["env=mt10", "env.reward_version=v3"], "v1, v2"),
        (["env=mt10", "env.backend=envpol"], "stock, envpool"),
        (["env=mt10", "env.backend=envpool", "env.reward_version=v1"], "use backend=stock"),
        (["env=mt10", "env.backend=envpool", "env.goal_order=cycle"], "use backend=stock"),
        (["env=mt10", "env.goal_order=random"], "uniform, cycle"),
        (["env=mt10", "env.num_workers=-1"], "num_workers"),
        (["env=mt10", "env.num_workers=many"], "num_workers"),
        (["env=mt10", "env.goal_seed=-1"], "goal_seed"),
        (["env=mt10", "env.on_simulator_reset=ignore"], "fail, count"),
        (["env=mt10", "env.fast_paths=true"], "did you mean env.fast_path"),
    ],
)
def test_wrong_settings_are_refused_with_a_hint(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_run([*settings, "agent=ppo"])


def test_a_goal_manifest_of_other_tasks_is_refused(tmp_path):
    path = tmp_path / "goals.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="no goal manifest"):
        make(Config(goal_manifest=str(path)), 100)


def test_auto_workers_follow_the_cores(monkeypatch):
    for cores, threads, expected in ((1, 2, 0), (2, 2, 0), (8, 1, 0), (8, 2, 7), (64, 2, 10)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert choose_workers("auto", 10, threads) == expected
    assert choose_workers(3, 10, 1) == 3


def test_another_metaworld_is_refused(monkeypatch):
    assert check_versions() == REQUIRED_VERSIONS
    monkeypatch.setattr("envs.meta_world_tasks.version", lambda name: "3.0.0")
    with pytest.raises(ImportError, match=r"pip install metaworld==3\.1\.1"):
        check_versions()


def test_the_probe_set_has_100_pairs_of_every_task_and_never_changes():
    tasks = ("drawer-close-v3", "window-open-v3")
    first = probe_set(tasks)
    assert first.observations.shape == (200, 39)
    assert first.actions.shape == (200, 4)
    assert first.contexts.tolist() == [[1.0, 0.0]] * 100 + [[0.0, 1.0]] * 100
    assert first.observations.dtype == first.actions.dtype == first.contexts.dtype == np.float32
    assert len(np.unique(first.observations, axis=0)) == 200
    # Goals 0 to 9 of seed 0, ten pairs each: the goal is the end of the observation.
    heights = goal_of("window-open-v3", 0, 0)
    assert abs(first.observations[100, 36] - heights[0]) < 0.3
    assert len(np.unique(first.observations[100:, 36:], axis=0)) == 10
    probe_set.cache_clear()
    again = probe_set(tasks)
    assert again.sha256 == first.sha256
    assert np.array_equal(again.observations, first.observations)


def test_the_probe_set_is_kept_and_does_not_depend_on_the_run():
    settings = {"benchmark": "mt1", "task": "drawer-close-v3"}
    first = probe(Config(**settings, world_seed=1, copies=1))
    assert probe(Config(**settings, world_seed=2, copies=4, goal_seed=9)) is first
    hidden = probe(Config(**settings, hide_task_id=True))
    assert hidden.contexts.shape == (100, 0)
    assert hidden.sha256 == first.sha256


def test_building_touches_no_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with global_generators_untouched():
        env, _ = make(Config(benchmark="mt1", task="drawer-close-v3"), 100)
        env.reset()
        env.close()
    assert torch.equal(before, torch.get_rng_state())
