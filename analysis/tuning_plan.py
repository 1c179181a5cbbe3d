"""What a tuning command asks for: which configurations of which arms, on which tuning worlds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from analysis.tuning import FIRST_TUNING_WORLD
from analysis.tuning_results import write_text
from analysis.tuning_space import Value, axes_of, draw
from configs.compose import check_overrides, compose_run
from configs.members import refuse_repeated
from configs.schema import ConfigurationError, flat, load

PLAN_FILE = "plan.json"
_PREFIX = "tune."
_OURS = ("seed", "env.world_seed", "num_threads", "fresh", "run_dir")
_OF_ARMS = ("method", "optimizer")
_QUIET = ("log.figures=false", "log.tensorboard=false", "progress=false")
Plan = dict[str, dict[str, dict[str, Value]]]


@dataclass(frozen=True)
class TuneConfig:
    """How arms are tuned.

    Attributes:
        k: Share of the lifetime that is trained and looked at.
        budget: Configurations per arm, the default included.
        seeds: Runs per configuration.
        first_world: World seed of the first run; 10,000 or more.
        draw_seed: Of the draws.
        workers: Trials at a time; 0 for one per core.
        suffix: The preset of arm `redo` is `redo_<suffix>`.
        presets: Folder of the presets; null for configs/arm.
    """

    k: float = 0.1
    budget: int = 12
    seeds: int = 3
    first_world: int = FIRST_TUNING_WORLD
    draw_seed: int = 0
    workers: int = 0
    suffix: str = "tuned"
    presets: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.k <= 1.0:
            raise ValueError(f"tune.k is {self.k}; give a share of the lifetime, such as 0.1")
        if self.budget < 2 or self.seeds < 1 or self.workers < 0:
            raise ValueError(
                f"tune.budget={self.budget}, tune.seeds={self.seeds}, tune.workers={self.workers}; "
                "give at least 2, 1 and 0"
            )
        if self.first_world < FIRST_TUNING_WORLD:
            raise ValueError(
                f"tune.first_world={self.first_world} is an evaluation world; tune on world seeds "
                f"of {FIRST_TUNING_WORLD} and above"
            )
        if not self.suffix.isidentifier():
            raise ValueError(f"tune.suffix={self.suffix!r}; use letters, digits and _ only")


@dataclass(frozen=True)
class Trial:
    """One run of one configuration."""

    arm: str
    configuration: str
    seed: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Everything that one tuning command asks for."""

    config: TuneConfig
    words: tuple[str, ...]
    arms: tuple[str, ...]
    total_steps: int
    plan: Plan
    folder: Path
    trials: tuple[Trial, ...]

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return self.folder.parent

    @property
    def early_steps(self) -> int:
        """Environment steps of the first k of the lifetime."""
        return math.floor(self.config.k * self.total_steps)


def prepare(arguments: Sequence[str]) -> Study:
    """Read the command line and draw the configurations, once for all restarts.

    Raises:
        ConfigurationError: Wrong words, an evaluation world, or another plan in that group.
    """
    refuse_repeated(arguments)
    words = [word for word in arguments if not word.startswith(_PREFIX)]
    config, arms = _options(arguments), _arms(words)
    fixed = tuple(word for word in words if not word.startswith("arm="))
    for word in fixed:
        key = word.lstrip("+~").partition("=")[0]
        if key in _OURS:
            raise ConfigurationError(
                f"{word}: tuning chooses {key} itself, on tuning worlds only; see tune.seeds and "
                "tune.first_world"
            )
        if key.partition(".")[0] in _OF_ARMS:
            raise ConfigurationError(
                f"{word}: a tuned preset is an arm and what was drawn for it, so that {key} would "
                "be lost; write it into a preset of your own in configs/arm, and tune that arm"
            )
    if not any(word.startswith("group=") for word in fixed):
        fixed += ("group=tuning",)
    defaults = {arm: compose_run([*fixed, f"arm={arm}"]) for arm in arms}
    first = next(iter(defaults.values())).config
    if first.init_from is not None:
        # What a failed trial did not earn counts as the return of an untrained policy.
        raise ConfigurationError(
            "tuning trains new networks, whose first returns are those of an untrained policy; "
            "leave init_from out"
        )
    if not hasattr(first.env, "world_seed"):
        raise ConfigurationError("this environment has no world_seed, so nothing to tune on")
    plan: Plan = {}
    for arm, composed in defaults.items():
        axes, known = axes_of(composed.plain), flat(composed.plain)
        plan[arm] = draw(axes, {key: known[key] for key in axes}, config.budget, config.draw_seed)
    folder = Path(first.runs_root) / first.group
    study = Study(config, fixed, arms, first.total_steps, plan, folder, ())
    if study.early_steps < 1:
        raise ConfigurationError(f"tune.k={config.k} of {first.total_steps:,} steps is no step")
    trials = tuple(_trials(study))
    for trial in trials:
        if trial.seed == 0:  # a wrong value is refused before anything starts
            compose_run(trial.words)
    _keep_plan(study)
    return replace(study, trials=trials)


def _options(arguments: Sequence[str]) -> TuneConfig:
    given = {}
    for word in arguments:
        key, _, value = word.partition("=")
        if key.startswith(_PREFIX):
            given[key.removeprefix(_PREFIX)] = yaml.safe_load(value)
    return load(TuneConfig, given, "tune")


def _arms(words: Sequence[str]) -> tuple[str, ...]:
    found = [word.partition("=")[2] for word in words if word.startswith("arm=")]
    arms = tuple(name for name in (found[-1] if found else "").split(",") if name)
    if not arms:
        raise ConfigurationError(
            "name the arms to tune, the baseline among them, as in arm=standard,l2,redo"
        )
    if len(set(arms)) != len(arms):
        raise ConfigurationError(f"arm={','.join(arms)} names an arm twice")
    check_overrides([f"arm={arm}" for arm in arms])
    return arms


def _trials(study: Study) -> Iterator[Trial]:
    for arm, configurations in study.plan.items():
        for name, changed in configurations.items():
            for seed in range(study.config.seeds):
                words = (
                    *study.words,
                    f"arm={arm}",
                    *(f"{key}={value}" for key, value in changed.items()),
                    f"seed={seed}",
                    f"env.world_seed={study.config.first_world + seed}",
                    f"total_steps={study.early_steps}",
                    *_QUIET,
                )
                yield Trial(arm, name, seed, words)


def _keep_plan(study: Study) -> None:
    """Write the plan, or check that this group was begun with the same one."""
    options = {k: v for k, v in asdict(study.config).items() if k in ("k", "budget", "seeds")}
    content = {
        "options": options | {"first_world": study.config.first_world},
        "words": list(study.words),
        "total_steps": study.total_steps,
        "configurations": study.plan,
    }
    file = study.folder / PLAN_FILE
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != content:
            raise ConfigurationError(
                f"{file} holds another plan; name another group, as in group=tuning_2, or remove it"
            )
        return
    study.folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1))
