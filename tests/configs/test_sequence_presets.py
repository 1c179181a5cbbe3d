"""The experiments on sequences: as long as their stages, with the settings they promise."""

import pytest

from analysis.sequences.command import incomplete_sequence
from configs.build import rehearse
from configs.compose import CONFIG_FOLDER, compose_run, presets
from configs.schema import ConfigurationError, to_plain

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


def test_a_sequence_that_is_cut_short_gets_a_warning_with_the_steps_to_set():
    words = ["experiment=mt10_sequence_cpu", "env.repeats=2"]  # twice the stages, half the steps
    (line,) = incomplete_sequence(compose_run(words).config)
    assert "total_steps=2000000 ends the run in stage 10 of 20 (" in line
    assert line.endswith("set total_steps=4000000 for all stages of 200000 steps")
    assert not incomplete_sequence(compose_run([*words, "total_steps=4_000_000"]).config)
    (line,) = incomplete_sequence(compose_run([*words, "total_steps=3_900_000"]).config)
    assert "stage 20 of 20" in line
    assert not incomplete_sequence(compose_run(["env=slippery_ant"]).config)
    guide = (CONFIG_FOLDER.parent / "docs" / "sequences.md").read_text()
    assert "`env.repeats=2 total_steps=4_000_000`" in guide


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


WARM_UP = "agent.warmup_steps=2000"  # as long as a stage, or longer than a world of 1,000 steps
STAGES = ["experiment=mt10_sequence_smoke", WARM_UP]
WORLDS = ["env=slippery_ant", "agent=sac", "env.switch_interval=1000", "total_steps=4000", WARM_UP]
AGAIN = ["boundary=oracle", "agent.warmup_on_switch=true"]
ANEW = ["boundary=oracle", "fresh_at_switch=true"]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([*STAGES, *AGAIN], r"agent.warmup_on_switch=true .*env.steps_per_task=2000 ends it"),
        ([*WORLDS, *AGAIN], r"agent.warmup_on_switch=true .*env.switch_interval=1000 ends it"),
        ([*WORLDS, *ANEW], r"fresh_at_switch=true waits for agent.warmup_steps=2000 steps"),
        ([*WORLDS, *ANEW, "agent.learning_starts=1000"], r"agent.learning_starts=1000 steps"),
        ([*WORLDS, *ANEW, "agent=sb3_sac"], r"fresh_at_switch=true waits"),
    ],
)
def test_worlds_in_which_nothing_would_ever_be_learnt_are_refused(words, place):
    with pytest.raises(ConfigurationError, match=place):
        compose_run(words)


@pytest.mark.parametrize(
    "words",
    [
        [*WORLDS],  # one warm-up only
        [*WORLDS, *AGAIN, "agent.learning_starts=999"],
        [*WORLDS, *AGAIN, "total_steps=1000"],  # one world only; the agent checks the rest
        [*WORLDS, *AGAIN, "env.switch_rule=episode_end"],
        [*WORLDS, *AGAIN, "env.schedule=fixed"],
    ],
)
def test_other_warm_ups_are_left_alone(words):
    assert compose_run(words).config.agent.warmup_steps == 2000


def test_new_settings_are_recorded_only_where_they_are_used():
    """So that runs from before them can be continued."""
    plain = to_plain(compose_run(["env=mt10", "agent=sac"]).config)
    later = {"learning_starts", "warmup_on_switch", "optimizer_on_switch", "critic_on_switch"}
    assert not later & set(plain["agent"])
    assert "stage_evaluation" not in plain["log"]
    assert not later & set(to_plain(compose_run(["agent=ppo"]).config)["agent"])
    used = to_plain(compose_run(["experiment=cw10_paper"]).config)
    assert later - {"critic_on_switch"} <= set(used["agent"])


@pytest.mark.metaworld
@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("agent.warmup_on_switch=false agent.warmup_steps=0", "warmup_on_switch=false"),
        (
            "env.hide_task_id=true network=mlp agent.temperature_per_task=false",
            "temperature_per_task",
        ),
    ],
)
def test_the_page_prints_choices_that_are_accepted_as_they_stand(words, missing):
    page = (CONFIG_FOLDER.parent / "docs" / "sequences.md").read_text()
    assert f"`{words}`" in page
    start = ["experiment=mt10_sequence_cpu"]
    rehearse(compose_run([*start, *words.split()]).config)
    fewer = [word for word in words.split() if missing not in word]
    with pytest.raises(ConfigurationError, match=missing):
        rehearse(compose_run([*start, *fewer]).config)
