"""The typed configuration of one run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.schema import ConfigurationError, later, load
from configs.world_lengths import world_lengths
from envs.contexts import given
from networks.registry import Registry, said_of_values

AGENTS = Registry("agents", "agent")
ENVIRONMENTS = Registry("envs", "environment", builder="make")
CONTEXTS = Registry("envs.contexts", "context", builder="provide")
NETWORKS = Registry("networks", "network")
OPTIMIZERS = Registry("plasticity.optimizers", "optimizer")
METHODS = Registry("plasticity.methods", "method")

ANNOUNCED = given.Config()
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


@dataclass(frozen=True)
class LogConfig:
    """When what is written; an iteration is one update phase of the agent.

    Attributes:
        log_every_iterations: Iterations between rows of progress.csv.
        ranks_every_iterations: Iterations between rank measurements of the last hidden layer on
            the on-policy window.
        all_ranks_every_iterations: Iterations between rank measurements of all layers and on the
            probe set.
        diagnostics: Measure units, ranks and weights at all.
        checkpoint_minutes: Minutes between checkpoints.
        checkpoint_steps: Environment steps between further ones that are kept for ever, each at the
            first end of an update after so many; null for none.
        keep_checkpoints: Newest unpinned checkpoints to keep.
        pin_switches: Keep the checkpoints at switches for ever. Streams of many tasks do not.
        tensorboard: Write TensorBoard events.
        figures: Draw the figures at the end of a run.
        plain_seconds: Seconds between progress lines where there is no terminal.
        trainability_steps: Environment steps between probes of how well the networks can still
            learn, each taking seconds; null for none. A divisor of the switch interval probes
            just before every switch.
        unit_histories: Keep a log of every hidden unit beside progress.csv, and draw it.
        extended: Measure also singular values of weights, tangent kernels and cloned units, with
            the ranks of all layers; some tenths of a second each time.
        quick_evaluation_steps: Environment steps between evaluations on a few goals, for the
            learning curve only; the first one comes at step 0. Null for none.
        quick_evaluation_goals: The goals of those.
        final_evaluation: Evaluate on every goal at the end of a run.
        stage_evaluation: In a sequence of tasks, evaluate on every goal at the end of every stage.
        evaluation_rows_per_task: Environments per task in evaluations. It fixes the batch of the
            policy, so results may depend on it in their last bits, and from there grow apart.
    """

    log_every_iterations: int = 5
    ranks_every_iterations: int = 5
    all_ranks_every_iterations: int = 25
    diagnostics: bool = True
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int | None = later(None)
    keep_checkpoints: int = 3
    pin_switches: bool = later(True)
    tensorboard: bool = True
    figures: bool = True
    plain_seconds: float = 30.0
    trainability_steps: int | None = later(None)
    unit_histories: bool = later(False)
    extended: bool = later(False)
    quick_evaluation_steps: int | None = later(None)
    quick_evaluation_goals: tuple[int, ...] = later((0, 10, 20, 30, 40))
    final_evaluation: bool = later(False)
    stage_evaluation: bool = later(False)
    evaluation_rows_per_task: int = later(1)

    def __post_init__(self) -> None:
        goals = self.quick_evaluation_goals
        if not goals or min(goals) < 0 or len(set(goals)) != len(goals):
            raise ValueError(
                f"log.quick_evaluation_goals is {list(goals)}; name at least one goal, each once, "
                "as numbers from 0"
            )
        for name, value in vars(self).items():
            if name == "checkpoint_minutes":
                if value < 0:
                    raise ValueError(f"log.{name} is {value}; give 0 or more")
            elif isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"log.{name} is {value}; give a value above 0")
        if self.ranks_every_iterations % self.log_every_iterations:
            raise ValueError(
                f"log.ranks_every_iterations={self.ranks_every_iterations} must be a multiple of "
                f"log.log_every_iterations={self.log_every_iterations}: ranks are written in rows"
            )
        if self.all_ranks_every_iterations % self.ranks_every_iterations:
            raise ValueError(
                f"log.all_ranks_every_iterations={self.all_ranks_every_iterations} must be a "
                f"multiple of log.ranks_every_iterations={self.ranks_every_iterations}"
            )


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines one run.

    Attributes:
        agent: `Config` of a file in `agents/`.
        env: `Config` of a file in `envs/`.
        network: `Config` of a file in `networks/`.
        optimizer: `Config` of a file in `plasticity/optimizers/`.
        method: Method id -> `Config`, in hook order.
        context: `Config` of a file in `envs/contexts/`: what is told about the world.
        value_network: `Config` of a file in `networks/` for the value functions (PPO's value
            network, SAC's critics); None gives them the same as the policy.
        log: When what is written.
        seed: Agent seed; worlds have their own seed in `env`.
        total_steps: Environment steps of the run.
        group: First folder of the run directory, usually the experiment.
        runs_root: Folder of all runs.
        run_dir: Explicit run directory instead of the one derived from the settings.
        num_threads: Threads for simulation and learning; `auto` uses up to 2 cores for a single
            run and 1 in a sweep. The results do not depend on it.
        boundary: `oracle` announces world changes to methods that need it; `none` never does.
        fresh_at_switch: Begin anew with everything at every world change: the fresh-network
            oracle. Needs boundary=oracle, and contexts that are given: what others have learnt
            would not begin anew.
        init_from: Checkpoint to start from, with `fresh_parts` new. Contexts that are learnt go on
            from there.
        fresh_parts: Organs that stay newly built.
        fresh: Move an existing run directory aside and start anew.
        accept_change: Continue a run directory although settings changed.
        progress: Show progress while running.
    """

    agent: Any
    env: Any
    network: Any
    optimizer: Any
    method: dict[str, Any] = field(default_factory=dict)
    context: Any = later(ANNOUNCED)  # noqa: RUF009 (makes a field)
    value_network: Any = later(None)  # noqa: RUF009
    log: LogConfig = field(default_factory=LogConfig)
    seed: int = 0
    total_steps: int = 20_000_000
    group: str = "default"
    runs_root: str = "runs"
    run_dir: str | None = None
    num_threads: int | Literal["auto"] = "auto"
    boundary: Literal["none", "oracle"] = "none"
    fresh_at_switch: bool = later(False)
    init_from: str | None = None
    fresh_parts: list[str] = field(default_factory=list)
    fresh: bool = False
    accept_change: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"total_steps is {self.total_steps}; give at least 1")
        if not _NAME.match(self.group):
            shown = repr(self.group[:120])
            raise ValueError(
                f"group is {shown}; use 1 to 100 letters, digits, '.', '_' and '-', and begin with "
                "a letter or digit"
            )
        if self.num_threads != "auto" and not 1 <= self.num_threads <= 64:
            raise ValueError(f"num_threads is {self.num_threads}; give auto or 1 to 64")
        if self.fresh_parts and self.init_from is None:
            raise ValueError("fresh_parts needs init_from: name the checkpoint to start from")


