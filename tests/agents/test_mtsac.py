"""Details of the multi-task references MTSAC and MTMHSAC: sizes, batches, clipping, heads."""

import copy

import numpy as np
import pytest
import torch
from sac_toys import ACTION, different, fill, learn, make, sampled, step, weights
from torch import nn
from torch.nn import functional

from agents import sac
from agents.parts import Parts
from configs.compose import compose_run
from networks import mlp, multi_head
from networks.torso import ContextSpec
from plasticity.methods import continual_backprop, l2_init
from plasticity.optimizers import adam

TASKS = 10


def tasked(num_tasks=TASKS, num_envs=TASKS, network=None, optimizer=None, **settings):
    """A small agent for tasks that are stepped side by side."""
    settings = {"batch_size": 40, "replay_size": 400, "warmup_steps": 60, **settings}
    settings = {"updates_per_env_step": 0.1, "steps_per_iteration": 100, **settings}
    parts = Parts(
        observation_dim=5,
        action_dim=ACTION,
        num_envs=num_envs,
        network=network or mlp.Config(hidden_sizes=[16, 16]),
        optimizer=optimizer or adam.Config(learning_rate=1e-3),
        context=ContextSpec(num_tasks, discrete=True),
        num_tasks=num_tasks,
    )
    return sac.build(sac.Config(**settings), parts)


def paper(name):
    """The agent of a preset, with a replay that fits into a test."""
    config = compose_run([f"experiment={name}", "agent.replay_size=12800"]).config
    parts = Parts(
        observation_dim=39,
        action_dim=4,
        num_envs=TASKS,
        network=config.network,
        optimizer=config.optimizer,
        context=ContextSpec(TASKS, discrete=True),
        total_steps=config.total_steps,
        num_tasks=TASKS,
    )
    return sac.build(config.agent, parts)


# Sizes and laws ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "actor", "critic"),
    [("mt10_paper", 344_008, 342_801), ("mt10_paper_multi_head", 372_880, 346_410)],
)
def test_networks_of_the_presets_have_the_published_sizes_and_laws(name, actor, critic):
    agent = paper(name)
    sizes = {n: sum(p.numel() for p in net.parameters()) for n, net in agent.networks().items()}
    assert sizes == {"actor": actor, "critic_1": critic, "critic_2": critic}
    for network in agent.networks().values():
        for layer in network.torso.layers:
            bound = np.sqrt(6 / layer.linear.in_features)  # He et al. 2015
            largest = layer.linear.weight.detach().abs().max().item()
            assert 0.999 * bound < largest <= bound
            assert not layer.linear.bias.any()
        bound = 1e-3 if network is agent.actor else 3e-3
        for head in network.heads():
            assert 0.97 * bound < head.weight.detach().abs().max().item() <= bound
            assert not head.bias.any()


def test_the_preset_is_the_reference():
    agent, config = paper("mt10_paper"), compose_run(["experiment=mt10_paper"]).config
    settings = agent.config
    assert (settings.batch_size, settings.task_balanced_batches) == (1280, "shared")
    assert settings.batch_size // TASKS == 128
    assert (settings.discount, settings.tau, settings.target_entropy) == (0.99, 0.005, -4.0)
    assert (settings.log_std_min, settings.log_std_max) == (-20.0, 2.0)
    assert config.agent.replay_size == 1_000_000
    assert torch.equal(agent.temperature.log_temperature.detach(), torch.zeros(TASKS))
    for optimizer in (agent.temperature.optimizer, *(u.optimizer for u in agent.updates.values())):
        group = optimizer.param_groups[0]
        assert (group["lr"], group["eps"], group["weight_decay"]) == (3e-4, 1e-5, 0.0)
    norms = {name: update.max_grad_norm for name, update in agent.updates.items()}
    assert norms == {"actor": 1.0, "critic_1": None, "critic_2": None}
    assert agent._steps._settings.critics_max_grad_norm == 1.0
    learning = config.total_steps - settings.warmup_steps
    assert learning * settings.updates_per_env_step == pytest.approx(1_996_000)


