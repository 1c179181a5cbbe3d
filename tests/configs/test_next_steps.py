"""The line that ends a sweep names a command that would not refuse its runs."""

import pytest

from configs.compose import compose_run
from configs.next_steps import facts, next_steps

COMPARE = "python evaluate.py compare runs/g --out results/g"


def rows(*members):
    composed = [compose_run(words.split()) for words in members]
    return [{"directory": one.relative_directory, "facts": facts(one)} for one in composed]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["env=slippery_ant arm=standard seed=0", "env=slippery_ant arm=l2 seed=1"], [COMPARE]),
        (
            [
                "experiment=transplant arm=standard init_from=x fresh_parts=[]",
                "experiment=transplant arm=standard init_from=x fresh_parts=[policy]",
            ],
            [COMPARE],
        ),
        (["env=mt10 agent=sac network=dendrites"], [COMPARE]),
        (
            ["experiment=sac_against_sb3 agent=sb3_sac", "experiment=sac_against_sb3"],
            [f"{COMPARE} --baseline NAME_OF_AN_ARM"],
        ),
        (
            [f"experiment=oracle_grid arm=standard env.fixed_friction={mu}" for mu in (0.1, 1.0)],
            ["python evaluate.py oracle runs/g --out results/g"],
        ),
        (
            ["experiment=mt10_sequence_smoke seed=0", "experiment=mt10_sequence_smoke seed=1"],
            ["python evaluate.py sequence runs/g --out results/g"],
        ),
        (["experiment=mt10_sequence_smoke env.only_task=reach-v3"], []),
        (
            ["experiment=bit_flipping arm=regression_backprop"],
            ["python -m analysis.supervised_results regression runs/g --out results/g"],
        ),
        (
            ["experiment=permuted_digits arm=permuted_mlp", "experiment=permuted_digits seed=3"],
            ["python -m analysis.supervised_results tasks runs/g --out results/g"],
        ),
        (["experiment=class_increments_smoke"], []),
        (["env=slippery_ant total_steps=20_000", "env=slippery_ant total_steps=40_000"], []),
        (
            ["env=slippery_ant", "env=slippery_hopper"],
            [
                "python evaluate.py compare runs/g/slippery_ant --out results/g_slippery_ant",
                "python evaluate.py compare runs/g/slippery_hopper --out results/g_slippery_hopper",
            ],
        ),
    ],
)
def test_the_command_fits_the_runs(members, expected):
    assert next_steps("runs/g", rows(*members)) == expected
