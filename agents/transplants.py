"""Continue from another run's networks while some organs stay newly built."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agents.update import Update, clone, load_optimizer_state
from plasticity.parameters import whole


def check_parts(fresh_parts: Collection[str], organs: Sequence[str]) -> None:
    """Refuse names that are no organ.

    Raises:
        ValueError: Names the unknown ones and all that exist.
    """
    unknown = sorted(set(fresh_parts) - set(organs))
    if unknown:
        raise ValueError(
            f"fresh_parts has {', '.join(unknown)}; this agent has the parts {', '.join(organs)}"
        )


def transplant_updates(
    updates: Mapping[str, Update], donors: Mapping[str, Any], fresh_parts: Collection[str]
) -> None:
    """Load networks, optimizer and method state of a donor, except for the fresh parts.

    A fresh network also gets fresh optimizer and method state; `optimizer` keeps the optimizer
    state of every network fresh. Methods that the donor did not have start fresh, from the weights
    of the donor.

    Args:
        updates: The new agent's updates by network name.
        donors: `Update.state_dict` of the donor by network name.
        fresh_parts: Network names, and possibly `optimizer`.
    """
    for name, update in updates.items():
        if name in fresh_parts:
            continue
        donor = donors[name]
        update.restore_structure(donor["methods"])
        update.network.load_state_dict(clone(donor["network"]))
        if "optimizer" not in fresh_parts:
            ours = type(update.optimizer).__name__
            if donor["optimizer_kind"] != ours:
                raise ValueError(
                    f"the {name} network was trained with {donor['optimizer_kind']} and this run "
                    f"uses {ours}, whose state is another; add optimizer to fresh_parts"
                )
            load_optimizer_state(update.optimizer, donor["optimizer"])
        entries = [whole(parameter) for parameter in update.network.parameters()]
        for identifier, method in update.methods.items():
            if saved := donor["methods"].get(identifier):  # {} of one that was switched off
                method.load_state_dict(saved)
            elif method.active:
                method.notice_start(entries)
