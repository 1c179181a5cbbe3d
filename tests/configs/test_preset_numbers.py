"""Numbers of presets that a table of the designs fixes and nothing else would notice."""

from pathlib import Path

import pytest

from analysis.tuning_space import axes_of
from configs.compose import compose_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TUNED_METHODS = sorted(file.stem for file in (CONFIGS / "tuning").glob("*.yaml"))
METHODS = sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))


def test_every_run_of_the_published_dendrites_has_the_same_goals():
    seeds = [compose_run(["experiment=dendrites_paper", f"seed={seed}"]).config for seed in (0, 1)]
    assert [config.env.goal_seed for config in seeds] == [0, 0]
    assert seeds[0].env.num_goals == 1


@pytest.mark.parametrize(
    ("preset", "quick"), [("smoke", None), ("cpu", 100_000), ("paper", 200_000)]
)
def test_multi_task_ppo_is_evaluated(preset, quick):
    log = compose_run([f"experiment=mtppo_{preset}"]).config.log
    assert (log.quick_evaluation_steps, log.final_evaluation) == (quick, True)


def test_replay_of_a_run_that_knows_no_tasks_spans_several():
    config = compose_run(["experiment=mt10_sequence_agnostic"]).config
    assert config.agent.buffer_on_switch == "keep"
    assert config.agent.replay_size > config.env.steps_per_task


@pytest.mark.parametrize("method", [name for name in TUNED_METHODS if name in METHODS])
def test_every_value_that_tuning_may_draw_is_allowed(method):
    words = ["env=slippery_ant", "agent=ppo", f"method=[{method}]"]
    axes = axes_of(compose_run(words).plain)
    own = {key: values for key, values in axes.items() if key.startswith("method.")}
    assert own
    for key, values in own.items():
        for value in values:
            compose_run([*words, f"{key}={value}"])


def test_the_baseline_of_stable_baselines3_has_the_reference_settings():
    ours = compose_run(["env=slippery_ant", "agent=ppo"]).config
    theirs = compose_run(["env=slippery_ant", "agent=sb3_ppo"]).config.agent
    assert theirs.adam_epsilon == ours.optimizer.epsilon
    assert theirs.learning_rate == ours.optimizer.learning_rate
    for name in ("rollout_length", "num_epochs", "minibatch_size", "discount", "gae_lambda"):
        assert getattr(theirs, name) == getattr(ours.agent, name), name
