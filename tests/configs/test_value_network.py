"""Networks of the policy and of the value functions chosen apart: `value_network=`."""

import numpy as np
import pytest
import torch
from torch import nn

from agents.base import Transition
from agents.parts import Parts
from configs.build import build_agent
from configs.compose import compose_run, presets
from configs.run import AGENTS, load_run
from configs.schema import ConfigurationError, to_plain
from configs.sweep import is_multirun
from networks import dendritic, mlp
from networks.torso import ContextSpec
from networks.winners import Winners
from plasticity.optimizers import adam

VALUE_NETWORKS = {"ppo": ["value"], "sac": ["critic_1", "critic_2"]}


def has_winners(network: nn.Module) -> bool:
    return any(isinstance(module, Winners) for module in network.modules())


def build(kind, policy, values, seed=0):
    small = {
        "ppo": {"rollout_length": 16, "minibatch_size": 16},
        "sac": {"batch_size": 16, "replay_size": 1000, "warmup_steps": 20},
    }
    module = AGENTS.get(kind)
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=2,
        network=policy,
        value_network=values,
        optimizer=adam.Config(),
        context=ContextSpec(3, True),
        seed=seed,
        total_steps=1000,
    )
    return module.build(module.Config(**small[kind]), parts)


DENDRITES = dendritic.Config(hidden_sizes=[32, 32])
PERCEPTRON = mlp.Config(hidden_sizes=[24, 24])


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_policy_and_value_functions_have_their_own(kind):
    networks = build(kind, DENDRITES, PERCEPTRON).networks()
    for name, network in networks.items():
        of_values = name in VALUE_NETWORKS[kind]
        assert has_winners(network) != of_values, name
        widths = {weight.shape[0] for weight in network.parameters() if weight.ndim == 2}
        assert (24 in widths) == of_values
        assert (32 in widths) != of_values
    turned = build(kind, PERCEPTRON, DENDRITES).networks()
    assert {name for name, net in turned.items() if has_winners(net)} == set(VALUE_NETWORKS[kind])


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_without_one_all_are_alike_and_naming_the_same_changes_no_bit(kind):
    plain, named = build(kind, DENDRITES, None), build(kind, DENDRITES, DENDRITES)
    for name, network in plain.networks().items():
        other = named.networks()[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_mixed_networks_learn(kind):
    agent = build(kind, DENDRITES, PERCEPTRON)
    before = {n: [p.clone() for p in net.parameters()] for n, net in agent.networks().items()}
    rng, context = np.random.default_rng(0), np.eye(3, dtype=np.float32)[[0, 2]]
    observation = rng.normal(size=(2, 5)).astype(np.float32)
    for _ in range(40):
        action = agent.act(observation, context, explore=True)
        following = rng.normal(size=(2, 5)).astype(np.float32)
        agent.observe(
            Transition(
                observation, action, rng.normal(size=2), following, np.zeros(2, bool),
                np.zeros(2, bool), context, context, np.zeros(2, np.int64),
            )
        )  # fmt: skip
        observation = following
        while agent.update_is_due:
            agent.update()
    for name, network in agent.networks().items():
        moved = [
            not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)
        ]
        assert sum(moved) >= len(moved) - 1, name
    agent.close()


def test_the_command_line_chooses_among_the_network_presets():
    words = ["env=mt10", "agent=sac", "network=dendrites", "value_network=small"]
    composed = compose_run([*words, "value_network.activation=tanh"])
    assert composed.config.network.kind == "dendritic"
    assert composed.config.value_network == mlp.Config(hidden_sizes=[32, 32], activation="tanh")
    assert composed.relative_directory.startswith("default/mt10/sac-dendrites.small-adam-")
    assert load_run(composed.plain) == composed.config
    assert compose_run(words).relative_directory == "default/mt10/sac-dendrites.small-adam/seed_0"
    spelled = [*words[:-1], "network@value_network=small"]  # as a sweep hands it on
    assert compose_run(spelled).relative_directory == compose_run(words).relative_directory


def test_matched_perceptrons_match_their_own_sizes():
    config = compose_run(
        ["network=mlp", "value_network=mlp_matched", "value_network.hidden_sizes=[40,40]"]
    ).config
    assert config.value_network.reference.hidden_sizes == [40, 40]


def test_nothing_chosen_leaves_old_runs_as_they_were():
    assert "value_network" not in to_plain(compose_run(["value_network=null"]).config)
    words = ["value_network=null"]
    assert compose_run([]).relative_directory == compose_run(words).relative_directory


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["value_network=mpl"], "there is no value_network 'mpl' .did you mean 'mlp'"),
        (["value_network.activation=relu"], "add it, as in value_network=mlp"),
        (
            ["value_network=dendrites", "value_network.gate_scale=0"],
            "value_network.gate_scale is 0",
        ),
        (["value_network=mlp", "value_network.widht=3"], "no setting value_network.widht"),
    ],
)
def test_refusals_name_the_group(words, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_run(words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("agent=[NULL]", "chooses nothing; choose one of mtppo"),
        ("env=null", "chooses nothing"),
        ("method=null", "write method=none"),
        ("value_network=[null]", "chooses nothing"),
    ],
)
def test_groups_that_cannot_be_empty(word, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_run([word])


@pytest.mark.parametrize("words", [["agent=sb3_ppo"], ["agent=supervised", "env=bit_flipping"]])
def test_agents_that_would_ignore_it_refuse_it(words):
    from types import SimpleNamespace

    info = SimpleNamespace(
        observation_dim=3, action_dim=1, num_envs=1, context_dim=0, context_discrete=False,
        gate_context_dim=0, num_tasks=1, gate_context_discrete=True,
    )  # fmt: skip
    config = compose_run([*words, "value_network=mlp"]).config
    with pytest.raises(ConfigurationError, match="would ignore value_network; leave it null"):
        build_agent(config, info)
    build_agent(compose_run(words).config, info).close()


def test_every_network_preset_can_be_chosen():
    assert presets("value_network") == presets("network")
    assert is_multirun(["-m", "value_network=mlp,dendrites"])
