"""SAC with methods: one state per network, training passes only, target edits, converted rates."""

import numpy as np
import pytest
import torch
from sac_toys import different, fill, learn, make, sampled, weights

from plasticity.methods import continual_backprop, redo
from plasticity.optimizers.per_unit_adam import PerUnitAdam

EAGER = {"maturity_threshold": 3, "replacement_rate": 0.5}


def recycling(**settings):
    config = continual_backprop.Config(**{**EAGER, **settings})
    return {"continual_backprop": config}


def method_of(agent, name):
    return agent.updates[name].methods["continual_backprop"]


def ready(**settings):
    agent = make(methods=recycling(**settings))
    fill(agent, np.random.default_rng(0))
    return agent


def test_every_network_has_its_own_state_and_stream():
    agent = ready()
    states = [method_of(agent, name).state_dict()["generator"] for name in agent.networks()]
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])
    learn(agent, np.random.default_rng(0), 2)
    events = {event["network"] for event in agent.pop_events()}
    assert events == {"actor", "critic_1", "critic_2"}
    assert any(key.startswith("continual_backprop/critic_2/") for key in agent.log_values())


def test_recycling_one_critic_touches_nothing_else():
    agent = ready(networks=["critic_1"])
    plain = make()
    fill(plain, np.random.default_rng(0))
    inputs = torch.randn(32, 7)
    for _ in range(5):
        for both in (agent, plain):
            both._steps._critic_step(0, inputs, None, torch.ones(32))
    assert agent.pop_events()
    assert different(weights(agent), weights(plain)) == {"critic_1", "target_1"}


def test_only_the_training_pass_of_its_own_network_reaches_a_method():
    agent = ready(replacement_rate=1e-6)
    batch, noise, next_noise = sampled(agent)
    for _ in range(3):
        agent._steps.step(batch, noise, next_noise)
    before = {name: method_of(agent, name).state_dict() for name in agent.networks()}
    observation = np.ones((7, 5))
    agent.act(observation, np.zeros((7, 0), np.float32), explore=True)
    agent.act(observation, np.zeros((7, 0), np.float32), explore=False)
    agent._steps.targets_of(batch, next_noise)
    agent._steps._actor_step(batch, noise, torch.tensor(0.2))  # through both critics
    for name in ("critic_1", "critic_2"):
        after = method_of(agent, name).state_dict()
        assert after["calls"] == before[name]["calls"] == 3
        for group, state in after["groups"].items():
            assert torch.equal(state["utility"], before[name]["groups"][group]["utility"])
    assert method_of(agent, "actor").calls == 4


def test_utilities_are_those_of_the_critic_loss_pass():
    agent = ready(replacement_rate=1e-6, networks=["critic_1"], utility_decay=0.9)
    inputs = torch.randn(32, 7)
    with torch.no_grad():
        hidden = agent.critic_1.torso.layers[0](inputs)  # before the step
    agent._steps._critic_step(0, inputs, None, torch.ones(32))
    outgoing = agent.critic_1.torso.layers[1].linear.weight.abs().mean(0)  # after it
    utility = method_of(agent, "critic_1").statistics["layers.0"].utility
    torch.testing.assert_close(utility, 0.1 * hidden.abs().mean(0) * outgoing)


@pytest.mark.parametrize("edit", ["copy", "drift"])
def test_targets_get_the_same_edit_or_drift(edit):
    agent = ready(target_edit=edit, networks=["critic_1"])
    steps, tau = agent._steps, agent.config.tau
    inputs, target = torch.randn(32, 7), torch.ones(32)
    renewed = []
    while not renewed:
        before = [p.clone() for p in agent.targets[0].parameters()]
        steps._critic_step(0, inputs, None, target)
        renewed = [e["unit"] for e in agent.pop_events() if e["group"] == "layers.1"]
    unit = renewed[0]
    online, twin = agent.critic_1.torso.layers, agent.targets[0].torso.layers
    row, twin_row = online[1].linear.weight[unit], twin[1].linear.weight[unit]
    column, twin_column = agent.critic_1.value.weight[:, unit], agent.targets[0].value.weight
    assert torch.equal(column, torch.zeros(1))
    if edit == "copy":
        assert torch.equal(twin_row, row)
        assert torch.equal(twin[1].linear.bias[unit], online[1].linear.bias[unit])
        assert torch.equal(twin_column[:, unit], torch.zeros(1))
    else:
        assert not torch.equal(twin_row, row)
        for now, old, new in zip(
            agent.targets[0].parameters(), before, agent.critic_1.parameters(), strict=True
        ):
            torch.testing.assert_close(now, (1 - tau) * old + tau * new)
    for parameter in agent.targets[1].parameters():
        assert parameter.grad is None


