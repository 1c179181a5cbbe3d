"""Resets, plasticity injection, and drawing whole networks anew."""

import numpy as np
import pytest
import torch
from recycling_nets import Trainer, critic, generator, parameters_of, policy, target_of
from torch import nn

from agents import ppo, sac
from agents.base import Transition
from agents.parts import Parts
from networks import film, k_winners, mlp, multi_head, simba
from networks.heads import GaussianPolicy
from networks.initializers import Initializer
from networks.injected import InjectedHead
from networks.redraw import redraw
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.methods import injection, reset, shrink_perturb
from plasticity.optimizers import adam

NUM_ENVS = 4
SAC = {"batch_size": 16, "replay_size": 512, "warmup_steps": 16, "updates_per_env_step": 0.5}


def make(kind, methods, **settings):
    parts = Parts(5, 2, NUM_ENVS, mlp.Config(hidden_sizes=[16, 16]), adam.Config(), methods)
    return kind.build(kind.Config(**settings), parts)


def learn(agent, steps, seed=0):
    rng, context = np.random.default_rng(seed), np.zeros((NUM_ENVS, 0), np.float32)
    for _ in range(steps):
        observation = rng.normal(size=(NUM_ENVS, 5))
        action = agent.act(observation, context, explore=True)
        ended, regime = rng.random(NUM_ENVS) < 0.1, np.zeros(NUM_ENVS, int)
        agent.observe(
            Transition(
                observation,
                action,
                rng.normal(size=NUM_ENVS),
                rng.normal(size=(NUM_ENVS, 5)),
                ended,
                ended,
                context,
                context,
                regime,
            )
        )
        agent.update()


def at_boundaries(**settings):
    return reset.Config(period=0, at_task_change=True, **settings)


# Drawing anew ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [mlp, k_winners, film, multi_head, simba])
def test_redrawn_networks_depend_on_the_generator_alone(module):
    def build(seed):
        sizes = {"width": 8} if module is simba else {"hidden_sizes": [32, 32]}
        streams = Streams(seed)
        torso = module.build(module.Config(**sizes), 5, ContextSpec(3, True), streams)
        return GaussianPolicy(torso, 2, Initializer("lecun_uniform"), streams)

    first, second = build(0), build(1)
    with torch.no_grad():
        first.log_std.fill_(3.0)
    touched = redraw(first, generator(5))
    redraw(second, generator(5))
    left, right = parameters_of(first), parameters_of(second)
    assert all(torch.equal(left[name], right[name]) for name in left if name != "log_std")
    assert first.log_std.unique().tolist() == [3.0]
    assert {id(entry.parameter) for entry in touched} == {
        id(parameter) for name, parameter in first.named_parameters() if name != "log_std"
    }
    redraw(second, generator(6))
    assert not torch.equal(left["mean.weight"], second.mean.weight)


def test_layers_that_cannot_be_drawn_are_named():
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias were drawn; give Linear a method"):
        redraw(nn.Sequential(nn.Linear(2, 2)), generator())


def test_heads_with_room_for_injection_are_drawn_from_their_own_law():
    """Three independent draws would add up to sqrt(3) times its width."""
    plain, roomy = policy(), policy()
    injection.prepare(injection.Config(), roomy)
    head = roomy.mean
    with torch.no_grad():
        head.fresh.weight.add_(1.0)  # what an injection has learnt
    redraw(plain, generator(5))
    redraw(roomy, generator(5))
    assert torch.equal(head.weight, plain.mean.weight)
    assert torch.equal(head.bias, plain.mean.bias)
    assert torch.equal(head.fresh.weight, head.frozen.weight)
    assert not torch.equal(head.fresh.weight, head.base.weight)


# Resets ----------------------------------------------------------------------------------------


