"""A head with room for plasticity injection: base + (fresh - frozen)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from networks.heads import Network


class InjectedHead(nn.Module):
    """Stands in for a linear head and adds the change that a second one has learnt.

    `fresh` and `frozen` start equal and not trained, so that nothing changes until a method
    draws both anew and trains `fresh` in place of `base`. The sum is formed as
    base + (fresh - frozen): base + fresh - frozen would be off by a rounding error.

    Attributes:
        base: The head as it was built.
        fresh: What is trained after an injection.
        frozen: `fresh` as it was drawn.

    Source: Nikishin et al. 2023, arXiv 2305.15555, equation 1, for heads.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.base = head
        self.fresh = copy.deepcopy(head).requires_grad_(False)
        self.frozen = copy.deepcopy(head).requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        """Weight in force, (outputs, inputs); a new tensor, not to be edited."""
        return self.base.weight + (self.fresh.weight - self.frozen.weight)

    @property
    def bias(self) -> Tensor:
        """Bias in force, (outputs,); a new tensor, not to be edited."""
        return self.base.bias + (self.fresh.bias - self.frozen.bias)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Map what the base maps."""
        return self.base(*inputs) + (self.fresh(*inputs) - self.frozen(*inputs))

    @torch.no_grad()
    def fold(self) -> None:
        """Move what was learnt into the base, which is possible because all three are linear."""
        for base, fresh, frozen in zip(*self._parts(), strict=True):
            base.add_(fresh - frozen)
            frozen.copy_(fresh)

    @torch.no_grad()
    def freeze_copy(self) -> None:
        """Make `frozen` equal to `fresh`."""
        for _, fresh, frozen in zip(*self._parts(), strict=True):
            frozen.copy_(fresh)

    def _parts(self) -> tuple[list[nn.Parameter], ...]:
        return tuple(list(part.parameters()) for part in (self.base, self.fresh, self.frozen))


def fitted_state(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a network whose heads have room for injection or not, for one that differs.

    A plain head becomes the base of one with room, whose other two parts stay as they are; of a
    head with room the sum becomes a plain head.

    Args:
        network: What they are for.
        state: `state_dict` of the other network; not changed.
    """
    found = dict(state)
    for path, module in network.named_modules():
        has_room = f"{path}.base.weight" in found
        for name in ("weight", "bias"):
            if isinstance(module, InjectedHead) and not has_room and f"{path}.{name}" in found:
                found[f"{path}.base.{name}"] = found.pop(f"{path}.{name}")
                for part in ("fresh", "frozen"):
                    own = getattr(getattr(module, part), name)
                    found[f"{path}.{part}.{name}"] = own.detach().clone()
            elif isinstance(module, nn.Linear) and f"{path}.base.{name}" in found:
                base, fresh, frozen = (
                    found.pop(f"{path}.{part}.{name}") for part in ("base", "fresh", "frozen")
                )
                found[f"{path}.{name}"] = base + (fresh - frozen)
    return found


def make_room(network: Network) -> None:
    """Replace all heads of a network by heads with room for injection."""
    heads = {id(head) for head in network.heads()}
    for name, child in list(network.named_children()):
        if id(child) in heads:
            assert isinstance(child, nn.Linear)
            setattr(network, name, InjectedHead(child))
