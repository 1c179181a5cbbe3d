"""The comparison of methods: every baseline of a fair table, on worlds that jump and that drift."""

import pytest

from analysis.compare.sweep_plans import asked_for
from configs.compose import compose_run


def arms(experiment):
    return asked_for(f"python train.py -m experiment={experiment}")["arm"]


def config(arm, experiment="compare_methods"):
    return compose_run([f"experiment={experiment}", f"arm={arm}", "seed=0"]).config


@pytest.mark.parametrize("experiment", ["compare_methods", "compare_methods_gradual"])
def test_every_arm_trains_on_the_same_world(experiment):
    worlds = {repr(config(arm, experiment).env) for arm in arms(experiment)}
    assert len(worlds) == 1
    assert len(arms(experiment)) == 11


def test_the_drifting_comparison_differs_in_its_world_only():
    jumping, drifting = config("redo"), config("redo", "compare_methods_gradual")
    assert (jumping.env.schedule, drifting.env.schedule) == ("abrupt", "gradual")
    assert (jumping.agent, jumping.optimizer) == (drifting.agent, drifting.optimizer)
    assert arms("compare_methods") == arms("compare_methods_gradual")


@pytest.mark.parametrize(
    ("arm", "layer_norm", "decay", "methods"),
    [
        ("standard", False, 0.0, []),
        ("adamw", False, 1e-2, []),
        ("l2_init", False, 0.0, ["l2_init"]),
        ("layer_norm_only", True, 0.0, []),
        ("layer_norm_adamw", True, 1e-2, []),
        ("nap", True, 0.0, ["nap"]),
    ],
)
def test_baselines_are_what_their_names_say(arm, layer_norm, decay, methods):
    run = config(arm)
    assert run.network.layer_norm is layer_norm
    assert run.optimizer.weight_decay == decay
    assert list(run.method) == methods
    assert run.boundary == "none"


def test_the_yardstick_is_the_plain_arm_begun_anew():
    plain, fresh = config("standard"), config("fresh_oracle")
    assert fresh.fresh_at_switch
    assert (plain.network, plain.optimizer) == (fresh.network, fresh.optimizer)
