"""Watches a few gradient steps of one network: sizes of gradients, and how far a step moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.update import Update
from analysis.measure import weights_of
from networks.units import UnitGroup
from plasticity import diagnostics
from plasticity.recycling import incoming_linears

WATCHED_STEPS = 10
GRAMA_TAU = 0.01
UNIT_METRICS = ("grama_dormant", "rua_stagnant", "rua_volatile")


class StepWatch:
    """Averages over the first ten gradient steps of an iteration; costs nothing in all others.

    Nothing is read off the device while it watches. The gradients include penalties and are seen
    before clipping; a relative update is what the optimizer does, without edits by methods.

    Args:
        update: Optimizer of the network.
        groups: Its unit groups.

    Attributes:
        layers: Names of the weight tensors.

    Deviation: gradient metrics are usually those of the latest ten steps; here they are those of
    the ten steps after the features of the same row were measured, so that both describe nearly
    the same weights.
    """

    def __init__(self, update: Update, groups: Sequence[UnitGroup]) -> None:
        self._update, self._groups = update, tuple(groups)
        weights = weights_of(update.network)
        self.layers, self._weights = tuple(weights), list(weights.values())
        self._parameters = list(update.network.parameters())
        self._incoming = {
            group.name: [
                (f"{group.name}/{index}", linear)
                for index, linear in enumerate(incoming_linears(group))
            ]
            for group in groups
        }
        self._before: list[Tensor] = []
        self._clear()

    def _clear(self) -> None:
        device = self._weights[0].device
        self._count = 0
        self._norm = torch.zeros((), device=device)
        self._clipped = torch.zeros((), device=device)
        self._ratios = torch.zeros(len(self.layers) + 1, device=device)
        self._magnitudes: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Forget the last iteration and watch the next gradient steps."""
        self._clear()
        self._update.observer = self

    @torch.no_grad()
    def before_step(self) -> None:
        """See complete gradients; see `agents.update.StepObserver`."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        self._norm += norm
        if self._update.max_grad_norm is not None:
            self._clipped += norm > self._update.max_grad_norm
        for linears in self._incoming.values():
            for name, linear in linears:
                if linear.weight.grad is not None:
                    magnitude = linear.weight.grad.abs()
                    held = self._magnitudes.get(name)
                    self._magnitudes[name] = magnitude if held is None else held.add_(magnitude)
        self._before = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def after_step(self) -> None:
        """See the weights after the optimizer; the last watched step ends the watch."""
        moved = torch.stack(torch._foreach_norm(torch._foreach_sub(self._weights, self._before)))
        size = torch.stack(torch._foreach_norm(self._before))
        self._ratios[:-1] += moved / size
        self._ratios[-1] += moved.norm() / size.norm()
        self._count += 1
        if self._count == WATCHED_STEPS:
            self._update.observer = None
            self._before = []

    # What was seen ---------------------------------------------------------------------------

    def columns(self) -> list[str]:
        """Names of what `row` returns."""
        name = self._update.name
        clipping = (
            [] if self._update.max_grad_norm is None else [f"gradients/{name}/all/clip_share"]
        )
        return [
            *(f"weights/{name}/{layer}/update_ratio" for layer in (*self.layers, "all")),
            f"gradients/{name}/all/grad_norm",
            *clipping,
            *(
                f"gradients/{name}/{layer}/{metric}"
                for layer in (*(group.name for group in self._groups), "all")
                for metric in UNIT_METRICS
            ),
        ]

    def row(self, reasons: dict[str, str]) -> dict[str, float]:
        """Means over the watched steps; {} if there were none.

        Args:
            reasons: Gets one sentence for every metric that has no value and is NaN.
        """
        if not self._count:
            return {}
        name, update = self._update.name, self._update
        ratios = (self._ratios / self._count).tolist()
        row = {}
        for layer, ratio in zip((*self.layers, "all"), ratios, strict=True):
            column = f"weights/{name}/{layer}/update_ratio"
            row[column] = ratio if ratio < float("inf") else float("nan")
            if not ratio < float("inf"):
                reasons[column] = "all its weights were 0 before one of the steps"
        row[f"gradients/{name}/all/grad_norm"] = float(self._norm) / self._count
        if update.max_grad_norm is not None:
            row[f"gradients/{name}/all/clip_share"] = float(self._clipped) / self._count
        row.update(self._unit_row(reasons))
        return row

    def _unit_row(self, reasons: dict[str, str]) -> dict[str, float]:
        """Scores of every unit group, and over all units of the network."""
        row: dict[str, float] = {}
        prefix, units = f"gradients/{self._update.name}", sum(g.num_units for g in self._groups)
        totals: dict[str, float] = dict.fromkeys(UNIT_METRICS, 0.0)
        for group in self._groups:
            for metric, (value, reason) in self._unit_scores(group).items():
                column = f"{prefix}/{group.name}/{metric}"
                row[column] = value
                if reason is not None:
                    reasons[column] = reason
                totals[metric] += value * group.num_units
        for metric, total in totals.items() if units else ():
            row[f"{prefix}/all/{metric}"] = total / units
        return row

    def _unit_scores(self, group: UnitGroup) -> dict[str, tuple[float, str | None]]:
        magnitude = self.unit_gradients(group.name)
        if magnitude is None:
            unknown = (float("nan"), "no gradient reached the units")
            return dict.fromkeys(UNIT_METRICS, unknown)
        grama, reason = self.grama_dormant(group)
        seen = [(n, linear) for n, linear in self._incoming[group.name] if n in self._magnitudes]
        gradient = torch.cat([self._magnitudes[n].flatten(1) for n, _ in seen], dim=1)
        weight = torch.cat([linear.weight.detach().flatten(1) for _, linear in seen], dim=1)
        unknown = diagnostics.Rua(float("nan"), float("nan"))
        shares, why = diagnostics.measured(diagnostics.rua, gradient, weight, otherwise=unknown)
        return {
            "grama_dormant": (grama, reason),
            "rua_stagnant": (shares.stagnant, why),
            "rua_volatile": (shares.volatile, why),
        }

    def grama_dormant(self, group: UnitGroup) -> tuple[float, str | None]:
        """Share of units that receive almost no gradient, or NaN and why."""
        magnitude = self.unit_gradients(group.name)
        if magnitude is None:
            return float("nan"), "no gradient reached the units"
        return diagnostics.measured(diagnostics.grama_dormant, magnitude[:, None], GRAMA_TAU)

    def unit_gradients(self, group: str) -> Tensor | None:
        """Mean |gradient| of the weights into every unit, (units,); None if there was none."""
        seen = [(n, linear) for n, linear in self._incoming[group] if n in self._magnitudes]
        if not seen:
            return None
        total = sum(self._magnitudes[name].flatten(1).sum(1) for name, _ in seen)
        entries = sum(_entries(linear) for _, linear in seen)
        assert isinstance(total, Tensor)
        return total / (entries * self._count)

    # State -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What an iteration under way has gathered, cloned."""
        return {
            "watching": self._update.observer is self,
            "count": self._count,
            "norm": self._norm.clone(),
            "clipped": self._clipped.clone(),
            "ratios": self._ratios.clone(),
            "magnitudes": {name: value.clone() for name, value in self._magnitudes.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._clear()
        device = self._norm.device
        self._count = int(state["count"])
        for held, name in ((self._norm, "norm"), (self._clipped, "clipped")):
            held.copy_(state[name])
        self._ratios.copy_(state["ratios"])
        self._magnitudes = {
            name: value.to(device, copy=True) for name, value in state["magnitudes"].items()
        }
        self._update.observer = self if state["watching"] else None


def _entries(linear: nn.Linear | nn.Conv2d) -> Tensor | int:
    """Unmasked weights of every row."""
    mask = getattr(linear, "mask", None)
    return linear.weight[0].numel() if mask is None else mask.flatten(1).sum(1)
