"""The contract of every plasticity method: a frozen configuration and a few optional hooks.

Order inside one gradient step (`agents/update.py`, the only place where parameters change):
forward pass and loss, `penalty`, backward, `after_backward`, gradient clipping,
`optimizer.step()`, `after_step`. Every network has its own instance with its own state and its
own random generator, so a method never draws from another stream of the run.

Methods that rewrite parameters report the entries (`pop_touched`); all other methods of the same
network are told (`notice_edits`), so that one which remembers old values does not undo the edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks.units import Touched, UnitGroup


@dataclass(frozen=True, eq=False)
class InputSource:
    """Stored inputs of one network, for methods that look at other samples than the minibatch.

    Attributes:
        draw: Takes a number of samples and a CPU generator; returns inputs and context (or None)
            for the network's forward, drawn uniformly with replacement from the rollout or the
            replay. Only to be called during a gradient step: between two of them a rollout may
            be empty.
        minibatch_size: Samples of one gradient step.
    """

    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor | None]]
    minibatch_size: int


@dataclass(frozen=True, eq=False)
class Target:
    """One trained network, as a method sees it.

    Attributes:
        name: Name within the agent: `policy`, `value`, `critic_1`, ...
        module: The network.
        unit_groups: Its hidden layers with everything that reads them.
        generator: Random stream of this method on this network.
        planned_gradient_steps: Gradient steps this network will make in the whole run; None when
            unknown. Lets a method that could never act refuse to start.
        gradient_steps_per_env_step: Ratio of the two clocks, 0.078125 for the reference PPO.
        inputs: Stored inputs, None where nobody provides them.
        num_contexts: Contexts that hidden layers are shown one of; 0 where there is none, or a
            continuous one.
    """

    name: str
    module: nn.Module
    unit_groups: tuple[UnitGroup, ...]
    generator: torch.Generator
    planned_gradient_steps: int | None = None
    gradient_steps_per_env_step: float | None = None
    inputs: InputSource | None = None
    num_contexts: int = 0


class Method:
    """Base of all methods: every hook does nothing.

    Attributes:
        active: False when its settings switch it off; then no hook is ever called.
        needs: What of the training pass is recorded for the method: any of `activations`,
            `gradients` (derivatives of the loss by those activations; the ones by parameters
            always are in `.grad`) and `contexts` (of the samples).
        uses_task_boundary: True when it acts on announced task changes (printed in tables).
        resets_optimizer: `no`, `entries` or `all` (printed in tables).
        touches: Roles of the parameters it may edit or pull at (`networks.units.parameter_roles`);
            a promise to people, which the conformance tests hold it to.
        renews_entries: Whether the entries that it reports hold freshly drawn values (recyclers,
            resets) rather than old ones changed (shrinking, projecting, copying).
        changes_weights: Whether it changes weights that live on (shrinking, projecting, clipping,
            noise) rather than drawing units anew; a method that sums up the optimizer's own steps
            (`si`) has to come before it.
        mirrors_targets: Whether target networks get the edits that it reports.
        restarts_network: Whether an edit starts the whole network anew, so that what belongs to
            it (the temperature of SAC) starts anew as well.
    """

    active: bool = True
    needs: frozenset[str] = frozenset()
    uses_task_boundary: bool = False
    resets_optimizer: str = "no"
    touches: frozenset[str] = frozenset({"weight", "bias"})
    renews_entries: bool = True
    changes_weights: bool = False
    mirrors_targets: bool = True
    restarts_network: bool = False

    @property
    def adds_penalty(self) -> bool:
        """Whether `penalty` may return a term, which needs a loss to be added to."""
        return self.active and type(self).penalty is not Method.penalty

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Return a term added to the loss, or None (not 0) when there is none.

        Args:
            loss: The network's own loss of this step, detached, without any penalty.
        """
        return None

    def see_output_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """See the derivative of the loss by what hidden units gave, before `after_backward`.

        Args:
            gradients: Unit-group name -> tensor of the shape of the activation, of the training
                pass of this step. Only called if `needs` names `gradients`.
        """

    def see_contexts(self, contexts: Tensor) -> None:
        """See which context every sample of this step was shown, before `after_backward`.

        Args:
            contexts: (B,) int64; `num_contexts` for a sample that shows none. Only called if
                `needs` names `contexts`.
        """

    def after_backward(self) -> None:
        """See complete gradients before they are clipped."""

    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Edit parameters after the optimizer has stepped.

        Args:
            activations: Unit-group name -> detached (B, units) values that readers consumed in
                the training forward pass of this step. Empty unless `needs` names them.
            optimizer: The network's optimizer, for edits of its state.
        """

    def on_task_change(self, task: int, optimizer: torch.optim.Optimizer) -> None:
        """React to an announced task change; only called when the run announces them."""

    def log_values(self) -> dict[str, float]:
        """Return scalars for the log, read off the device at log periods only."""
        return {}

    def pop_events(self) -> list[dict[str, Any]]:
        """Return and forget events (unit resets) since the last call."""
        return []

    def pop_touched(self) -> list[Touched]:
        """Return and forget the entries that the last hook rewrote.

        Entries that are not `renewed` are told to others as changed, whatever `renews_entries`
        says, and those that are not `mirrored` never reach target networks.
        """
        return []

    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Hear which entries another method has just rewritten; the new values are in place.

        Args:
            touched: The entries.
            renewed: Whether they were freshly drawn; see `renews_entries`.
        """

    def notice_start(self, touched: Sequence[Touched]) -> None:
        """Hear that the run starts from loaded weights, where the method itself starts fresh.

        What was copied when the method was built belongs to weights that are gone.

        Args:
            touched: All parameters of the network; the loaded values are in place.
        """
        self.notice_edits(touched, True)

    def announcement(self) -> str:
        """Return what the method will do in this run, one line printed at the start, or ``."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return all state, cloned: counters, statistics, generators."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def restore_structure(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Freeze and register parameters as they were when a state was saved.

        Called before network, optimizer and method are loaded; for methods that change which
        parameters are trained.
        """
