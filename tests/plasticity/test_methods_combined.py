"""Methods beside each other: who hears of whose edits, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_worlds import random_step
from recycling_nets import policy, target_of

from agents import ppo
from agents.parts import Parts
from agents.update import Update
from configs.build import build_agent
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.base import EnvInfo
from networks import mlp
from networks.units import Touched
from plasticity.method import InputSource, Method
from plasticity.methods import (
    c_chain,
    continual_backprop,
    fire,
    injection,
    l2_init,
    nap,
    redo,
    reset,
    shrink_perturb,
    si,
    weight_clipping,
)
from plasticity.optimizers import adam


class Editor(Method):
    """Reports the first row of a weight at every step."""

    def __init__(self, weight, renews=True, mirrors=True):
        self.weight, self.renews_entries, self.mirrors_targets = weight, renews, mirrors
        self.pending = []

    def after_step(self, activations, optimizer):
        self.pending = [Touched(self.weight, 0, torch.tensor([0]))]

    def on_task_change(self, task, optimizer):
        self.after_step({}, optimizer)

    def pop_touched(self):
        touched, self.pending = self.pending, []
        return touched


class Listener(Method):
    """Writes down what it hears."""

    def __init__(self):
        self.heard = []

    def notice_edits(self, touched, renewed):
        self.heard.append((touched[0].parameter, renewed))


def updating(methods):
    network = policy()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return network, Update("policy", network, optimizer, methods(network))


@pytest.mark.parametrize("renews", [True, False])
@pytest.mark.parametrize("mirrors", [True, False])
def test_edits_are_told_to_all_others_and_kept_for_targets(renews, mirrors):
    network, update = updating(
        lambda net: {
            "before": Listener(),
            "editor": Editor(net.mean.weight, renews, mirrors),
            "after": Listener(),
        }
    )
    for _ in range(3):  # nobody collects: only the last step is kept
        update.step(network(torch.ones(2, 4)).sum())
    for name in ("before", "after"):
        heard = update.methods[name].heard
        assert len(heard) == 3
        assert heard[0][0] is network.mean.weight
        assert heard[0][1] == renews
    edits = update.pop_target_edits()
    assert len(edits) == (1 if mirrors else 0)
    assert update.pop_target_edits() == []


class Everything(Listener):
    """Writes down every entry that it hears of."""

    def notice_edits(self, touched, renewed):
        self.heard += [(entry.parameter, renewed) for entry in touched]


def test_absorbed_means_are_no_churn_and_no_renewal():
    """C-CHAIN compares with the shifted bias, and nobody takes it for a new one."""
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))

    def draw(size, generator):
        return inputs[torch.randint(64, (size,), generator=generator)], None

    def methods(network):
        config = continual_backprop.Config(
            replacement_rate=0.1, maturity_threshold=1, mean_transfer=True
        )
        target = replace(target_of(network, "policy"), inputs=InputSource(draw, 8))
        return {
            "cb": continual_backprop.build(config, target),
            "c_chain": c_chain.build(c_chain.Config(initial_coefficient=1e-3), target),
            "listener": Everything(),
        }

    network, update = updating(methods)
    heard, bias = update.methods["listener"].heard, network.mean.bias
    for _ in range(5):
        heard.clear()
        with update.recording():
            out = network(inputs[:8])
        update.step(1e-3 * out.square().sum())
    assert [renewed for parameter, renewed in heard if parameter is bias] == [False]
    renewed_weights = [renewed for parameter, renewed in heard if parameter is network.mean.weight]
    assert renewed_weights == [True]
    # What it compares with is the bias before the optimizer's step, shifted as that one was.
    kept = update.methods["c_chain"]._views["mean.bias"]
    torch.testing.assert_close(kept, bias.detach() + 0.1 * bias.grad)
    assert not torch.equal(kept, bias)


def test_edits_at_task_changes_are_told_too():
    _, update = updating(lambda net: {"e": Editor(net.mean.weight), "l": Listener()})
    update.methods["e"].uses_task_boundary = True
    update.on_task_change(1)
    assert len(update.methods["l"].heard) == 1
    assert len(update.pop_target_edits()) == 1


def test_penalties_add_up_and_are_logged_apart():
    class Constant(Method):
        def __init__(self, weight, factor):
            self.weight, self.factor = weight, factor

        def penalty(self, loss):
            return None if self.factor is None else self.factor * self.weight.sum()

    network, update = updating(
        lambda net: {
            "two": Constant(net.mean.weight, 2.0),
            "none": Constant(net.mean.weight, None),
            "three": Constant(net.mean.weight, 3.0),
        }
    )
    assert update.has_penalties
    total = network.mean.weight.sum().item()
    loss = network.mean.bias.sum() * 0.0 + 4.0
    assert update.step(loss).item() == 4.0  # without penalties
    assert torch.equal(network.mean.weight.grad, torch.full_like(network.mean.weight, 5.0))
    values = update.log_values()
    assert values["two/policy/penalty"] == pytest.approx(2.0 * total)
    assert values["three/policy/penalty"] == pytest.approx(3.0 * total)
    assert values["none/policy/penalty"] == 0.0


def test_methods_that_are_off_are_never_called():
    class Off(Listener):
        active = False

        def penalty(self, loss):
            raise AssertionError

        def after_step(self, activations, optimizer):
            raise AssertionError

        after_backward = after_step

    network, update = updating(lambda net: {"off": Off(), "editor": Editor(net.mean.weight)})
    update.step(network(torch.ones(2, 4)).sum())
    assert not update.has_penalties
    assert update.methods["off"].heard == []


def test_recycled_units_are_not_pulled_back():
    """Continual backprop beside L2-Init: the penalty of a unit starts at 0 when it is renewed."""
    network = policy()
    target = target_of(network)
    pull = l2_init.build(l2_init.Config(strength=1.0), target)
    config = continual_backprop.Config(maturity_threshold=3, replacement_rate=0.1)
    recycler = continual_backprop.build(config, target)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    update = Update("policy", network, optimizer, {"cbp": recycler, "l2_init": pull})
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(20):
        with update.recording():
            mean = network(torch.randn(8, 4, generator=generator))
        update.step(mean.square().mean())
        for entry in update.pop_target_edits():
            position = next(
                i for i, p in enumerate(pull._references.parameters) if p is entry.parameter
            )
            seen += len(entry.indices)
            now = entry.parameter.index_select(entry.dim, entry.indices)
            reference = pull._initial[position].index_select(entry.dim, entry.indices)
            assert torch.equal(now, reference)
    assert seen > 0


# Refusals --------------------------------------------------------------------------------------

RECYCLER = continual_backprop.Config(maturity_threshold=3)
PERIODIC = {"period": 10, "clock": "gradient_step", "at_task_change": False}


def make(methods, layer_norm=False, optimizer=None):
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=4,
        network=mlp.Config(hidden_sizes=[16, 16], layer_norm=layer_norm),
        optimizer=optimizer or adam.Config(),
        methods=methods,
    )
    return ppo.build(ppo.Config(rollout_length=8, minibatch_size=16), parts)


def test_two_recyclers_of_the_same_units_are_refused():
    both = {"continual_backprop": RECYCLER, "redo": redo.Config()}
    with pytest.raises(ValueError, match=r"would both renew units of the network 'policy'"):
        make(both)
    make({**both, "redo": redo.Config(period=0)})
    make(
        {
            "continual_backprop": continual_backprop.Config(networks=["policy"]),
            "redo": redo.Config(networks=["value"]),
        }
    )


def test_means_do_not_go_into_biases_that_nap_holds_at_zero():
    transferring = continual_backprop.Config(maturity_threshold=3, mean_transfer=True)
    with pytest.raises(ValueError, match="nap holds the biases in front of LayerNorm at 0"):
        make({"continual_backprop": transferring, "nap": nap.Config()}, layer_norm=True)
    make({"continual_backprop": transferring, "nap": nap.Config(period=0)}, layer_norm=True)
    make({"continual_backprop": RECYCLER, "nap": nap.Config()}, layer_norm=True)


def test_step_counters_per_unit_only_where_a_method_restarts_them():
    """Their Adam differs from the plain one in the last bits."""
    per_unit = {"maturity_threshold": 3, "optimizer_state": "per_unit_step"}
    off = make({"continual_backprop": continual_backprop.Config(replacement_rate=0.0, **per_unit)})
    on_policy = continual_backprop.Config(networks=["policy"], **per_unit)
    one = make({"continual_backprop": on_policy})
    kinds = [type(u.optimizer).__name__ for a in (off, one) for u in a.updates.values()]
    assert kinds == ["DirectAdam", "DirectAdam", "PerUnitAdam", "DirectAdam"]


def test_a_network_that_had_them_needlessly_goes_on_without():
    donor = make({"redo": redo.Config(period=100, optimizer_state="per_unit_step")})
    agent = make({"redo": redo.Config(period=0, optimizer_state="per_unit_step")})
    rng, context = np.random.default_rng(0), np.zeros((4, 0), dtype=np.float32)
    learn(donor, rng, context)
    state = donor.state_dict()
    for update in state["updates"].values():
        update["methods"] = {"redo": {}}
    agent.load_state_dict(state)
    for each in (donor, agent):
        learn(each, np.random.default_rng(1), context)
    for mine, theirs in zip(agent.policy.parameters(), donor.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def learn(agent, rng, context):
    for _ in range(8):
        random_step(agent, rng, context, 5)
    assert agent.update()


@pytest.mark.parametrize("other", [RECYCLER, l2_init.Config(), reset.Config(**PERIODIC)])
def test_injection_stands_alone(other):
    injecting = injection.Config(**PERIODIC)
    with pytest.raises(ValueError, match=f"which {other.kind} cannot edit or remember"):
        make({"injection": injecting, other.kind: other})


@pytest.mark.parametrize(
    "early",
    [
        weight_clipping.Config(),
        fire.Config(**PERIODIC),
        shrink_perturb.Config(**PERIODIC),
        l2_init.Config(decoupled=True),
    ],
)
def test_the_path_integral_comes_before_edits_of_every_step(early):
    integral = si.Config(**PERIODIC)
    with pytest.raises(ValueError, match=rf"write method=\[si,{early.kind}\]"):
        make({early.kind: early, "si": integral})
    make({"si": integral, early.kind: early})


@pytest.mark.parametrize(
    ("others", "optimizer"),
    [
        ({"weight_clipping": weight_clipping.Config()}, None),
        ({"l2_init": l2_init.Config()}, None),
        ({}, adam.Config(weight_decay=1e-3)),
    ],
)
def test_projection_makes_other_regularisers_idle(others, optimizer):
    with pytest.warns(UserWarning, match="redundant"):
        make({"nap": nap.Config(), **others}, layer_norm=True, optimizer=optimizer)


def test_actors_is_the_policy_of_whatever_agent():
    info = EnvInfo(
        name="toy",
        num_envs=16,
        observation_dim=5,
        action_dim=2,
        action_low=-np.ones(2),
        action_high=np.ones(2),
        context_dim=0,
        max_episode_steps=10,
        regime_label="world",
        step_seconds=0.1,
    )
    words = ["network=small", "method=c_chain"]
    for agent, name in (("ppo", "policy"), ("sac", "actor")):
        config = compose_run([*words, f"agent={agent}", "total_steps=100000"]).config
        built = build_agent(config, info)
        assert [n for n, u in built.updates.items() if u.methods] == [name]
    task_level = compose_run(["network=small", "method=shrink_perturb"]).config
    with pytest.raises(ConfigurationError, match=r"shrink_perturb acts at task changes"):
        build_agent(task_level, info)
    clock = "method.si.period=<steps> method.si.at_task_change=false"
    for method, said in (
        ("si", f"^si acts at task changes; .*{clock}"),
        ("new_optimizer", "^new_optimizer acts at task changes; .*method.reset.at_task_change"),
    ):
        refused = compose_run(["network=small", f"method={method}", "total_steps=100000"]).config
        with pytest.raises(ConfigurationError, match=said):
            build_agent(refused, info)
    words = ["method.si.period=50", "method.si.at_task_change=false", "total_steps=100000"]
    build_agent(compose_run(["network=small", "method=si", *words]).config, info)
