"""Control arms of the dendrite comparison on both agents: what differs, and nothing else does."""

import functools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from configs.build import build_agent, context_spec
from configs.compose import compose_run, presets
from configs.schema import ConfigurationError
from envs.base import EnvInfo
from envs.contexts import given
from envs.schedules import ScheduleConfig
from networks.masks import live_parameters

pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")

ARMS = {
    "dendritic": "the main arm",
    "one_segment": "what several segments add to one",
    "segments_only": "what the context at the input adds",
    "zero_context": "gates without any context: half open for ever",
    "constant_context": "gates that are learnt but cannot depend on the context",
    "shuffled_context": "gates that depend on a context without information",
    "k_winners": "competition without gates",
    "mlp": "the plain perceptron",
    "mlp_matched": "the parameters of the main arm",
    "layer_norm": "LayerNorm, the simplest remedy against silent units",
    "film": "another way to modulate: scale and shift",
    "xdg": "fixed random masks in place of learnt gates",
}
SMALL = {
    "sac": ["agent=sac", "agent.replay_size=2000", "agent.keep_last_n=2000"],
    "ppo": ["agent=ppo", "agent.rollout_length=64", "agent.minibatch_size=64"],
}
SMALL["sac"] += ["agent.warmup_steps=300", "agent.steps_per_iteration=1000"]
ONE = np.ones(1, dtype=np.float32)
MT10 = EnvInfo("tasks", 10, 39, 4, -ONE, ONE, 10, 500, "task", 0.0125, num_tasks=10)
ANT = EnvInfo("ant", 16, 27, 8, -ONE, ONE, 0, 1000, "friction", 0.05)
WORLDS = {
    "mt10": (MT10, SimpleNamespace(), ["env=mt10"]),
    "ant": (ANT, ScheduleConfig(), ["env=slippery_ant"]),
}


def described(config, world):
    """The world as agents see it through the context of a configuration."""
    info, settings, _ = WORLDS[world]
    envs = SimpleNamespace(num_envs=info.num_envs)
    provider = given.provide(config.context, envs, info, settings, 1000, 0)
    if provider is None:
        return info
    return replace(
        info,
        context_dim=provider.dim,
        context_discrete=provider.discrete,
        gate_context_dim=provider.gate_dim,
        gate_context_discrete=provider.gate_discrete,
    )


@functools.cache  # composing takes longer than all the rest
def agent_of(arm, agent, world="mt10", *words):
    line = [*WORLDS[world][2], *SMALL[agent], f"arm={arm}", *words]
    config = compose_run(line).config
    built = build_agent(config, described(config, world))
    built.close()
    return config, built


def sizes(agent):
    return {name: live_parameters(network) for name, network in agent.networks().items()}


def test_all_arms_are_there():
    assert set(ARMS) <= set(presets("arm"))


@pytest.mark.parametrize("agent", list(SMALL))
@pytest.mark.parametrize("arm", list(ARMS))
def test_arms_see_the_same_input_and_start_from_the_same_weights(arm, agent):
    """Acceptance 9: equal seeds, so tensors of equal name and shape have equal bits."""
    _, main = agent_of("dendritic", agent, "mt10", "network.hidden_sizes=[24,24]")
    config, other = agent_of(arm, agent, "mt10", "network.hidden_sizes=[24,24]")
    shared = 0
    for name, network in other.networks().items():
        mine, theirs = network.state_dict(), main.networks()[name].state_dict()
        for key in mine.keys() & theirs.keys():
            if mine[key].shape == theirs[key].shape:
                assert (mine[key] == theirs[key]).all(), (arm, name, key)
                shared += key.endswith("weight")
        width = next(iter(network.torso.parameters())).shape[1]
        inputs = 39 if name in ("actor", "policy", "value") else 43
        assert width == inputs + (0 if arm == "segments_only" else 10)
    if arm == "segments_only":  # its first layer has fewer inputs
        assert shared >= len(other.networks())
    elif arm != "mlp_matched":
        assert shared >= 3 * len(other.networks())
    assert config.optimizer.kind == "adam"


def test_what_gates_and_inputs_are_shown():
    for arm in ARMS:
        config, _ = agent_of(arm, "ppo", "mt10", "network.hidden_sizes=[24,24]")
        spec = context_spec(described(config, "mt10"))
        assert (spec.dim, spec.discrete) == (10, True)
        controlled = {
            "zero_context": "zero",
            "shuffled_context": "shuffled",
            "constant_context": "constant",
        }
        assert config.context.control == controlled.get(arm, "none")
        assert (spec.gate is not None) == (arm in controlled)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "xdg"])
