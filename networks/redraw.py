"""Draws a whole network anew, every layer from the law that it started with."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from networks.injected import InjectedHead
from networks.units import HiddenLayer, Touched, parameter_roles, reset_norm_units

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
_NOT_DRAWN = ("log_std", "temperature")


@runtime_checkable
class Redrawable(Protocol):
    """A module that fills all its own parameters afresh."""

    def redraw(self, generator: torch.Generator) -> None: ...


@torch.no_grad()
def redraw(network: nn.Module, generator: torch.Generator) -> list[Touched]:
    """Give a network fresh parameters, in place; masks and log standard deviations stay.

    Hidden layers renew all their units, so duty cycles and the like start anew as well.

    Args:
        network: A network, or one layer.
        generator: Source of the draws.

    Returns:
        Whole parameters that were rewritten.

    Raises:
        ValueError: A module cannot say how it was drawn.
    """
    roles, drawn = parameter_roles(network), dict[int, nn.Parameter]()
    for path, module in network.named_modules():
        own = {n: p for n, p in module.named_parameters(recurse=False) if id(p) not in drawn}
        if isinstance(module, HiddenLayer):
            own = dict(module.named_parameters())
            _redraw_hidden(path, module, own, generator)
        elif not own:
            continue
        elif isinstance(module, Redrawable):
            module.redraw(generator)
        elif isinstance(module, _NORMS):
            parameter = next(iter(own.values()))
            reset_norm_units(module, torch.arange(len(parameter), device=parameter.device))
        else:
            full = [f"{path}.{name}" if path else name for name in own]
            if unknown := [name for name in full if roles[name] not in _NOT_DRAWN]:
                raise ValueError(
                    f"nobody knows how {', '.join(unknown)} were drawn; give "
                    f"{type(module).__name__} a method redraw(generator), or make it a HiddenLayer"
                )
            continue
        drawn |= {id(parameter): parameter for parameter in own.values()}
    for module in network.modules():
        if isinstance(module, InjectedHead):  # drawn apart its parts add up to a wider law
            module.freeze_copy()
    return [
        Touched(parameter, 0, torch.arange(len(parameter), device=parameter.device))
        for parameter in drawn.values()
    ]


def _redraw_hidden(
    path: str, layer: HiddenLayer, own: dict[str, nn.Parameter], generator: torch.Generator
) -> None:
    units = torch.arange(layer.num_units, device=next(iter(own.values())).device)
    renewed = {id(entry.parameter) for entry in layer.reset_units(units, generator)}
    if missing := [name for name, parameter in own.items() if id(parameter) not in renewed]:
        raise ValueError(
            f"{type(layer).__name__}.reset_units leaves {', '.join(missing)} of {path!r} as they "
            "are; it must renew everything that makes a unit"
        )
