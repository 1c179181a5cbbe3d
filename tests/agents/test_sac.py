"""SAC: the arithmetic of its losses and of one gradient step, its schedule, state and refusals."""

import math

import numpy as np
import pytest
import torch
from sac_toys import (
    ACTION,
    NUM_ENVS,
    OBSERVATION,
    different,
    fill,
    learn,
    make,
    sampled,
    step,
    weights,
)
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.utils._python_dispatch import TorchDispatchMode

from agents import sac_losses as losses
from agents.base import Transition
from agents.sac_steps import UncheckedUpdate
from agents.update import NumericalFailure
from networks import k_winners
from plasticity.methods import continual_backprop

# Squashed Gaussian -------------------------------------------------------------------------


def test_log_jacobian_is_exact_where_the_usual_form_is_not():
    u = torch.tensor([[8.0]], dtype=torch.float64)
    assert losses.squash_log_jacobian(u).item() == pytest.approx(-14.613706, abs=1e-6)
    usual = torch.log(1 - torch.tanh(u) ** 2 + 1e-6).item()
    assert usual == pytest.approx(-13.443850, abs=1e-6)
    u = torch.linspace(-20, 20, 401, dtype=torch.float64)[:, None]
    # 1 - tanh(u)^2 = 1 / cosh(u)^2, which does not cancel.
    expected = -2.0 * torch.log(torch.cosh(u)).sum(1)
    torch.testing.assert_close(losses.squash_log_jacobian(u), expected, rtol=1e-12, atol=1e-12)
    single = losses.squash_log_jacobian(u.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_samples_and_densities_equal_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = torch.randn(3, 500, 3, generator=generator, dtype=torch.float64)
    action, log_probability = losses.squashed_sample(mean, log_std, noise)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    inside = action.abs().max(1).values < 0.999  # torch inverts tanh, which is exact only here
    assert inside.sum() > 200
    base = Independent(Normal(mean[inside], log_std[inside].exp()), 1)
    reference = TransformedDistribution(base, [TanhTransform()]).log_prob(action[inside])
    torch.testing.assert_close(log_probability[inside], reference, rtol=1e-8, atol=1e-8)


def test_density_integrates_to_one():
    action = torch.linspace(-1, 1, 400_002, dtype=torch.float64)[1:-1, None]
    u, mean, log_std = torch.atanh(action), 0.4, math.log(0.7)
    noise = (u - mean) / math.exp(log_std)
    shape = torch.full_like(u, mean), torch.full_like(u, log_std)
    log_probability = losses.squashed_sample(*shape, noise)[1]
    assert torch.trapezoid(log_probability.exp(), action[:, 0]).item() == pytest.approx(1, abs=1e-3)


def test_gradients_survive_saturation():
    mean = torch.full((1, 1), 30.0, requires_grad=True)
    _, log_probability = losses.squashed_sample(mean, torch.zeros(1, 1), torch.zeros(1, 1))
    log_probability.sum().backward()
    assert mean.grad.item() == pytest.approx(2.0)  # d/du of -log(1 - tanh^2) tends to 2


# Losses -------------------------------------------------------------------------------------


def test_target_takes_the_smaller_critic_and_bootstraps_unless_terminal():
    reward, terminal = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0])
    first, second = torch.tensor([100.0, 120.0, 5.0]), torch.tensor([110.0, 90.0, 5.0])
    log_probability = torch.tensor([0.0, -2.0, -2.0])
    target = losses.critic_target(
        reward, terminal, first, second, log_probability, torch.tensor(0.5), 0.99
    )
    torch.testing.assert_close(target, torch.tensor([100.0, 1 + 0.99 * 91.0, 1.0]))


@pytest.mark.parametrize("timeouts_terminal", [False, True])
def test_cut_transitions_bootstrap_unless_told_otherwise(timeouts_terminal):
    agent = make(timeouts_terminal=timeouts_terminal, initial_temperature=1e-12)
    fill(agent, np.random.default_rng(0))
    with torch.no_grad():
        for target in agent.targets:
            target.value.weight.zero_()
            target.value.bias.fill_(100.0)
    batch, _, noise = sampled(agent)
    ends = torch.maximum(batch.terminated, batch.truncated)
    assert 0 < batch.truncated.sum() < len(ends)
    found = agent._steps.targets_of(batch, noise) - batch.reward
    stops = ends if timeouts_terminal else batch.terminated
    torch.testing.assert_close(found, 99.0 * (1 - stops), atol=1e-4, rtol=1e-5)