def test_arms_build_on_the_ant_with_a_continuous_context(arm):
    config, agent = agent_of(arm, "ppo", "ant")
    assert context_spec(described(config, "ant")).dim == 9
    if arm == "dendritic":
        assert agent.networks()["policy"].torso.layers[1].segments.shape == (256, 4, 9)


def test_random_masks_need_a_finite_number_of_contexts():
    with pytest.raises(ConfigurationError, match="finite number of contexts"):
        agent_of("xdg", "ppo", "ant")


@pytest.mark.parametrize(
    ("agent", "world", "hidden", "widths"),
    [
        ("sac", "mt10", [400, 400, 400], {"actor": 423, "critic_1": 423, "critic_2": 423}),
        ("sac", "mt10", [256, 256], None),
        ("ppo", "mt10", [256, 256], None),
        ("ppo", "ant", [256, 256], {"policy": 272, "value": 272}),
    ],
)
def test_the_matched_perceptron_is_matched_within_a_percent(agent, world, hidden, widths):
    """Acceptance 10."""
    word = f"network.hidden_sizes=[{','.join(map(str, hidden))}]"
    _, main = agent_of("dendritic", agent, world, word)
    _, matched = agent_of("mlp_matched", agent, world, word)
    for name, count in sizes(matched).items():
        assert count == pytest.approx(sizes(main)[name], rel=0.01)
    if widths is not None:
        networks = matched.networks().items()
        assert {name: network.torso.output_dim for name, network in networks} == widths
    if (agent, hidden) == ("sac", [400, 400, 400]):
        assert sizes(main)["actor"] == 384_008
        assert sizes(matched)["actor"] == 383_246
        assert sizes(main)["critic_1"] == 382_801


def test_18_the_published_networks():
    """Acceptance 18, on narrow layers: widths and connections, not speed."""
    line = ["experiment=dendrites_paper", "network.hidden_sizes=[40,40]"]
    config = compose_run([*line, "agent.replay_size=5000", "agent.keep_last_n=5000"]).config
    agent = build_agent(config, described(config, "mt10"))
    agent.close()
    for name, inputs in (("actor", 39), ("critic_1", 43), ("critic_2", 43)):
        first, second = agent.networks()[name].torso.layers
        assert first.linear.weight.shape == (40, inputs)
        assert not hasattr(first, "segments")
        assert second.segments.shape == (40, 10, 10)
    assert config.agent.updates_per_env_step * 5_000 == 250
    clock = agent.clock
    for steps, made in ((5_000, 0), (10_000, 250), (15_000, 500)):
        while clock.env_steps < steps:
            clock.observe(10, True)
            clock.step(clock.num_due)
        assert clock.gradient_steps == made
    temperature = agent.temperature
    assert temperature.log_temperature.tolist() == [0.0] * 10
    only = torch.eye(10)[[3] * 20]
    # A policy as random as it is to be asks for no change; one a little less, for more.
    for entropy, rises in ((-4.0, False), (-4.5, True)):
        before = temperature.log_temperature.detach().clone()
        temperature.step(only, torch.full((20,), -entropy), agent._steps._settings.target_entropy)
        moved = temperature.log_temperature.detach() - before
        assert moved.nonzero().flatten().tolist() == ([3] if rises else [])
        assert (moved[3] > 0) == rises
    assert (config.agent.target_entropy, config.agent.temperature_per_task) == (-4.0, True)
    widened = compose_run([*line, "network=mlp", "context=task"]).config
    baseline = build_agent(widened, described(widened, "mt10"))
    baseline.close()
    shapes = [n.torso.layers[0].linear.weight.shape[1] for n in baseline.networks().values()]
    assert shapes == [49, 53, 53]


def test_an_experiment_cannot_undo_an_arm_in_silence():
    with pytest.raises(ConfigurationError, match="add network=dendrites"):
        compose_run(["arm=dendritic", "experiment=mtppo_smoke"])
    said = compose_run(["arm=dendritic", "experiment=mtppo_smoke", "network=dendrites"])
    assert said.config.network.kind == "dendritic"
    other = compose_run(["arm=dendritic", "experiment=mtppo_smoke", "network=small"])
    assert other.config.network.kind == "mlp"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["arm=pairs_backprop", "experiment=image_pairs_smoke"],
            r"method=\[\], but .* method=\[continual_backprop_smoke\]; add method=\[\]",
        ),
        (
            ["arm=pairs_continual_backprop", "experiment=class_increments_smoke"],
            r"add method=\[continual_backprop_pairs\]",
        ),
        (
            ["arm=pairs_backprop", "experiment=image_pairs_smoke", "method=[]"],
            r"optimizer\.learning_rate=0\.01, but .* optimizer\.learning_rate=0\.03",
        ),
        (["arm=fresh_l2", "experiment=bit_flipping_smoke"], "add optimizer=ns_adam"),
        (["arm=fresh_oracle", "experiment=mt10_sequence_agnostic"], "add boundary=oracle"),
    ],
)
def test_an_experiment_cannot_undo_methods_settings_or_what_an_arm_builds_on(words, said):
    with pytest.raises(ConfigurationError, match=said):
        compose_run(words)


