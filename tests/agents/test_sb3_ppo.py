"""SB3's PPO in our loop: the same weights as in its own loop, exact resume, isolated generators."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents import sb3_ppo
from agents.base import Transition
from agents.parts import Parts
from agents.update import NumericalFailure
from analysis.state_files import state_hash
from envs import locomotion
from envs.sb3 import SB3VecEnv
from networks import mlp
from networks.torso import ContextSpec
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam

NUM_ENVS, LENGTH = 4, 32
SETTINGS = {
    "rollout_length": LENGTH,
    "minibatch_size": 32,
    "num_epochs": 3,
    "learning_rate": 1e-3,
    "hidden_sizes": [16, 12],
}


def make(seed=0, parts=None, **settings):
    parts = {"observation_dim": 27, "action_dim": 8, "num_envs": NUM_ENVS, **(parts or {})}
    parts = {"network": mlp.Config(), "optimizer": adam.Config(), "seed": seed, **parts}
    return sb3_ppo.build(sb3_ppo.Config(**{**SETTINGS, **settings}), Parts(**parts))


def worlds():
    config = locomotion.Config(num_envs=NUM_ENVS, max_episode_steps=15, switch_interval=200)
    return locomotion.make(config, 10_000)[0]


def step(agent, envs, observation):
    context = envs.context
    action = agent.act(observation, context, explore=True)
    successor, reward, terminated, truncated, info = envs.step(action)
    outcome = (reward, info["next_observation"], terminated, truncated)
    contexts = (context, info["next_context"], info["regime"])
    agent.observe(Transition(observation, action, *outcome, *contexts))
    return successor


def run(agent, envs, observation, num_steps):
    statistics = {}
    for _ in range(num_steps):
        observation = step(agent, envs, observation)
        statistics = agent.update() or statistics
    return observation, statistics


def weights(agent):
    return [p.detach().clone() for p in agent.model.policy.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_weights_after_three_rollouts_equal_those_of_sb3s_own_loop():
    agent, envs = make(), worlds()
    theirs = PPO(
        "MlpPolicy",
        SB3VecEnv(worlds()),
        learning_rate=1e-3,
        n_steps=LENGTH,
        batch_size=32,
        n_epochs=3,
        vf_coef=1.0,
        max_grad_norm=float("inf"),
        policy_kwargs={"net_arch": [16, 12], "activation_fn": torch.nn.ReLU}
        | {"optimizer_kwargs": {"eps": 1e-8}},  # the reference value instead of SB3's
        device="cpu",
    )
    theirs.policy.load_state_dict(agent.model.policy.state_dict())
    initial = weights(agent)
    with agent._draws.lent():
        start = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    observation, statistics = run(agent, envs, envs.reset()[0], 3 * LENGTH)
    outside = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.set_rng_state(start[0])
    np.random.set_state(start[1])  # noqa: NPY002
    try:
        theirs.learn(3 * LENGTH * NUM_ENVS)
    finally:
        torch.set_rng_state(outside[0])
        np.random.set_state(outside[1])  # noqa: NPY002
    assert not equal(initial, weights(agent))
    assert equal(weights(agent), list(theirs.policy.parameters()))
    np.testing.assert_array_equal(observation, theirs._last_obs)
    logged = theirs.logger.name_to_value
    assert set(statistics) == set(agent.statistic_names())
    for name, key in (("value_loss", "value_loss"), ("action_std", "std")):
        assert float(statistics[name]) == pytest.approx(logged[f"train/{key}"], rel=1e-6)
    assert float(statistics["entropy"]) == pytest.approx(-logged["train/entropy_loss"], rel=1e-6)


@pytest.mark.parametrize("steps_into_rollout", [0, 11])
def test_state_round_trip_continues_in_the_same_bits(steps_into_rollout):
    agent, envs = make(), worlds()
    observation, _ = run(agent, envs, envs.reset()[0], LENGTH + steps_into_rollout)
    state, snapshot = agent.state_dict(), envs.snapshot()
    saved = state_hash(state)
    run(agent, envs, observation, 2 * LENGTH)
    assert state_hash(state) == saved  # the live agent shares nothing with it
    twin, other = make(seed=5), worlds()
    other.restore(snapshot)
    twin.load_state_dict(state)
    assert twin.is_at_quiet_point == (steps_into_rollout == 0)
    run(twin, other, observation, 2 * LENGTH)
    assert state_hash(twin.state_dict()) == state_hash(agent.state_dict())
    assert twin.iteration == agent.iteration == 3


def test_the_generators_of_the_process_are_left_alone():
    def draw_around(action):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        action()
        return torch.rand(3).tolist(), np.random.rand(3).tolist()  # noqa: NPY002

    def train():
        agent, envs = make(), worlds()
        run(agent, envs, envs.reset()[0], LENGTH)

    assert draw_around(train) == draw_around(lambda: None)


def test_foreign_draws_do_not_reach_the_agent():
    agents = [make(), make()]
    for index, agent in enumerate(agents):
        torch.manual_seed(index)
        np.random.seed(index)  # noqa: NPY002
        envs = worlds()
        run(agent, envs, envs.reset()[0], 2 * LENGTH)
    assert equal(weights(agents[0]), weights(agents[1]))
    assert not equal(weights(agents[0]), weights(make(seed=1)))


def test_networks_show_sb3s_own_parameters():
    agent = make()
    policy, value = agent.networks()["policy"], agent.networks()["value"]
    shared = {id(p) for network in (policy, value) for p in network.parameters()}
    assert shared == {id(p) for p in agent.model.policy.parameters()}
    observation = np.random.default_rng(0).normal(size=(5, 27))
    inputs, _ = agent.network_inputs("policy", observation, None, np.zeros((5, 0)))
    with torch.no_grad():
        torch.testing.assert_close(
            policy(inputs), agent.model.policy.get_distribution(inputs).mode()
        )
        torch.testing.assert_close(
            value(inputs), agent.model.policy.predict_values(inputs).flatten()
        )


def test_unit_groups_follow_the_layers():
    groups = make().networks()["policy"].unit_groups()
    assert [(group.name, group.num_units) for group in groups] == [
        ("layers.0", 16),
        ("layers.1", 12),
    ]
    agent = make()
    policy = agent.networks()["policy"]
    groups = policy.unit_groups()
    unit = torch.tensor([3])
    with torch.no_grad():
        x = torch.randn(50, 27)
        before = groups[0].tap.linear(x).clamp(min=0)
        groups[0].forget_units(unit)
        outgoing = agent.model.policy.mlp_extractor.policy_net[2].weight
    assert (outgoing[:, 3] == 0).all()
    assert (outgoing[:, 4] != 0).any()
    assert groups[0].layer.incoming_magnitude().shape == (16,)
    torch.testing.assert_close(groups[0].tap(x), before)


def test_window_inputs_are_the_last_transitions_before_the_update():
    agent, envs = make(), worlds()
    observation = envs.reset()[0]
    seen = []
    for _ in range(LENGTH):
        assert agent.window_inputs("policy", 10) is None
        seen.append(observation.astype(np.float32))
        observation = step(agent, envs, observation)
    assert agent.update_is_due
    inputs, context = agent.window_inputs("policy", 10)
    np.testing.assert_array_equal(inputs, np.concatenate(seen)[-10:])
    assert context is None
    agent.update()
    assert agent.is_at_quiet_point


def test_actions_are_clipped_but_learnt_unclipped():
    agent, envs = make(), worlds()
    observation = envs.reset()[0]
    for _ in range(8):
        observation = step(agent, envs, observation)
    stored = agent.model.rollout_buffer.actions[:8]
    assert np.abs(stored).max() > 1
    actions = agent.act(observation, envs.context, explore=True)
    assert np.abs(actions).max() <= 1
    assert np.abs(agent.sample(observation, envs.context)).max() <= 1


def test_predicting_changes_nothing_in_training():
    agent, envs = make(), worlds()
    observation, _ = run(agent, envs, envs.reset()[0], 7)
    before = state_hash(agent.state_dict())
    mode, _ = agent.predict(observation, deterministic=True)
    samples = [agent.predict(observation)[0] for _ in range(2)]
    assert state_hash(agent.state_dict()) == before
    assert not np.array_equal(*samples)
    assert samples[0].shape == mode.shape == (NUM_ENVS, 8)


def test_a_context_is_part_of_the_input():
    agent = make(parts={"context": ContextSpec(3), "observation_dim": 2, "action_dim": 1})
    observation, context = np.zeros((NUM_ENVS, 2)), np.eye(NUM_ENVS, 3, dtype=np.float32)
    actions = agent.act(observation, context, explore=False)
    assert actions[3] != actions[0]
    with torch.no_grad():
        expected = agent.policy(torch.from_numpy(np.hstack((observation, context))).float())
    np.testing.assert_allclose(actions, expected)


@pytest.mark.parametrize("fresh", [(), ("policy",), ("value",), ("log_std",), ("optimizer",)])
def test_transplant_keeps_everything_but_the_fresh_parts(fresh):
    donor, envs = make(), worlds()
    run(donor, envs, envs.reset()[0], LENGTH)
    agent = make(seed=4)
    born = {name: p.detach().clone() for name, p in agent.model.policy.named_parameters()}
    given = dict(donor.model.policy.named_parameters())
    agent.transplant(donor.state_dict(), fresh)
    prefixes = {
        "policy": ("mlp_extractor.policy_net", "action_net"),
        "value": ("mlp_extractor.value_net", "value_net"),
        "log_std": ("log_std",),
    }
    renewed = tuple(prefix for part in fresh for prefix in prefixes.get(part, ()))
    for name, parameter in agent.model.policy.named_parameters():
        is_fresh = bool(renewed) and name.startswith(renewed)
        torch.testing.assert_close(parameter, born[name] if is_fresh else given[name])
        has_moments = parameter in agent.model.policy.optimizer.state
        assert has_moments == (not is_fresh and "optimizer" not in fresh)


def test_refusals():
    with pytest.raises(ValueError, match="no hook for methods; use agent=ppo"):
        make(parts={"methods": {"continual_backprop": continual_backprop.Config()}})
    with pytest.raises(ValueError, match="leave optimizer=adam"):
        make(parts={"optimizer": adam.Config(weight_decay=1e-3)})
    with pytest.raises(ValueError, match="leave network=mlp"):
        make(parts={"network": mlp.Config(hidden_sizes=[32])})
    with pytest.raises(ValueError, match="does not divide"):
        make(minibatch_size=24)
    with pytest.raises(ValueError, match="fresh_parts has actor"):
        make().transplant({}, ["actor"])
    with pytest.raises(ValueError, match="activation is 'rleu'"):
        make(activation="rleu")
    with pytest.raises(RuntimeError, match="act"):
        make().observe(None)


def test_a_weight_that_is_not_a_number_stops_the_run():
    agent, envs = make(), worlds()
    observation = envs.reset()[0]
    for _ in range(LENGTH):
        observation = step(agent, envs, observation)
    agent.model.rollout_buffer.rewards[3] = np.nan
    with pytest.raises(NumericalFailure, match="weights"):
        agent.update()
