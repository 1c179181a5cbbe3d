"""Every setting that a `Config` has can be set on the command line: presets name all of them."""

import dataclasses

import pytest
import yaml

from configs.compose import CONFIG_FOLDER, compose_run, presets
from configs.run import (
    AGENTS,
    CONTEXTS,
    ENVIRONMENTS,
    METHODS,
    NETWORKS,
    OPTIMIZERS,
    LogConfig,
    RunConfig,
)

REGISTRIES = {
    "agent": AGENTS,
    "env": ENVIRONMENTS,
    "network": NETWORKS,
    "optimizer": OPTIMIZERS,
    "method": METHODS,
    "context": CONTEXTS,
}
PRESETS = [(group, name) for group in REGISTRIES for name in presets(group)]


def values(group, name):
    """The keys that Hydra would find below the group, without interpolations resolved."""
    given = yaml.safe_load((CONFIG_FOLDER / group / f"{name}.yaml").read_text())
    merged = {}
    for base in given.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            preset, _, package = base.partition("@")
            found = values(group, preset)
            merged |= {package: found} if package else found
    if group in given:  # of a preset that sets other groups, too
        given = given[group][name] if group == "method" else given[group]
    return merged | given


@pytest.mark.parametrize(("group", "name"), PRESETS)
def test_a_preset_names_every_setting(group, name):
    found = values(group, name)
    config = REGISTRIES[group].get(found["kind"]).Config
    missing = {field.name for field in dataclasses.fields(config)} - set(found)
    assert not missing, f"configs/{group}/{name}.yaml lacks {', '.join(sorted(missing))}"


def test_the_run_names_every_setting():
    found = yaml.safe_load((CONFIG_FOLDER / "train.yaml").read_text())
    chosen = {next(iter(entry)) for entry in found["defaults"] if isinstance(entry, dict)}
    settings = {field.name for field in dataclasses.fields(RunConfig)}
    assert settings - set(found) - chosen == set()
    assert {field.name for field in dataclasses.fields(LogConfig)} == set(found["log"])


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=class_increments_smoke", "agent.step_size_epochs=[1,3]"],
        ["experiment=permuted_digits", "env.context=clusters", "env.num_features=16"],
        ["method=shrink_perturb_soft", "method.shrink_perturb.law=normal"],
        ["network=multi_head", "network.activation=leaky_relu", "network.activation_slope=0.2"],
        ["network=continual_world", "network.activation_slope=0.2"],
    ],
)
def test_settings_that_came_later_can_be_set_and_count(words):
    plain, changed = compose_run(words[:-1]), compose_run(words)
    assert plain.relative_directory != changed.relative_directory
    assert plain.plain != changed.plain