def test_a_head_reset_leaves_the_trunk_alone():
    network = critic()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    trainer = Trainer(network, None, optimizer)
    trainer.run(5)
    method = reset.build(at_boundaries(scope="head"), target_of(network))
    before = parameters_of(network)
    method.on_task_change(1, optimizer)
    after = parameters_of(network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"value.weight", "value.bias"}
    assert not optimizer.state.get(network.value.weight)
    assert optimizer.state[network.torso.layers[0].linear.weight]["step"] == 5


def test_an_optimizer_reset_changes_no_weight():
    network = policy()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    Trainer(network, None, optimizer).run(5)
    method = reset.build(at_boundaries(scope="optimizer"), target_of(network))
    before = parameters_of(network)
    method.on_task_change(1, optimizer)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert not any(optimizer.state.get(p) for p in network.parameters())
    assert method.pop_touched() == []
    assert method.resets_optimizer == "all"


def test_a_full_reset_of_sac():
    agent = make(sac, {"reset": at_boundaries()}, **SAC)
    learn(agent, 40)
    size, log_std = agent.replay.size, agent.temperature.log_temperature.item()
    assert log_std != 0.0
    streams = {n: u.methods["reset"].target.generator.get_state() for n, u in agent.updates.items()}
    agent.on_task_change(1)
    for name, network in agent.networks().items():
        stream = torch.Generator()
        stream.set_state(streams[name])
        twin = make(sac, {}, **SAC).networks()[name]
        redraw(twin, stream)
        expected = parameters_of(twin)
        assert all(torch.equal(p, expected[key]) for key, p in network.named_parameters())
    for online, target in zip((agent.critic_1, agent.critic_2), agent.targets, strict=True):
        copied = parameters_of(target)
        assert all(torch.equal(p, copied[key]) for key, p in online.named_parameters())
    assert agent.replay.size == size
    assert agent.temperature.log_temperature.item() == 0.0
    assert not agent.temperature.optimizer.state
    learn(agent, 10, seed=1)
    assert agent.temperature.log_temperature.item() != 0.0


def test_a_full_reset_of_a_policy_restores_its_spread():
    network = policy()
    method = reset.build(at_boundaries(), target_of(network))
    with torch.no_grad():
        network.log_std.fill_(-2.0)
    method.on_task_change(1, torch.optim.Adam(network.parameters()))
    assert network.log_std.tolist() == [0.0, 0.0]


def test_targets_may_drift_instead():
    agent = make(sac, {"reset": at_boundaries(target_edit="drift")}, **SAC)
    learn(agent, 10)
    before = parameters_of(agent.targets[0])
    agent.on_task_change(1)
    assert all(torch.equal(p, before[n]) for n, p in agent.targets[0].named_parameters())


def test_periods_in_environment_steps_are_converted():
    config = reset.Config(period=1000)
    agent = make(ppo, {"reset": config}, rollout_length=8, minibatch_size=16, num_epochs=2)
    assert agent.updates["policy"].methods["reset"].period == 125  # 2 / 16 steps per env step
    with pytest.raises(ValueError, match=r"set clock=gradient_step"):
        reset.build(config, target_of(policy()))


def test_a_run_too_short_to_act_is_refused():
    config = reset.Config(period=100, clock="gradient_step")
    reset.build(config, target_of(policy(), planned=100))
    with pytest.raises(ValueError, match=r"plans 99 gradient steps and it acts first after 100"):
        reset.build(config, target_of(policy(), planned=99))


# Injection -------------------------------------------------------------------------------------


def injected(network, **settings):
    config = injection.Config(period=0, at_task_change=True, **settings)
    injection.prepare(config, network)
    return injection.build(config, target_of(network))