# Settings that say how to run, not what: they are no part of a run's identity, because no
# deterministic file of the run depends on them.
EXECUTION_KEYS = frozenset(
    {
        "runs_root",
        "run_dir",
        "num_threads",
        "fresh",
        "accept_change",
        "progress",
        "log.checkpoint_minutes",
        "log.checkpoint_steps",
        "log.keep_checkpoints",
        "log.pin_switches",
        "log.figures",
        "log.plain_seconds",
        "log.tensorboard",
        "env.reset_cache",
        "env.num_workers",
    }
)


def load_run(values: Mapping[str, Any]) -> RunConfig:
    """Type-check a composed configuration.

    Args:
        values: Plain nested values; groups carry a `kind` that names a file.

    Raises:
        ConfigurationError: Anything unknown, ill-typed or out of range.
    """
    typed = dict(values)
    _check_seed(values.get("seed", 0))
    for key, registry in (
        ("agent", AGENTS),
        ("env", ENVIRONMENTS),
        ("network", NETWORKS),
        ("optimizer", OPTIMIZERS),
    ):
        typed[key] = _member(registry, values.get(key), key)
    if "context" in values:
        typed["context"] = _member(CONTEXTS, values["context"], "context")
    if values.get("value_network") is not None:
        typed["value_network"] = _value_network(values["value_network"])
    methods = values.get("method") or {}
    if not isinstance(methods, Mapping):
        raise ConfigurationError(f"method is {methods!r}; give method=<id> or method=[<id>,<id>]")
    for name, settings in methods.items():
        if not isinstance(settings, Mapping) or "kind" not in settings:
            raise ConfigurationError(
                f"method.{name} has settings but {name} is not chosen; add it to the list, as in "
                f"method=[{name}], or remove the settings"
            )
    typed["method"] = {
        name: _member(METHODS, config, f"method.{name}") for name, config in methods.items()
    }
    config = load(RunConfig, typed)
    _check_together(config)
    return config


