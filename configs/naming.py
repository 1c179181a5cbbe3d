"""The directory of a run: a pure function of its settings, named after its presets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from configs.composition import compose_values, method_presets
from configs.presets import NO_ARM, SPELLED, declared, presets
from configs.run import EXECUTION_KEYS, RunConfig, load_run
from configs.schema import flat, to_plain


def relative_directory(
    config: RunConfig,
    plain: Mapping[str, Any],
    choices: Mapping[str, Any],
    overrides: Sequence[str],
) -> str:
    """Name the run: the presets it uses, and a hash of whatever differs from them.

    Args:
        config: Of the run.
        plain: The same as plain values.
        choices: What was chosen in every group, as Hydra spells it.
        overrides: Command-line words that made it.

    Returns:
        Path below the folder of all runs.
    """
    named_arm, arm = choices.get("arm"), kept_arm(choices, overrides)
    chosen = method_presets(overrides, "arm", named_arm if arm is None else None)
    words = [f"{group}={choices[group]}" for group in ("agent", "env", "network")]
    value_network = choices.get(SPELLED["value_network"])
    words += [f"value_network={value_network}"] if value_network else []
    if arm:
        words.append(f"arm={arm}")
    else:
        words.append(f"optimizer={choices['optimizer']}")
        words += [] if chosen is None else [f"method=[{','.join(chosen)}]"]
    experiment = choices.get("experiment")
    if experiment and config.group == experiment:
        words.append(f"experiment={experiment}")
        words += [NO_ARM] if NO_ARM in overrides else []
    base = flat(to_plain(load_run(compose_values([*words, f"seed={config.seed}"])[0])))
    differing = differences(base, flat(plain))
    if config.group in presets("experiment") and config.group != experiment:
        differing["experiment"] = str(experiment)  # not the experiment of that name
    if arm and chosen is not None:
        differing["method order"] = chosen
    suffix = ""
    if differing:
        canonical = json.dumps(differing, sort_keys=True, separators=(",", ":"))
        suffix = "-" + hashlib.sha256(canonical.encode()).hexdigest()[:8]
    methods = list(config.method) if chosen is None else chosen
    label = arm or ".".join([choices["optimizer"], *methods])
    networks = ".".join(filter(None, (choices["network"], value_network)))
    name = f"{choices['agent']}-{networks}-{label}{suffix}"
    return f"{config.group}/{choices['env']}/{name}/seed_{config.seed}"


def kept_arm(choices: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """The arm of a run; None where it has none, or words have replaced a preset of it.

    Continual backprop with `method=[redo]` is no continual backprop any more: such a run is named
    after the optimizer and the methods that it does use, like one without an arm.

    Args:
        choices: What was chosen in every group, as Hydra spells it.
        overrides: Command-line words.
    """
    arm = choices.get("arm")
    if not arm:
        return None
    for group, wanted in declared("arm", arm)[0].items():
        found = choices.get(group)
        if group == "method":
            found, wanted = method_presets(overrides, "arm", arm), [*wanted]
        if found != wanted:
            return None
    return str(arm)


def differences(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `given` that differ from `base`, without seed, group and execution keys."""
    ignored = EXECUTION_KEYS | {"seed", "group"}
    return {
        key: given.get(key, "absent")
        for key in sorted(base.keys() | given.keys())
        if key not in ignored and base.get(key, "absent") != given.get(key, "absent")
    }