def test_words_that_say_what_an_experiment_undoes_are_obeyed():
    words = ["arm=pairs_backprop", "experiment=image_pairs_smoke", "method=[]"]
    for rate in (1e-2, 3e-2):
        config = compose_run([*words, f"optimizer.learning_rate={rate}"]).config
        assert (config.optimizer.learning_rate, config.method) == (rate, {})
    kept = compose_run(["arm=pairs_l2", "experiment=image_pairs"]).config.optimizer
    assert kept.weight_decay == 3e-6


# Documentation -----------------------------------------------------------------------------


def parameter_table():
    """Parameters that exist (masked ones do not) of every arm, as the guide shows them."""
    lines = ["| arm | SAC actor | SAC critic | PPO policy | PPO value |", "|---|---|---|---|---|"]
    for arm in ARMS:
        counts = [sizes(agent_of(arm, agent)[1]) for agent in ("sac", "ppo")]
        cells = [counts[0]["actor"], counts[0]["critic_1"], counts[1]["policy"], counts[1]["value"]]
        lines.append("| `" + arm + "` | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return "\n".join(lines)


def test_the_guide_shows_the_parameters_that_arms_have():
    guide = (Path(train.__file__).parent / "docs" / "dendrites.md").read_text()
    table = parameter_table()
    assert table in guide, f"put this table into docs/dendrites.md:\n{table}"
    for arm, isolates in ARMS.items():
        assert f"| `{arm}` | {isolates} |" in guide


@pytest.mark.parametrize("init", ["suite", "published"])
@pytest.mark.parametrize(
    ("agent", "settings", "policy", "values"),
    [
        ("sac", ["agent.actor_head_bound=1e-3", "agent.critic_head_bound=3e-3"], "actor", 2),
        ("ppo", ["agent.policy_head_bound=1e-3", "agent.value_head_bound=3e-3"], "policy", 1),
    ],
)
def test_bounds_of_heads_win_over_the_laws_of_the_network(init, agent, settings, policy, values):
    words = ["network=dendritic_published", "network.hidden_sizes=[24,24]", f"network.init={init}"]
    config = compose_run([*WORLDS["mt10"][2], *SMALL[agent], *words, *settings]).config
    built = build_agent(config, described(config, "mt10"))
    built.close()
    networks = built.networks()
    assert len(networks) == 1 + values
    for name, network in networks.items():
        bound = 1e-3 if name == policy else 3e-3
        for head in network.heads():
            assert 0.5 * bound < head.weight.abs().max() <= bound
            assert not head.bias.any()
            assert (head.weight == 0.0).any()  # a tenth of them does not exist


@pytest.mark.parametrize(
    ("words", "given", "default"),
    [
        (["experiment=mt10_paper"], "kaiming_uniform", "lecun_uniform"),
        (["agent=sac", "method=parseval"], "orthogonal", "lecun_uniform"),
        (["agent=sac_sb3_init"], "pytorch", None),
    ],
)
def test_laws_that_published_networks_do_not_read_are_refused(words, given, default):
    small = ["network.hidden_sizes=[24,24]", "network.context_to_input=false"]
    small += ["agent.replay_size=5000", "agent.keep_last_n=5000", "agent.batch_size=100"]
    words = [*WORLDS["mt10"][2], *words, "network=dendritic_published", *small]

    def built(*more):
        config = compose_run([*words, *more]).config
        agent = build_agent(config, described(config, "mt10"))
        agent.close()
        return agent

    said = f"network.initializer={given} .*would do nothing with network.init=published"
    with pytest.raises(ConfigurationError, match=said.replace(" .*", " " if default else " .*")):
        built()
    assert built("network.init=suite").networks()
    if default:
        assert built(f"network.initializer={default}").networks()


def test_refused_laws_of_the_critics_are_said_of_them():
    words = [*WORLDS["mt10"][2], "agent=sac", "value_network=dendritic_published"]
    config = compose_run([*words, "value_network.init_gain=3"]).config
    with pytest.raises(
        ConfigurationError, match=r"^value_network\.init_gain=3\.0 would do nothing"
    ):
        build_agent(config, described(config, "mt10"))
