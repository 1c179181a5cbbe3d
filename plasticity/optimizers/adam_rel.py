"""Adam-Rel: Adam whose step counter restarts whenever the objective changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from plasticity.optimizers import adam
from plasticity.optimizers.direct_adam import DirectAdam
from plasticity.optimizers.per_unit_adam import PerUnitAdam


@dataclass(frozen=True)
class Config(adam.Config):
    """Settings of Adam-Rel: those of Adam.

    The moments are kept, so that the first step after a change is
    sqrt(1 - beta2) / (1 - beta1) times as large as before: 0.316 for (0.9, 0.999). Tune the
    learning rate for it; over the 160 steps of a PPO rollout the mean factor is 0.27.

    Raises:
        ValueError: A value is out of range, or that factor would exceed 1.

    Source: Ellis et al. 2024, "Adam on local time: addressing nonstationarity in RL with
    relative Adam timesteps".
    """

    kind: str = "adam_rel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment_optimizer != "same":
            raise ValueError(
                f"optimizer.segment_optimizer is {self.segment_optimizer!r}, which adam_rel does "
                "not have: it restarts all step counters together; use kind=adam or same"
            )
        factor = math.sqrt(1.0 - self.beta2) / (1.0 - self.beta1)
        if factor > 1.0 + 1e-6:
            raise ValueError(
                f"optimizer.kind=adam_rel with beta1={self.beta1} and beta2={self.beta2} would "
                f"multiply the first step on every new objective by {factor:.1f}; give betas with "
                "sqrt(1 - beta2) <= 1 - beta1, such as 0.9 and 0.999, or use kind=adam"
            )


class AdamRel(DirectAdam):
    """Adam that listens to `new_objective`; without the event it is `DirectAdam`, bit for bit."""

    def new_objective(self) -> None:
        """Restart all step counters and keep the moments."""
        for state in self.state.values():
            state["step"].zero_()


class PerUnitAdamRel(PerUnitAdam):
    """The same with step counters that can also restart for single units."""

    def new_objective(self) -> None:
        """Restart all step counters and keep the moments."""
        for state in self.state.values():
            state["step"], state["any_restart"] = 0, False
            for counter in ("row_start", "column_start"):
                if counter in state:
                    state[counter].zero_()


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network; see `adam.build`."""
    return adam.construct((AdamRel, PerUnitAdamRel), config, module, per_unit_step)
