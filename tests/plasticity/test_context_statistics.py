"""Utilities kept per context: a slow loop, who is protected, and the way through agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_worlds import random_step
from recycling_nets import generator, still, unit_groups_of
from torch import nn

from agents import ppo, sac
from agents.parts import Parts
from networks import dendritic, mlp
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import UnitGroup
from plasticity.context_statistics import ContextStatistics
from plasticity.method import Target
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam
from plasticity.unit_statistics import UnitStatistics

DECAY = 0.9


def group_of(units=5, outputs=3) -> UnitGroup:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, units), nn.ReLU(), nn.Linear(units, outputs)).double()
    return unit_groups_of(net)[0]


def outgoing_of(group: UnitGroup) -> torch.Tensor:
    return group.readers[0].layer.weight.detach().abs().mean(0)


def test_a_slow_loop_gives_the_same():
    group, stream = group_of(), generator(1)
    statistics = ContextStatistics(group, 3, DECAY)
    running, count = np.zeros((5, 4)), np.zeros((5, 4), dtype=int)
    for call in range(1, 30):
        batch = int(torch.randint(1, 9, (), generator=stream))
        h = torch.randn(batch, 5, generator=stream, dtype=torch.float64)
        contexts = torch.randint(0, 4, (batch,), generator=stream)
        statistics.update_by_context(h, contexts)
        out = outgoing_of(group).numpy()
        for context in set(contexts.tolist()):
            mean = h[contexts == context].abs().mean(0).numpy()
            for unit in range(5):
                old = running[unit, context]
                running[unit, context] = DECAY * old + (1 - DECAY) * mean[unit] * out[unit]
                count[unit, context] += 1
        if call == 12:
            statistics.clear(torch.tensor([1, 3]), call)
            running[[1, 3]], count[[1, 3]] = 0.0, 0
    np.testing.assert_allclose(statistics.by_context.numpy(), running, rtol=1e-12)
    np.testing.assert_array_equal(statistics.seen.numpy(), count)
    corrected = np.where(count > 0, running / np.maximum(1 - DECAY**count, 1e-300), 0.0)
    np.testing.assert_allclose(statistics.scores(29).numpy(), corrected.max(1), rtol=1e-12)
    np.testing.assert_allclose(statistics.raw_scores().numpy(), running.max(1), rtol=1e-12)


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["relu", "crelu", "convolution"])
def test_with_one_context_it_is_the_pooled_utility(kind, aggregate):
    torch.manual_seed(0)
    if kind == "convolution":
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
        group, shape = unit_groups_of(net)[0], (6, 4, 5, 5)
    elif kind == "crelu":
        config = mlp.Config(hidden_sizes=[4], activation="crelu")
        torso = mlp.build(config, 3, ContextSpec(), Streams(0, "test/"))
        group, shape = torso.unit_groups((nn.Linear(4, 2),))[0], (6, 2, 2)
    else:
        group, shape = group_of(), (6, 5)
    dtype = group.readers[0].layer.weight.dtype
    pooled = UnitStatistics(group, "contribution", DECAY, out_aggregate=aggregate)
    apart = ContextStatistics(group, 1, DECAY, out_aggregate=aggregate)
    for call in range(1, 8):
        h = torch.randn(shape, dtype=dtype).relu()  # such units are never negative
        pooled.update(h, call)
        apart.update_by_context(h, torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(apart.scores(7), pooled.scores(7))
    torch.testing.assert_close(apart.raw_scores(), pooled.raw_scores())


def test_a_unit_of_a_context_that_is_away_is_kept():
    """Unit 0 works in context 0 alone, unit 2 is useless everywhere; then context 0 goes away."""
    chosen = {}
    for over in ("pooled", "max"):
        method = method_of(over, maturity_threshold=5, replacement_rate=0.02, utility_decay=0.5)
        (group,) = method.target.unit_groups
        with torch.no_grad():
            group.readers[0].layer.weight.fill_(1.0)
        worth = torch.tensor([[2.0, 1.0, 0.1, 1.0, 1.0], [0.0, 1.0, 0.1, 1.0, 1.0]]).double()
        for step in range(60):
            context = int(step >= 3)
            method.see_contexts(torch.full((4,), context))
            method.after_step(
                {group.name: worth[context].expand(4, 5)}, still(method.target.module)
            )
            resets = method.pop_events()
            if resets:
                chosen[over] = resets[0]["unit"]
                break
    assert chosen == {"pooled": 0, "max": 2}


def method_of(over="max", num_contexts=2, **settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    target = Target("net", net, unit_groups_of(net), generator(), num_contexts=num_contexts)
    config = continual_backprop.Config(utility_over_contexts=over, **settings)
    return continual_backprop.build(config, target)


def test_a_saved_state_goes_on():
    stream = generator(2)
    batches = [
        (torch.randn(6, 5, generator=stream).double(), torch.randint(0, 3, (6,), generator=stream))
        for _ in range(40)
    ]

    def run(method, part):
        (group,) = method.target.unit_groups
        for h, contexts in part:
            method.see_contexts(contexts)
            method.after_step({group.name: h}, still(method.target.module))
        return method

    settings = {"maturity_threshold": 4, "replacement_rate": 0.05, "mean_transfer": True}
    first = run(method_of(**settings), batches[:20])
    state = first.state_dict()
    other = method_of(**settings)
    other.target.module.load_state_dict(first.target.module.state_dict())
    first.pop_events()
    run(first, batches[20:])
    other.load_state_dict(state)
    run(other, batches[20:])
    events = first.pop_events()
    assert events
    assert other.pop_events() == events


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="finite number of contexts"):
        method_of(num_contexts=0)
    with pytest.raises(ValueError, match="utility_over_contexts=max keeps a contribution"):
        continual_backprop.Config(utility_over_contexts="max", utility="fisher")
    with pytest.raises(ValueError, match="utility_over_contexts"):
        continual_backprop.Config(utility_over_contexts="mean")
    method = method_of()
    (group,) = method.target.unit_groups
    with pytest.raises(ValueError, match="not told the contexts"):
        method.update_utilities({group.name: torch.ones(2, 5).double()})


@pytest.mark.parametrize("agent", ["ppo", "sac"])
@pytest.mark.parametrize("network", ["mlp", "dendritic"])
def test_agents_tell_which_context_every_sample_had(agent, network):
    """Contexts 0 and 2 of three are shown; every utility of them moves, and no other."""
    config = {
        "mlp": mlp.Config(hidden_sizes=[16]),
        "dendritic": dendritic.Config(hidden_sizes=[32, 32]),
    }[network]
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=4,
        context=ContextSpec(3, discrete=True),
        network=config,
        optimizer=adam.Config(learning_rate=1e-3),
        methods={
            "continual_backprop": continual_backprop.Config(
                utility_over_contexts="max", maturity_threshold=3, replacement_rate=0.05
            )
        },
    )
    shown = np.eye(3, dtype=np.float32)[[0, 2, 0, 2]]
    if agent == "ppo":
        settings = ppo.Config(rollout_length=16, num_epochs=2, minibatch_size=32)
        built = ppo.build(settings, parts)
    else:
        built = sac.build(
            sac.Config(
                batch_size=16,
                replay_size=96,
                warmup_steps=24,
                updates_per_env_step=0.5,
                steps_per_iteration=32,
            ),
            parts,
        )
    rng = np.random.default_rng(0)
    while built.iteration < 3:
        random_step(built, rng, shown, 5)
        built.update()
    assert {event["network"] for event in built.pop_events()} == set(built.networks())
    for update in built.updates.values():
        method = update.methods["continual_backprop"]
        assert isinstance(method, continual_backprop.ContinualBackprop)
        for statistics in method.statistics.values():
            assert isinstance(statistics, ContextStatistics)
            seen = statistics.seen
            assert (seen[:, [0, 2]] > 0).any(0).all()
            assert not seen[:, [1, 3]].any()
            assert not statistics.by_context[:, [1, 3]].any()
