"""When the trainability of a run's networks is probed, and under which names it is logged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from networks.heads import Network
from plasticity.probe import Settings, Trainability, TrainabilityProbe

METRICS = ("trainability_gap", "trainability_gap_final")
Inputs = Callable[[str], tuple[Tensor, Tensor | None]]


class TrainabilityMeasures:
    """Probes all networks in the last row before every multiple of a period, and in the first.

    Where the period divides the length of a world, that is just before the world changes.

    Inputs are those of the moment: where a running normaliser of observations has moved since the
    last probe, fresh networks are trained on the new inputs again.

    Args:
        period: Environment steps between two probes.
        rows_every: Iterations between two rows.
        inputs: Present inputs of one network on the fixed sample set.
        settings: Protocol of the probe.
    """

    def __init__(
        self, period: int, rows_every: int, inputs: Inputs, settings: Settings | None = None
    ) -> None:
        self._rows_every = rows_every
        self._period, self._inputs, self._settings = period, inputs, settings or Settings()
        self._references: dict[str, Any] = {}
        self._digests: dict[str, str] = {}  # of the inputs that references were scored on
        self._probes: dict[str, TrainabilityProbe] = {}
        self._last_row = (0, 0)  # environment steps and iteration

    def columns(self, networks: Mapping[str, Network]) -> list[str]:
        """Names of what `measure` returns."""
        return [f"probe/{name}/all/{metric}" for name in networks for metric in METRICS]

    def is_due(self, env_steps: int, iteration: int) -> bool:
        """Whether this row is to have the probe; call once for every row."""
        last_steps, last_iteration = self._last_row
        self._last_row = (env_steps, iteration)
        steps_per_iteration = (env_steps - last_steps) / (iteration - last_iteration)
        to_next_row = self._rows_every - iteration % self._rows_every
        next_row = env_steps + steps_per_iteration * to_next_row
        return last_iteration == 0 or next_row // self._period > env_steps // self._period

    def measure(self, networks: Mapping[str, Network], reasons: dict[str, str]) -> dict[str, float]:
        """Probe copies of all networks; takes seconds.

        Args:
            networks: By name; only looked at.
            reasons: Gets one sentence for every metric that has no value and is NaN.
        """
        row: dict[str, float] = {}
        for name, network in networks.items():
            found = Trainability(float("nan"), float("nan"))
            try:
                found = self._probe(name, network).measure(network)
            except ValueError as error:
                reasons[f"probe/{name}/all/{METRICS[0]}"] = str(error)
            row[f"probe/{name}/all/{METRICS[0]}"] = found.gap
            row[f"probe/{name}/all/{METRICS[1]}"] = found.gap_final
        return row

    def _probe(self, name: str, network: Network) -> TrainabilityProbe:
        inputs = self._inputs(name)
        digest = _digest(*inputs)
        if digest != self._digests.get(name):
            self._digests[name] = digest
            self._references.pop(name, None)
            self._probes.pop(name, None)
        if name not in self._probes:
            size = min(self._settings.batch_size, len(inputs[0]))  # of one task: 100 samples
            settings = replace(self._settings, batch_size=size)
            probe = TrainabilityProbe(network, *inputs, settings)
            probe.reference = self._references.get(name)
            self._probes[name] = probe
        return self._probes[name]

    def state_dict(self) -> dict[str, Any]:
        """Scores of the fresh networks, so that a continued run need not train them again.

        They hold for the inputs whose SHA-256 stands beside them.
        """
        known = {name: p.reference for name, p in self._probes.items() if p.reference is not None}
        references = {**self._references, **known}
        return {
            "last_row": list(self._last_row),
            "references": {
                name: torch.tensor(scores, dtype=torch.float64)
                for name, scores in references.items()
            },
            "inputs": {name: self._digests[name] for name in references},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        States of earlier versions do not say which inputs their scores are of; fresh networks are
        trained again then.
        """
        self._last_row = (int(state["last_row"][0]), int(state["last_row"][1]))
        self._digests, self._probes = dict(state.get("inputs", {})), {}
        self._references = {
            name: [[tuple(pair) for pair in fresh] for fresh in scores.tolist()]
            for name, scores in state["references"].items()
            if name in self._digests
        }


def _digest(inputs: Tensor, context: Tensor | None) -> str:
    """SHA-256 of the values."""
    parts = [part for part in (inputs, context) if part is not None]
    arrays = [part.detach().cpu().contiguous().numpy() for part in parts]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
