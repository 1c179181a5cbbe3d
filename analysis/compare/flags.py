"""What the methods of a run are allowed to do, asked from the methods themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from configs.run import METHODS
from configs.schema import load
from networks.heads import GaussianPolicy
from networks.initializers import Initializer
from networks.mlp import Config, build
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.method import Method, Target

_STRENGTH = ("no", "entries", "all")


def method_flags(config: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the methods use announced task boundaries, and how they touch the optimizer.

    Args:
        config: Settings of one run.

    Returns:
        Use of boundaries, and the strongest of `no`, `entries` and `all`.

    Raises:
        ValueError: A method is unknown or its settings are.
    """
    uses, resets = False, "no"
    for settings in (config.get("method") or {}).values():
        method = _small(settings)
        uses = uses or bool(method.uses_task_boundary)
        resets = max(resets, method.resets_optimizer, key=_STRENGTH.index)
    return uses, resets


def _small(settings: Mapping[str, Any]) -> Method | type[Method]:
    """The method on a tiny network, since settings decide what it does.

    Deviation: a method that refuses so small a network answers for its class.
    """
    module = METHODS.get(str(settings.get("kind")))
    config = load(module.Config, settings, f"method.{settings.get('kind')}")
    streams = Streams(0, "table/")
    torso = build(Config(hidden_sizes=[4, 4]), 3, ContextSpec(), streams)
    network = GaussianPolicy(torso, 2, Initializer("lecun_uniform"), streams)
    target = Target("policy", network, network.unit_groups(), torch.Generator())
    try:
        return module.build(config, target)
    except ValueError:
        (found,) = [
            kind
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, Method)
            if kind.__module__ == module.__name__
        ][-1:]
        return found
