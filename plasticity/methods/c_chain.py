"""C-CHAIN: an update should change the outputs on other samples as little as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from networks.units import Touched
from plasticity.method import Method, Target
from plasticity.settings import acts_on, check_networks, check_number

NUM_BLOCKS = 100


@dataclass(frozen=True)
class Config:
    """Settings of C-CHAIN. The clock is the network's own gradient steps.

    Attributes:
        kind: Name of this file.
        relative_strength: beta >= 0, size of the penalty relative to the loss; 0.05 for robots,
            1e4 in small control tasks. 0 switches the method off without a trace.
        initial_coefficient: Coefficient of the penalty until `warmup_steps` are over, >= 0.
        warmup_steps: Gradient steps before the coefficient adapts; 50 rollouts of the reference
            PPO.
        window_steps: Gradient steps over which losses are averaged, >= 100; 100 rollouts of the
            reference PPO.
        networks: `actors` as published, `all`, or a list of networks; on value networks the
            outputs are values.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "c_chain"
    relative_strength: float = 0.05
    initial_coefficient: float = 100.0
    warmup_steps: int = 8_000
    window_steps: int = 16_000
    networks: str | list[str] = "actors"

    def __post_init__(self) -> None:
        where = f"method.{self.kind}"
        check_number(f"{where}.relative_strength", self.relative_strength, 0.0)
        check_number(f"{where}.initial_coefficient", self.initial_coefficient, 0.0)
        check_number(f"{where}.warmup_steps", self.warmup_steps, 0)
        check_number(f"{where}.window_steps", self.window_steps, NUM_BLOCKS)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