def test_losses_equal_their_formulas():
    q, target = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert losses.critic_loss(q, target).item() == pytest.approx(0.5 * (1 + 4) / 2)
    log_probability = torch.tensor([-1.0, 2.0])
    smaller = torch.minimum(q, torch.tensor([2.0, 0.5]))
    loss = losses.actor_loss(log_probability, smaller, torch.tensor(0.1))
    assert loss.item() == pytest.approx(((-0.1 - 1.0) + (0.2 - 0.5)) / 2)


@pytest.mark.parametrize(("entropy", "rises"), [(-3.0, True), (-1.0, False)])
def test_temperature_rises_exactly_when_the_entropy_is_below_its_target(entropy, rises):
    agent = make()
    log_probability = torch.full((32,), -entropy, requires_grad=True)
    before = agent.temperature.log_temperature.item()
    agent.temperature.step(None, log_probability, target_entropy=-float(ACTION))
    assert (agent.temperature.log_temperature.item() > before) == rises
    assert log_probability.grad is None


def test_the_temperature_loss_reaches_nothing_else():
    agent = make()
    fill(agent, np.random.default_rng(0))
    batch, noise, _ = sampled(agent)
    _, log_probability = losses.squashed_sample(*agent.actor(batch.observation), noise)
    agent.temperature.step(None, log_probability, -2.0)
    assert agent.temperature.log_temperature.grad is not None
    for network in agent.networks().values():
        assert all(p.grad is None for p in network.parameters())


def test_target_entropy_is_minus_the_action_size():
    assert make()._steps._settings.target_entropy == -float(ACTION)
    assert make(target_entropy=-0.7)._steps._settings.target_entropy == -0.7


# One gradient step --------------------------------------------------------------------------


def test_actor_loss_computes_no_critic_weight_gradients():
    agent = make()
    fill(agent, np.random.default_rng(0))
    batch, noise, _ = sampled(agent)
    before = weights(agent)
    agent._steps._actor_step(batch, noise, torch.tensor(0.2))
    for critic in (agent.critic_1, agent.critic_2):
        assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert different(before, weights(agent)) == {"actor"}


