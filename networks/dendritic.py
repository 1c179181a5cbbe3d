"""Active dendrites: context-driven segments gate every unit before k-winners selects.

y = (W x + b) * scale * sigmoid(d(context)), then the k largest y of the layer are passed on. The
order matters: the gate changes which units win.

Source: Iyer et al. 2022, "Avoiding catastrophe: active dendrites enable multi-task learning in
dynamic environments", Frontiers in Neurorobotics 16:846219.

Deviation: a single segment per unit is the default for discrete contexts. With one-hot contexts
every segment weight serves one context only, so several segments add initial spread but no
expressive power over a free table of gate logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from networks.dendritic_layer import DendriticLayer
from networks.gated_layer import K_WINNERS, GatedLayer, Laws, LayerPlan
from networks.initializers import Initializer
from networks.masks import fixed_mask
from networks.readouts import Readout
from networks.segments import GATE_MODES
from networks.stack import (
    LayerStack,
    check_activation,
    check_hidden_sizes,
    check_winners,
    require_context,
)
from networks.streams import Streams
from networks.torso import ContextSpec

# Segments per unit for discrete and for continuous contexts.
SEGMENTS = {"auto": (1, 4), "many": (10, 4)}

# Settings that only one of the two ways to begin reads.
_READ_BY = {
    "suite": ("initializer", "init_gain", "head_initializer"),
    "published": ("context_density",),
}

# Settings that only k-winners read, and the values that say nothing wrong of a plain nonlinearity.
_READ_BY_WINNERS = {"active_fraction": (0.25, 1.0), "rectify": (False,), "boost_strength": (0.0,)}


@dataclass(frozen=True)
class Config:
    """Settings of the dendritic perceptron.

    Attributes:
        kind: Name of this file.
        hidden_sizes: Units of each hidden layer, each >= 1.
        dendritic_layers: Layers with segments, counted from 0; -1 is the last.
        num_segments: Segments per unit, >= 1; `auto` is 1 for discrete and 4 for continuous
            contexts, `many` 10 and 4, as comparisons use them.
        gate_mode: How segments act: `absmax`, `max`, `absmax_unsigned`, `bias`, or `none`
            (k-winners only; no segments, no context needed).
        gate_scale: Factor on the gate, > 0. With 1 a context of 0 halves every unit; with 2 it
            changes nothing. Refused with `bias`, which has no factor.
        segment_context: `given` shows segments the context; `zero` shows them zeros while the
            input still gets the context (a control arm).
        activation: `k_winners`, or a plain nonlinearity, with which the settings of winners that
            follow are refused.
        active_fraction: Share of winning units, in (0, 1].
        rectify: ReLU after the selection of winners.
        boost_strength: Bonus of rarely winning units in the selection, >= 0.
        layer_norm: LayerNorm on every pre-activation, before the gate.
        weight_density: Share of weights each unit keeps, in (0, 1]; one number or one per layer.
        segment_density: Share of weights each segment keeps, in (0, 1].
        head_density: Share of weights each output of a head keeps, in (0, 1].
        init: `suite` uses the common initialisers, identical in every arm of a comparison;
            `published` widens the laws for silent inputs and missing weights. What only the other
            one reads is refused; an agent's own bound of its heads wins over both.
        initializer: Law of hidden weights (suite).
        init_gain: Factor on the hidden weights that read k-winners (suite).
        head_initializer: Law of the heads (suite).
        context_density: Expected share of non-zero context entries (published).
        context_to_input: Concatenate the context to the input too.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "dendritic"
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    dendritic_layers: list[int] = field(default_factory=lambda: [-1])
    num_segments: int | Literal["auto", "many"] = "auto"
    gate_mode: str = "absmax"
    gate_scale: float = 1.0
    segment_context: str = "given"
    activation: str = K_WINNERS
    active_fraction: float = 0.25
    rectify: bool = False
    boost_strength: float = 0.0
    layer_norm: bool = False
    weight_density: float | list[float] = 1.0
    segment_density: float = 1.0
    head_density: float = 1.0
    init: str = "suite"
    initializer: str = "lecun_uniform"
    init_gain: float = 1.0
    head_initializer: str = "lecun_uniform"
    context_density: float = 1.0
    context_to_input: bool = False

    def __post_init__(self) -> None:
        check_hidden_sizes(self.hidden_sizes)
        check_activation(self.activation)
        if self.activation == K_WINNERS:
            check_winners(self.hidden_sizes, self.active_fraction, self.boost_strength)
        if isinstance(self.num_segments, int) and self.num_segments < 1:
            raise ValueError(
                f"network.num_segments is {self.num_segments}; give at least 1, auto or many. For "
                "a network without segments set gate_mode=none"
            )
        for name, allowed in (
            ("gate_mode", GATE_MODES),
            ("segment_context", ("given", "zero")),
            ("init", ("suite", "published")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"network.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )
        for name in ("gate_scale", "init_gain"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"network.{name} is {getattr(self, name)}; give a value above 0")
        self._check_densities()
        self.gated_layers()
        Initializer(self.initializer)
        Initializer(self.head_initializer)

    def _check_densities(self) -> None:
        for name in ("segment_density", "head_density", "context_density"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"network.{name} is {getattr(self, name)}; give a share in (0, 1]")
        if not all(0.0 < density <= 1.0 for density in self.densities()):
            raise ValueError(
                f"network.weight_density is {self.weight_density}; give shares in (0, 1]"
            )

    def refuse_idle_laws(self) -> None:
        """Refuse laws that the chosen `init` does not read.

        Where the network is built, not with the other checks: presets may disagree before the
        command line has brought them together.

        Raises:
            ValueError: One is not at its default.
        """
        defaults = {item.name: item.default for item in fields(self)}
        other = "suite" if self.init == "published" else "published"
        idle = [name for name in _READ_BY[other] if getattr(self, name) != defaults[name]]
        if idle:
            given = " and ".join(f"network.{name}={getattr(self, name)}" for name in idle)
            back = " ".join(f"network.{name}={defaults[name]}" for name in idle)
            raise ValueError(
                f"{given} would do nothing with network.init={self.init}, which has laws of its "
                f"own; set {back}, or network.init={other}"
            )

    def refuse_idle_gates(self) -> None:
        """Refuse what the chosen `gate_mode` and `activation` do not read; when, see above.

        Raises:
            ValueError: A setting is not at its default and would do nothing.
        """
        # Not with `none`, where nothing of the segments is read: that is what switches them off.
        if self.gate_mode == "bias" and self.gate_scale != 1.0:
            raise ValueError(
                f"network.gate_scale={self.gate_scale} would do nothing with network.gate_mode="
                "bias, whose segments add and do not multiply; set network.gate_scale=1.0, or "
                "choose absmax, max or absmax_unsigned"
            )
        if self.activation == K_WINNERS:
            return
        idle = [name for name, ok in _READ_BY_WINNERS.items() if getattr(self, name) not in ok]
        if idle:
            given = " and ".join(f"network.{name}={getattr(self, name)}" for name in idle)
            back = " ".join(f"network.{name}={_READ_BY_WINNERS[name][-1]}" for name in idle)
            raise ValueError(
                f"{given} would do nothing with network.activation={self.activation}, where no "
                f"units win; set {back}, or network.activation={K_WINNERS}"
            )

    def densities(self) -> list[float]:
        """Weight density of every hidden layer."""
        if not isinstance(self.weight_density, list):
            return [self.weight_density] * len(self.hidden_sizes)
        if len(self.weight_density) != len(self.hidden_sizes):
            raise ValueError(
                f"network.weight_density has {len(self.weight_density)} entries for "
                f"{len(self.hidden_sizes)} hidden layers; give one number, or one per layer"
            )
        return self.weight_density

    def gated_layers(self) -> set[int]:
        """Indices of the layers with segments, counted from 0."""
        num_layers = len(self.hidden_sizes)
        if not self.dendritic_layers or any(
            not -num_layers <= index < num_layers for index in self.dendritic_layers
        ):
            raise ValueError(
                f"network.dendritic_layers is {list(self.dendritic_layers)}; name at least one "
                f"of the {num_layers} hidden layers, 0 to {num_layers - 1} or from the end -1 to "
                f"-{num_layers}"
            )
        return {index % num_layers for index in self.dendritic_layers}


class Dendritic(LayerStack):
    """Stack of hidden layers, some of them dendritic."""

    def __init__(
        self, config: Config, input_dim: int, context: ContextSpec, streams: Streams
    ) -> None:
        has_gate = config.gate_mode != "none"
        if has_gate:
            require_context(config.kind, context)
        super().__init__(context, config.context_to_input, context_to_layers=has_gate)
        self.config, shown = config, context.of_gates

        def layer(index: int, width: int) -> GatedLayer:
            plan = _plan(config, index, width, streams)
            gated = has_gate and index in config.gated_layers()
            return _dendritic_layer(config, plan, shown) if gated else GatedLayer(plan)

        self.chain(input_dim, len(config.hidden_sizes), layer)

    def enter(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Prepare input and context; the control arm hides the context from the segments."""
        x, gate = super().enter(x, context)
        if gate is None or self.config.segment_context == "given":
            return x, gate
        if gate.is_floating_point():
            return x, torch.zeros_like(gate)
        return x, torch.full_like(gate, self.context.of_gates.dim)

    def head(
        self, output_dim: int, initializer: Initializer, streams: Streams, name: str
    ) -> Readout:
        """Build a linear head; published heads have a density and a law of their own.

        A law that is not the configuration's is a bound that the agent was given for its heads
        (`actor_head_bound` and the like), and wins over the published one.
        """
        config, density = self.config, self.config.head_density
        mask = fixed_mask(output_dim, self.output_dim, density, streams.torch(f"{name}.mask"))
        laws = Laws(initializer, initializer)
        if config.init == "published" and initializer == Initializer(config.head_initializer):
            laws = Laws.published(self.output_dim, density, _activity(config))
        head = Readout(self.output_dim, output_dim, mask)
        head.draw(laws.weight, laws.bias, streams.torch(name))
        return head


def _activity(config: Config) -> float:
    """Share of hidden units that published laws count as active."""
    return config.active_fraction if config.activation == K_WINNERS else 1.0


def _plan(config: Config, index: int, width: int, streams: Streams) -> LayerPlan:
    density = config.densities()[index]
    if config.init == "published":
        laws = Laws.published(width, density, _activity(config) if index else 1.0)
    else:
        gain = config.init_gain if index else 1.0
        laws = Laws.suite(config.initializer, gain, config.activation)
    return LayerPlan(
        width,
        config.hidden_sizes[index],
        streams,
        f"layers.{index}",
        laws,
        density=density,
        layer_norm=config.layer_norm,
        activation=config.activation,
        active_fraction=config.active_fraction,
        rectify=config.rectify,
        boost_strength=config.boost_strength,
    )


def _dendritic_layer(config: Config, plan: LayerPlan, context: ContextSpec) -> DendriticLayer:
    num_segments = config.num_segments
    if not isinstance(num_segments, int):
        num_segments = SEGMENTS[num_segments][0 if context.discrete else 1]
    shape = (plan.num_units, num_segments, context.dim)
    mask = fixed_mask(
        shape[0] * shape[1], shape[2], config.segment_density, plan.stream("segment_mask")
    )
    mask = None if mask is None else mask.view(shape)
    effective = context.dim
    if config.init == "published":
        effective *= config.context_density * config.segment_density
    bound = effective**-0.5
    segments = torch.empty(shape).uniform_(-bound, bound, generator=plan.stream("segments"))
    segments = segments if mask is None else segments * mask
    return DendriticLayer(plan, segments, bound, mask, config.gate_mode, config.gate_scale)


def build(config: Config, input_dim: int, context: ContextSpec, streams: Streams) -> Dendritic:
    """Build the torso.

    Raises:
        ValueError: The network gates by a context, and there is none; or settings are given that
            `init`, `gate_mode` or `activation` does not read.
    """
    config.refuse_idle_laws()
    config.refuse_idle_gates()
    return Dendritic(config, input_dim, context, streams)