class Coefficient:
    """lambda = beta mean|L| / (mean L_reg + 1e-8) over the last `window_steps` gradient steps.

    Means are kept in `NUM_BLOCKS` blocks and lambda changes when a block is full, so nothing is
    read off the device.

    Attributes:
        value: lambda, ().
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self._block_steps = config.window_steps // NUM_BLOCKS
        self._blocks = torch.zeros(NUM_BLOCKS, 2, dtype=torch.float64, device=device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._calls = 0
        self.value = torch.tensor(config.initial_coefficient, dtype=torch.float32, device=device)

    def add(self, loss: Tensor, penalty: Tensor) -> None:
        """Count one step: the loss, and the penalty before it is multiplied by lambda."""
        self._sums += torch.stack((loss.abs(), penalty)).double()
        self._calls += 1
        if self._calls % self._block_steps:
            return
        num_blocks = self._calls // self._block_steps
        self._blocks[(num_blocks - 1) % NUM_BLOCKS] = self._sums / self._block_steps
        self._sums.zero_()
        if self._calls >= self.config.warmup_steps:
            losses, penalties = self._blocks[: min(num_blocks, NUM_BLOCKS)].mean(0)
            ratio = losses / (penalties + 1e-8)
            self.value = (self.config.relative_strength * ratio).float()

    def state_dict(self) -> dict[str, Any]:
        """All state, cloned."""
        return {
            "blocks": self._blocks.clone(),
            "sums": self._sums.clone(),
            "calls": self._calls,
            "value": self.value.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._blocks.copy_(state["blocks"])
        self._sums.copy_(state["sums"])
        self._calls = int(state["calls"])
        self.value = state["value"].to(self.value, copy=True)


class CChain(Method):
    """lambda E_ref D(pi_theta, pi_theta-), theta- being the weights before the previous update.

    Reference samples are an independent draw of a minibatch's size from rollout or replay. D is
    the mean squared difference of action means (before squashing where there is any), or of
    values. There is no penalty at the first update, which has no previous one.

    Source: Tang et al. 2025, "Mitigating plasticity loss in continual reinforcement learning by
    reducing churn", arXiv 2506.00592.
    Deviation: lambda is not multiplied by the annealed share of the learning rate, and its
    history is not cleared at task changes, which would announce them. Means run over gradient
    steps, in blocks, instead of rollouts.

    Raises:
        ValueError: Nobody provides stored inputs of the network.
    """

    touches = frozenset({"weight", "bias", "norm_gain", "norm_offset", "segment"})

    def __init__(self, config: Config, target: Target) -> None:
        self.config, self.target = config, target
        self.active = config.relative_strength > 0.0 and acts_on(config.networks, target.name)
        if not self.active:
            return
        if target.inputs is None:
            raise ValueError(
                f"c_chain needs stored inputs of {target.name!r}, but this agent keeps none "
                "(agent=supervised drops examples once it has learnt from them); use another "
                "method, such as method=[si]"
            )
        self._inputs = target.inputs
        parameters = dict(target.module.named_parameters())
        self._parameters = list(parameters.values())
        self._previous = torch.cat([p.detach().flatten() for p in self._parameters])
        pieces = self._previous.split([p.numel() for p in self._parameters])
        self._views = {
            name: piece.view_as(parameter)
            for (name, parameter), piece in zip(parameters.items(), pieces, strict=True)
        }
        self._by_id = {id(parameter): self._views[name] for name, parameter in parameters.items()}
        self.coefficient = Coefficient(config, self._previous.device)
        self.calls = 0

    def penalty(self, loss: Tensor) -> Tensor | None:
        """Weighted change of the outputs since the weights before the previous update, ()."""
        if not self.active or not self.calls:
            return None
        drawn = self._inputs.draw(self._inputs.minibatch_size, self.target.generator)
        inputs, module = tuple(part for part in drawn if part is not None), self.target.module
        with torch.no_grad():
            before = _outputs(functional_call(module, self._views, inputs))
        change = functional.mse_loss(_outputs(module(*inputs)), before)
        coefficient = self.coefficient.value
        self.coefficient.add(loss, change.detach())
        return coefficient * change

    @torch.no_grad()
    def after_backward(self) -> None:
        """Keep the weights as they are before this update."""
        if self.active:
            torch.cat([p.detach().flatten() for p in self._parameters], out=self._previous)
            self.calls += 1

    @torch.no_grad()
    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Give the kept weights the same edit; the penalty would undo it otherwise."""
        for entry in touched:
            kept = self._by_id[id(entry.parameter)]
            if entry.shift is not None:  # these entries go on being learnt
                kept.index_add_(entry.dim, entry.indices, entry.shift.to(kept.dtype))
                continue
            fresh = entry.parameter.index_select(entry.dim, entry.indices)
            kept.index_copy_(entry.dim, entry.indices, fresh)

    def announcement(self) -> str:
        """Say when the coefficient adapts."""
        if not self.active:
            return f"{self.config.kind} is off on {self.target.name}"
        fixed, planned = self.config.warmup_steps, self.target.planned_gradient_steps
        never = ", so that it never adapts in this run" if planned and planned < fixed else ""
        total = f" of {planned:,}" if planned else ""
        return (
            f"{self.config.kind} on {self.target.name}: coefficient "
            f"{self.config.initial_coefficient:g} for {fixed:,}{total} gradient steps{never}"
        )

    def log_values(self) -> dict[str, float]:
        """Coefficient in force."""
        return {"coefficient": float(self.coefficient.value)} if self.active else {}

    def state_dict(self) -> dict[str, Any]:
        """Kept weights, history of losses and random stream, cloned; {} when switched off."""
        if not self.active:
            return {}
        return {
            "previous": self._previous.clone(),
            "calls": self.calls,
            "coefficient": self.coefficient.state_dict(),
            "generator": self.target.generator.get_state().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.active:
            self._previous.copy_(state["previous"])
            self.calls = int(state["calls"])
            self.coefficient.load_state_dict(state["coefficient"])
            self.target.generator.set_state(state["generator"].cpu())


def _outputs(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Action means or values of whatever a network returns."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def build(config: Config, target: Target) -> CChain:
    """Attach C-CHAIN to one network."""
    return CChain(config, target)
