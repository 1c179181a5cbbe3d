"""The one engine that renews hidden units: a score decides, a selector counts, an edit rewrites.

Methods differ in score and selector only. The edit, the optimizer-state policy, the events and
the bookkeeping below are the same for all of them, so that comparing two recyclers compares what
they claim to differ in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from networks.units import Touched, UnitGroup
from plasticity.method import Method, Target
from plasticity.optimizer_state import POLICIES, apply_policy, check_policy
from plasticity.settings import acts_on, check_choice, check_networks

TARGET_EDITS = ("copy", "drift")


class RecyclerConfig(Protocol):
    """Settings that every recycler shares."""

    @property
    def kind(self) -> str: ...

    @property
    def optimizer_state(self) -> str: ...

    @property
    def networks(self) -> str | list[str]: ...

    @property
    def target_edit(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Selection:
    """Units of one group that are to be renewed now.

    Attributes:
        group: Their group.
        units: Indices, int64 (k,).
        scores: The scores they were selected by, (k,).
        ages: Calls since they were last renewed, int64 (k,).
        means: Their mean activations if the readers' biases are to absorb them, else None; (k,),
            or (k, values) where units have several values.
    """

    group: UnitGroup
    units: Tensor
    scores: Tensor
    ages: Tensor
    means: Tensor | None = None


@torch.no_grad()
def renew(selections: Sequence[Selection], generator: torch.Generator) -> list[Touched]:
    """Give the selected units fresh incoming and zero outgoing weights.

    All rows are drawn before any column is zeroed, so that a renewed unit has exactly zero
    outgoing weights even where its reader is renewed in the same call.

    Args:
        selections: At most one per group.
        generator: Source of the fresh draws.

    Returns:
        The rewritten entries. Biases that absorbed a mean come first and are marked as not
        renewed: they were shifted.

    Deviation: the public code of Dohare et al. 2024 edits layer by layer, which leaves a random
    outgoing weight there, and clears the means before it transfers them.
    """
    touched: list[Touched] = []
    for selection in selections:
        if selection.means is not None:
            for reader in selection.group.readers:
                touched += reader.absorb_mean(selection.units, selection.means)
    for selection in selections:
        touched += selection.group.layer.reset_units(selection.units, generator)
    for selection in selections:
        touched += selection.group.forget_units(selection.units)
    return touched


@torch.no_grad()
def mirror_edits(touched: Sequence[Touched], online: nn.Module, target: nn.Module) -> None:
    """Write rewritten entries of a network into its target network.

    Args:
        touched: What `pop_touched` returned for `online`.
        online: The edited network.
        target: A network of the same structure, for example its Polyak average. Running
            statistics (buffers) and entries that are not to be mirrored are not copied; what was
            added to such entries (absorbed means) is added there, too.

    Raises:
        ValueError: An entry does not belong to `online`.
    """
    if not touched:
        return
    names = {id(parameter): name for name, parameter in online.named_parameters()}
    twins = dict(target.named_parameters())
    for entry in touched:
        if id(entry.parameter) not in names:
            raise ValueError("an edited parameter does not belong to the online network given")
        twin = twins[names[id(entry.parameter)]]
        if entry.mirrored:
            fresh = entry.parameter.index_select(entry.dim, entry.indices)
            twin.index_copy_(entry.dim, entry.indices, fresh)
        elif entry.shift is not None:
            twin.index_add_(entry.dim, entry.indices, entry.shift.to(twin.dtype))


def incoming_linears(group: UnitGroup) -> list[nn.Linear | nn.Conv2d]:
    """Linear maps and convolutions whose rows are the units of a group."""
    layer = group.layer
    parts = layer.modules() if isinstance(layer, nn.Module) else vars(layer).values()
    linears = [part for part in parts if isinstance(part, nn.Linear | nn.Conv2d)]
    return [linear for linear in linears if linear.weight.shape[0] == group.num_units]


def drawn_units(group: UnitGroup, touched: Sequence[Touched]) -> Tensor | None:
    """Units of a group whose incoming weights somebody has rewritten, int64 (k,); None for none."""
    rows = {id(linear.weight) for linear in incoming_linears(group)}
    found = [entry.indices for entry in touched if not entry.dim and id(entry.parameter) in rows]
    return torch.cat(found).unique() if found else None


class Recycler(Method):
    """What all unit-recycling methods share.

    Args:
        config: Settings of the method.
        target: The network.
        enabled: False when the settings switch the method off; it then has no state, draws
            nothing and needs nothing.

    Attributes:
        calls: Gradient steps of this network so far.
        active: Whether the method acts on this network at all.
        mirrors_targets: Whether a target network is to receive the same edits
            (`mirror_edits`), the alternative being to let it drift after the online network.

    Raises:
        ValueError: The network has no unit groups, or two of the same name.
    """

    touches = frozenset({"weight", "bias", "norm_gain", "norm_offset", "segment"})

    def __init__(self, config: RecyclerConfig, target: Target, enabled: bool) -> None:
        self.kind = config.kind
        self.target = target
        self.policy = config.optimizer_state
        self.mirrors_targets = config.target_edit == "copy"
        self.active = enabled and acts_on(config.networks, target.name)
        self.calls = 0
        self._events: list[dict[str, Any]] = []
        self._touched: list[Touched] = []
        self._checked_optimizer = False
        if not self.active:
            return
        self.needs = frozenset({"activations"})
        self.resets_optimizer = "no" if self.policy == "keep" else "entries"
        names = [group.name for group in target.unit_groups]
        if not names:
            raise ValueError(f"{self.kind} found no hidden units in the network {target.name!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"unit groups of the network {target.name!r} share a name: {names}")

    @property
    def edits_described(self) -> str:
        """What an edit does to the optimizer and to target networks, for announcements."""
        target_edit = "copy" if self.mirrors_targets else "drift"
        return f"(optimizer_state={self.policy}, target_edit={target_edit})"

    def pop_events(self) -> list[dict[str, Any]]:
        """Return and forget one event per unit renewed since the last call.

        Events are not part of `state_dict`: pop them before a checkpoint.
        """
        events, self._events = self._events, []
        return events

    def pop_touched(self) -> list[Touched]:
        """Return and forget the entries that the last call rewrote."""
        touched, self._touched = self._touched, []
        return touched

    def activation_of(self, group: UnitGroup, activations: Mapping[str, Tensor]) -> Tensor:
        """Look up the recorded activation of a group, arranged by unit (`unit_values`).

        Raises:
            ValueError: It was not recorded, or its width is not the group's.
        """
        activation = activations.get(group.name)
        if activation is None:
            raise ValueError(
                f"{self.kind} got no activations of unit group {group.name!r}; run the training "
                "forward pass inside `with recording:` and pass recording.activations"
            )
        return group.unit_values(activation)

    def begin_call(self, optimizer: torch.optim.Optimizer) -> None:
        """Count one gradient step and forget the edits of the last one."""
        if not self._checked_optimizer:
            check_policy(self.policy, optimizer)
            self._checked_optimizer = True
        self.calls += 1
        self._touched = []

    def recycle(self, selections: Sequence[Selection], optimizer: torch.optim.Optimizer) -> None:
        """Renew the selected units of all groups and record an event for each."""
        self._touched = renew(selections, self.target.generator)
        apply_policy(self.policy, optimizer, self._touched)
        for selection in selections:
            units, ages = selection.units.tolist(), selection.ages.tolist()
            for unit, age, score in zip(units, ages, selection.scores.tolist(), strict=True):
                self._events.append(
                    {
                        "event": "unit_reset",
                        "method": self.kind,
                        "network": self.target.name,
                        "group": selection.group.name,
                        "unit": unit,
                        "gradient_step": self.calls,
                        "utility": score,
                        "age": age,
                    }
                )

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Judge units that somebody else has drawn anew (resets) as new ones, of age 0.

        In the gradient step of the edit, activations of the training pass are still the old ones.
        """
        if not (self.active and renewed):
            return
        for group in self.target.unit_groups:
            units = drawn_units(group, touched)
            if units is not None:
                self.restart_units(group.name, units)

    def notice_start(self, touched: Sequence[Touched]) -> None:
        """Nothing is known of any unit yet."""

    def restart_units(self, name: str, units: Tensor) -> None:
        """Forget what is known of some units of a group, int64 (k,)."""
        raise NotImplementedError

    def group_states(self) -> dict[str, dict[str, Any]]:
        """Return the method's state of every group, cloned."""
        raise NotImplementedError

    def load_group_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `group_states` returned, in place."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return all state, cloned; {} when the method does not act on this network."""
        if not self.active:
            return {}
        return {
            "calls": self.calls,
            "generator": self.target.generator.get_state().clone(),
            "groups": self.group_states(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The state is of another network, or of a run with the method switched off.
        """
        saved = set(state["groups"]) if state else set()
        ours = {group.name for group in self.target.unit_groups} if self.active else set()
        if saved != ours:
            raise ValueError(
                f"the saved state of {self.kind} on {self.target.name!r} holds the unit groups "
                f"{sorted(saved)}, but this run needs {sorted(ours)}; the method or the network "
                "was configured differently"
            )
        if not self.active:
            return
        self.calls = int(state["calls"])
        self.target.generator.set_state(state["generator"].cpu())
        self.load_group_states(state["groups"])


def check_edits(config: RecyclerConfig) -> None:
    """Check what happens to optimizers and target networks when weights are rewritten.

    Raises:
        ValueError: A setting has a value that does not exist.
    """
    check_choice(f"method.{config.kind}.optimizer_state", config.optimizer_state, POLICIES)
    check_choice(f"method.{config.kind}.target_edit", config.target_edit, TARGET_EDITS)


def check_shared_settings(config: RecyclerConfig) -> str | list[str]:
    """Check the settings that every recycler shares.

    Returns:
        The networks to act on, with `critics` spelt out.

    Raises:
        ValueError: A setting has a value that does not exist.
    """
    check_edits(config)
    return check_networks(config.kind, config.networks, groups=("all",))
