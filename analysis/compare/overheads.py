"""Overheads measured in pairs by the benchmark, for the arms of a comparison.

Runs of a comparison share their machine with each other, so their speeds say little about methods.
The benchmark times every preset beside the baseline on the same data, pair by pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.compare.arms import Arm, stripped
from analysis.compare.presets import chosen_presets
from analysis.run_files import NotARun
from analysis.throughput.methods import BENCHES, env_step_overhead, overhead
from analysis.throughput.plan import GRADIENT_STEPS_PER_ENV_STEP
from analysis.throughput.section import read
from analysis.throughput.summary import Spread
from configs.compose import compose_run
from configs.schema import ConfigurationError, flat

DEFAULT_FILES = tuple(
    Path("results/throughput/sections", f"{bench.section}.json") for bench in BENCHES.values()
)
OVERHEADS = "overheads"
_BASE_OPTIMIZER, _BASE_NETWORK = "adam", "mlp"
# Settings on which the cost of a gradient step, or their number per environment step, may depend.
_COSTLY = (
    *("method.", "optimizer.", "network.", "agent.minibatch_size", "agent.batch_size"),
    "agent.updates_per_env_step",
)


@dataclass(frozen=True)
class Measured:
    """What the benchmark measured for one agent.

    Attributes:
        about: File, command and machine.
        rows: Preset, such as `method=redo` -> overheads per gradient step and environment step.
    """

    about: Mapping[str, str]
    rows: Mapping[str, tuple[Spread, Spread]]


@dataclass(frozen=True)
class Overheads:
    """What the benchmark measured.

    Attributes:
        agents: Kind of an agent, such as `ppo` -> what was measured for it.
    """

    agents: Mapping[str, Measured]


def read_overheads(*paths: Path) -> Overheads:
    """Read the benchmark's sections on methods, one for every agent.

    Raises:
        NotARun: A file is missing or no such section, or two are of the same agent.
    """
    agents: dict[str, Measured] = {}
    for path in paths:
        agent, measured = _read(path)
        if agent in agents:
            raise NotARun(
                f"{path} and {agents[agent].about['file']} are both of {agent}; name one for "
                "every agent"
            )
        agents[agent] = measured
    return Overheads(agents)


def _read(path: Path) -> tuple[str, Measured]:
    names = ",".join(bench.section for bench in BENCHES.values())
    how = f"python -m analysis.throughput --only {names} --out results/throughput"
    try:
        section = read(path)
        pairs = section.data["pairs"]
        agent = str(section.data.get("agent", "ppo"))
        rate = float(section.data.get("rate", GRADIENT_STEPS_PER_ENV_STEP))
        interaction = sorted(section.data["interaction"])[len(section.data["interaction"]) // 2]
        rows = {
            str(name): (overhead(each), env_step_overhead(each, interaction, rate))
            for name, each in pairs.items()
        }
        cpu = section.about.get("cpu", {})
        about = {
            "file": str(path),
            "command": str(section.about.get("command", "unknown")),
            "machine": f"{cpu.get('model', 'unknown processor')}, one core",
        }
        _ = BENCHES[agent]
    except FileNotFoundError as error:
        raise NotARun(f"{path} does not exist; make it with: {how}") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise NotARun(
            f"{path} is no section of the benchmark on methods: {error!r}; make it again with: "
            f"{how}"
        ) from error
    return agent, Measured(about, rows)


def overhead_facts(found: Overheads | None, arms: Sequence[Arm], baseline: str) -> dict[str, Any]:
    """What a report keeps of it: plain values, {} without a benchmark of the baseline's agent.

    Args:
        found: What the benchmark measured.
        arms: Of the comparison.
        baseline: Name of the baseline arm.

    Returns:
        `file`, `command`, `machine`, and `arms`: name -> `row`, `is_exact` (all settings that
        cost time are those of the benchmark), `gradient_step` and `env_step` (median, smallest,
        largest). Arms without a row are left out, and all are if the baseline is not plain.
    """
    by_name = {arm.name: arm for arm in arms}
    agent = str(by_name[baseline].members[0].config["agent"].get("kind"))
    if found is None or agent not in found.agents:
        return {}
    measured = found.agents[agent]
    facts: dict[str, Any] = {}
    if _features(by_name[baseline], agent) == []:
        for name, arm in by_name.items():
            row = None if name == baseline else _row(arm, agent, measured)
            if row is not None:
                gradient_step, env_step = (
                    [spread.median, spread.low, spread.high] for spread in measured.rows[row]
                )
                facts[name] = {
                    "row": row,
                    "is_exact": _is_exact(row, agent, arm.members[0].config),
                    "gradient_step": gradient_step,
                    "env_step": env_step,
                }
    return {**measured.about, "arms": facts}


def _row(arm: Arm, agent: str, measured: Measured) -> str | None:
    """Name of the row that says most about an arm."""
    if arm.fresh_of is not None or arm.members[0].config["agent"].get("kind") != agent:
        return None
    label = stripped(arm.members[0].identity)
    if f"arm={label}" in measured.rows:
        return f"arm={label}"
    features = _features(arm, agent)
    if features == []:  # nothing but settings of the same optimizer
        features = [f"optimizer={chosen_presets(arm, _BASE_OPTIMIZER)[0]}"]
    return features[0] if features and len(features) == 1 and features[0] in measured.rows else None


def _features(arm: Arm, agent: str) -> list[str] | None:
    """Presets in which an arm differs from plain Adam on a perceptron; None for another agent."""
    config = arm.members[0].config
    if config["agent"].get("kind") != agent:
        return None
    optimizer, methods = chosen_presets(arm, _BASE_OPTIMIZER)
    features = [f"method={name}" for name in methods]
    if str(config["optimizer"].get("kind")) != _BASE_OPTIMIZER:
        features.append(f"optimizer={optimizer}")
    network = str(arm.members[0].identity["network"])
    if str(config["network"].get("kind")) != _BASE_NETWORK or _changes_kind(network):
        features.append(f"network={network}")
    return features


def _changes_kind(network: str) -> bool:
    """Whether a preset of the perceptron is more than a size: it has a row of its own."""
    from analysis.throughput.methods import NETWORKS

    return network in NETWORKS or "." in network


def _is_exact(row: str, agent: str, config: Mapping[str, Any]) -> bool:
    """Whether the benchmark ran the settings of the arm, as far as they cost time."""
    try:
        measured = compose_run([*BENCHES[agent].words, row]).plain
    except ConfigurationError:  # a preset of another version
        return False
    mine, theirs = _costly(config), _costly(measured)
    return mine == theirs


def _costly(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in flat(config).items()
        if key.startswith(_COSTLY) and key != "optimizer.learning_rate" and value != {}
    }
