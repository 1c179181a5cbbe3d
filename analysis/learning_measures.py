"""How the networks of a run learn: gradients, relative updates, distance from the start, churn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.base import Agent
from analysis.measure import flat_weights, live_counts, weights_of
from analysis.step_watch import StepWatch
from networks.heads import Network
from networks.units import UnitGroup
from plasticity import diagnostics

Inputs = Callable[[str], tuple[Tensor, Tensor | None]]


class LearningMeasures:
    """Everything that needs more than one look at a network.

    Between `begin` (before the first gradient step of an iteration) and `finish` (after its last
    one) it watches some gradient steps, and compares weights and outputs of before and after.

    Args:
        agent: The agent, as newly built: its weights are the start that distances refer to.
        probe_inputs: Inputs of one network on the fixed sample set, or None without one; churn is
            measured there.

    Attributes:
        watches: Network -> what its gradient steps showed; empty for agents whose gradient steps
            happen elsewhere.
    """

    def __init__(self, agent: Agent, probe_inputs: Inputs | None) -> None:
        self._agent, self._probe_inputs = agent, probe_inputs
        self.watches: dict[str, StepWatch] = {}
        self._networks: dict[str, Network] = {}
        self._initial: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._outputs: dict[str, tuple[Tensor, ...]] = {}
        self.follow()

    def follow(self) -> bool:
        """Notice networks that have been built anew; their present weights are their start.

        Returns:
            Whether there were any.
        """
        networks = self._agent.networks()
        if all(self._networks.get(name) is network for name, network in networks.items()):
            return False
        self._bind()
        self._initial = {name: flat_weights(network) for name, network in networks.items()}
        return True

    def _bind(self) -> None:
        self._networks = dict(self._agent.networks())
        self._before, self._outputs = {}, {}
        self.watches = {
            name: StepWatch(update, update.network.unit_groups())
            for name, update in self._agent.updates.items()
        }

    def columns(self) -> list[str]:
        """Names of what `finish` returns."""
        columns = []
        for name, network in self._networks.items():
            layers = weights_of(network)
            columns += [f"weights/{name}/{layer}/distance_from_init" for layer in (*layers, "all")]
            columns.append(f"weights/{name}/all/weight_change")
            if name in self.watches:
                columns += self.watches[name].columns()
            if self._probe_inputs is not None:
                columns += _churn_columns(name, network)
        return columns

    # Measuring -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Look at the networks before an iteration whose row is due."""
        for name, network in self._networks.items():
            self._before[name] = flat_weights(network)
            if self._probe_inputs is not None:
                self._outputs[name] = _outputs(network, *self._probe_inputs(name))
        for watch in self.watches.values():
            watch.begin()

    def finish(self, reasons: dict[str, str]) -> dict[str, float]:
        """Look at the networks after the iteration.

        Args:
            reasons: Gets one sentence for every metric that has no value and is NaN.
        """
        row = self.distances()
        for name, before in self._before.items():
            network = self._networks[name]
            change = float((flat_weights(network) - before).abs().sum())
            row[f"weights/{name}/all/weight_change"] = change
            if name in self._outputs and self._probe_inputs is not None:
                after = _outputs(network, *self._probe_inputs(name))
                row.update(_churn(name, self._outputs[name], after, reasons))
        for name in self._before:
            if name in self.watches:
                row.update(self.watches[name].row(reasons))
        self._before, self._outputs = {}, {}
        return row

    def distances(self) -> dict[str, float]:
        """Root mean square distance of the weights from their start, by layer and together.

        Weights that a fixed mask leaves out do not exist and are not counted.
        """
        row: dict[str, float] = {}
        for name, network in self._networks.items():
            layers = weights_of(network)
            sizes = [weight.numel() for weight in layers.values()]
            initial = self._initial[name].split(sizes)
            pairs = zip(layers.items(), initial, strict=True)
            num_live, squares = live_counts(network), 0.0
            for (layer, weight), start in pairs:
                distance = diagnostics.distance_from_init(weight.flatten(), start)
                if num_live[layer] != weight.numel():  # masked ones are 0 then and now
                    distance *= (weight.numel() / num_live[layer]) ** 0.5
                row[f"weights/{name}/{layer}/distance_from_init"] = distance
                squares += distance**2 * num_live[layer]
            total = sum(num_live.values())
            row[f"weights/{name}/all/distance_from_init"] = (squares / total) ** 0.5
        return row

    # State -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the weights started, and what an iteration under way has gathered."""
        self.follow()
        return {
            "initial": {name: start.clone() for name, start in self._initial.items()},
            "before": {name: weights.clone() for name, weights in self._before.items()},
            "outputs": {n: [t.clone() for t in outputs] for n, outputs in self._outputs.items()},
            "watches": {name: watch.state_dict() for name, watch in self.watches.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, for the networks that the agent has now."""
        self._bind()
        device = {name: next(network.parameters()) for name, network in self._networks.items()}
        self._initial = {n: s.to(device[n].device) for n, s in state["initial"].items()}
        self._before = {n: s.to(device[n].device) for n, s in state["before"].items()}
        self._outputs = {
            n: tuple(t.to(device[n].device) for t in outputs)
            for n, outputs in state["outputs"].items()
        }
        for name, watch in self.watches.items():
            watch.load_state_dict(state["watches"][name])


def feature_norms(
    sample_set: str,
    network: str,
    groups: Sequence[UnitGroup],
    features: Mapping[str, Tensor],
    reasons: dict[str, str],
) -> dict[str, float]:
    """Mean norm of the features of every hidden layer.

    Args:
        sample_set: `window` or `probe`.
        network: Name of the network.
        groups: Its unit groups.
        features: Unit-group name -> (samples, units).
        reasons: Gets one sentence for every metric that has no value and is NaN.
    """
    row: dict[str, float] = {}
    for group, column in zip(groups, norm_columns(sample_set, network, groups), strict=True):
        row[column], reason = diagnostics.measured(diagnostics.feature_norm, features[group.name])
        if reason is not None:
            reasons[column] = reason
    return row


def norm_columns(sample_set: str, network: str, groups: Sequence[UnitGroup]) -> list[str]:
    """Names of what `feature_norms` returns."""
    return [f"{sample_set}/{network}/{group.name}/feature_norm" for group in groups]


def _is_policy(network: Network) -> bool:
    return hasattr(network, "log_std")


@torch.no_grad()
def _outputs(network: Network, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """Mean and log standard deviation of a policy, values of any other network."""
    was_training = network.training
    network.eval()
    try:
        found = network(inputs, context)
    finally:
        network.train(was_training)
    if isinstance(found, tuple):
        return found
    log_std = getattr(network, "log_std", None)
    return (found, log_std.clone()) if isinstance(log_std, Tensor) else (found,)


def _churn_columns(name: str, network: Network) -> list[str]:
    metrics = ("policy_churn", "policy_churn_mse") if _is_policy(network) else ("value_churn",)
    return [f"probe/{name}/all/{metric}" for metric in metrics]


def _churn(
    name: str,
    before: tuple[Tensor, ...],
    after: tuple[Tensor, ...],
    reasons: dict[str, str],
) -> dict[str, float]:
    """How far outputs on fixed samples have moved over the iteration."""
    if len(before) == 1:
        column = f"probe/{name}/all/value_churn"
        value, reason = diagnostics.measured(diagnostics.value_churn, before[0], after[0])
        if reason is not None:
            reasons[column] = reason
        return {column: value}
    unknown = diagnostics.PolicyChurn(float("nan"), float("nan"))
    churn, reason = diagnostics.measured(
        diagnostics.policy_churn, *before, *after, otherwise=unknown
    )
    column = f"probe/{name}/all/policy_churn"
    if reason is not None:
        reasons[column] = reason
    return {column: churn.kl, f"{column}_mse": churn.mean_squared}
