"""What becomes of every hidden unit: usefulness, age, gradient, silence, and whether it is read.

Works for every recycler, because it looks at networks and at the resets that are announced, never
into a method. The file is bounded: when it is full, every second snapshot is dropped and from then
on every second one is kept.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent
from analysis.step_watch import StepWatch
from analysis.storage import StorageError, temporary_name, write_durable
from analysis.unit_log import FILE, METRICS
from networks.units import UnitGroup

MAX_SNAPSHOTS = 256
MOVED_SHARE = 0.1
NUM_BINS = 24
_EXTREMES = {"tanh": 0.9, "sigmoid": 0.9}


@dataclass
class _Lives:
    """The units of one group.

    Attributes:
        group: The group.
        born: Gradient step at which every unit was last renewed, int64 (units,).
        moved: Gradient steps from there until its outgoing weights had moved, float64 (units,);
            NaN for units that have never been renewed, -1 while they have not moved.
        moved_bins: Lives by floor(log2(steps until moved)), int64 (bins,).
        ended_before: Lives that ended before.
    """

    group: UnitGroup
    born: Tensor
    moved: Tensor
    moved_bins: Tensor
    ended_before: int = 0


class UnitHistories:
    """The log of one run.

    * `utility`: mean |h| on the on-policy window times the unit's mean |outgoing weight|.
    * `age`: gradient steps since the unit was renewed, or since the start.
    * `gradient`: mean |gradient| of its incoming weights over the watched gradient steps.
    * `saturation`: share of the window on which it passes no gradient: silent (ReLU, k-winners)
      or beyond 0.9 of its range (tanh, sigmoid); NaN for other activations.
    * `moved_after`: gradient steps from its renewal, when its outgoing weights are 0, until their
      sum of magnitudes reached a tenth of the median of its layer; looked at once per iteration.

    Args:
        folder: Run directory.
        agent: The agent.
    """

    def __init__(self, folder: Path, agent: Agent) -> None:
        self._path, self._agent = folder / FILE, agent
        self._lives: dict[str, _Lives] = {}
        self._env_steps: list[int] = []
        self._snapshots: dict[str, list[Tensor]] = {metric: [] for metric in METRICS}
        self._stride, self._num_seen = 1, 0
        self._window: dict[str, tuple[Tensor, Tensor]] = {}
        self.follow()

    def follow(self) -> None:
        """Take the networks that the agent has now; all their units are new."""
        old = self._lives
        self._lives = {}
        for network, module in self._agent.networks().items():
            for group in module.unit_groups():
                name, units = f"{network}/{group.name}", group.num_units
                known = old.get(name)
                self._lives[name] = _Lives(
                    group,
                    torch.zeros(units, dtype=torch.int64),
                    torch.full((units,), float("nan"), dtype=torch.float64),
                    torch.zeros(NUM_BINS, dtype=torch.int64) if known is None else known.moved_bins,
                    0 if known is None else known.ended_before,
                )

    # What happens ----------------------------------------------------------------------------

    def see(self, event: Mapping[str, Any]) -> None:
        """Hear of an event of a method; only unit resets matter."""
        if event.get("event") != "unit_reset":
            return
        lives, unit = self._lives[f"{event['network']}/{event['group']}"], int(event["unit"])
        lives.ended_before += int(lives.moved[unit] == -1.0)
        lives.born[unit] = int(event["gradient_step"])
        lives.moved[unit] = -1.0

    @torch.no_grad()
    def after_iteration(self) -> None:
        """Look which fresh units are being read by now."""
        for name, lives in self._lives.items():
            fresh = (lives.moved == -1.0).nonzero().flatten()
            if not len(fresh):
                continue
            outgoing = lives.group.outgoing_sum().cpu()
            moved = fresh[outgoing[fresh] >= MOVED_SHARE * outgoing.median()]
            steps = self._gradient_step(name) - lives.born[moved]
            lives.moved[moved] = steps.double()
            bins = steps.clamp_min(1).double().log2().floor().long().clamp_max(NUM_BINS - 1)
            lives.moved_bins += torch.bincount(bins, minlength=NUM_BINS)

    def _gradient_step(self, name: str) -> int:
        update = self._agent.updates.get(name.partition("/")[0])
        return 0 if update is None else update.num_steps

    @torch.no_grad()
    def see_window(self, network: str, features: Mapping[str, Tensor]) -> None:
        """Take utilities and saturation from the features of the on-policy window."""
        for name, lives in self._lives.items():
            if name.partition("/")[0] == network:
                group = lives.group
                values = group.unit_values(features[group.name])
                self._window[name] = (_utility(group, values), _saturation(group, values))

    def snapshot(self, env_steps: int, watches: Mapping[str, StepWatch]) -> None:
        """Keep one row of all units, if it is its turn, and write the file."""
        self._num_seen += 1
        if (self._num_seen - 1) % self._stride:
            return
        rows: dict[str, list[Tensor]] = {metric: [] for metric in METRICS}
        for name, lives in self._lives.items():
            unknown = torch.full((lives.group.num_units,), float("nan"))
            utility, saturation = self._window.get(name, (unknown, unknown))
            network, _, group = name.partition("/")
            watch = watches.get(network)
            gradient = None if watch is None else watch.unit_gradients(group)
            rows["utility"].append(utility)
            rows["age"].append(self._gradient_step(name) - lives.born)
            rows["gradient"].append(unknown if gradient is None else gradient)
            rows["saturation"].append(saturation)
            rows["moved_after"].append(lives.moved)
        self._env_steps.append(env_steps)
        for metric, parts in rows.items():
            self._snapshots[metric].append(torch.cat([part.cpu().float() for part in parts]))
        self._window = {}
        if len(self._env_steps) == MAX_SNAPSHOTS:
            self._thin()
        self.write()

    def _thin(self) -> None:
        self._stride *= 2
        self._env_steps = self._env_steps[::2]
        self._snapshots = {metric: rows[::2] for metric, rows in self._snapshots.items()}

    # Files and state -------------------------------------------------------------------------

    def write(self) -> None:
        """Write the file anew, in one go.

        Raises:
            StorageError: The disk refuses.
        """
        stream, groups = io.BytesIO(), list(self._lives)
        arrays = {metric: self._stacked(metric).numpy() for metric in METRICS}
        arrays |= {
            "groups": np.array(groups),
            "num_units": np.array([self._lives[name].group.num_units for name in groups]),
            "env_steps": np.array(self._env_steps, dtype=np.int64),
            "moved_bins": np.stack([self._lives[name].moved_bins.numpy() for name in groups]),
            "ended_before": np.array([self._lives[name].ended_before for name in groups]),
        }
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        temporary = self._path.parent / temporary_name(FILE)
        try:
            write_durable(temporary, stream.getvalue())
            os.replace(temporary, self._path)
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path}: {error.strerror}", self._path
            ) from error

    def _stacked(self, metric: str) -> Tensor:
        rows, num_units = self._snapshots[metric], sum(x.group.num_units for x in self._all())
        return torch.stack(rows) if rows else torch.zeros(0, num_units)

    def _all(self) -> list[_Lives]:
        return list(self._lives.values())

    def state_dict(self) -> dict[str, Any]:
        """All that the file is made of, cloned."""
        return {
            "env_steps": list(self._env_steps),
            "stride": self._stride,
            "num_seen": self._num_seen,
            "snapshots": {metric: self._stacked(metric) for metric in METRICS},
            "window": {name: list(pair) for name, pair in self._window.items()},
            "born": {name: lives.born.clone() for name, lives in self._lives.items()},
            "moved": {name: lives.moved.clone() for name, lives in self._lives.items()},
            "bins": {name: lives.moved_bins.clone() for name, lives in self._lives.items()},
            "ended_before": {name: lives.ended_before for name, lives in self._lives.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, for the networks that the agent has now."""
        self.follow()
        self._env_steps = [int(step) for step in state["env_steps"]]
        self._stride, self._num_seen = int(state["stride"]), int(state["num_seen"])
        self._snapshots = {m: list(rows.unbind(0)) for m, rows in state["snapshots"].items()}
        self._window = {name: (pair[0], pair[1]) for name, pair in state["window"].items()}
        for name, lives in self._lives.items():
            lives.born.copy_(state["born"][name])
            lives.moved.copy_(state["moved"][name])
            lives.moved_bins.copy_(state["bins"][name])
            lives.ended_before = int(state["ended_before"][name])


def _utility(group: UnitGroup, values: Tensor) -> Tensor:
    """Mean |h| times mean |outgoing weight|, (units,), on the CPU."""
    magnitude = values.abs().transpose(0, 1).flatten(1).mean(1)
    return (magnitude * group.outgoing_sum() / group.num_outgoing).cpu()


def _saturation(group: UnitGroup, values: Tensor) -> Tensor:
    """Share of samples on which a unit passes no gradient, (units,), on the CPU."""
    if group.activation in ("relu", "k_winners"):
        closed = values == 0.0
    elif group.activation in _EXTREMES:
        middle = 0.5 if group.activation == "sigmoid" else 0.0
        closed = (values - middle).abs() > _EXTREMES[group.activation] * (1.0 - middle)
    else:
        return torch.full((group.num_units,), float("nan"))
    return closed.float().transpose(0, 1).flatten(1).mean(1).cpu()
