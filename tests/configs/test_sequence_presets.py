"""The experiments on sequences: as long as their stages, with the settings they promise."""

import pytest

from configs.compose import CONFIG_FOLDER, compose_run, presets
from configs.schema import to_plain

NAMES = [f"{env}_{size}" for env in ("cw10", "cw20") for size in ("smoke", "cpu", "paper")]
NAMES += [f"mt10_sequence_{kind}" for kind in ("smoke", "cpu", "paper", "agnostic", "ppo")]


def test_every_experiment_on_sequences_is_tested_here():
    found = [n for n in presets("experiment") if n.startswith(("mt10_sequence", "cw"))]
    assert sorted(found) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_exactly_as_long_as_its_stages(name):
    config = compose_run([f"experiment={name}"]).config
    assert config.total_steps == config.env.planned_steps
    assert config.group == name
    every = config.log.quick_evaluation_steps
    assert every is not None
    assert config.env.steps_per_task % every == 0
    assert f"experiment={name}" in (CONFIG_FOLDER / "experiment" / f"{name}.yaml").read_text()
    announced = config.boundary == "oracle"
    assert announced == (name != "mt10_sequence_agnostic") == config.env.tells_task
    if config.agent.kind == "sac":
        assert config.agent.replay_size >= min(config.env.steps_per_task, 200_000)
        assert (config.agent.buffer_on_switch == "clear") == announced


def test_the_paper_preset_has_the_published_settings():
    config = compose_run(["experiment=cw20_paper"]).config
    agent = config.agent
    assert (config.env.steps_per_task, config.env.copies, len(config.env.plan.stages)) == (
        *(1_000_000, 1),
        20,
    )
    assert (agent.batch_size, agent.updates_per_env_step, agent.replay_size) == (128, 1, 10**6)
    assert (agent.warmup_steps, agent.learning_starts, agent.warmup_on_switch) == (
        10**4,
        1000,
        True,
    )
    assert (agent.discount, agent.tau, config.optimizer.learning_rate) == (0.99, 0.005, 1e-3)
    assert (agent.optimizer_on_switch, agent.critic_on_switch) == ("reset", "keep")
    assert agent.target_entropy == pytest.approx(-4.0007)
    assert agent.initial_temperature == pytest.approx(2.71828, abs=1e-5)
    assert list(config.network.hidden_sizes) == [256] * 4
    assert config.log.stage_evaluation
    assert config.log.final_evaluation


def test_new_settings_are_recorded_only_where_they_are_used():
    """So that runs from before them can be continued."""
    plain = to_plain(compose_run(["env=mt10", "agent=sac"]).config)
    later = {"learning_starts", "warmup_on_switch", "optimizer_on_switch", "critic_on_switch"}
    assert not later & set(plain["agent"])
    assert "stage_evaluation" not in plain["log"]
    assert not later & set(to_plain(compose_run(["agent=ppo"]).config)["agent"])
    used = to_plain(compose_run(["experiment=cw10_paper"]).config)
    assert later - {"critic_on_switch"} <= set(used["agent"])
