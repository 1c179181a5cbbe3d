"""Small networks and a training loop that the recycling tests share."""

from __future__ import annotations

import torch
from torch import nn

from agents.update import clone
from networks.heads import GaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.mlp import Config as MLPConfig
from networks.mlp import build as build_mlp
from networks.sequential import unit_groups_of
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording
from plasticity.method import Target
from plasticity.methods import continual_backprop

LECUN = Initializer("lecun_uniform")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(
    sizes=(16, 16), inputs=4, actions=2, layer_norm=False, seed=0, activation="relu"
) -> GaussianPolicy:
    streams = Streams(seed, "policy/")
    config = MLPConfig(hidden_sizes=list(sizes), layer_norm=layer_norm, activation=activation)
    torso = build_mlp(config, inputs, ContextSpec(), streams)
    return GaussianPolicy(torso, actions, LECUN, streams)


def critic(sizes=(16, 16), inputs=4, seed=0) -> ValueFunction:
    streams = Streams(seed, "value/")
    torso = build_mlp(MLPConfig(hidden_sizes=list(sizes)), inputs, ContextSpec(), streams)
    return ValueFunction(torso, LECUN, streams)


def hand_net() -> nn.Sequential:
    """1-2-1, ReLU, whose every number can be worked out by hand."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.1]]))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[2.0, -3.0]]))
        net[2].bias.fill_(0.5)
    return net


def target_of(module: nn.Module, name: str = "net", seed: int = 0, planned=None) -> Target:
    if isinstance(module, nn.Sequential):
        groups = unit_groups_of(module, LECUN)
    else:
        groups = module.unit_groups()  # type: ignore[operator]
    return Target(name, module, groups, generator(seed), planned)


class Trainer:
    """Regression on random targets: one gradient step per call, methods after the step."""

    def __init__(self, module, method, optimizer, seed: int = 0) -> None:
        self.module, self.method, self.optimizer = module, method, optimizer
        self.data = generator(seed)
        self.recording = None
        if method is not None:
            gradients = "gradients" in method.needs
            self.recording = Recording(method.target.unit_groups, gradients)

    def step(self) -> None:
        parameter = next(self.module.parameters())
        x = torch.randn(8, 4, generator=self.data).to(parameter.dtype)
        if self.recording is None:
            y = self.module(x)
        else:
            with self.recording:
                y = self.module(x)
        loss = (y.view(8, -1) - x.sum(1, keepdim=True).sin()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        if self.method is not None:
            if self.recording is not None and "gradients" in self.method.needs:
                self.method.see_output_gradients(self.recording.gradients)
            self.method.after_backward()
        self.optimizer.step()
        if self.method is not None:
            activations = {} if self.recording is None else self.recording.activations
            self.method.after_step(activations, self.optimizer)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()


def recycler(module, seed=0, planned=None, name="net", **settings):
    config = continual_backprop.Config(**settings)
    return continual_backprop.build(config, target_of(module, name, seed, planned))


def still(module: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that moves nothing, and remembers."""
    return torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)


def assert_resumes(whole: Trainer, other: Trainer, steps: int = 40) -> None:
    """The state of one trainer, loaded into another, goes on in the same bits, edits included."""
    saved = whole.method.state_dict()
    other.module.load_state_dict(whole.module.state_dict())
    state = {key: clone(value) for key, value in whole.optimizer.state_dict()["state"].items()}
    other.optimizer.load_state_dict({**whole.optimizer.state_dict(), "state": state})
    other.data.set_state(whole.data.get_state())
    whole.method.pop_events()
    whole.run(steps)
    other.method.load_state_dict(saved)  # only now: what was saved must not follow the live state
    other.run(steps)
    assert equal_bits(whole.method.state_dict(), other.method.state_dict())
    assert equal_bits(parameters_of(whole.module), parameters_of(other.module))
    events = whole.method.pop_events()
    assert events
    assert equal_bits(events, other.method.pop_events())


def parameters_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def equal_bits(left, right) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal_bits(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal_bits, left, right))
    return left == right
