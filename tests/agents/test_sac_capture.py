"""Captured SAC steps on the CPU, with a graph that only behaves like one."""

import copy
from typing import ClassVar

import numpy as np
import pytest
import torch
from sac_toys import fill, learn, make, sampled, weights

from agents.sac_capture import WARM_UP_STEPS, CapturedSACSteps, obstacle
from agents.sac_steps import SACSteps, UncheckedUpdate
from plasticity.methods import continual_backprop, l2_init

RATES = {"maturity_threshold": 8, "replacement_rate": 0.005}
METHODS = {"continual_backprop": continual_backprop.Config(**RATES)}


class ImitatedGraph:
    """Keeps the two promises of a CUDA graph that matter to its surroundings.

    Capture runs host code and no kernels: all tensors are put back afterwards. Replay runs
    kernels and no host code: all counters are put back afterwards.
    """

    log: ClassVar[list[str]] = []

    def __init__(self, agent):
        self._agent = agent

    def warm_up(self, work):
        self.log.append("warm-up")
        return work()

    def capture(self, work):
        self.log.append("capture")
        self._work = work
        tensors = list(self._tensors())
        kept = [tensor.detach().clone() for tensor in tensors]
        result = work()
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.data.copy_(value)
        self._result = torch.full_like(result, torch.nan)
        return self._result

    def replay(self):
        self.log.append("replay")
        kept = [(update, update.num_steps) for update in self._agent.updates.values()]
        methods = [m for u in self._agent.updates.values() for m in u.methods.values()]
        for method in methods:
            method._replace_due = lambda optimizer: None
        self._result.copy_(self._work())
        for method in methods:
            del method._replace_due
        for update, num_steps in kept:
            update.num_steps = num_steps

    def _tensors(self):
        agent = self._agent
        for module in (*agent.networks().values(), *agent.targets, agent.temperature):
            yield from module.state_dict(keep_vars=True).values()
        optimizers = [update.optimizer for update in agent.updates.values()]
        for optimizer in (*optimizers, agent.temperature.optimizer):
            for state in optimizer.state.values():
                yield from state.values()
        for update in agent.updates.values():
            for method in update.methods.values():
                yield from (statistics.utility for statistics in method.statistics.values())


def pair(**settings):
    """An agent with captured steps, and the same one without."""
    agents = [make(fast_path=False, steps_per_iteration=256, **settings) for _ in range(2)]
    for agent in agents:
        for name, update in agent.updates.items():
            agent.updates[name] = UncheckedUpdate.of(update)
        fill(agent, np.random.default_rng(0))
    captured, plain = agents
    ImitatedGraph.log = []
    old = captured._steps
    captured._steps = CapturedSACSteps(
        lambda: ImitatedGraph(captured),
        old._actor,
        old._targets,
        captured.updates,
        old._temperature,
        old._settings,
        old._threads,
    )
    return captured, plain


def take_steps(agents, count, start=0):
    for seed in range(start, start + count):
        found = []
        for agent in agents:
            torch.manual_seed(seed)
            found.append(agent._steps.step(*sampled(agent, seed)).clone())
        torch.testing.assert_close(*found, rtol=0.0, atol=0.0)


def assert_equal_states(captured, plain):
    ours, theirs = weights(captured), weights(plain)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    for name, update in captured.updates.items():
        other = plain.updates[name]
        assert update.num_steps == other.num_steps
        for key, method in update.methods.items():
            states = method.state_dict(), other.methods[key].state_dict()
            assert states[0]["calls"] == states[1]["calls"]
            for group, state in states[0]["groups"].items():
                assert state["counter"] == states[1]["groups"][group]["counter"]
                assert torch.equal(state["utility"], states[1]["groups"][group]["utility"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context_dim": 4, "temperature_per_task": True},
        {"max_grad_norm": 0.5, "critic_clipping": "joint"},
    ],
    ids=["plain", "context", "clipped"],
)
def test_captured_steps_equal_eager_ones(settings):
    agents = pair(**settings)
    take_steps(agents, 20)
    assert_equal_states(*agents)
    expected = ["warm-up"] * WARM_UP_STEPS + ["capture"] + ["replay"] * (20 - WARM_UP_STEPS)
    assert ImitatedGraph.log == expected


def test_steps_that_renew_a_unit_are_eager_and_all_counters_agree():
    agents = pair(methods=METHODS)
    take_steps(agents, 60)
    assert_equal_states(*agents)
    captured = agents[0]
    replaced = sum(
        counter.replaced_total
        for update in captured.updates.values()
        for counter in update.methods["continual_backprop"].counters.values()
    )
    assert replaced > 3
    num_eager = 60 - ImitatedGraph.log.count("replay") - WARM_UP_STEPS
    assert 0 < num_eager <= replaced
    assert ImitatedGraph.log.count("capture") == 1


def test_a_restored_state_is_captured_anew():
    agents = pair(methods=METHODS)
    take_steps(agents, 10)
    states = [copy.deepcopy(agent.state_dict()) for agent in agents]
    take_steps(agents, 5, start=10)
    for agent, state in zip(agents, states, strict=True):
        agent.load_state_dict(state)
    ImitatedGraph.log.clear()
    take_steps(agents, 10, start=20)
    assert ImitatedGraph.log[: WARM_UP_STEPS + 1] == ["warm-up"] * WARM_UP_STEPS + ["capture"]
    assert_equal_states(*agents)


def test_watched_steps_are_eager():
    captured, plain = pair()

    class Watch:
        def before_step(self):
            pass

        def after_step(self):
            pass

    captured.updates["actor"].observer = Watch()
    take_steps((captured, plain), 6)
    assert ImitatedGraph.log == []


def test_whole_iterations_are_equal():
    agents = pair(methods=METHODS)
    logged = [learn(agent, np.random.default_rng(1)) for agent in agents]
    assert logged[0] == logged[1]
    assert_equal_states(*agents)
    assert ImitatedGraph.log.count("replay") > 10


def test_what_stands_against_capture_is_named():
    assert obstacle(make(methods=METHODS).updates) is None
    assert "method l2_init" in obstacle(make(methods={"l2_init": l2_init.Config()}).updates)
    drawn = continual_backprop.Config(count_mode="bernoulli")
    assert "continual_backprop" in obstacle(make(methods={"continual_backprop": drawn}).updates)
    with pytest.raises(ValueError, match="is cpu; set agent"):
        make(capture="on")
    assert type(make(fast_path=False)._steps) is SACSteps


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cuda_graph_equals_eager_steps():
    from analysis.throughput.gpu import largest_difference, learner

    small = {"hidden_sizes": (32, 32), "batch_size": 64, "methods": METHODS}
    captured, eager = (learner(mode, "cuda", **small) for mode in ("on", "off"))
    assert isinstance(captured.agent._steps, CapturedSACSteps)
    assert largest_difference(captured, eager, 50) < 1e-3
