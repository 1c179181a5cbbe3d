"""Continue from another run's networks while some organs stay newly built."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from agents.normalization import RunningNormalizer
from agents.update import Update, clone, load_optimizer_state
from networks.injected import fitted_state
from networks.units import Touched
from plasticity.parameters import whole

# What loading a state of another form may raise.
_MISFITS = (IndexError, KeyError, TypeError, ValueError, RuntimeError)


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


def transplant_normalizer(
    ours: RunningNormalizer | None, state: Mapping[str, Any], all_fresh: bool
) -> None:
    """Load the moments of a donor, and refuse networks that know inputs of another scale.

    Args:
        ours: What standardises the observations of the new run, None for nothing.
        state: Of the donor, with `normalizer` where it had one.
        all_fresh: Whether no network of the donor is used.

    Raises:
        ValueError: Only one of the two runs standardises observations.
    """
    theirs = "normalizer" in state
    if ours is not None and theirs:
        ours.load_state_dict(state["normalizer"])
    if all_fresh or theirs == (ours is not None):
        return
    known = "standardised" if theirs else "unscaled"
    raise ValueError(
        f"the networks of the donor know {known} observations; set agent.normalize_observation="
        f"{str(theirs).lower()}, or make all networks fresh_parts"
    )


def transplant_updates(
    updates: Mapping[str, Update], donors: Mapping[str, Any], fresh_parts: Collection[str]
) -> None:
    """Load networks, optimizer and method state of a donor, except for the fresh parts.

    A fresh network also gets fresh optimizer and method state; `optimizer` keeps the optimizer
    state of every network fresh. Methods that the donor did not have start fresh, from the weights
    of the donor; so do, with a warning, those whose saved state does not go with the settings of
    the new run. Methods that are switched off take nothing over. Random streams of methods and
    optimizers stay those of the new run, so that seeds that share a donor draw independently.

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
        update.network.load_state_dict(fitted_state(update.network, clone(donor["network"])))
        if "optimizer" not in fresh_parts:
            ours = type(update.optimizer).__name__
            if donor["optimizer_kind"] != ours:
                raise ValueError(
                    f"the {name} network was trained with {donor['optimizer_kind']} and this run "
                    f"uses {ours}, whose state is another; add optimizer to fresh_parts"
                )
            with kept_in_place(*update.streams):
                load_optimizer_state(update.optimizer, donor["optimizer"])
        entries = [whole(parameter) for parameter in update.network.parameters()]
        for identifier, method in update.methods.items():
            if not method.active:
                continue
            if saved := donor["methods"].get(identifier):  # {} of one that was switched off
                _load_method(identifier, update, saved, entries)
            else:
                method.notice_start(entries)


def _load_method(
    identifier: str, update: Update, saved: Mapping[str, Any], entries: Sequence[Touched]
) -> None:
    """Take a donor's method state over, or start the method fresh where it does not fit."""
    method = update.methods[identifier]
    before = clone(method.state_dict())
    try:
        with kept_in_place(*update.streams):
            method.load_state_dict(saved)
    except torch.OutOfMemoryError:
        raise
    except _MISFITS as error:
        method.load_state_dict(before)  # it may have been loaded in part
        method.notice_start(entries)
        warnings.warn(
            f"{identifier} on {update.name} starts anew, because its state in the donor does not "
            f"go with the settings of this run: {error}",
            stacklevel=2,
        )


@contextlib.contextmanager
def kept_in_place(*streams: torch.Generator) -> Iterator[None]:
    """Put random streams back to where they were, whatever is loaded meanwhile."""
    positions = [stream.get_state() for stream in streams]
    try:
        yield
    finally:
        for stream, position in zip(streams, positions, strict=True):
            stream.set_state(position)
