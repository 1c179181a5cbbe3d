"""What the presets of soft actor-critic mean: step sizes, experiments, converted rates."""

import dataclasses

import pytest

from agents import sac, sb3_sac
from agents.parts import Parts
from configs.compose import compose_run, presets
from configs.run import AGENTS
from networks import mlp
from plasticity.optimizers import adam


def config(*words):
    return compose_run(words).config


def test_sac_trains_at_the_usual_step_size_and_ppo_at_its_own():
    sac_run = config("env=slippery_ant", "agent=sac")
    assert sac_run.optimizer.learning_rate == 3e-4
    assert sac_run.agent.temperature_learning_rate == 3e-4
    assert config("env=slippery_ant").optimizer.learning_rate == 1e-4
    for arm in ("standard", "ns_adam", "continual_backprop"):
        assert config("agent=sac", f"arm={arm}").optimizer.learning_rate == 3e-4
        assert config(f"arm={arm}").optimizer.learning_rate == 1e-4
    for name in presets("optimizer"):
        assert config("agent=sac", f"optimizer={name}").optimizer.learning_rate == 3e-4


def test_an_explicit_step_size_wins():
    assert config("agent=sac", "optimizer.learning_rate=2e-4").optimizer.learning_rate == 2e-4
    words = ["optimizer.learning_rate=2e-4", "agent=sac", "arm=ns_adam"]
    assert config(*words).optimizer.learning_rate == 2e-4


def test_the_run_directory_of_plain_presets_has_no_hash():
    def directory(*words):
        return compose_run(words).relative_directory

    plain = "default/slippery_ant/sac-mlp-adam/seed_0"
    assert directory("agent=sac") == plain
    assert directory("agent=sac", "optimizer.learning_rate=3e-4") == plain
    assert directory("agent=sac", "optimizer.learning_rate=1e-4") != plain
    assert directory("agent=sac", "arm=l2") == "default/slippery_ant/sac-mlp-l2/seed_0"
    assert directory("experiment=mt10_cpu", "network=dendrites", "seed=2") == (
        "mt10_cpu/mt10/sac-dendrites-adam/seed_2"
    )


def test_the_preset_holds_the_defaults_of_the_code():
    """Nobody who builds the agent in Python gets other settings than the command line."""
    assert config("agent=sac").agent == sac.Config()
    assert config("agent=sac").network == mlp.Config()  # 2 x 256 ReLU
    assert config("agent=sac").env.num_envs == 16


def test_learned_networks_get_the_step_size():
    run = config("agent=sac", "agent.replay_size=1000")
    parts = Parts(27, 8, 16, network=run.network, optimizer=run.optimizer)
    agent = sac.build(run.agent, parts)
    rates = {n: u.optimizer.param_groups[0]["lr"] for n, u in agent.updates.items()}
    assert rates == dict.fromkeys(("actor", "critic_1", "critic_2"), 3e-4)
    assert agent.temperature.optimizer.param_groups[0]["lr"] == 3e-4
    assert agent._steps._settings.target_entropy == -8.0


# Converted rates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "maturity", "rate"),
    [
        (["agent=ppo"], 10_000, 1e-4),  # the published run, to the last bit
        (["agent=sac"], 16_000, 6.25e-5),
        (["agent=sac", "agent.updates_per_env_step=1"], 128_000, 7.8125e-6),
        (["agent=sac", "agent.updates_per_env_step=0.1"], 12_800, 7.8125e-5),
    ],
)
def test_continual_backprop_keeps_its_pace_in_environment_steps(words, maturity, rate):
    run = config(*words, "method=[continual_backprop]", "network=small")
    if run.agent.kind == "sac":
        run = dataclasses.replace(run, agent=dataclasses.replace(run.agent, replay_size=1_000))
    parts = Parts(27, 8, 16, run.network, run.optimizer, run.method, total_steps=2_000_000)
    agent = AGENTS.get(run.agent.kind).build(run.agent, parts)
    for update in agent.updates.values():
        method = update.methods["continual_backprop"]
        assert (method.threshold, method.rate) == (maturity, rate)
        assert all(
            (counter.maturity_threshold, counter.replacement_rate) == (maturity, rate)
            for counter in method.counters.values()
        )
    agent.close()
    lines = agent.announcements()
    assert any(f"eligible from gradient step {maturity + 1:,} of" in line for line in lines)


