"""Soft actor-critic on the stationary Ant: it learns, and as well as that of stable-baselines3.

About a quarter of an hour on two cores. `python train.py -m experiment=sac_against_sb3` makes the
same runs in the open.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train

WARMUP = 10_000
SEEDS = 3


def returns(directory):
    """Mean return of the uniform warm-up, and the final return of a run."""
    done = json.loads((directory / "done.json").read_text())
    with (directory / "episodes.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["env_steps"]) <= WARMUP]
    return np.mean([float(row["episode_return"]) for row in rows]), done["summary"]["final_return"]


@pytest.mark.slow
def test_sac_learns_and_ends_within_a_tenth_of_sb3_in_three_seeds(tmp_path):
    words = ["-m", "experiment=sac_against_sb3", f"runs_root={tmp_path}", "log.figures=false"]
    command = [sys.executable, "train.py", *words, "progress=false"]
    subprocess.run(command, cwd=Path(train.__file__).parent, check=True)
    final = {}
    for agent in ("sac_sb3_init", "sb3_sac"):
        runs = sorted(tmp_path.glob(f"sac_against_sb3/ant/{agent}-*/seed_*"))
        assert len(runs) == SEEDS
        pairs = [returns(directory) for directory in runs]
        final[agent] = [last for _, last in pairs]
        assert all(last > first + 100.0 for first, last in pairs), (agent, pairs)
    ours, theirs = final["sac_sb3_init"], final["sb3_sac"]
    # Six seeds in results/sac_against_sb3 end 5 % below those of SB3 with an interval that holds 0;
    # these three of them 6 %. A tenth would be a difference.
    assert np.mean(ours) > 0.9 * np.mean(theirs), final
