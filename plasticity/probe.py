"""The trainability probe: how fast can a fresh optimizer still change what a network computes?

The only direct measurement of plasticity. It works on copies with random streams of its own, so a
run is the same, bit for bit, whether it is probed or not.

Source: Lyle et al. 2023, "Understanding plasticity in neural networks", arXiv 2303.01486: fit the
outputs of random networks and compare with a network at initialisation.
Deviation: targets are the network's own outputs plus the random function, so that the initial
loss is exactly 1 for every network. Otherwise a network with large outputs would mostly show how
large they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.redraw import redraw
from networks.streams import Streams

Scores = list[tuple[float, float]]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Settings:
    """The protocol.

    Attributes:
        num_targets: Random functions to learn, >= 1.
        num_steps: Gradient steps for each, >= 1.
        learning_rate: Of a fresh Adam with (.9, .999).
        batch_size: Samples per step; at most the number of samples.
        num_fresh: Newly drawn networks to compare with, >= 1.
        seed: Of targets, fresh networks and data order: the same for all runs and methods.
    """

    num_targets: int = 3
    num_steps: int = 200
    learning_rate: float = 1e-3
    batch_size: int = 250
    num_fresh: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_targets", "num_steps", "batch_size", "num_fresh"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate is {self.learning_rate}; give a value above 0")


@dataclass(frozen=True)
class Trainability:
    """How a network compares with newly drawn ones of its architecture.

    Attributes:
        gap: Mean log loss while learning, less that of fresh networks, mean over targets.
            Positive: plasticity is lost; above 0.3 it counts, above 1 it is severe. Negative: the
            features are of use.
        gap_final: The same for the loss on all samples after the last step; noisier.
    """

    gap: float
    gap_final: float


class TrainabilityProbe:
    """The probe for networks of one architecture on one set of samples.

    Everything happens on the CPU, whatever device the network is on.

    Args:
        network: Any network of the architecture; only its shape and its initialisers matter. Its
            forward gives (N, outputs), (N,), or a tuple that starts with (N, outputs).
        inputs: (N, input_dim) fixed samples.
        context: (N, C) or (N,) contexts of the samples, or None.
        settings: The protocol.

    Attributes:
        reference: Scores of the fresh networks; computed at the first measurement, which therefore
            takes 1 + num_fresh times as long, or put in from an earlier process.

    Raises:
        ValueError: Too few samples, a module that cannot be redrawn, or a random network whose
            outputs do not depend on its input.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        context: Tensor | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings = settings or Settings()
        if len(inputs) < settings.batch_size:
            raise ValueError(
                f"there are {len(inputs)} samples for minibatches of {settings.batch_size}; give "
                "more samples or a smaller batch_size"
            )
        self._inputs = inputs.detach().cpu()
        self._context = None if context is None else context.detach().cpu()
        self._streams = Streams(settings.seed, "trainability/")
        self._template = _bare_copy(network)
        self._functions = [self._random_function(t) for t in range(settings.num_targets)]
        self._order = self._minibatches()
        self.reference: list[Scores] | None = None

    def _random_function(self, index: int) -> Tensor:
        """Outputs of a random network, every one standardised over the samples."""
        with torch.no_grad():
            values = self._predict(self.fresh_network(f"target/{index}"))
            spread = values.std(0, correction=0)
            if not bool((spread > 1e-6 * values.abs().mean(0)).all()):
                raise ValueError(
                    "a newly drawn network gives the same output for all samples, so that nothing "
                    "can be learned from it; the samples must differ"
                )
            return (values - values.mean(0)) / spread

    def fresh_network(self, name: str) -> nn.Module:
        """A network of the architecture, drawn from the stream of that name."""
        fresh = copy.deepcopy(self._template)
        redraw(fresh, self._streams.torch(name))
        return fresh

    def _minibatches(self) -> Tensor:
        """Indices of all minibatches, (num_steps, batch_size): permutations, cut into pieces."""
        settings, generator = self.settings, self._streams.torch("order")
        per_pass = len(self._inputs) // settings.batch_size
        passes = math.ceil(settings.num_steps / per_pass)
        orders = [
            torch.randperm(len(self._inputs), generator=generator)[: per_pass * settings.batch_size]
            for _ in range(passes)
        ]
        return torch.cat(orders).view(-1, settings.batch_size)[: settings.num_steps]

    def _predict(self, network: nn.Module, rows: Tensor | slice = slice(None)) -> Tensor:
        """(rows, outputs): means of a policy, values of any other network."""
        context = None if self._context is None else self._context[rows]
        found = network(self._inputs[rows], context)
        found = found[0] if isinstance(found, tuple) else found
        return found if found.dim() > 1 else found.unsqueeze(1)

    # Measuring -------------------------------------------------------------------------------

    def measure(self, network: nn.Module) -> Trainability:
        """Compare a network with fresh ones.

        Raises:
            ValueError: A loss stopped being finite.
        """
        if self.reference is None:
            fresh = [self.fresh_network(f"fresh/{i}") for i in range(self.settings.num_fresh)]
            self.reference = [self.scores(one) for one in fresh]
        return compare(self.scores(network), self.reference)

    def scores(self, network: nn.Module) -> Scores:
        """Mean log loss of the steps, and final log loss, for every target."""
        scores = []
        for function in self._functions:
            losses, final = self.learn(_bare_copy(network), function)
            logs = losses.double().log()
            score = (float(logs.mean()), math.log(final) if final > 0.0 else -math.inf)
            if not all(math.isfinite(value) for value in score):
                raise ValueError("the loss of the probe is not finite; the network has diverged")
            scores.append(score)
        return scores

    def learn(self, network: nn.Module, function: Tensor) -> tuple[Tensor, float]:
        """Train a copy on its own outputs plus a random function.

        Args:
            network: Trained in place.
            function: (N, outputs).

        Returns:
            Minibatch loss of every step, before the step, and the final loss on all samples.
        """
        network.train()
        with torch.no_grad():
            target = self._predict(network) + function
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, self.settings.learning_rate, fused=True)
        losses = []
        for rows in self._order:
            loss = nn.functional.mse_loss(self._predict(network, rows), target[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            final = nn.functional.mse_loss(self._predict(network), target)
        return torch.stack(losses), float(final)


def compare(scores: Scores, reference: Sequence[Scores]) -> Trainability:
    """Gaps between one network and the mean over fresh ones, mean over targets.

    Args:
        scores: (mean log loss, final log loss) for every target.
        reference: The same of every fresh network.
    """
    gaps = []
    for kind in (0, 1):
        per_target = [
            score[kind] - sum(fresh[t][kind] for fresh in reference) / len(reference)
            for t, score in enumerate(scores)
        ]
        gaps.append(sum(per_target) / len(per_target))
    return Trainability(*gaps)


def _bare_copy(network: nn.Module) -> nn.Module:
    """Copy weights and buffers, without gradients and without anybody's hooks."""
    bare = copy.deepcopy(network).cpu()
    for module in bare.modules():
        for name in _HOOKS:
            getattr(module, name).clear()
    for parameter in bare.parameters():
        parameter.grad = None
    return bare
