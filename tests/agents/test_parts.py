"""What agents are assembled from fits together, or is refused before anything starts."""

import pytest
import torch

from agents import ppo
from agents.parts import Parts
from networks import mlp
from networks.torso import ContextSpec
from plasticity.methods import continual_backprop
from plasticity.optimizers import adam


def agent_of(**settings):
    parts = {
        "observation_dim": 3,
        "action_dim": 2,
        "num_envs": 1,
        "network": mlp.Config(hidden_sizes=[8]),
        "optimizer": adam.Config(),
    }
    return ppo.build(ppo.Config(), Parts(**{**parts, **settings}))


class Remembering(torch.optim.SGD):
    """Keeps something for every weight, under a name that nobody knows, and counts its steps."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["own"] = torch.zeros_like(parameter)


@pytest.mark.parametrize("policy", ["zero_moments", "per_unit_step"])
def test_an_agent_whose_units_could_not_be_renewed_is_not_built(monkeypatch, policy):
    def build(config, module, per_unit_step=False, generator=None):
        return Remembering(module.parameters(), lr=0.1)

    monkeypatch.setattr(adam, "build", build)
    renewing = continual_backprop.Config(optimizer_state=policy)
    with pytest.raises(ValueError, match="give it a zero_entries"):
        agent_of(methods={"continual_backprop": renewing})
    off = continual_backprop.Config(optimizer_state=policy, replacement_rate=0.0)
    agent_of(methods={"continual_backprop": off})


def test_a_network_that_drops_the_context_is_refused(monkeypatch):
    def build(config, input_dim, context, streams):
        return mlp.MLP(config, input_dim, ContextSpec(), streams)

    told = ContextSpec(10, discrete=True)
    assert agent_of(context=told).networks()["policy"].torso.layers[0].linear.in_features == 13
    monkeypatch.setattr(mlp, "build", build)
    with pytest.raises(ValueError, match="does not take the context of 10 numbers"):
        agent_of(context=told)
    agent_of()
