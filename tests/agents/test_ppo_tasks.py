"""PPO on many tasks at once: normalisation per task, linear baselines, state-dependent spread."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import train
from agents import ppo
from agents.base import Transition
from agents.baselines import UnequalEpisodes
from agents.parts import NETWORKS, Parts
from agents.ppo_steps import AutogradSteps, FusedSteps
from agents.returns import normalized, normalized_in_minibatches, normalized_per_task
from agents.update import NumericalFailure
from configs.build import build_agent, build_environment
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.base import EnvInfo
from networks import mlp
from networks.torso import ContextSpec
from plasticity.methods import continual_backprop, l2_init, redo
from plasticity.optimizers import adam

TASKS, COPIES, OBSERVATION, ACTION, EPISODE, LENGTH = 3, 2, 4, 2, 6, 12
NUM_ENVS = TASKS * COPIES
LINEAR = {"baseline": "linear", "normalize_advantage": "off"}
REFERENCE = {
    **LINEAR,
    "state_dependent_std": True,
    "entropy_coefficient": 5e-3,
    "gae_lambda": 0.97,
    "max_grad_norm": 1.0,
}
METHODS = {
    "continual_backprop": continual_backprop.Config(replacement_rate=0.05, maturity_threshold=2),
    "redo": redo.Config(period=4, dormancy_threshold=0.2),
    "l2_init": l2_init.Config(),
}
SMALL = {"simba": {"width": 8, "num_blocks": 1, "expansion": 2}, "linear": {}}
pytestmark = pytest.mark.filterwarnings("ignore:network.active_fraction")


def make(
    seed=0,
    network=None,
    methods=(),
    tasks=TASKS,
    num_envs=NUM_ENVS,
    threads=1,
    rate=1e-3,
    value_network=None,
    **settings,
):
    settings = {"rollout_length": LENGTH, "minibatch_size": 24, "num_epochs": 2, **settings}
    parts = Parts(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        num_envs=num_envs,
        network=network or mlp.Config(hidden_sizes=[16, 16]),
        value_network=value_network,
        optimizer=adam.Config(learning_rate=rate, epsilon=1e-5),
        methods={name: METHODS[name] for name in methods},
        context=ContextSpec(tasks, discrete=tasks > 0),
        seed=seed,
        total_steps=100_000,
        num_threads=threads,
        max_episode_steps=EPISODE,
    )
    return ppo.build(ppo.Config(**settings), parts)


def contexts(tasks=TASKS, num_envs=NUM_ENVS):
    index = np.arange(num_envs) * max(tasks, 1) // num_envs
    return np.eye(max(tasks, 1), dtype=np.float32)[index, :tasks]


class World:
    """Random observations; episodes of equal length; rewards of task k have scale 10^k."""

    def __init__(self, seed=0, tasks=TASKS, num_envs=NUM_ENVS):
        self.rng, self.elapsed = np.random.default_rng(seed), 0
        self.context, self.num_envs = contexts(tasks, num_envs), num_envs
        self.scale = 10.0 ** self.context.argmax(1) if tasks else np.ones(num_envs)
        self.observation = self.draw()

    def draw(self):
        return self.rng.normal(size=(self.num_envs, OBSERVATION))

    def step(self, agent, ends=None):
        action = agent.act(self.observation, self.context, explore=True)
        self.elapsed += 1
        ended = np.full(self.num_envs, self.elapsed % EPISODE == 0) if ends is None else ends
        reward = self.scale * (self.rng.normal(size=self.num_envs) - (action**2).sum(1))
        successor, never = self.draw(), np.zeros(self.num_envs, bool)
        agent.observe(
            Transition(
                self.observation,
                action,
                reward,
                successor,
                never,
                ended,
                self.context,
                self.context,
                self.context.argmax(1) if self.context.shape[1] else np.zeros(self.num_envs, int),
            )
        )
        self.observation = np.where(ended[:, None], self.draw(), successor)
        return action

    def learn(self, agent, iterations):
        last, logged = agent.iteration + iterations, []
        while agent.iteration < last:
            logged.append(self.step(agent).tolist())
            logged.append({key: float(value) for key, value in agent.update().items()})
        return logged

    def fill(self, agent):
        while not agent.update_is_due:
            self.step(agent)


def weights(agent):
    return {
        f"{name}.{key}": value.detach().clone()
        for name, network in agent.networks().items()
        for key, value in network.state_dict().items()
    }


def close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], **tolerance)


# Normalisation -----------------------------------------------------------------------------------


def test_per_task_normalisation_of_unequal_groups():
    advantages = np.array([[1.0, 100.0], [2.0, 5.0], [3.0, 0.1], [4.0, 0.1]])
    tasks = np.array([[0, 1], [0, 2], [0, 3], [0, 3]])
    found = normalized_per_task(advantages, tasks)
    # Task 0: mean 2.5, deviation sqrt(5/3); tasks 1 and 2 have one transition, task 3 no variance.
    np.testing.assert_allclose(found[:, 0], np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(5 / 3))
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-15)


def test_constant_numbers_that_are_no_binary_fractions_are_only_shifted():
    constant = np.full((7, 3), 0.1)
    assert constant.std(ddof=1) > 0.0  # by rounding alone
    assert np.abs(normalized(constant)).max() < 1e-15
    single = normalized_in_minibatches(torch.full((21,), 0.1), 7)
    assert single.abs().max() < 1e-6


def test_minibatches_are_normalised_by_themselves():
    advantages = torch.randn(60, generator=torch.Generator().manual_seed(0)) * 5.0 + 3.0
    found = normalized_in_minibatches(advantages, 20)
    for part, original in zip(found.split(20), advantages.split(20), strict=True):
        expected = (original - original.mean()) / original.std()
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("scope", ["rollout", "per_task", "off", "minibatch"])
def test_what_advantages_are_standardised_over(scope):
    agent, world = make(normalize_advantage=scope), World()
    world.fill(agent)
    with torch.no_grad():
        batch, _ = agent._prepare()
    tasks = np.tile(world.context.argmax(1), LENGTH)
    per_task = [batch.advantage[torch.from_numpy(tasks == task)] for task in range(TASKS)]
    spread = torch.stack([part.std() for part in per_task])
    if scope == "per_task":
        torch.testing.assert_close(spread, torch.ones(TASKS), rtol=1e-5, atol=1e-5)
        assert max(part.mean().abs() for part in per_task) < 1e-6
        return
    assert spread[2] > 5 * spread[0]  # the loudest task rules
    whole = batch.advantage.std()
    assert (abs(whole - 1.0) < 1e-5) == (scope == "rollout")
    minibatches = agent._shuffled("policy", batch, torch.arange(len(batch.advantage)))
    assert {len(rows.advantage) for rows in minibatches} == {24}
    parts = torch.stack([rows.advantage.std() for rows in minibatches])
    assert (float((parts - 1.0).abs().max()) < 1e-4) == (scope == "minibatch")


def test_old_booleans_and_their_words_are_the_same_setting():
    assert ppo.Config(normalize_advantage="rollout") == ppo.Config(normalize_advantage=True)
    assert ppo.Config(normalize_advantage="off") == ppo.Config(normalize_advantage=False)
    assert ppo.Config().advantage_scope == "rollout"
    spellings = [[], ["agent.normalize_advantage=true"], ["agent.normalize_advantage=rollout"]]
    assert len({compose_run(words).relative_directory for words in spellings}) == 1
    plain = compose_run([]).plain["agent"]
    assert plain["normalize_advantage"] is True  # as in the runs of before
    assert not {"baseline", "state_dependent_std", "log_std_min"} & set(plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.normalize_advantage=per-task"], "must be true or false or one of rollout"),
        (["agent.baseline=mlp"], "agent.baseline is 'mlp'; it must be one of network, linear"),
        (["agent.log_std_min=3"], r"log_std_min=3.0 must lie below agent.log_std_max=2.0"),
        (["agent.policy_head_bound=0"], "agent.policy_head_bound is 0.0; give a value above 0"),
    ],
)
def test_wrong_settings_are_refused(words, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_run(words)


def test_tasks_that_nobody_names_cannot_be_told_apart():
    with pytest.raises(ValueError, match=r"per_task needs a one-hot context.*announces none"):
        make(tasks=0, normalize_advantage="per_task")


# The fast path -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_advantage": "per_task"},
        {"normalize_advantage": "minibatch", "max_grad_norm": 1.0},
        {**LINEAR, "entropy_coefficient": 5e-3},
        {"baseline": "linear", "normalize_advantage": "per_task"},
    ],
)
def test_both_passes_agree_under_the_new_options(settings):
    results = []
    for fast in (False, True):
        network = mlp.Config(hidden_sizes=[16, 16], context_to_input=False)
        agent = make(network=network, fast_path=fast, **settings)
        assert isinstance(agent._steps, FusedSteps if fast else AutogradSteps)
        World().learn(agent, 2)
        results.append(weights(agent))
    close(*results, rtol=1e-3, atol=1e-5)


def test_a_state_dependent_spread_leaves_the_fast_path():
    network = mlp.Config(hidden_sizes=[16], context_to_input=False)
    assert isinstance(make(network=network, state_dependent_std=True)._steps, AutogradSteps)


# The linear baseline -----------------------------------------------------------------------------


def test_a_linear_baseline_has_no_value_network():
    agent, world = make(**REFERENCE), World()
    before = weights(agent)
    logged = world.learn(agent, 1)[-1]
    assert list(agent.networks()) == list(agent.updates) == ["policy"]
    assert set(logged) == set(agent.statistic_names())
    assert "value_loss" not in logged
    assert all(np.isfinite(value) for value in logged.values())
    after = weights(agent)
    assert all(not torch.equal(before[key], after[key]) for key in before)
    assert agent.organs() == ("policy", "optimizer")
    assert make(**LINEAR).organs() == ("policy", "optimizer", "log_std")
    assert make().organs() == ("policy", "value", "optimizer", "log_std")


def test_advantages_under_a_linear_baseline_end_at_the_time_limit():
    agent, world = make(**LINEAR, gae_lambda=1.0), World()
    world.fill(agent)
    with torch.no_grad():
        batch, _ = agent._prepare()
    # With lambda 1 the target is the return up to the time limit, whatever the fit.
    reward = agent.rollout.reward
    expected, running = np.zeros_like(reward), np.zeros(NUM_ENVS)
    for t in range(LENGTH - 1, -1, -1):
        running = reward[t] + 0.99 * running * ((t + 1) % EPISODE != 0)
        expected[t] = running
    np.testing.assert_allclose(batch.target.numpy(), expected.ravel(), rtol=1e-4, atol=1e-3)


def test_a_baseline_that_knows_the_returns_leaves_no_advantage():
    agent, world = make(**LINEAR, discount=0.0), World()
    world.fill(agent)
    agent.rollout.reward[:] = 3.0 * agent.rollout.observation[..., 1]
    with torch.no_grad():
        batch, statistics = agent._prepare()
    assert batch.advantage.abs().max() < 1e-3
    assert float(statistics["explained_variance"]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"critic_on_switch": "reset"}, "agent.critic_on_switch=reset"),
        ({"value_head_bound": 3e-3}, "agent.value_head_bound=0.003"),
        ({"value_coefficient": 17.0}, "agent.value_coefficient=17.0"),
    ],
)
def test_settings_of_a_value_network_that_does_not_exist_are_refused(settings, named):
    with pytest.raises(ValueError, match=f"{named} would do nothing, because agent.baseline=lin"):
        make(**LINEAR, **settings)
    make(**settings, rollout_length=LENGTH)
    with pytest.raises(ValueError, match="value_network would do nothing"):
        make(**LINEAR, value_network=mlp.Config())


def test_rollouts_that_cut_episodes_are_refused_when_the_agent_is_built():
    with pytest.raises(ValueError, match=r"make agent.rollout_length=16 a multiple of the 6 steps"):
        make(**LINEAR, rollout_length=16)
    assert make(rollout_length=16).value is not None  # a value network does not mind


def test_an_episode_that_ends_early_is_refused_by_name():
    agent, world = make(**LINEAR), World()
    for t in range(LENGTH):
        ends = np.full(NUM_ENVS, (t + 1) % EPISODE == 0)
        ends[1] |= t == 2
        world.step(agent, ends)
    before = weights(agent)
    with pytest.raises(UnequalEpisodes, match="this one of 12 steps has episodes of 3 to 6 steps"):
        agent.update()
    close(before, weights(agent), rtol=0, atol=0)


def test_a_reward_that_is_no_number_stops_before_any_change():
    agent, world = make(**REFERENCE), World()
    world.fill(agent)
    agent.rollout.reward[3, 1] = np.nan
    before = weights(agent)
    with pytest.raises(NumericalFailure, match="loss of the policy"):
        agent.update()
    close(before, weights(agent), rtol=0, atol=0)


def info_of(num_tasks=TASKS):
    return EnvInfo(
        "toy",
        NUM_ENVS,
        OBSERVATION,
        ACTION,
        -np.ones(ACTION),
        np.ones(ACTION),
        num_tasks,
        EPISODE,
        "task",
        0.1,
        num_tasks=num_tasks,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=[redo]", "method.redo.networks=[value]"],
            "method.redo.networks names value; this agent has policy",
        ),
        (["agent.rollout_length=9"], "agent.rollout_length=9 a multiple of the 6 steps"),
    ],
)
def test_what_does_not_fit_a_linear_baseline_gets_one_sentence(words, message):
    sizes = ["agent.rollout_length=12", "agent.minibatch_size=6", "network=small"]
    config = compose_run(["env=mt10", "agent=mtppo", *sizes, *words]).config
    with pytest.raises(ConfigurationError, match=message) as error:
        build_agent(config, info_of())
    assert "\n" not in str(error.value)


def test_a_policy_moves_between_baselines():
    donor, world = make(), World()
    world.learn(donor, 1)
    heir = make(seed=1, **LINEAR)
    heir.transplant(donor.state_dict(), [])
    given = {k: v for k, v in weights(donor).items() if k.startswith("policy.")}
    close(weights(heir), given, rtol=0, atol=0)
    back = make(seed=2)
    back.transplant(heir.state_dict(), ["value"])
    assert torch.equal(back.policy.log_std, donor.policy.log_std)


# A spread that depends on the state -----------------------------------------------------------


def test_stored_actions_are_raw_and_scored_as_they_were_drawn():
    agent, world = make(**REFERENCE), World()
    drawn, expected = [], []
    for _ in range(LENGTH):
        inputs = torch.from_numpy(world.observation.astype(np.float32))
        with torch.no_grad():
            mean, log_std = agent.policy(inputs, torch.from_numpy(world.context))
        drawn.append(world.step(agent))
        law = Independent(Normal(mean, log_std.exp()), 1)
        expected.append(law.log_prob(torch.from_numpy(drawn[-1])))
    assert np.abs(drawn).max() > 1.5  # nothing is squashed or clipped
    np.testing.assert_array_equal(agent.rollout.action, drawn)
    with torch.no_grad():
        batch, _ = agent._prepare()
        mean, log_std = agent.policy(batch.observation, batch.context)
    torch.testing.assert_close(batch.log_probability, torch.cat(expected), rtol=1e-5, atol=1e-5)
    again = Independent(Normal(mean, log_std.exp()), 1).log_prob(batch.action)
    assert (torch.exp(again - batch.log_probability) - 1.0).abs().max() < 1e-5


@pytest.mark.parametrize("entropy", [0.0, 0.05])
def test_the_policy_step_follows_the_gradient_of_the_written_out_loss(entropy):
    agents = [make(state_dependent_std=True, entropy_coefficient=entropy) for _ in range(2)]
    for agent in agents:
        World().fill(agent)
    with torch.no_grad():
        batch, _ = agents[0]._prepare()
    offset = 0.3 * torch.randn(len(batch.advantage), generator=torch.Generator().manual_seed(0))
    batch = dataclasses.replace(batch, log_probability=batch.log_probability + offset)
    agents[0]._steps.policy(batch)
    policy = agents[1].policy
    mean, log_std = policy(batch.observation, batch.context)
    law = Independent(Normal(mean, log_std.exp()), 1)
    ratio = torch.exp(law.log_prob(batch.action) - batch.log_probability)
    terms = torch.minimum(ratio * batch.advantage, torch.clamp(ratio, 0.8, 1.2) * batch.advantage)
    (-terms.mean() - entropy * law.entropy().mean()).backward()
    for ours, theirs in zip(agents[0].policy.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_the_spread_is_clipped_and_depends_on_the_state():
    agent = make(state_dependent_std=True, log_std_min=-1.0, log_std_max=0.5)
    world, inputs = World(), 100.0 * torch.randn(200, OBSERVATION)
    gate = torch.eye(TASKS)[torch.arange(200) % TASKS]
    with torch.no_grad():
        _, log_std = agent.policy(inputs, gate)
    assert (log_std.min(), log_std.max()) == (-1.0, 0.5)
    world.fill(agent)
    assert np.ptp(agent.rollout.log_std, axis=(0, 1)).min() > 0.01
    assert ppo.Config().log_std_min == -20.0
    assert ppo.Config().log_std_max == 2.0


def test_heads_start_within_their_bounds():
    agent = make(state_dependent_std=True, policy_head_bound=1e-3, value_head_bound=3e-3)
    for head, bound in (
        (agent.policy.mean, 1e-3),
        (agent.policy.log_std, 1e-3),
        (agent.value.value, 3e-3),
    ):
        assert 0.5 * bound < head.weight.abs().max() <= bound
        assert not head.bias.any()


def test_watching_a_state_dependent_policy_is_seeded_and_leaves_no_trace():
    agents = [make(**REFERENCE) for _ in range(3)]
    observation = np.ones((50, OBSERVATION))
    context = np.eye(TASKS, dtype=np.float32)[np.arange(50) % TASKS]
    first, again = (agent.sample(observation, context) for agent in agents[:2])
    np.testing.assert_array_equal(first, again)
    mode = agents[0].act(observation, context, explore=False)
    assert first.shape == mode.shape == (50, ACTION)
    assert 0.5 < (first - mode).std() < 2.0
    watched, unwatched = (World().learn(agent, 1) for agent in (agents[0], agents[2]))
    assert watched == unwatched


# Resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [REFERENCE, LINEAR, {"normalize_advantage": "per_task"}])
@pytest.mark.parametrize("extra", [0, 7])
def test_state_round_trip_continues_in_the_same_bits(settings, extra):
    methods = ("continual_backprop",)
    agent, world = make(methods=methods, **settings), World()
    world.learn(agent, 1)
    for _ in range(extra):
        world.step(agent)
    state = agent.state_dict()
    twin, other = make(seed=3, methods=methods, **settings), World(seed=3)
    twin.load_state_dict(state)
    other.rng.bit_generator.state = world.rng.bit_generator.state
    other.elapsed, other.observation = world.elapsed, world.observation
    assert repr(world.learn(agent, 2)) == repr(other.learn(twin, 2))
    close(weights(agent), weights(twin), rtol=0, atol=0)


def test_threads_do_not_matter_without_a_value_network():
    results = []
    for threads in (1, 2):
        agent = make(threads=threads, **REFERENCE)
        World().learn(agent, 2)
        results.append(weights(agent))
        agent.close()
    close(*results, rtol=0, atol=0)


# Every network, and methods of every family ------------------------------------------------------


# Networks for images know no task.
KINDS = [k for k in NETWORKS.names() if k not in ("convolutional", "resnet")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [REFERENCE, {"normalize_advantage": "per_task"}])
def test_every_network_learns_and_knows_the_task(kind, settings):
    network = NETWORKS.get(kind).Config(**SMALL.get(kind, {"hidden_sizes": [20, 20]}))
    agent, world = make(network=network, rate=1e-2, **settings), World()
    before = weights(agent)
    world.learn(agent, 2)
    after = weights(agent)
    learnt = [key for key in after if key.endswith(("weight", "bias", "segments"))]
    assert learnt
    assert not [key for key in learnt if torch.equal(before[key], after[key])]
    same = np.ones((TASKS, OBSERVATION))
    actions = agent.act(same, np.eye(TASKS, dtype=np.float32), explore=False)
    assert len(np.unique(actions, axis=0)) == TASKS


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("kind", ["mlp", "dendritic", "film", "xdg", "multi_head", "k_winners"])
def test_every_family_of_methods_acts(kind, method):
    network = NETWORKS.get(kind).Config(hidden_sizes=[20, 20])
    plain, treated = (
        make(network=network, methods=methods, **REFERENCE) for methods in ((), (method,))
    )
    for agent in (plain, treated):
        World().learn(agent, 3)
    one, two = weights(plain), weights(treated)
    assert any(not torch.equal(one[key], two[key]) for key in one)
    assert all(value.isfinite().all() for value in two.values())
    assert {name.split("/")[1] for name in treated.log_values()} == {"policy"}


def test_networks_without_a_context_port_read_the_task_beside_the_observation():
    agent = make()
    assert agent.policy.torso.layers[0].linear.in_features == OBSERVATION + TASKS
    assert make(**LINEAR).value is None


# Learning ----------------------------------------------------------------------------------------


def solve(scope, baseline="network", offset=0.0):
    """Errors per task after learning: one-step episodes whose right action is +-1 by task.

    A reward also holds `offset` times the first observation, on which no action has influence.
    """
    goals, scale = np.array([1.0, -1.0]), np.array([1.0, 100.0])
    network = mlp.Config(hidden_sizes=[32])
    agent = make(
        network=network,
        tasks=2,
        num_envs=8,
        rate=3e-3,
        rollout_length=24,
        num_epochs=4,
        minibatch_size=48,
        normalize_advantage=scope,
        baseline=baseline,
        discount=0.0,
    )
    rng, task, ended = np.random.default_rng(0), np.arange(8) // 4, np.ones(8, bool)
    context = np.eye(2, dtype=np.float32)[task]
    while agent.iteration < 40:
        observation = rng.normal(size=(8, OBSERVATION)) * (offset > 0.0)
        action = agent.act(observation, context, explore=True)
        reward = -scale[task] * ((action - goals[task, None]) ** 2).sum(1)
        reward += scale[task] * offset * observation[:, 0]
        outcome = (reward, observation, ~ended, ended)
        agent.observe(Transition(observation, action, *outcome, context, context, task))
        agent.update()
    still = np.zeros((2, OBSERVATION))
    actions = agent.act(still, np.eye(2, dtype=np.float32), explore=False)
    return np.abs(actions - goals[:, None]).mean(axis=1)


def test_a_quiet_task_is_learnt_beside_a_loud_one():
    quiet, loud = solve("per_task")
    assert max(quiet, loud) < 0.3
    drowned, _ = solve("rollout")
    assert drowned > 0.4


def test_a_linear_baseline_sees_through_what_the_state_alone_decides():
    assert solve("per_task", "linear", offset=30.0).max() < 0.4
    assert solve("per_task", "network", offset=30.0).max() > 0.4  # it takes longer to learn


# Presets -----------------------------------------------------------------------------------------


def test_the_published_preset_makes_the_published_gradient_steps():
    config = compose_run(["experiment=mtppo_paper"]).config
    agent, optimizer = config.agent, config.optimizer
    assert len(config.env.task_names) * config.env.copies == 10
    rollout = agent.rollout_length * 10
    assert (agent.rollout_length // config.env.horizon, rollout) == (20, 100_000)
    assert config.total_steps // rollout == 200
    built = build_agent(
        config, dataclasses.replace(info_of(10), num_envs=10, max_episode_steps=500)
    )
    num_minibatches = built.rollout.num_transitions / agent.minibatch_size
    assert (agent.minibatch_size, num_minibatches * agent.num_epochs) == (3_125, 512)
    assert config.network.hidden_sizes == [400, 400, 400]
    assert (optimizer.kind, optimizer.learning_rate, optimizer.epsilon) == ("adam", 3e-4, 1e-5)
    assert (agent.discount, agent.gae_lambda, agent.clip_range) == (0.99, 0.97, 0.2)
    assert (agent.entropy_coefficient, agent.max_grad_norm) == (5e-3, 1.0)
    assert (agent.baseline, agent.advantage_scope) == ("linear", "off")
    assert (agent.state_dependent_std, agent.log_std_min, agent.log_std_max) == (True, -20.0, 2.0)


def test_the_smaller_presets():
    smoke = compose_run(["experiment=mtppo_smoke"]).config
    assert (smoke.agent.rollout_length, smoke.agent.num_epochs) == (500, 4)
    assert 10 * 500 // smoke.agent.minibatch_size == 8
    cpu = compose_run(["experiment=mtppo_cpu", "agent=mtppo_network"]).config
    assert (cpu.agent.rollout_length, cpu.agent.num_epochs) == (2_000, 16)
    assert 10 * 2_000 // cpu.agent.minibatch_size == 32
    assert (cpu.agent.baseline, cpu.agent.value_coefficient) == ("network", 0.001)
    assert (cpu.agent.advantage_scope, cpu.agent.timeouts_terminal) == ("minibatch", False)


# Meta-World itself -------------------------------------------------------------------------------


class Run:
    """Two tasks with episodes of ten steps."""

    def __init__(self, *words):
        tasks = ["env=mt10", "env.benchmark=custom", "env.tasks=[reach-v3,drawer-close-v3]"]
        sizes = ["env.horizon=10", "agent.rollout_length=20", "agent.minibatch_size=20"]
        config = compose_run([*tasks, *sizes, "seed=0", *words]).config
        self.envs, info = build_environment(config)
        self.agent = build_agent(config, info)
        self.observation, self.context = self.envs.reset()[0], self.envs.context

    def go(self, steps):
        logged = []
        for _ in range(steps):
            action = self.agent.act(self.observation, self.context, explore=True)
            observation, reward, *ends, info = self.envs.step(action)
            following = (info["next_observation"], *ends, self.context, info["next_context"])
            told = (self.observation, action, reward, *following, info["regime"])
            self.agent.observe(Transition(*told))
            self.observation, self.context = observation, info["context"]
            logged += [action, *(float(value) for value in self.agent.update().values())]
        return repr(logged)


@pytest.mark.metaworld
@pytest.mark.parametrize(
    "words",
    [
        ["agent=mtppo", "network=small"],
        ["agent=mtppo_network", "network=small", "env.copies=2"],
        ["agent=ppo", "agent.normalize_advantage=per_task", "network=dendritic"],
    ],
)
def test_meta_world_runs_resume_in_the_same_bits(words):
    run, twin = Run(*words), Run(*words, "seed=1", "env.world_seed=0")
    run.go(47)  # two updates and a part of the third rollout
    assert run.agent.iteration == 2
    twin.agent.load_state_dict(run.agent.state_dict())
    twin.envs.restore(run.envs.snapshot())
    twin.observation, twin.context = run.observation, run.context
    assert run.go(30) == twin.go(30)
    close(weights(run.agent), weights(twin.agent), rtol=0, atol=0)
    for each in (run, twin):
        each.envs.close()


@pytest.mark.metaworld
def test_meta_world_steps_with_clipped_actions_while_raw_ones_are_learnt_from():
    first, second = (Run("agent=mtppo", "network=small") for _ in range(2))
    for _ in range(15):
        raw = first.agent.act(first.observation, first.context, explore=True)
        one, two = first.envs.step(raw), second.envs.step(np.clip(raw, -1.0, 1.0))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        first.agent.rollout.position += 1
        first.observation = one[0]
    assert np.abs(first.agent.rollout.action).max() > 1.5
    for each in (first, second):
        each.envs.close()


@pytest.mark.slow
@pytest.mark.metaworld
def test_the_smoke_preset_runs_to_its_end(tmp_path):
    words = [
        "experiment=mtppo_smoke",
        f"runs_root={tmp_path}",
        "progress=false",
        "log.figures=false",
    ]
    assert train.main(words) == train.EXIT_DONE
    (directory,) = tmp_path.glob("mtppo_smoke/mt10/mtppo-small-adam/seed_0")
    with (directory / "progress.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if not row["eval/success"]]
    assert [int(row["env_steps"]) for row in rows] == [5_000, 10_000, 15_000, 20_000]
    assert not any(column.startswith(("value", "window/value")) for column in rows[0])
    assert all(np.isfinite(float(row["policy_loss"])) for row in rows)
