"""UPGD: gradient descent that protects useful weights and perturbs the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks.units import parameter_roles
from plasticity.optimizers.per_unit_adam import PerUnitAdam
from plasticity.parameters import masks_of, trainable_parameters
from plasticity.settings import check_number

BASES = ("adam", "gradient")
GATED_ROLES = ("weight", "bias")
SMALLEST_MAXIMUM = 1e-12


@dataclass(frozen=True)
class Config:
    """Settings of UPGD.

    Attributes:
        kind: Name of this file.
        learning_rate: Step size, > 0.
        lr_factor: Further factor of the steps but not of the decay, > 0; the public code has 2.
        base: `adam` gates the steps of Adam, `gradient` the plain gradient.
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        epsilon: Added to the denominator, >= 0.
        utility_decay: Decay of the running utility of every weight, in [0, 1).
        noise_std: Standard deviation of the perturbation, in units of the learning rate, >= 0.
        weight_decay: Decoupled decay, >= 0.

    Raises:
        ValueError: A value is out of range.

    Source: Elsayed and Mahmood 2024, "Addressing loss of plasticity and catastrophic forgetting
    in continual learning", first-order global utility.
    Deviation: the maximum of the utilities is corrected for its start at 0 like the utilities
    themselves (the public Adam variant corrects these only, which saturates its gates), and is at
    least 1e-12, because a negative one would protect the useless. Weights and biases are gated,
    perturbed and decayed; all other parameters get the plain step.
    """

    kind: str = "upgd"
    learning_rate: float = 1e-4
    lr_factor: float = 1.0
    base: str = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    utility_decay: float = 0.999
    noise_std: float = 1e-3
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("learning_rate", "lr_factor"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0, open_low=True)
        if self.base not in BASES:
            raise ValueError(f"optimizer.base is {self.base!r}; choose one of {', '.join(BASES)}")
        for name in ("beta1", "beta2", "utility_decay"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0, 1.0, open_high=True)
        for name in ("epsilon", "noise_std", "weight_decay"):
            check_number(f"optimizer.{name}", getattr(self, name), 0.0)


class Upgd(PerUnitAdam):
    """Utility-gated gradient descent.

    With u the running average of -g theta, uhat = u / (1 - b^t), d the step direction of the base
    and xi noise, for gated parameters (theta weight_decay decays first):
    theta <- theta - lr (d + xi) (1 - sigmoid(uhat / max uhat)), the maximum over all of them.

    Args:
        groups: Parameter groups with a flag `gated`.
        config: Settings.
        generator: Source of the noise.
        masks: Gated parameter -> which of its entries exist, where a fixed mask leaves some out;
            these are not perturbed.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        config: Config,
        generator: torch.Generator | None,
        masks: Mapping[Tensor, Tensor] | None = None,
    ) -> None:
        betas = (config.beta1, config.beta2)
        super().__init__(groups, config.learning_rate, betas, config.epsilon)
        self._config, self._generator = config, generator
        self._masks = dict(masks or {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step on every parameter that has a gradient; closures are not supported."""
        assert closure is None
        gated: list[tuple[Tensor, dict[str, Any]]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["gated"]:
                    gated.append((parameter, group))
                else:
                    self._plain_step(parameter, group)
        if gated:
            self._gated_step(gated)

    def gates(self, parameter: Tensor) -> Tensor:
        """Share of the step that every entry got last, 1 - sigmoid(uhat / max uhat).

        Args:
            parameter: A gated parameter that has been stepped.
        """
        all_utilities = [self._corrected(p) for p in self.state if "utility" in self.state[p]]
        return _gate(self._corrected(parameter), _largest(all_utilities))

    def zero_entries(self, parameter: Tensor, dim: int, indices: Tensor) -> None:
        """Forget moments and utility of some rows (dim 0) or columns (dim 1)."""
        for name in ("exp_avg", "exp_avg_sq", "utility"):
            if name in self.state[parameter]:
                self.state[parameter][name].index_fill_(dim, indices, 0.0)

    def shared_state(self) -> dict[str, Tensor]:
        """Position of the noise stream."""
        return {} if self._generator is None else {"noise": self._generator.get_state()}

    def load_shared_state(self, state: Mapping[str, Any]) -> None:
        """Restore the position of the noise stream."""
        if self._generator is None or "noise" not in state:
            return
        # A position saved on another kind of device means nothing here.
        if state["noise"].shape == self._generator.get_state().shape:
            self._generator.set_state(state["noise"].cpu())

    def _base_step(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Direction of the base optimizer, a new tensor or the gradient itself."""
        assert parameter.grad is not None
        if self._config.base == "gradient":
            self._state_of(parameter)["step"] += 1
            return parameter.grad
        numerator, denominator, correction = self._direction(parameter, parameter.grad, group)
        return numerator / denominator.mul_(correction)

    def _plain_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        parameter.sub_(self._base_step(parameter, group), alpha=self._rate(group))

    def _gated_step(self, gated: list[tuple[Tensor, dict[str, Any]]]) -> None:
        config = self._config
        directions = [self._base_step(parameter, group) for parameter, group in gated]
        utilities = [self._utility(parameter) for parameter, _ in gated]
        largest = _largest(utilities)
        for (parameter, group), direction, utility in zip(
            gated, directions, utilities, strict=True
        ):
            if config.weight_decay:
                parameter.mul_(1.0 - group["lr"] * config.weight_decay)
            if config.noise_std:
                direction = direction + config.noise_std * self._noise(parameter)
            parameter.addcmul_(direction, _gate(utility, largest), value=-self._rate(group))

    def _rate(self, group: dict[str, Any]) -> float:
        return self._config.lr_factor * group["lr"]

    def _utility(self, parameter: Tensor) -> Tensor:
        """Fold -g theta into the running utility; returns the corrected one."""
        assert parameter.grad is not None
        state = self._state_of(parameter)
        if "utility" not in state:
            state["utility"] = torch.zeros_like(parameter)
        decay = self._config.utility_decay
        state["utility"].mul_(decay).addcmul_(parameter.grad, parameter, value=-(1.0 - decay))
        return self._corrected(parameter)

    def _corrected(self, parameter: Tensor) -> Tensor:
        state, decay = self.state[parameter], self._config.utility_decay
        if not state["any_restart"]:
            return state["utility"] / (1.0 - decay ** state["step"])
        correction = 1.0 - decay ** self.steps(parameter).double()
        # Entries that have just restarted have a utility of 0 and a correction of 0.
        return state["utility"] / correction.clamp_min(SMALLEST_MAXIMUM).to(state["utility"].dtype)

    def _noise(self, parameter: Tensor) -> Tensor:
        assert self._generator is not None
        noise = torch.randn(
            parameter.shape,
            generator=self._generator,
            device=self._generator.device,
            dtype=parameter.dtype,
        )
        noise, mask = noise.to(parameter.device), self._masks.get(parameter)
        return noise if mask is None else noise * mask


def _largest(utilities: list[Tensor]) -> Tensor:
    return torch.stack([utility.max() for utility in utilities]).max().clamp_min(SMALLEST_MAXIMUM)


def _gate(utility: Tensor, largest: Tensor) -> Tensor:
    return torch.sigmoid(-utility / largest)  # 1 - sigmoid(x) = sigmoid(-x)


def build(
    config: Config,
    module: nn.Module,
    per_unit_step: bool = False,
    generator: torch.Generator | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network; see `adam.build`.

    Step counters can always restart for single units, whatever `per_unit_step` says.

    Args:
        config: Settings.
        module: The network.
        per_unit_step: Not used.
        generator: Source of the noise; needed unless `noise_std` is 0.

    Raises:
        ValueError: The network has no trainable parameter, or noise has no source.
    """
    if config.noise_std and generator is None:
        raise ValueError(
            f"optimizer.noise_std is {config.noise_std}, but no random generator was given to "
            "build(); pass one, or set noise_std=0"
        )
    roles = parameter_roles(module)
    trainable = trainable_parameters(module)
    groups = [
        {
            "params": [p for name, p in trainable.items() if (roles[name] in GATED_ROLES) == gated],
            "gated": gated,
        }
        for gated in (True, False)
    ]
    masks: dict[Tensor, Tensor] = {
        trainable[name]: mask for name, mask in masks_of(module).items() if name in trainable
    }
    return Upgd([group for group in groups if group["params"]], config, generator, masks)