@pytest.mark.parametrize("task", [0, 7])
def test_heads_of_absent_tasks_get_no_gradient(task):
    network = multi_head.Config(hidden_sizes=[16], context_to_input=True)
    agent = tasked(network=network, task_balanced_batches="off", max_grad_norm=1.0)
    fill(agent, np.random.default_rng(0))
    batch, noise, next_noise = sampled(agent)
    context = torch.eye(TASKS)[[task]].expand(len(batch.reward), -1)
    batch = sac.Batch(**{**vars(batch), "context": context, "next_context": context})
    before = weights(agent)
    agent._steps.step(batch, noise, next_noise)
    after = weights(agent)
    for name, network in agent.networks().items():
        for head in network.heads():
            gradient = head.weight.grad.view(TASKS, -1, 16)
            present = torch.arange(TASKS) == task
            assert gradient[present].any(), name
            assert not gradient[~present].any(), name
            assert not head.bias.grad.view(TASKS, -1)[~present].any(), name
    for key in ("actor.mean.weight", "critic_1.value.weight", "target_1.value.weight"):
        changed = (before[key] != after[key]).view(TASKS, -1).any(1)
        assert changed.nonzero().flatten().tolist() == [task], key


# Batches -------------------------------------------------------------------------------------


def test_batches_are_balanced_by_themselves_where_tasks_are_stepped_side_by_side():
    assert tasked().config.task_balanced_batches == "shared"
    assert tasked(num_tasks=1, num_envs=4).config.task_balanced_batches == "off"
    assert make(context_dim=4).config.task_balanced_batches == "off"  # regimes are no tasks
    assert tasked(task_balanced_batches="independent").config.task_balanced_batches == "independent"


