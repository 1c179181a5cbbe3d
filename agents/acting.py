"""Whose weights choose the actions of an off-policy agent: those of now, or a copy on the host.

A learner on a GPU runs behind the host. Whoever asks the actor itself for an action waits for all
gradient steps before it, so that simulation and learning take turns. The delayed actor answers
from a copy on the host, which is brought up to date while the world is being simulated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.sac_losses import squashed_sample
from agents.update import clone
from networks.heads import SquashedGaussianPolicy


class CurrentActor:
    """Acts with the actor itself.

    Args:
        actor: Mean and log standard deviation before squashing; not copied.
        device: Where it lives.

    Attributes:
        device: Where noise must be drawn.
    """

    def __init__(self, actor: SquashedGaussianPolicy, device: torch.device) -> None:
        self._actor, self.device = actor, device

    def actions(
        self, observation: np.ndarray, context: np.ndarray, noise: Tensor | None
    ) -> np.ndarray:
        """Actions (num, act) in (-1, 1) for noise (num, act), the mode for None."""
        gate = self._tensor(context) if context.shape[-1] else None
        with torch.inference_mode():
            mean, log_std = self._actor(self._tensor(observation), gate)
            action = torch.tanh(mean) if noise is None else squashed_sample(mean, log_std, noise)[0]
        return action.cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(self.device)

    def follow(self) -> None:
        """Take note of gradient steps."""

    def catch_up(self) -> None:
        """Take over weights that changed otherwise: loaded, transplanted, reset at a switch."""

    def state(self) -> dict[str, Any]:
        """What must be added to the state of the agent."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned from the agent's whole state."""


class DelayedActor(CurrentActor):
    """Acts with a copy on the host that is one call of `follow` behind the actor.

    `follow` starts a transfer of the weights and makes those of the transfer before it the acting
    ones; that one has had a whole step of the world to end, so nobody waits. The delay is counted
    in calls, not measured in time, so equal runs stay equal.

    Args:
        actor: Whose weights are copied. Its tensors may be written to, not replaced by others.
        device: Where it lives.
    """

    def __init__(self, actor: SquashedGaussianPolicy, device: torch.device) -> None:
        super().__init__(copy.deepcopy(actor).cpu().requires_grad_(False), torch.device("cpu"))
        self._source = _tensors(actor)
        self._acting = _tensors(self._actor)
        on_gpu = device.type == "cuda"
        # Only page-locked memory is written to while the host goes on.
        self._arriving = [torch.empty_like(t, pin_memory=on_gpu) for t in self._acting]
        self._arrived = torch.cuda.Event() if on_gpu else None
        self._transfer()
        self._adopt()

    def follow(self) -> None:
        """Make the weights of the last call the acting ones, and send for those of now."""
        self._adopt()
        self._transfer()

    def catch_up(self) -> None:
        """Make the weights of now the acting ones, waiting for them."""
        self._transfer()
        self._adopt()

    @torch.no_grad()
    def _transfer(self) -> None:
        torch._foreach_copy_(self._arriving, self._source, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    @torch.no_grad()
    def _adopt(self) -> None:
        if self._arrived is not None:
            self._arrived.synchronize()
        torch._foreach_copy_(self._acting, self._arriving)

    def state(self) -> dict[str, Any]:
        """The acting weights and those on their way."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {"acting": {"now": clone(self._acting), "next": clone(self._arriving)}}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; after a run without delay, act with the weights of now."""
        if "acting" not in state:
            self.catch_up()
            return
        torch._foreach_copy_(self._acting, list(state["acting"]["now"]))
        torch._foreach_copy_(self._arriving, list(state["acting"]["next"]))


def actors(
    choice: str, actor: SquashedGaussianPolicy, device: torch.device
) -> tuple[CurrentActor, CurrentActor]:
    """Who answers now, and who explores; call it before any method hooks itself into the actor.

    Args:
        choice: `auto`, `current` or `delayed`, see `agents.sac_config.Config.acting`.
        actor: Mean and log standard deviation before squashing.
        device: Where it lives.
    """
    current = CurrentActor(actor, device)
    if choice == "delayed" or (choice == "auto" and device.type != "cpu"):
        return current, DelayedActor(actor, device)
    return current, current


def refuse_delay(choice: str, reason: str) -> None:
    """Refuse what was asked for; `auto` does without.

    Raises:
        ValueError: A delay was asked for by name.
    """
    if choice == "delayed":
        raise ValueError(
            "agent.acting=delayed copies the actor's tensors in the background, as a captured "
            f"gradient step would: {reason}; set agent.acting=current"
        )


def _tensors(actor: SquashedGaussianPolicy) -> list[Tensor]:
    """Parameters and saved buffers, always in the same order."""
    return [tensor.detach() for tensor in actor.state_dict(keep_vars=True).values()]
