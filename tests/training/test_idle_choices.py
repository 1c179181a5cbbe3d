"""Choices that could never act: refused in new runs, kept in runs that have begun."""

from dataclasses import fields

import pytest

import train
from agents.sb3 import SB3Model
from analysis.checkpoint import CheckpointStore
from configs import reading
from configs.build import build_environment, rehearse
from configs.compose import compose_run
from configs.run import AGENTS, CONTEXTS, METHODS
from configs.schema import ConfigurationError
from envs.sb3 import SB3VecEnv

TINY = ["network.hidden_sizes=[8]", "total_steps=100_000", "num_threads=1"]
ANT = ["env.num_envs=2", "env.max_episode_steps=12"]
REL = "restarts its step count where the objective changes"
NEVER = "never changes, so that boundary=oracle announces nothing"
ORACLE = ["env=ant", *ANT, "boundary=oracle"]
SAC = ["agent=sac", "agent.batch_size=8", "agent.replay_size=256", "agent.warmup_steps=16"]
SLIPPERY = ["env=slippery_ant", *ANT, "env.switch_interval=50_000"]
LONG = "env.switch_interval=100_000"
RECYCLING = ["method=continual_backprop_random"]
LENT = [*SLIPPERY, "boundary=oracle", "fresh_at_switch=true"]
SILENT = "so that total_steps={} would end before anything is told"
MT = ["env=mt1", "env.num_workers=0", "agent=sac", "boundary=oracle"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["env=ant", *ANT, "agent=sac", "optimizer=adam_rel"], f"adam_rel {REL}"),
        (["env=slippery_ant", *ANT, "agent=sac", "optimizer=adam_rel", "boundary=oracle",
          "fresh_at_switch=true"], REL),
        (["env=bit_flipping", "agent=supervised", "optimizer=adam_rel"], REL),
        ([*ORACLE, "method=[ewc]"], f"ewc acts at task changes, but env.schedule=fixed {NEVER}"),
        (["env=ant", *ANT, "arm=fresh_oracle"], f"fresh_at_switch acts .* {NEVER}"),
        (["env=slippery_ant", *ANT, "env.schedule=fixed", "arm=fresh_oracle"], NEVER),
        ([*MT, "method=[si]"], f"si acts at task changes, but env.kind=meta_world {NEVER}"),
        ([*MT, "agent.buffer_on_switch=clear"], f"agent.buffer_on_switch=clear .* {NEVER}"),
        # Contexts that say nothing, or that remember what is to begin anew.
        (["experiment=slippery_ant_sac_smoke", "context=window", "total_steps=6144"],
         r"silent for 100,000 .*freeze_after=100000\), " + SILENT.format("6,144")),
        ([*SLIPPERY, *SAC, "context=window", "total_steps=100_000"], SILENT.format("100,000")),
        ([*SLIPPERY, "context=inferred", "context.warmup_steps=1_000_000"],
         "warmup_steps=1000000, context.fit_every=2048"),
        ([*SLIPPERY, "context=detected", "total_steps=10_000"],
         "context.block_steps=100, context.settling_blocks=20"),
        ([*SLIPPERY, "context=inferred", "total_steps=10_260", "context.control=delayed",
          "context.delay=20"], "silent for 10,282 .*, context.delay=20"),
        ([*LENT, "context=inferred"], "what context=inferred has learnt .* would stay"),
        ([*LENT, "context=detected"], "what context=detected has learnt"),
        ([*LENT, *SAC, "context=window"], "what context=window has learnt"),
        # Settings that nobody reads.
        (["env=mt10", "agent=sac", "env.task=push-v3"],
         "env.task=push-v3 is not read .* by env.benchmark=mt1"),
        (["env=mt10_sequence", "agent=sac", "env.goal_manifest=goals.json", "env.goal_seed=3"],
         "env.goal_seed=3 is not read .* leave env.goal_seed at null"),
        (["env=permuted_digits", "agent=supervised", "env.context=none",
          "env.cluster_rule=best"], "env.cluster_rule=best is not read .* env.context=clusters"),
        ([*SLIPPERY, "context=regime", "context.features=log"],
         "context.features=log is not read .* by context.source=friction"),
        ([*SLIPPERY, "context=task", "context.features=log"], "context.features=log is not read"),
        (["env=bit_flipping", "agent=supervised", "context=oracle", "context.features=log"],
         "context.features=log is not read"),
        ([*SLIPPERY, "context=friction", "context.num_regimes=3"],
         "num_regimes=3 is not read .* by context.source=regime.* at null"),
        ([*SLIPPERY, "context=window", "context.freeze_after=0", "context.train_every=7"],
         "train_every=7 .* by context.freeze_after above 0"),
        ([*SLIPPERY, "agent.log_std_min=-5"], "log_std_min=-5.0 .* agent.state_dependent_std=true"),
        ([*SLIPPERY, "agent.log_std_max=1"], "agent.log_std_max=1.0 is not read"),
        ([*SLIPPERY, "agent=mtppo", "agent.value_coefficient=0.5"], "by agent.baseline=network"),
        ([*SLIPPERY, "agent=mtppo", "agent.timeouts_terminal=true"], "timeouts_terminal=True is"),
        ([*SLIPPERY, *SAC, "agent.keep_last_n=5000"], "by agent.buffer_on_switch=keep_last_n"),
        ([*SLIPPERY, *SAC, "agent.temperature_learning_rate=0", "agent.target_entropy=-3"],
         "target_entropy=-3.0 .* by agent.temperature_learning_rate above 0"),
        ([*SLIPPERY, LONG, "boundary=oracle", "method=shrink_perturb"],
         "shrink_perturb acts at task changes, but the first world lasts .*larger total_steps"),
        ([*SLIPPERY, LONG, "arm=fresh_oracle"], "the first world lasts"),
        ([*SLIPPERY, "method=shrink_perturb_soft", "method.shrink_perturb.noise=0.3",
          "method.shrink_perturb.variance_preserving=true"], "noise=0.3 is not read .*=false"),
        ([*SLIPPERY, *RECYCLING, "method.continual_backprop.utility_decay=0.5"],
         "utility_decay=0.5 is not read .* every method.continual_backprop.utility but random"),
        ([*SLIPPERY, *SAC, "boundary=oracle", "agent.buffer_on_switch=keep_last_n",
          "agent.keep_last_n=1", "env.switch_interval=40"], "keep_last_n=1 is less than one step"),
        ([*SLIPPERY, "context=detected", "network=multi_head"], "multi_head has one head per"),
        ([*SLIPPERY, "context=regime", "context.control=zero", "network=multi_head"],
         "context.control=zero names none, so that"),
        ([*SLIPPERY, "context=regime", "context.control=zero", "value_network=multi_head"],
         "value_network=multi_head has one head"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[-40:],
)  # fmt: skip
def test_new_runs_are_refused(words, match):
    with pytest.raises(ConfigurationError, match=match):
        rehearse(compose_run([*TINY, *words]).config)