def _check_seed(seed: Any) -> None:
    """Refuse a wrong seed by its own name, before the environment refuses the one it copies."""
    if isinstance(seed, list):
        raise ConfigurationError(
            f"seed is {seed}, but a run has one; sweep: -m seed={','.join(map(str, seed))}"
        )
    is_number = isinstance(seed, int | float) and not isinstance(seed, bool)
    if not (is_number and float(seed).is_integer()):
        raise ConfigurationError(f"seed is {seed!r}; it must be a whole number")
    if seed < 0:
        raise ConfigurationError(f"seed is {seed}; give 0 or more")


def _member(registry: Registry, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        raise ConfigurationError(
            f"{path} is {values!r}; choose a preset, for example {path}={registry.names()[0]}"
        )
    try:
        module = registry.get(values["kind"])
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return load(module.Config, values, path)


def _value_network(values: Any) -> Any:
    """Settings of networks call themselves `network`; here they are those of another group."""
    try:
        return _member(NETWORKS, values, "value_network")
    except ConfigurationError as error:
        raise ConfigurationError(said_of_values(str(error))) from error


def can_visit_goals(env_kind: str) -> bool:
    """Whether environments of this kind have tasks with goals that an evaluation can visit."""
    return hasattr(ENVIRONMENTS.get(env_kind), "make_evaluation")


def can_be_measured(config: RunConfig) -> bool:
    """Whether `evaluate.py run` knows what to do with such runs."""
    if hasattr(config.env, "fixed_friction"):
        return getattr(config.context, "source", None) != "regime"
    return can_visit_goals(config.env.kind)


def _check_evaluations(config: RunConfig) -> None:
    log = config.log
    chosen = ["log.quick_evaluation_steps"] if log.quick_evaluation_steps is not None else []
    chosen += ["log.final_evaluation"] if log.final_evaluation else []
    chosen += ["log.stage_evaluation"] if log.stage_evaluation else []
    if not chosen:
        return
    if not can_visit_goals(config.env.kind):
        later = (
            "measure it with: python evaluate.py run"
            if can_be_measured(config)
            else "draw its curves with: python evaluate.py figures"
        )
        raise ConfigurationError(
            f"{chosen[0]} needs tasks with goals to visit, such as env=mt10; env.kind="
            f"{config.env.kind} has none, so leave it out; after training, {later}"
        )
    _check_stages(config)
    highest = max(log.quick_evaluation_goals)
    if log.quick_evaluation_steps is not None and highest >= config.env.num_goals:
        raise ConfigurationError(
            f"log.quick_evaluation_goals names goal {highest}, but env.num_goals="
            f"{config.env.num_goals} allows 0 to {config.env.num_goals - 1}; name others, for "
            "example log.quick_evaluation_goals=[0]"
        )


def _check_stages(config: RunConfig) -> None:
    steps, every = getattr(config.env, "steps_per_task", None), config.log.quick_evaluation_steps
    if steps is None:
        if config.log.stage_evaluation:
            raise ConfigurationError(
                "log.stage_evaluation needs tasks one after another, such as env=mt10_sequence; "
                "log.final_evaluation measures tasks that are trained side by side"
            )
        return
    if every is not None and (steps % every or every % config.env.copies):
        raise ConfigurationError(
            f"log.quick_evaluation_steps={every} must divide env.steps_per_task={steps}, so that "
            "every stage has equally many evaluations and one at its end, and be a multiple of "
            f"env.copies={config.env.copies}"
        )


def _check_answers(config: RunConfig) -> None:
    """Refuse agents that learn from rewards on supervised problems, and the other way round."""
    wants = hasattr(AGENTS.get(config.agent.kind), "LEARNS_FROM_ANSWERS")
    gives = hasattr(ENVIRONMENTS.get(config.env.kind), "GIVES_ANSWERS")
    if wants and not gives:
        raise ConfigurationError(
            f"agent={config.agent.kind} learns from right answers, but env.kind={config.env.kind} "
            "only gives rewards; choose a supervised problem, such as env=bit_flipping"
        )
    if gives and not wants:
        raise ConfigurationError(
            f"env.kind={config.env.kind} is a supervised problem, in which no action has "
            f"consequences; choose agent=supervised instead of agent={config.agent.kind}"
        )
    if hasattr(ENVIRONMENTS.get(config.env.kind), "GIVES_VALIDATION"):
        return
    for name in ("step_size_epochs", "keep_best"):
        if value := getattr(config.agent, name, None):
            shown = str(value).lower()
            raise ConfigurationError(
                f"agent.{name}={shown} reads the validations that end the epochs of a task, but "
                f"env.kind={config.env.kind} has no validation split; leave it out, or choose a "
                "world that has one, such as env=class_increments"
            )


def _check_warmups(config: RunConfig) -> None:
    """Refuse worlds that end before a warm-up that begins again in each of them."""
    agent, env = config.agent, config.env
    warmup = getattr(agent, "warmup_steps", None)
    repeats = config.fresh_at_switch or getattr(agent, "warmup_on_switch", False)
    if warmup is None or not repeats:
        return
    starts = getattr(agent, "learning_starts", None)
    name, starts = ("warmup_steps", warmup) if starts is None else ("learning_starts", starts)
    for length, steps in world_lengths(env, config.total_steps).items():
        if steps <= starts:
            cause = "fresh_at_switch" if config.fresh_at_switch else "agent.warmup_on_switch"
            raise ConfigurationError(
                f"{cause}=true waits for agent.{name}={starts} steps in every world, but "
                f"env.{length}={steps} ends it before anything is learnt; lower agent.{name}, or "
                f"raise env.{length}"
            )


def _check_measures(config: RunConfig) -> None:
    """Refuse measurements that would silently measure nothing."""
    log = config.log
    asked = [n for n in ("trainability_steps", "unit_histories", "extended") if getattr(log, n)]
    if asked and not log.diagnostics:
        raise ConfigurationError(
            f"log.{asked[0]} needs log.diagnostics=true; leave one of them out"
        )
    if log.trainability_steps and not hasattr(ENVIRONMENTS.get(config.env.kind), "probe"):
        lacking = f"and env.kind={config.env.kind} has none (see docs/diagnostics.md); leave it out"
        raise ConfigurationError(f"log.trainability_steps needs a fixed set of samples, {lacking}")


def _check_together(config: RunConfig) -> None:
    _check_answers(config)
    _check_measures(config)
    _check_evaluations(config)
    _check_warmups(config)
    interval = getattr(config.env, "switch_interval", None)
    length = getattr(config.agent, "rollout_length", None)
    if interval is None or length is None or getattr(config.env, "schedule", "") == "fixed":
        return
    rollout = length * config.env.num_envs
    if interval < rollout:
        raise ConfigurationError(
            f"env.switch_interval={interval} is shorter than one rollout of {length} x "
            f"{config.env.num_envs} = {rollout} transitions; make it at least {rollout}"
        )
