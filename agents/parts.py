"""What every agent is assembled from: torsos, optimizers, methods and their random streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from agents.at_switch import SwitchRule
from agents.update import Update
from networks.heads import Network
from networks.initializers import Initializer
from networks.registry import Registry, said_of_values
from networks.streams import Streams
from networks.torso import ContextSpec, Torso
from plasticity.combinations import check_combination
from plasticity.method import InputSource, Method, Target
from plasticity.optimizer_state import rehearse_policy
from plasticity.settings import acts_on

NETWORKS = Registry("networks", "network")
OPTIMIZERS = Registry("plasticity.optimizers", "optimizer")
METHODS = Registry("plasticity.methods", "method")


@dataclass(frozen=True)
class Parts:
    """Typed configurations and run facts that agents build themselves from.

    Attributes:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        num_envs: Environments stepped together.
        context: Shape of the context, dim 0 when there is none.
        network: `Config` of a file in `networks/`: of the policy, and of all where
            `value_network` is None.
        value_network: The same for value functions.
        optimizer: `Config` of a file in `plasticity/optimizers/`.
        methods: Method id -> `Config` of a file in `plasticity/methods/`, in hook order.
        seed: Seed of all agent streams.
        total_steps: Planned environment steps.
        num_threads: 1 or 2 learner threads; the results are the same.
        max_episode_steps: Steps after which episodes are cut, 0 where it is not known.
        life: How often everything has begun anew; every life has random streams of its own.
        num_tasks: Tasks that are stepped side by side, each by equally many environments; 1 where
            all environments have the same task, or a regime that no task names.
        action_low: What the world clamps actions to, (action_dim,); None for -1.
        action_high: Upper end of the same interval; None for 1.
        of_policy: Whether `network` is that group itself, for messages; see `of_values`.
        answers: In supervised problems, what the right action is: `numbers` or `classes`.
    """

    observation_dim: int
    action_dim: int
    num_envs: int
    network: Any
    optimizer: Any
    methods: Mapping[str, Any] = field(default_factory=dict)
    context: ContextSpec = field(default_factory=ContextSpec)
    seed: int = 0
    total_steps: int = 0
    num_threads: int = 1
    max_episode_steps: int = 0
    life: int = 0
    num_tasks: int = 1
    answers: str = ""
    value_network: Any = None
    action_low: Sequence[float] | None = None
    action_high: Sequence[float] | None = None
    of_policy: bool = True

    @property
    def of_values(self) -> Parts:
        """The parts that value functions are built from."""
        if self.value_network is None:
            return self
        return replace(self, network=self.value_network, value_network=None, of_policy=False)

    @property
    def streams(self) -> Streams:
        """Named random streams of the agent."""
        streams = Streams(self.seed, "agent/")
        return streams.child(f"life_{self.life}") if self.life else streams

    def torso(self, name: str, input_dim: int, num_outputs: int = 0) -> Torso:
        """Build the torso of one network from its own streams.

        Args:
            name: Name of the network within the agent.
            input_dim: Inputs without the context.
            num_outputs: Outputs of all heads together, for networks whose width depends on them.

        Raises:
            ValueError: The network does not go with its inputs or contexts, or with itself, or it
                would drop what the world says of itself.
        """
        network = self.network
        if hasattr(network, "num_outputs"):
            network = replace(network, num_outputs=num_outputs)
        module = NETWORKS.get(network.kind)
        try:
            torso = module.build(network, input_dim, self.context, self.streams.child(name))
        except ValueError as error:
            if self.of_policy:
                raise
            raise ValueError(said_of_values(str(error))) from error
        if torso.context != self.context:
            raise ValueError(
                f"network.kind={network.kind} does not take the context of {self.context.width} "
                "numbers that this run shows to networks; choose another network, or context=none; "
                "a network of your own says self.context = context and reads it in forward"
            )
        return torso

    @property
    def head_initializer(self) -> Initializer:
        """Law of the heads, named by the network configuration."""
        return Initializer(self.network.head_initializer)

    def head_law(self, bound: float | None) -> Initializer:
        """Law of an agent's own heads, uniform up to a bound, or `head_initializer` for None."""
        return self.head_initializer if bound is None else Initializer("uniform", bound)

    def switch_rule(self, config: Any, critics: Collection[str]) -> SwitchRule:
        """What an agent begins anew at announced switches.

        Args:
            config: Of the agent, with `optimizer_on_switch` and `critic_on_switch`.
            critics: Names of its critics.
        """
        return SwitchRule(
            config.optimizer_on_switch, config.critic_on_switch, tuple(critics), self.streams
        )

    def prepare(self, networks: Mapping[str, Network]) -> None:
        """Let methods add parameters to new networks, before these are copied or trained.

        Args:
            networks: All trained networks of the agent, by name.
        """
        for config in self.methods.values():
            prepare = getattr(METHODS.get(config.kind), "prepare", None)
            for name, network in networks.items():
                if prepare is not None and acts_on(getattr(config, "networks", "all"), name):
                    prepare(config, network)

    def update(
        self,
        name: str,
        network: Network,
        gradient_steps_per_env_step: float,
        max_grad_norm: float | None = None,
        inputs: InputSource | None = None,
    ) -> Update:
        """Build optimizer and methods of one network.

        Args:
            name: Name of the network within the agent.
            network: The network, after `prepare`.
            gradient_steps_per_env_step: Ratio of the two clocks.
            max_grad_norm: Clip the gradient norm to this, or None.
            inputs: Stored inputs of the network.

        Raises:
            ValueError: A method cannot work on this network, in a run of this length, beside
                another one, or with this optimizer.
        """
        planned = int(self.total_steps * gradient_steps_per_env_step)
        methods: dict[str, Method] = {}
        device = next(network.parameters()).device
        streams = [self.streams.torch(f"optimizer/{name}", device)]
        for identifier, config in self.methods.items():
            if not acts_on(getattr(config, "networks", "all"), name):
                continue
            streams.append(self.streams.torch(f"method/{identifier}/{name}"))
            target = Target(
                name,
                network,
                network.unit_groups(),
                streams[-1],
                planned or None,
                gradient_steps_per_env_step,
                inputs,
                network.torso.context.of_gates.dim
                if network.torso.context.of_gates.discrete
                else 0,
            )
            methods[identifier] = METHODS.get(config.kind).build(config, target)
        check_combination(name, methods, self.optimizer)
        policies = {
            getattr(self.methods[identifier], "optimizer_state", "keep")
            for identifier, method in methods.items()
            if method.active
        }
        optimizer = self._optimizer(network, policies, streams[0])
        return Update(name, network, optimizer, methods, max_grad_norm, streams)

    def _optimizer(
        self, network: nn.Module, policies: Collection[str], generator: torch.Generator
    ) -> torch.optim.Optimizer:
        """Build the optimizer of one network, which can do what its methods ask of it."""
        per_unit = "per_unit_step" in policies
        build = OPTIMIZERS.get(self.optimizer.kind).build
        optimizer = build(self.optimizer, network, per_unit_step=per_unit, generator=generator)
        for policy in sorted(policies):
            rehearse_policy(
                policy,
                lambda layer: build(
                    self.optimizer, layer, per_unit_step=per_unit, generator=torch.Generator()
                ),
            )
        return optimizer