def test_drifting_units_fade_with_the_half_life_of_tau():
    agent = ready(target_edit="drift", networks=["critic_1"])
    online, twin = agent.critic_1.value.weight, agent.targets[0].value.weight
    with torch.no_grad():
        online[:, 3] = 0.0
        twin[:, 3] = 1.0
    averages = agent._steps._averages[0], agent._steps._values[0]
    for _ in range(138):
        with torch.no_grad():
            torch._foreach_lerp_(*averages, agent.config.tau)
    assert twin[0, 3].item() == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize(
    ("updates_per_env_step", "threshold", "rate"),
    [
        (0.078125, 10_000, 1e-4),
        (0.1, 12_800, 7.8125e-5),
        (1.0, 128_000, 7.8125e-6),
        (0.125, 16_000, 6.25e-5),
    ],
)
def test_rates_converted_for_another_number_of_gradient_steps(
    updates_per_env_step, threshold, rate
):
    found = continual_backprop.converted_rates(updates_per_env_step)
    assert found[0] == threshold
    assert found[1] == pytest.approx(rate, rel=1e-12)
    assert found[0] * found[1] == pytest.approx(1.0)
    agent = make(
        methods=recycling(maturity_threshold=found[0], replacement_rate=found[1]),
        updates_per_env_step=updates_per_env_step,
    )
    method = method_of(agent, "critic_1")
    assert method.target.gradient_steps_per_env_step == updates_per_env_step
    # Maturity in environment steps is the published one.
    assert threshold / updates_per_env_step == pytest.approx(128_000)


def test_a_run_too_short_for_the_method_is_refused_without_its_warmup():
    settings = {"warmup_steps": 64, "updates_per_env_step": 0.5}
    methods = recycling(maturity_threshold=10)
    make(methods=methods, total_steps=64 + 22, **settings)  # 11 gradient steps
    with pytest.raises(ValueError, match="plans 10 gradient steps"):
        make(methods=methods, total_steps=64 + 20, **settings)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("policy", ["keep", "per_unit_step"])
def test_state_round_trip_with_a_method_continues_in_the_same_bits(threads, policy):
    def build(seed):
        methods = {
            **recycling(
                optimizer_state=policy, replacement_rate=0.05, networks=["actor", "critic_1"]
            ),
            "redo": redo.Config(
                period=7, window_samples=40, optimizer_state=policy, networks=["critic_2"]
            ),
        }
        return make(seed=seed, methods=methods, threads=threads, updates_per_env_step=0.25)

    agent, rng = build(0), np.random.default_rng(0)
    learn(agent, rng, 2)
    assert isinstance(agent.updates["actor"].optimizer, PerUnitAdam) == (policy != "keep")
    agent.pop_events()
    state, position = agent.state_dict(), rng.bit_generator.state
    twin, twin_rng = build(1), np.random.default_rng(1)
    twin.load_state_dict(state)
    twin_rng.bit_generator.state = position
    for both, generator in ((agent, rng), (twin, twin_rng)):
        learn(both, generator, 2)
        both.close()
    assert not different(weights(agent), weights(twin))
    assert agent.pop_events() == twin.pop_events() != []


def test_a_method_of_strength_zero_leaves_every_bit_alone():
    agents = [make(), make(methods=recycling(replacement_rate=0.0))]
    draws = []
    for agent in agents:
        learn(agent, np.random.default_rng(0), 2)
        draws.append([g.get_state() for g in agent._generators.values()])
    assert not different(weights(agents[0]), weights(agents[1]))
    recycler = make(methods=recycling())
    learn(recycler, np.random.default_rng(0), 2)
    assert different(weights(agents[0]), weights(recycler))
    draws.append([g.get_state() for g in recycler._generators.values()])
    for other in draws[1:]:  # methods draw from their own streams
        assert all(torch.equal(a, b) for a, b in zip(draws[0], other, strict=True))
