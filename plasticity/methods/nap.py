"""Normalize-and-Project: LayerNorm everywhere, and hidden matrices of constant size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks.heads import Network
from networks.units import Touched, UnitGroup
from plasticity.method import Method, Target
from plasticity.parameters import learning_rates, matrices
from plasticity.settings import ACTORS, acts_on, check_networks, check_number

# f(c z) = c f(z) for c > 0: a common scale of gain and offset then changes nothing that the next
# normalisation does not undo.
HOMOGENEOUS = ("relu", "leaky_relu", "identity", "crelu", "k_winners")
RELATIVE_NORM_DECAY = 1e-2


@dataclass(frozen=True)
class Config:
    """Settings of Normalize-and-Project.

    Attributes:
        kind: Name of this file.
        period: Gradient steps between projections, >= 1; 0 switches the method off without a
            trace.
        project_heads: Project the output layers too.
        project_norms: Keep gains and offsets of the normalisations near their size, too.
        networks: `all`, `actors`, or a list of networks.

    Raises:
        ValueError: A value is out of range.
    """

    kind: str = "nap"
    period: int = 1
    project_heads: bool = False
    project_norms: bool = True
    networks: str | list[str] = "all"

    def __post_init__(self) -> None:
        check_number(f"method.{self.kind}.period", self.period, 0)
        object.__setattr__(self, "networks", check_networks(self.kind, self.networks))


def prepare(config: Config, network: Network) -> None:
    """Freeze biases in front of normalisations, before other methods list what is trained.

    A method that stands before this one in the configuration would otherwise remember, or
    differentiate by, biases that no optimizer trains. Copies made later start without them, too.
    """
    if config.period:
        _freeze_biases(network.unit_groups())


def _freeze_biases(groups: Sequence[UnitGroup]) -> list[Tensor]:
    """Set the biases in front of normalisations to 0 for good; returns them."""
    linears = [
        group.layer.linear  # type: ignore[attr-defined]
        for group in groups
        if getattr(group.layer, "norm", None) is not None and hasattr(group.layer, "linear")
    ]
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return [bias.requires_grad_(False).zero_() for bias in biases]


class NaP(Method):
    """W <- W ||W_0||_F / ||W||_F, in networks that normalise before every nonlinearity.

    Gain g and offset b of a normalisation before a positively homogeneous activation are
    projected together, (g, b) <- (g, b) sqrt(H) / ||(g, b)||; before any other, and where a
    context adds to what they give (`film`, `gate_mode=bias`), they decay to (1, 0) at a hundredth
    of the learning rate. Biases in front of a normalisation are 0 and
    frozen: scale invariance needs that. The effective learning rate of the matrices stays
    constant, so a schedule of it becomes a real setting.

    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement
    learning", arXiv 2407.01800, section 4.
    Deviation: decay rate of gain and offset before other activations.

    Raises:
        ValueError: A hidden layer has no LayerNorm.
    """

    touches = frozenset({"weight", "bias", "norm_gain", "norm_offset"})
    renews_entries = False
    changes_weights = True

    def __init__(self, config: Config, target: Target) -> None:
        self.config = config
        self.active = config.period > 0 and acts_on(config.networks, target.name)
        if not self.active:
            return
        self.calls = 0
        self._norms: list[tuple[nn.Module, bool]] = []
        for group in target.unit_groups:
            norm = getattr(group.layer, "norm", None)
            if norm is None or not hasattr(group.layer, "linear"):
                own = " (value_network.layer_norm=true where values have a network of their own)"
                raise ValueError(
                    f"nap needs LayerNorm right before every nonlinearity, but {group.name!r} of "
                    f"{target.name!r} has none there; set network.layer_norm=true"
                    f"{'' if target.name in ACTORS else own}, or, where the network has no such "
                    "key, choose one that has (network=mlp)"
                )
            # What a context adds behind the normalisation keeps its size.
            scales = not getattr(group.layer, "gate_adds", False)
            self._norms.append((norm, scales and group.activation in HOMOGENEOUS))
        self._biases = _freeze_biases(target.unit_groups)
        self._weights: list[Tensor] = [
            matrix.weight for matrix in matrices(target.module, heads=config.project_heads)
        ]
        with torch.no_grad():
            self._initial_norms = torch.stack(torch._foreach_norm(self._weights))

    @torch.no_grad()
    def notice_start(self, touched: Sequence[Touched]) -> None:
        """Loaded weights are to keep the size that they have now; biases go with the first step."""
        self._initial_norms = torch.stack(torch._foreach_norm(self._weights))

    @torch.no_grad()
    def notice_edits(self, touched: Sequence[Touched], renewed: bool) -> None:
        """Who draws a layer anew fills its frozen bias, too: empty it before targets copy it."""
        self._empty_biases()

    def _empty_biases(self) -> None:
        if self._biases:
            torch._foreach_zero_(self._biases)

    @torch.no_grad()
    def after_step(
        self, activations: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Project every `period` steps."""
        if not self.active:
            return
        self.calls += 1
        if self.calls % self.config.period:
            return
        norms = torch.stack(torch._foreach_norm(self._weights)).clamp_min_(1e-12)
        for weight, factor in zip(self._weights, self._initial_norms / norms, strict=True):
            weight.mul_(factor)
        self._empty_biases()  # also loaded ones, and where nobody tells of edits
        if self.config.project_norms:
            for norm, homogeneous in self._norms:
                self._project_norm(norm, homogeneous, optimizer)

    def _project_norm(
        self, norm: nn.Module, homogeneous: bool, optimizer: torch.optim.Optimizer
    ) -> None:
        gain, offset = norm.weight, norm.bias
        assert isinstance(gain, nn.Parameter)
        assert isinstance(offset, nn.Parameter)
        if homogeneous:
            size = (gain.square().sum() + offset.square().sum()).sqrt().clamp_min(1e-12)
            factor = len(gain) ** 0.5 / size
            gain.mul_(factor)
            offset.mul_(factor)
            return
        rate = RELATIVE_NORM_DECAY * learning_rates(optimizer, [gain])[0] * self.config.period
        gain.lerp_(torch.ones_like(gain), rate)
        offset.mul_(1.0 - rate)

    def state_dict(self) -> dict[str, Any]:
        """Counter and sizes to project to, cloned; {} when switched off."""
        if not self.active:
            return {}
        return {"calls": self.calls, "initial_norms": self._initial_norms.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The sizes are of other matrices.
        """
        if not self.active:
            return
        norms = state["initial_norms"]
        if norms.shape != self._initial_norms.shape:
            raise ValueError(
                f"nap has saved the sizes of {len(norms)} matrices and projects "
                f"{len(self._initial_norms)}: method.nap.project_heads differs"
            )
        self.calls = int(state["calls"])
        self._initial_norms.copy_(norms)


@torch.no_grad()
def build(config: Config, target: Target) -> NaP:
    """Attach Normalize-and-Project to one network."""
    return NaP(config, target)
