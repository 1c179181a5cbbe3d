"""Experiments that take a result apart: arms differ in what their names say and in no more."""

import dataclasses

import pytest

from analysis.compare.sweep_plans import asked_for
from configs.compose import compose_run
from configs.schema import to_plain


def arms(experiment):
    return asked_for(f"python train.py -m experiment={experiment}")["arm"]


def config(experiment, arm):
    return compose_run([f"experiment={experiment}", f"arm={arm}", "seed=0"]).config


def differences(experiment, arm, other):
    """Dotted settings in which two arms differ, as (value, other value)."""
    flat = [_flat(to_plain(config(experiment, name))) for name in (arm, other)]
    names = flat[0].keys() | flat[1].keys()
    pairs = {name: tuple(one.get(name) for one in flat) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(tree, name=""):
    if isinstance(tree, dict) and tree:
        return {k: v for key, item in tree.items() for k, v in _flat(item, f"{name}.{key}").items()}
    return {name.lstrip("."): tree}


@pytest.mark.parametrize("experiment", ["unbundling", "ppo_details"])
def test_worlds_and_budgets_are_equal(experiment):
    runs = [config(experiment, arm) for arm in arms(experiment)]
    assert len({repr((run.env, run.total_steps, run.network)) for run in runs}) == 1
    assert runs[0].env.schedule == "fixed"
    assert asked_for(f"python train.py -m experiment={experiment}")["seed"] == {"0", "1", "2"}


def test_unbundling_crosses_decay_and_recycling():
    cells = {}
    for arm in arms("unbundling"):
        run = config("unbundling", arm)
        (method,) = run.method.values() or [None]
        utility = None if method is None else method.utility
        cells[run.optimizer.weight_decay, utility, run.optimizer.wd_on_log_std] = arm
    crossed = {(decay, utility, True) for decay in (0.0, 1e-4)
               for utility in (None, "contribution", "random")}  # fmt: skip
    assert set(cells) == crossed | {(1e-4, None, False)}
    assert cells[1e-4, "contribution", True] == "continual_backprop"
    for arm in arms("unbundling"):
        betas = config("unbundling", arm).optimizer
        assert (betas.beta1, betas.beta2, betas.learning_rate) == (0.99, 0.99, 1e-4)


def test_random_recycling_differs_in_the_utility_only():
    found = differences("unbundling", "random_recycling", "continual_backprop")
    assert found == {"method.continual_backprop.utility": ("random", "contribution")}
    spared = differences("unbundling", "decay_weights_only", "decay_only")
    assert spared == {"optimizer.wd_on_log_std": (False, True)}


@pytest.mark.parametrize(
    ("arm", "setting", "values"),
    [
        ("terminal_timeouts", "agent.timeouts_terminal", (True, False)),
        ("normalized_observations", "agent.normalize_observation", (True, False)),
        ("clipped_gradients", "agent.max_grad_norm", (0.5, None)),
    ],
)
def test_details_of_ppo_differ_from_the_plain_arm_in_one_setting(arm, setting, values):
    assert differences("ppo_details", arm, "standard") == {setting: values}


def test_details_that_an_agent_does_not_have_are_refused():
    run = compose_run(["agent=sac", "arm=terminal_timeouts"]).config
    assert dataclasses.asdict(run.agent)["timeouts_terminal"] is True
    with pytest.raises(ValueError, match="normalize_observation"):
        compose_run(["agent=supervised", "env=bit_flipping", "arm=normalized_observations"])
