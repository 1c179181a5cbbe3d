"""Gives an agent the state of a checkpoint, whoever wrote it: only what fits, and only numbers.

Digests say that a file is whole, not that it is honest. Copying into an array of another shape may
repeat values instead of failing, and a weight that is no number spoils every action after it.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent
from analysis.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from analysis.state_files import flatten
from configs.run import CONTEXTS, RunConfig
from configs.schema import ConfigurationError
from envs.base import WorkerError
from envs.contexts.layer import learning_provider

__all__ = ["NoFit", "adopt", "begin_from", "fitting", "require_finite"]

# What loading a state of another form may raise, besides the refusals below.
LOADING_ERRORS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
# Organs that know nothing of contexts.
_BLIND = frozenset({"optimizer", "log_std", "temperature"})


class NoFit(ValueError):
    """A state that is none of this agent."""


def adopt(agent: Agent, saved: Mapping[str, Any]) -> None:
    """Load what `Agent.state_dict` returned to somebody.

    Args:
        agent: Newly built; of no use after a refusal.
        saved: The state.

    Raises:
        NoFit: A part is missing or of another form, or a weight is not finite.
    """
    try:
        _compare(_arrays(agent.state_dict()), _arrays(saved))
        agent.load_state_dict(saved)
    except torch.OutOfMemoryError:
        raise
    except LOADING_ERRORS as error:
        raise NoFit(_reason(error)) from error
    require_finite(agent)


def begin_from(agent: Agent, config: RunConfig, envs: Any) -> None:
    """Start from the checkpoint that `init_from` names, with `fresh_parts` new.

    Contexts that are learnt go on from there, too, whatever parts are fresh.

    Args:
        agent: Newly built; of no use after a refusal.
        config: Of its run; without `init_from` nothing happens.
        envs: Newly built environments of the run, not reset yet.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ConfigurationError: It does not fit this agent, a number is not finite, or parts that are
            kept know contexts that were learnt otherwise than those of this run, or a
            whole run is named instead of a checkpoint.
    """
    if config.init_from is None:
        return
    _refuse_run(Path(config.init_from))
    donor = load_checkpoint(Path(config.init_from)).state
    try:
        _go_on_with_contexts(envs, donor.get("env", {}), _readers(agent, config))
        agent.transplant(donor["agent"], config.fresh_parts)
        require_finite(agent)
    except torch.OutOfMemoryError:
        raise
    except LOADING_ERRORS as error:
        reason = _misfit(error) or _reason(error)
        raise ConfigurationError(f"cannot start from {config.init_from}: {reason}") from error


def _refuse_run(path: Path) -> None:
    """Refuse a run in place of a checkpoint: which one is newest may change while it goes on.

    Raises:
        ConfigurationError: With the checkpoint to name.
    """
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    found = CheckpointStore(folder).paths() if folder.is_dir() else []
    if found:
        raise ConfigurationError(
            f"init_from={path} holds {len(found)} checkpoint(s) and is none itself; name one of "
            f"them, such as init_from={found[0]}"
        )


def _readers(agent: Agent, config: RunConfig) -> list[str]:
    """Parts of the donor that are kept and know its contexts: networks, and a replay."""
    return sorted(set(agent.organs()) - set(config.fresh_parts) - _BLIND)


def _go_on_with_contexts(envs: Any, worlds: Mapping[str, Any], readers: list[str]) -> None:
    """Take over what the donor's contexts were learnt to be.

    A gate that was trained on codes of one model makes nothing of those of another, even where
    they are equally long. Where nobody reads the donor's, those of this run begin anew.

    Raises:
        NoFit: They cannot be taken over, and somebody reads them; or a number is not finite.
    """
    learns = learning_provider(envs) is not None
    kind = str(worlds.get("context_label", "")).partition("/")[0]
    if not learns and kind not in CONTEXTS.names():  # others are labelled by what they tell
        return
    try:
        if not learns:
            raise ValueError(f"they are learnt there ({kind}) and not here")
        envs.take_over(dict(worlds))
    except ValueError as error:
        if readers:
            raise NoFit(
                f"its {', '.join(readers)} cannot go on with the contexts of this run: "
                f"{_reason(error)}; give both runs the same settings of context, or name all of "
                "these in fresh_parts"
            ) from error
        return
    for name, value in envs.context_snapshot().items():
        felt = name.startswith("context_control_")  # which marks the future by NaN
        if isinstance(value, np.ndarray) and not felt and not np.isfinite(value).all():
            raise NoFit(f"{name} is not finite")


def _misfit(error: Exception) -> str | None:
    """One clause about the first array where torch lists all that do not fit a network."""
    heading, *lines = str(error).splitlines() or [""]
    if not lines or "loading state_dict" not in heading:
        return None
    first = textwrap.shorten(lines[0].strip().rstrip(".,"), 300)
    return (
        f"{first}; give both runs the same networks and the same inputs (such as "
        "env.obs_pad_to_111 and context), or name the networks that differ in fresh_parts, which "
        "keeps them new"
    )


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """While a whole run is restored: name the checkpoint whose state is of another form.

    Raises:
        CheckpointError: Instead of whatever loading raised.
    """
    try:
        yield
    except (torch.OutOfMemoryError, WorkerError):
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{path} does not fit this run: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = f"nothing is stored for {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())


def require_finite(agent: Agent) -> None:
    """Check weights after somebody else's were loaded.

    Raises:
        NoFit: One is not finite.
    """
    for name, network in agent.networks().items():
        for key, value in network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NoFit(f"{key} of the {name} network is not finite")


def _arrays(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    return flatten({"agent": state}).tensors


def _compare(ours: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Arrays that a new agent has already must be of its own form.

    Not those that grow from nothing, of which only the first dimension is free, and not the states
    of random generators, which differ between devices and are checked by the generators.

    Raises:
        NoFit: Names the first one.
    """
    for name in sorted(ours.keys() & saved.keys()):
        mine, given = ours[name], saved[name]
        if mine.dtype == given.dtype == torch.uint8:
            continue
        grows = mine.ndim > 0 and mine.numel() == 0
        same = mine.shape[1:] == given.shape[1:] if grows else mine.shape == given.shape
        if mine.dtype != given.dtype or mine.ndim != given.ndim or not same:
            raise NoFit(f"{name} is {_form(given)}, and this agent has {_form(mine)}")


def _form(array: Tensor) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} of the shape {tuple(array.shape)}"
