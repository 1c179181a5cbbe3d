"""What is measured of networks on request: spectra, tangent kernels, clones, more of activity."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from analysis.measure import masks_of, unit_features, weights_of
from networks.heads import Network
from networks.units import UnitGroup
from plasticity import diagnostics

Inputs = Callable[[str], tuple[Tensor, Tensor | None]]

RMS = "weight_rms"
SPECTRA: Mapping[str, Callable[[Tensor], float]] = {
    "sigma_max": diagnostics.sigma_max,
    "condition": diagnostics.condition,
    "orthogonality": diagnostics.orthogonality,
}
UNITS: Mapping[str, Callable[[Tensor], float]] = {
    "cloned_fraction": diagnostics.cloned_fraction,
    "tau_dormant_fraction_0": functools.partial(diagnostics.tau_dormant_fraction, tau=0.0),
    "tau_dormant_fraction_0.1": functools.partial(diagnostics.tau_dormant_fraction, tau=0.1),
}
SATURATING = frozenset({"tanh", "sigmoid"})
ONE_SIDED = frozenset({"relu", "leaky_relu", "k_winners"})  # a value above 0 means "active"
KERNEL = ("entk_effective_rank", "entk_stable_rank")
NUM_STATES = 64  # one backward pass each
MAX_PARAMETERS = 4_000_000  # 64 gradients of more would fill gigabytes
DIRECTION_SEED = 0  # every run and every moment looks along the same direction of the outputs


class ExtendedMeasures:
    """Measures that need singular values, eigenvalues or one backward pass per sample.

    Some tenths of a second for the networks of the Ant, so they are for the rarer rows. Nothing
    is trained, no random stream of the run is drawn from, and gradients held by parameters stay
    as they are.

    Args:
        inputs: Present inputs of one network on the fixed sample set, or None without one; then
            only weights are measured.

    Source: Lyle et al. 2022 (arXiv 2204.09560) and Kumar et al. 2021 (arXiv 2010.14498) for ranks
    of features and kernels; arXiv 2510.00304 for cloned units.
    """

    def __init__(self, inputs: Inputs | None) -> None:
        self._inputs = inputs

    def columns(self, networks: Mapping[str, Network]) -> list[str]:
        """Names of what `measure` returns."""
        found: list[str] = []
        for name, network in networks.items():
            layers = weights_of(network)
            found += [f"weights/{name}/{layer}/{m}" for layer in layers for m in (RMS, *SPECTRA)]
            if self._inputs is not None:
                groups = network.unit_groups()
                found += [f"probe/{name}/{g.name}/{m}" for g in groups for m in _of_units(g)]
                found += [f"probe/{name}/all/{metric}" for metric in KERNEL]
        return found

    def measure(self, networks: Mapping[str, Network], reasons: dict[str, str]) -> dict[str, float]:
        """Measure all networks as they are.

        Args:
            networks: By name; only looked at.
            reasons: Gets one sentence for every metric that has no value and is NaN.
        """
        row: dict[str, float] = {}
        for name, network in networks.items():
            masks = masks_of(network)
            for layer, weight in weights_of(network).items():
                live = functools.partial(diagnostics.weight_rms, mask=masks.get(layer))
                for metric, function in {RMS: live, **SPECTRA}.items():
                    _take(row, reasons, f"weights/{name}/{layer}/{metric}", function, weight)
            if self._inputs is None:
                continue
            inputs, context = self._inputs(name)
            groups = network.unit_groups()
            features = unit_features(network, inputs, context, groups)
            for group in groups:
                for metric, function in _of_units(group).items():
                    column = f"probe/{name}/{group.name}/{metric}"
                    _take(row, reasons, column, function, features[group.name])
            row |= _kernel_row(name, network, inputs, context, reasons)
        return row


def _of_units(group: UnitGroup) -> dict[str, Callable[[Tensor], float]]:
    """What is asked of the features of one layer: only what means something for them."""
    asked = dict(UNITS)
    if group.activation in ONE_SIDED:
        asked["active_fraction_measured"] = diagnostics.active_fraction_measured
    if group.activation in SATURATING:
        asked["saturated_fraction"] = diagnostics.saturated_fraction
    return asked


def _take(
    row: dict[str, float],
    reasons: dict[str, str],
    column: str,
    function: Callable[[Tensor], float],
    values: Tensor,
) -> None:
    """Measure one number; an infinite one has no place in a figure and is NaN with a reason."""
    value, reason = diagnostics.measured(function, values)
    if math.isinf(value):
        value, reason = math.nan, "infinite: the matrix is singular"
    row[column] = value
    if reason is not None:
        reasons[column] = reason


def _kernel_row(
    name: str,
    network: Network,
    inputs: Tensor,
    context: Tensor | None,
    reasons: dict[str, str],
) -> dict[str, float]:
    unknown = diagnostics.KernelRank(math.nan, math.nan)
    found, reason = diagnostics.measured(
        tangent_kernel_rank, network, inputs, context, otherwise=unknown
    )
    if reason is not None:
        reasons[f"probe/{name}/all/{KERNEL[0]}"] = reason
    return {
        f"probe/{name}/all/{metric}": value for metric, value in zip(KERNEL, found, strict=True)
    }


def tangent_kernel_rank(
    network: Network, inputs: Tensor, context: Tensor | None
) -> diagnostics.KernelRank:
    """Ranks of the empirical neural tangent kernel on evenly chosen samples.

    The kernel is J J^T, J the gradients of the outputs along one fixed direction with respect to
    all parameters. Evenly chosen, because fixed sample sets of several tasks are sorted by task.

    Args:
        network: Only looked at; in evaluation mode meanwhile.
        inputs: (samples, ...) of which at most 64 are used.
        context: (samples, context) or None.

    Raises:
        ValueError: Too many parameters to hold 64 gradients of, or no finite gradients.
    """
    chosen = torch.linspace(0, len(inputs) - 1, min(NUM_STATES, len(inputs))).round().long()
    chosen = chosen.to(inputs.device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size:,} parameters; the kernel is measured up to {MAX_PARAMETERS:,}")
    was_training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            found = network(inputs[chosen], None if context is None else context[chosen])
            outputs = torch.cat(found, -1) if isinstance(found, tuple) else found
            outputs = outputs.reshape(len(chosen), -1)
            generator = torch.Generator().manual_seed(DIRECTION_SEED)
            direction = diagnostics.random_direction(outputs.shape[1], generator).to(outputs)
            jacobian = diagnostics.per_sample_gradients(outputs @ direction, parameters)
    finally:
        network.train(was_training)
    return diagnostics.entk_rank(diagnostics.entk(jacobian))