def test_actions_that_depend_on_the_batch_are_refused():
    tiny = [word for word in TINY if not word.startswith("network")]
    words = [*tiny, *SLIPPERY, "network=resnet18", "network.channels=[8,8]"]
    with pytest.raises(ConfigurationError, match="network policy uses batch statistics"):
        rehearse(compose_run(words).config)


@pytest.mark.parametrize(
    "words",
    [
        ["env=slippery_ant", *ANT, "optimizer=adam_rel"],
        [*SLIPPERY, "arm=fresh_oracle"],
        ["env=slippery_ant", *ANT, "env.schedule=gradual", "boundary=oracle", "method=[ewc]"],
        ORACLE,  # nobody who would listen
        [*ORACLE, "method=[si]", "method.si.at_task_change=false", "method.si.period=10"],
        [*SLIPPERY, *SAC, "context=window", "total_steps=100_001"],
        [*SLIPPERY, "context=detected", "total_steps=12_250"],
        [*LENT, "context=oracle"],
        [*SLIPPERY, "context=oracle", "context.features=log"],
        [*SLIPPERY, "context=regime", "context.num_regimes=3"],
        [*SLIPPERY, "agent.state_dependent_std=true", "agent.log_std_min=-5"],
        [*SLIPPERY, *SAC, "boundary=oracle", "agent.buffer_on_switch=keep_last_n",
         "agent.keep_last_n=64"],
    ],
    ids=lambda words: " ".join(words)[-40:],
)  # fmt: skip
def test_what_acts_is_accepted(words):
    rehearse(compose_run([*TINY, *words]).config)


def test_a_run_that_has_begun_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", lambda *_: None)
    tiny = [word for word in TINY if not word.startswith("total_steps")]
    words = [*tiny, "env=ant", *ANT, *SAC, "agent.steps_per_iteration=32", "log.diagnostics=false"]
    words += ["optimizer=adam_rel", "arm=null", "boundary=oracle", "method=[ewc]"]
    words += [f"run_dir={tmp_path / 'run'}", "log.figures=false", "progress=false"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "refuse_start", lambda *_: None)  # as it was
        assert train.main([*words, "total_steps=64"]) == train.EXIT_DONE
    longer = [*words, "total_steps=128", "accept_change=true"]
    assert train.main(longer) == train.EXIT_DONE
    assert train.main([*longer, "fresh=true"]) == train.EXIT_CONFIGURATION
    assert len(list(tmp_path.iterdir())) == 1


def test_a_silent_run_that_has_begun_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", lambda *_: None)
    tiny = [word for word in TINY if not word.startswith("total_steps")]
    words = [*tiny, *SLIPPERY, "context=inferred", "agent.rollout_length=16", "arm=null"]
    words += ["agent.minibatch_size=16", "agent.log_std_min=-5", "log.diagnostics=false"]
    words += [f"run_dir={tmp_path / 'run'}", "log.figures=false", "progress=false"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "refuse_start", lambda *_: None)  # as it was
        assert train.main([*words, "total_steps=64"]) == train.EXIT_DONE
    assert train.main([*words, "total_steps=96", "accept_change=true"]) == train.EXIT_DONE


def test_tables_name_settings_that_exist():
    for registry, tables in (
        (CONTEXTS, reading.CONTEXTS),
        (AGENTS, reading.AGENTS),
        (METHODS, reading.METHODS),
    ):
        for kind, readers in tables.items():
            known = {item.name for item in fields(registry.get(kind).Config)}
            assert set(readers) <= known, kind


def test_models_of_sb3_are_refused_too_and_saved_ones_load(tmp_path, monkeypatch):
    words = ["agent=sac", "agent.replay_size=100", "agent.batch_size=8", "agent.warmup_steps=8"]
    config = compose_run([*TINY, *words, "env=ant", *ANT, "optimizer=adam_rel"]).config
    envs = SB3VecEnv(build_environment(config)[0])
    with pytest.raises(ConfigurationError, match=REL):
        SB3Model(config, envs)
    with monkeypatch.context() as patch:
        patch.setattr("agents.sb3.refuse_idle_optimizer", lambda agent: None)  # as it was
        SB3Model(config, envs).save(tmp_path / "model")
    assert SB3Model.load(tmp_path / "model", envs).learn(16).num_timesteps == 16