@pytest.mark.parametrize("rule", ["shared", "independent"])
def test_tasks_share_time_indices_or_draw_their_own(rule):
    agent = tasked(task_balanced_batches=rule)
    rng, seen = np.random.default_rng(0), []
    fill(agent, rng, steps=40)
    original = agent.replay.rows
    agent.replay.rows = lambda rows: seen.append(rows) or original(rows)
    agent._gradient_step()
    rows = seen[0].view(4, TASKS)
    assert torch.equal(rows % TASKS, torch.arange(TASKS).expand(4, -1))
    same = (rows // TASKS == rows[:, :1] // TASKS).all()
    assert bool(same) == (rule == "shared")


def test_sizes_are_rounded_to_whole_vector_steps_and_that_is_said():
    agent = tasked(batch_size=32, replay_size=405)
    assert (agent.config.batch_size, agent.replay.capacity) == (40, 400)
    first, second = agent.announcements()
    assert "agent.batch_size=32 is rounded to 40" in first
    assert "agent.replay_size=405 is rounded to 400" in second
    assert tasked().announcements() == []
    with pytest.raises(ValueError, match=r"too small for a minibatch of 40 .* give at least 40"):
        tasked(batch_size=32, replay_size=39)


# One step written out ------------------------------------------------------------------------


def naive_steps(agent, batches, lr=1e-3, epsilon=1e-5, max_norm=0.05, tau=0.3, discount=0.9):
    """Some steps from the equations, one after the other: critics, targets, actor, temperature."""
    actor, critics = copy.deepcopy(agent.actor), copy.deepcopy([agent.critic_1, agent.critic_2])
    targets = copy.deepcopy(critics)
    log_temperature = nn.Parameter(torch.zeros(TASKS))
    both = [p for critic in critics for p in critic.parameters()]
    of_actor = torch.optim.Adam(actor.parameters(), lr=lr, eps=epsilon)
    of_critics = torch.optim.Adam(both, lr=lr, eps=epsilon)
    of_temperature = torch.optim.Adam([log_temperature], lr=3e-4, eps=epsilon)

    def act(observation, context, noise):
        mean, log_std = actor(observation, context)
        law = torch.distributions.Normal(mean, log_std.exp())
        u = mean + log_std.exp() * noise
        density = law.log_prob(u) - torch.log1p(-(torch.tanh(u.double()) ** 2)).float()
        return torch.tanh(u), density.sum(1)

    for batch, noise, next_noise in batches:
        temperature = log_temperature.detach().exp()[batch.context.argmax(1)]
        with torch.no_grad():
            action, density = act(batch.next_observation, batch.next_context, next_noise)
            pair = torch.cat((batch.next_observation, action), 1)
            value = torch.minimum(*(t(pair, batch.next_context) for t in targets))
            future = (1 - batch.terminated) * (value - temperature * density)
            goal = batch.reward + discount * future
        pair = torch.cat((batch.observation, batch.action), 1)
        errors = torch.stack([critic(pair, batch.context) - goal for critic in critics])
        of_critics.zero_grad()
        errors.pow(2).mean().backward()  # over both critics and all rows
        nn.utils.clip_grad_norm_(both, max_norm)
        of_critics.step()
        with torch.no_grad():
            for target, critic in zip(targets, critics, strict=True):
                for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                    slow.copy_((1 - tau) * slow + tau * fast)
        action, density = act(batch.observation, batch.context, noise)
        pair = torch.cat((batch.observation, action), 1)
        q = torch.minimum(*(critic(pair, batch.context) for critic in critics))
        of_actor.zero_grad()
        (temperature * density - q).mean().backward()
        nn.utils.clip_grad_norm_(actor.parameters(), max_norm)
        of_actor.step()
        of_temperature.zero_grad()
        logs = functional.one_hot(batch.context.argmax(1), TASKS).float() @ log_temperature
        (-logs * (density.detach() - ACTION)).mean().backward()
        of_temperature.step()
    return [actor, *critics, *targets], log_temperature


@pytest.mark.parametrize("threads", [1, 2])
def test_whole_steps_equal_the_reference_written_out(threads):
    agent = tasked(
        optimizer=adam.Config(learning_rate=1e-3, epsilon=1e-5),
        temperature_epsilon=1e-5,
        temperature_per_task=True,
        max_grad_norm=0.05,
        critic_clipping="joint",
        tau=0.3,
        discount=0.9,
    )
    if threads == 2:
        agent._steps._threads = sac.LearnerThreads(2)
    rng = np.random.default_rng(0)
    fill(agent, rng)
    batches = [sampled(agent, seed) for seed in range(3)]
    expected, log_temperature = naive_steps(agent, batches)
    for batch in batches:
        agent._steps.step(*batch)
    agent._steps._threads.close()
    found = [agent.actor, agent.critic_1, agent.critic_2, *agent.targets]
    for network, reference in zip(found, expected, strict=True):
        for own, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(own.detach(), theirs.detach(), rtol=0, atol=2e-6)
    torch.testing.assert_close(
        agent.temperature.log_temperature.detach(), log_temperature.detach(), rtol=0, atol=1e-6
    )


def test_critics_are_clipped_together_or_each_by_itself():
    def gradients(clipping):
        agent = make(max_grad_norm=0.05, critic_clipping=clipping)
        fill(agent, np.random.default_rng(0))
        agent._steps.step(*sampled(agent))
        critics = (agent.critic_1, agent.critic_2)
        grads = [torch.cat([p.grad.flatten() for p in c.parameters()]) for c in critics]
        return [grad.norm().item() for grad in grads]

    assert gradients("separate") == pytest.approx([0.05, 0.05], rel=1e-3)
    first, second = gradients("joint")
    assert np.hypot(first, second) == pytest.approx(0.05, rel=1e-3)
    assert first != pytest.approx(second, rel=1e-3)  # one factor for both, not equal lengths


def test_joint_clipping_needs_a_norm_and_bounds_are_positive():
    with pytest.raises(ValueError, match=r"joint clips to agent\.max_grad_norm, which is null"):
        make(critic_clipping="joint")
    for name in ("actor_head_bound", "critic_head_bound"):
        with pytest.raises(ValueError, match=f"agent.{name} is 0.0; give a value above 0, or null"):
            make(**{name: 0.0})


def test_jointly_clipped_critics_run_their_methods():
    methods = {
        "l2_init": l2_init.Config(),
        "continual_backprop": continual_backprop.Config(
            replacement_rate=0.05, maturity_threshold=5, networks=["critic_1"]
        ),
    }
    agent = make(methods=methods, max_grad_norm=1.0, critic_clipping="joint")
    before = weights(agent)
    learn(agent, np.random.default_rng(0), iterations=2)
    assert different(before, weights(agent)) >= {"critic_1", "critic_2"}
    values = agent.log_values()
    assert values["continual_backprop/critic_1/layers.0/replaced_total"] > 0
    assert values["l2_init/critic_2/penalty"] > 0


def test_warmup_is_counted_in_vector_steps_of_uniform_actions():
    agent, rng = tasked(warmup_steps=60), np.random.default_rng(0)
    for vector_step in range(1, 12):
        assert agent.clock.is_warming_up == (vector_step <= 6)
        step(agent, rng)
        assert agent.clock.num_due == max(0, vector_step - 6)