def test_numbers_are_taken_as_they_are():
    words = ["agent=sac", "method=[continual_backprop]"]
    key = "method.continual_backprop"
    run = config(*words, f"{key}.maturity_threshold=500", f"{key}.replacement_rate=0.001")
    method = run.method["continual_backprop"]
    assert (method.maturity_threshold, method.replacement_rate) == (500, 0.001)
    assert config(*words).method["continual_backprop"].maturity_threshold == "auto"
    for preset in ("continual_backprop_fast", "continual_backprop_smoke"):
        method = config("agent=sac", f"method=[{preset}]").method["continual_backprop"]
        assert method.maturity_threshold in (1_000, 20)


# Experiments ---------------------------------------------------------------------------------

MULTI_TASK = ("mt10_smoke", "mt10_cpu", "mt10_paper", "mt10_paper_multi_head", "dendrites_paper")


@pytest.mark.parametrize("name", MULTI_TASK)
def test_multi_task_experiments(name):
    run = config(f"experiment={name}")
    assert (run.group, run.env.benchmark, run.env.horizon) == (name, "mt10", 500)
    assert run.env.reward_version == "v2"
    assert run.agent.temperature_per_task
    assert run.agent.batch_size % 10 == 0
    assert run.optimizer.learning_rate == 3e-4
    assert run.log.final_evaluation
    assert run.agent.warmup_steps < run.total_steps


def test_active_dendrites_as_published():
    run = config("experiment=dendrites_paper")
    assert run.network.hidden_sizes == [2800, 2800]
    assert (run.network.num_segments, run.network.active_fraction) == (10, 0.25)
    assert (run.network.weight_density, run.network.init) == (0.9, "published")
    assert (run.network.dendritic_layers, run.network.gate_mode) == ([1], "absmax")
    assert not run.network.context_to_input
    agent = run.agent
    assert (agent.batch_size, agent.warmup_steps, agent.replay_size) == (2560, 5_000, 1_000_000)
    assert (agent.updates_per_env_step, agent.discount, agent.tau) == (0.05, 0.99, 0.005)
    assert (run.env.num_goals, run.total_steps) == (1, 15_000_000)


def test_the_comparison_with_sb3_is_at_equal_settings():
    ours = config("experiment=sac_against_sb3")
    theirs = config("experiment=sac_against_sb3", "agent=sb3_sac")
    assert (ours.agent.kind, theirs.agent.kind) == ("sac", "sb3_sac")
    assert (ours.env, ours.total_steps, ours.log) == (theirs.env, theirs.total_steps, theirs.log)
    shared = {f.name for f in dataclasses.fields(sb3_sac.Config)}
    shared &= {f.name for f in dataclasses.fields(sac.Config)} - {"kind"}
    assert len(shared) >= 9
    for name in shared:
        assert getattr(ours.agent, name) == getattr(theirs.agent, name), name
    rate = theirs.agent.learning_rate
    assert (ours.optimizer.learning_rate, ours.agent.temperature_learning_rate) == (rate, rate)
    assert ours.optimizer == adam.Config(learning_rate=rate)
    assert ours.network.hidden_sizes == theirs.agent.hidden_sizes
    assert ours.network.activation == theirs.agent.activation
    assert ours.agent.max_grad_norm is None
    assert ours.agent.task_balanced_batches == "auto"  # one world: uniform draws, as theirs


def test_first_weights_follow_the_law_of_sb3():
    ours = config("experiment=sac_against_sb3")
    parts = Parts(27, 8, 16, network=ours.network, optimizer=ours.optimizer)
    small = dataclasses.replace(ours.agent, replay_size=1_000)
    agent = sac.build(small, parts)
    theirs = config("experiment=sac_against_sb3", "agent=sb3_sac")
    parts = Parts(27, 8, 16, network=theirs.network, optimizer=theirs.optimizer)
    baseline = sb3_sac.build(dataclasses.replace(theirs.agent, replay_size=1_000), parts)
    for name, network in agent.networks().items():
        found = [p.detach() for p in network.parameters()]
        expected = [p.detach() for p in baseline.networks()[name].parameters()]
        for own, other in zip(found, expected, strict=True):
            assert own.shape == other.shape
            if own.numel() < 200:
                continue
            # Both uniform with bound 1/sqrt(fan_in): equal spread, and no value beyond.
            assert own.std().item() == pytest.approx(other.std().item(), rel=0.1)
            assert own.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.05)