def test_actor_gradient_equals_the_one_with_critic_gradients_computed():
    agent = make()
    fill(agent, np.random.default_rng(0))
    batch, noise, _ = sampled(agent)
    action, log_probability = losses.squashed_sample(*agent.actor(batch.observation), noise)
    inputs = torch.cat((batch.observation, action), 1)
    q_1, q_2 = agent.critic_1(inputs), agent.critic_2(inputs)
    losses.actor_loss(log_probability, torch.minimum(q_1, q_2), torch.tensor(0.2)).backward()
    expected = [p.grad.clone() for p in agent.actor.parameters()]
    agent._steps._actor_step(batch, noise, torch.tensor(0.2))
    for parameter, gradient in zip(agent.actor.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_targets_follow_by_polyak_averaging():
    agent = make(learning_rate=1e-30, tau=0.1)  # critics stand still
    with torch.no_grad():
        for parameter in agent.targets[0].parameters():
            parameter.add_(torch.randn_like(parameter))
    start = [p.clone() for p in agent.targets[0].parameters()]
    rng = np.random.default_rng(0)
    fill(agent, rng)
    for _ in range(7):
        agent._steps.step(*sampled(agent))
    for target, first, online in zip(
        agent.targets[0].parameters(), start, agent.critic_1.parameters(), strict=True
    ):
        expected = online + 0.9**7 * (first - online)
        torch.testing.assert_close(target, expected)
        assert not target.requires_grad
        assert target.grad is None


def test_critics_start_different_and_targets_equal_to_them():
    agent = make()
    start = weights(agent)
    assert not torch.equal(agent.critic_1.value.weight, agent.critic_2.value.weight)
    for critic, target in (("critic_1", "target_1"), ("critic_2", "target_2")):
        for key in agent.critic_1.state_dict():
            assert torch.equal(start[f"{critic}.{key}"], start[f"{target}.{key}"])


def test_one_thread_and_two_give_equal_bits():
    agents = [make(threads=threads) for threads in (1, 2)]
    for agent in agents:
        learn(agent, np.random.default_rng(0), 3)
        agent.close()
    assert not different(weights(agents[0]), weights(agents[1]))


def test_denormals_are_numbers_again_after_an_update():
    """The simulator runs in the same thread; its bits must not depend on who learns."""
    learn(make(), np.random.default_rng(0))
    smallest = torch.full((64,), 1e-310, dtype=torch.float64)
    assert (smallest * 1.0 > 0).all()


def test_gradient_clipping_bounds_every_norm():
    agent, norms = make(max_grad_norm=1e-3), []
    for update in agent.updates.values():
        original = update.optimizer.step

        def record(update=update, original=original):
            gradients = torch.cat([p.grad.flatten() for p in update.network.parameters()])
            norms.append(gradients.norm().item())
            original()

        update.optimizer.step = record
    learn(agent, np.random.default_rng(0))
    assert len(norms) == 3 * 32
    assert max(norms) <= 1e-3 * 1.001


# Sizes and tasks ----------------------------------------------------------------------------


def test_networks_have_the_published_sizes():
    agent = make(observation=39, action=4, context_dim=10, num_envs=10, hidden=(400, 400, 400))
    sizes = {n: sum(p.numel() for p in net.parameters()) for n, net in agent.networks().items()}
    assert sizes == {"actor": 344_008, "critic_1": 342_801, "critic_2": 342_801}


def test_temperature_per_task_follows_its_own_rows():
    agent = make(context_dim=4, temperature_per_task=True)
    assert torch.equal(agent.temperature.log_temperature.exp(), torch.ones(4))
    context = torch.eye(4)[[0, 0, 1, 2]]
    log_probability = torch.tensor([5.0, 5.0, -5.0, 2.0])  # target entropy -2
    agent.temperature.step(context, log_probability, -2.0)
    change = agent.temperature.log_temperature
    assert change[0] > 0 > change[1]
    assert torch.equal(change[2:], torch.zeros(2))
    before = weights(agent)
    learn(agent, np.random.default_rng(0))
    assert different(before, weights(agent)) >= {"actor", "critic_1", "critic_2", "temperature"}
    assert {f"temperature/task_{i}" for i in range(4)} <= set(agent.log_values())


def test_balanced_batches_hold_every_task_equally_often(monkeypatch):
    agent = make(
        context_dim=10, num_envs=10, batch_size=40, replay_size=400, task_balanced_batches="shared"
    )
    counts = []
    original = agent._steps.step
    monkeypatch.setattr(
        agent._steps, "step", lambda b, *n: counts.append(b.context.sum(0)) or original(b, *n)
    )
    learn(agent, np.random.default_rng(0))
    assert all(torch.equal(count, torch.full((10,), 4.0)) for count in counts)


# Schedule -----------------------------------------------------------------------------------


def count_steps(agent, monkeypatch):
    made = []
    monkeypatch.setattr(agent, "_gradient_step", lambda: (made.append(1), agent.clock.step()))
    return made


def test_gradient_steps_of_the_multi_task_reference(monkeypatch):
    agent = make(
        num_envs=10, warmup_steps=40_000, updates_per_env_step=0.1, steps_per_iteration=2_000
    )
    made, rng, firsts = count_steps(agent, monkeypatch), np.random.default_rng(0), []
    for vector_step in range(1, 6_001):
        step(agent, rng)
        assert agent.update_is_due == (vector_step > 4_000)
        agent.update()
        firsts += [vector_step] if len(made) == 1 and not firsts else []
    assert firsts == [4_001]
    assert len(made) == 2_000
    assert agent.iteration == 10


@pytest.mark.parametrize("ratio", [0.125, 0.1, 1 / 3, 1.0])
def test_fractions_of_gradient_steps_add_up(ratio, monkeypatch):
    agent = make(updates_per_env_step=ratio, steps_per_iteration=100, warmup_steps=100)
    made, rng = count_steps(agent, monkeypatch), np.random.default_rng(0)
    for vector_step in range(1, 1_526):
        step(agent, rng)
        agent.update()
        learnt = max(0, NUM_ENVS * vector_step - 100)
        assert len(made) == math.floor(learnt * ratio + 1e-9)
    assert agent.iteration == 6_000 // 100


def test_actions_of_the_warmup_are_uniform_and_independent_of_the_policy():
    agents = [make(warmup_steps=4_000), make(warmup_steps=4_000)]
    with torch.no_grad():
        agents[1].actor.mean.bias.fill_(9.0)
    drawn = []
    for agent in agents:
        rng = np.random.default_rng(0)
        drawn.append(np.concatenate([step(agent, rng) for _ in range(1_000)]))
    assert np.array_equal(*drawn)
    assert np.abs(drawn[0]).max() <= 1.0
    assert np.abs(drawn[0].mean()) < 0.02
    assert drawn[0].var() == pytest.approx(1 / 3, abs=0.01)
    assert step(agents[1], rng).min() > 0.9  # the policy acts from here on


def test_iterations_carry_statistics_and_the_steps_between_carry_none():
    agent, rng = make(), np.random.default_rng(0)
    rows, begins = [], []
    for _ in range(16 + 2 * 16):
        step(agent, rng)
        if agent.update_is_due:
            begins.append(agent.begins_iteration)
            rows.append(agent.update())
        assert agent.is_at_quiet_point == (agent.begins_iteration and not agent.update_is_due)
    assert [bool(row) for row in rows] == 2 * [*15 * [False], True]
    assert begins == 2 * [True, *15 * [False]]
    assert agent.updates["actor"].num_steps == agent.clock.gradient_steps == 64


def test_statistics_are_means_over_the_iteration(monkeypatch):
    agent, seen = make(), []
    original = agent._steps.step
    monkeypatch.setattr(agent._steps, "step", lambda *a: seen.append(original(*a)) or seen[-1])
    logged = learn(agent, np.random.default_rng(0), 2)
    expected = torch.stack(seen[-32:]).double().mean(0)
    torch.testing.assert_close(torch.stack(list(logged.values())).double(), expected)


# Switches -----------------------------------------------------------------------------------


def test_the_replay_survives_a_switch_unless_told_otherwise():
    expected = {"keep": 160, "clear": 0, "keep_last_n": 8}
    for rule, size in expected.items():
        agent = make(buffer_on_switch=rule, keep_last_n=11)
        fill(agent, np.random.default_rng(0))
        newest = agent.replay.last(8).observation
        agent.on_task_change(1)
        assert agent.replay.size == size
        assert torch.equal(agent.replay.last(8).observation, newest[: min(8, size)])
        needs = agent.methods_that_need_boundaries()
        assert needs == ([] if rule == "keep" else [f"agent.buffer_on_switch={rule}"])


def test_a_cleared_replay_is_not_learnt_from_until_it_holds_a_minibatch():
    agent, rng = make(buffer_on_switch="clear"), np.random.default_rng(0)
    learn(agent, rng)
    made = agent.clock.gradient_steps
    agent.on_task_change(1)
    for vector_step in range(1, 12):
        step(agent, rng, regime=1)
        agent.update()
        owed = 2 * max(0, vector_step - 7)  # 32 transitions are there after 8 vector steps
        assert agent.clock.gradient_steps - made == owed
    assert (agent.replay.rows(slice(0, agent.replay.size)).regime == 1).all()


# State --------------------------------------------------------------------------------------


def test_every_part_of_the_state_is_needed():
    """Restoring all but one part gives another run: nothing in the state is decoration."""
    agent, rng = make(), np.random.default_rng(0)
    learn(agent, rng, 2)
    for _ in range(3):  # into an iteration, with gradient steps made
        step(agent, rng)
        agent.update()
    state, position = agent.state_dict(), rng.bit_generator.state

    def goes_on(without=None):
        twin, twin_rng = make(seed=1), np.random.default_rng(1)
        rest = {
            **state,
            **({} if without is None else {without: make(seed=1).state_dict()[without]}),
        }
        twin.load_state_dict(rest)
        twin_rng.bit_generator.state = position
        logged = learn(twin, twin_rng, 1)
        return {**weights(twin), **{f"logged.{k}": v for k, v in logged.items()}}

    complete = goes_on()
    logged = learn(agent, rng, 1)
    straight = {**weights(agent), **{f"logged.{k}": v for k, v in logged.items()}}
    assert not different(straight, complete)
    for part in state:
        if part != "replay":
            assert different(straight, goes_on(without=part)), part


def test_a_checkpoint_of_another_device_loads_with_new_streams():
    agent, twin = make(), make(seed=1)
    state = agent.state_dict()
    streams = [g.get_state() for g in twin._generators.values()]
    state["generators"] = {n: torch.zeros(16, dtype=torch.uint8) for n in state["generators"]}
    twin.load_state_dict(state)
    assert not different(weights(agent), weights(twin))
    for generator, before in zip(twin._generators.values(), streams, strict=True):
        assert torch.equal(generator.get_state(), before)


def test_transplanted_critics_bring_their_targets():
    donor, rng = make(), np.random.default_rng(0)
    learn(donor, rng, 2)
    state, donated = donor.state_dict(), weights(donor)
    agent = make(seed=1)
    fresh = weights(agent)
    agent.transplant(state, ["critic_2", "temperature", "replay"])
    now = weights(agent)
    assert different(now, donated) == {"critic_2", "target_2", "temperature"}
    assert different(now, fresh) == {"actor", "critic_1", "target_1"}
    assert agent.replay.size == 0
    assert agent.clock.env_steps == 0
    other = make(seed=1)
    other.transplant(state, ["actor", "optimizer"])
    assert other.replay.size == donor.replay.size
    assert not other.updates["critic_1"].optimizer.state
    assert not other.temperature.optimizer.state
    assert different(weights(other), donated) == {"actor"}


# Refusals -----------------------------------------------------------------------------------


def test_a_reward_that_is_not_finite_stops_before_any_change():
    agent = make()
    fill(agent, np.random.default_rng(0))
    agent.replay._rows[:, agent.replay.columns.slices["reward"]] = math.nan
    before = weights(agent)
    with pytest.raises(NumericalFailure, match="loss of the critic_1"):
        agent.update()
    assert not different(before, weights(agent))


def test_a_bad_weight_is_found_within_the_check_period():
    agent, rng = make(updates_per_env_step=0.25), np.random.default_rng(0)
    learn(agent, rng)
    with torch.no_grad():
        agent.actor.torso.layers[0].linear.weight[0, 0] = math.inf
    with pytest.raises(NumericalFailure):
        learn(agent, rng)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.5}, "agent.discount is 1.5"),
        ({"tau": 0.0}, "agent.tau is 0.0"),
        ({"updates_per_env_step": 0.0}, "agent.updates_per_env_step is 0.0"),
        ({"initial_temperature": 0.0}, "agent.initial_temperature is 0.0"),
        ({"warmup_steps": -1}, "agent.warmup_steps is -1"),
        ({"log_std_min": 3.0}, "agent.log_std_min is 3.0"),
        ({"replay_size": 16}, "at least agent.batch_size=32"),
        ({"max_grad_norm": 0.0}, "agent.max_grad_norm is 0.0"),
        ({"replay_size": 10**12}, "set agent.replay_size to at most"),
        ({"temperature_per_task": True}, "needs a one-hot context"),
        ({"task_balanced_batches": "shared", "batch_size": 30}, "no multiple of the 4"),
        ({"warmup_steps": 100, "total_steps": 100}, "leaves nothing of total_steps=100"),
        ({"learning_starts": 50, "total_steps": 50}, "agent.learning_starts=50 leaves nothing"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("width", [0, 1, 2, 4])
def test_a_context_of_the_wrong_size_is_refused_while_actions_are_still_random(width):
    agent = make(context_dim=3, num_envs=3)
    observation, ends = np.zeros((3, OBSERVATION)), np.zeros(3, dtype=bool)
    rows = (observation, np.zeros((3, ACTION)), np.zeros(3), observation, ends, ends)
    good, bad = np.eye(3, dtype=np.float32), np.ones((3, width), dtype=np.float32)
    for context, successor in ((bad, good), (good, bad)):
        message = f"context has {width} entries per environment, .* built for 3"
        with pytest.raises(ValueError, match=message):
            agent.observe(Transition(*rows, context, successor, np.zeros(3)))
    assert agent.replay.size == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_refused():
    with pytest.raises(ValueError, match=r"set agent\.device=cpu"):
        make(device="cuda")


class AskedTheDevice(Exception):
    pass


class NoReading(TorchDispatchMode):
    """Refuses what a graph of the device could not hold: values or shapes that the host reads."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            raise AskedTheDevice(func)
        return func(*args, **(kwargs or {}))


def test_gradient_steps_read_nothing_off_the_device(monkeypatch):
    """What a GPU runs, tried on the CPU; a method without a unit due is part of it."""
    settings = {"maturity_threshold": 1_000_000}
    agent = make(
        methods={"continual_backprop": continual_backprop.Config(**settings)},
        context_dim=4,
        temperature_per_task=True,
        task_balanced_batches="independent",
        max_grad_norm=1.0,
        fast_path=False,
    )
    learn(agent, np.random.default_rng(0))
    with pytest.raises(AskedTheDevice), NoReading():
        agent._gradient_step()  # on the CPU losses are checked at every step
    for name, update in agent.updates.items():
        agent.updates[name] = UncheckedUpdate.of(update)
    before = weights(agent)
    looks = only_count_looks(agent, monkeypatch)
    with NoReading():
        for _ in range(100):
            agent._gradient_step()
    assert different(before, weights(agent)) >= set(agent.networks())
    assert len(looks) == 1  # all that ever reads the device: one look per 100 steps


def only_count_looks(agent, monkeypatch):
    """Keep the agent from its periodic look at all weights; grows by one at each."""
    looks = []
    monkeypatch.setattr(agent, "_check_finite", lambda: looks.append(1))
    return looks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("capture", ["on", "off"])
def test_a_thousand_updates_on_a_gpu_never_wait_for_it_nor_allocate(capture, monkeypatch):
    agent, rng = make(device="cuda", capture=capture), np.random.default_rng(0)
    logged = learn(agent, rng)
    assert all(value.is_cuda and torch.isfinite(value) for value in logged.values())
    for _ in range(10):
        agent._gradient_step()  # the capture is one of the first steps
    looks = only_count_looks(agent, monkeypatch)
    torch.cuda.synchronize()
    allocated = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(1_000):
            agent._gradient_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_allocated() == allocated
    assert len(looks) == 10


# Learning -----------------------------------------------------------------------------------


def test_learns_to_point_at_the_observation():
    """A one-step problem with a known optimum: the action should equal the first two inputs."""
    agent = make(
        learning_rate=3e-3,
        updates_per_env_step=0.25,
        replay_size=10_000,
        batch_size=64,
        discount=0.9,
        temperature_learning_rate=3e-3,
    )
    rng, context = np.random.default_rng(0), np.zeros((NUM_ENVS, 0), np.float32)

    def error():
        observation = np.random.default_rng(1).uniform(-0.9, 0.9, size=(200, OBSERVATION))
        action = agent.act(observation, np.zeros((200, 0), np.float32), explore=False)
        return np.mean((action - observation[:, :ACTION]) ** 2)

    before = error()
    ended, running = np.ones(NUM_ENVS, bool), np.zeros(NUM_ENVS, bool)
    for _ in range(500):
        observation = rng.uniform(-0.9, 0.9, size=(NUM_ENVS, OBSERVATION))
        action = agent.act(observation, context, explore=True)
        reward = -10.0 * ((action - observation[:, :ACTION]) ** 2).sum(-1)
        outcome = (reward, observation, ended, running, context, context, np.zeros(NUM_ENVS, int))
        agent.observe(Transition(observation, action, *outcome))
        agent.update()
    assert error() < 0.2 * before


def test_duty_cycles_are_counted_once_per_iteration():
    agent = make(network=k_winners.Config(hidden_sizes=[32, 32]))
    learn(agent, np.random.default_rng(0), 1)
    for network in agent.networks().values():
        seen = [int(v) for name, v in network.named_buffers() if name.endswith("seen")]
        assert seen == [agent.config.batch_size] * 2


def test_targets_acting_and_measuring_count_no_duty_cycles():
    """Acceptance 15 of active dendrites: targets copy duty cycles once and never count."""
    agent = make(network=k_winners.Config(hidden_sizes=[32, 32]))
    first = [dict(target.named_buffers()) for target in agent.targets]
    first = [{name: value.clone() for name, value in state.items()} for state in first]
    learn(agent, np.random.default_rng(0), 2)
    for target, before in zip(agent.targets, first, strict=True):
        now = dict(target.named_buffers())
        assert len(now) == 4
        assert all(torch.equal(value, before[name]) for name, value in now.items())
    counted = weights(agent)
    for explore in (True, False):
        agent.act(np.ones((NUM_ENVS, OBSERVATION)), np.zeros((NUM_ENVS, 0), np.float32), explore)
    assert not different(counted, weights(agent))