def test_injection_changes_no_output_and_trains_the_fresh_head():
    network = policy()
    plain = {name: p.clone() for name, p in network.named_parameters()}
    x = torch.randn(50, 4, generator=generator(3))
    with torch.no_grad():
        untouched = network(x)
    method = injected(network)
    head = network.mean
    assert isinstance(head, InjectedHead)
    optimizer = adam.build(adam.Config(learning_rate=1e-2), network)
    assert torch.equal(network(x), untouched)
    trainer = Trainer(network, None, optimizer)
    trainer.run(5)
    assert not torch.equal(head.base.weight, plain["mean.weight"])
    with torch.no_grad():
        before = network(x)
    base = head.base.weight.clone()
    method.on_task_change(1, optimizer)
    assert torch.equal(network(x), before)
    assert not torch.equal(head.fresh.weight, base)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters() if p.requires_grad}
    frozen = head.frozen.weight.clone()
    trainer.run(5)
    assert torch.equal(head.base.weight, base)
    assert torch.equal(head.frozen.weight, frozen)
    assert not torch.equal(head.fresh.weight, frozen)
    assert optimizer.state[head.fresh.weight]["step"] == 5


def test_a_second_injection_folds_the_first():
    network = policy()
    method = injected(network, max_injections=2)
    optimizer = adam.build(adam.Config(learning_rate=1e-2), network)
    trainer, x = Trainer(network, None, optimizer), torch.randn(50, 4, generator=generator(3))
    method.on_task_change(1, optimizer)
    trainer.run(5)
    with torch.no_grad():
        before = network(x)
        method.on_task_change(2, optimizer)
        assert (network(x) - before).abs().max().item() < 1e-6
    assert sum(isinstance(module, InjectedHead) for module in network.modules()) == 1
    third = parameters_of(network)
    method.on_task_change(3, optimizer)  # only two were asked for
    assert all(torch.equal(p, third[name]) for name, p in network.named_parameters())
    assert method.log_values() == {"count": 2.0}
    assert len(method.pop_events()) == 2


def test_injection_reaches_targets_and_avoids_the_hand_written_pass():
    config = injection.Config(period=10, clock="gradient_step")
    agent = make(sac, {"injection": config}, **SAC)
    learn(agent, 40)
    assert agent.updates["critic_1"].methods["injection"].count == 1
    online, twin = agent.critic_1.value, agent.targets[0].value
    assert torch.equal(online.frozen.weight, twin.frozen.weight)
    assert not torch.equal(online.fresh.weight, online.frozen.weight)
    torch.testing.assert_close(twin.fresh.weight, online.fresh.weight, atol=0.02, rtol=0)
    other = make(ppo, {"injection": config}, rollout_length=8, minibatch_size=16)
    assert type(other._steps).__name__ == "AutogradSteps"


def test_the_first_injection_leaves_the_answers_of_targets_alone():
    """They lag behind their critics; the heads that are injected cancel each other exactly."""
    config = injection.Config(period=0, at_task_change=True)
    agent = make(sac, {"injection": config}, **SAC)
    learn(agent, 20)
    inputs = torch.randn(32, 7, generator=generator(0))
    before = [target(inputs) for target in agent.targets]
    agent.on_task_change(1)
    for target, old in zip(agent.targets, before, strict=True):
        assert torch.equal(target(inputs), old)
    online, twin = agent.critic_1.value, agent.targets[0].value
    assert torch.equal(twin.fresh.weight, online.fresh.weight)
    assert not torch.equal(twin.base.weight, online.base.weight)
    state = agent.updates["critic_1"].optimizer.state
    assert all(parameter not in state for parameter in online.base.parameters())


def test_injection_without_room_is_refused():
    config = injection.Config(period=0, at_task_change=True)
    with pytest.raises(ValueError, match=r"parts\.prepare"):
        injection.build(config, target_of(policy()))


def test_a_shrunk_critic_takes_its_target_along():
    for edit in ("copy", "drift"):
        config = shrink_perturb.Config(target_edit=edit)
        agent = make(sac, {"shrink_perturb": config}, **SAC)
        learn(agent, 20)
        agent.on_task_change(1)
        pair = agent.critic_1.value.weight, agent.targets[0].value.weight
        assert torch.equal(*pair) == (edit == "copy")
