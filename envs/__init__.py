"""Environments whose rules change. Importing this only registers ids with Gymnasium."""

from __future__ import annotations

import gymnasium


def _register(name: str, robot: str) -> None:
    gymnasium.register(
        id=f"Neoteny/{name}",
        entry_point="envs.physics:make_slippery",
        vector_entry_point="envs.locomotion:make_vector",
        kwargs={"robot": robot},
        disable_env_checker=False,
    )


for _name, _robot in (
    ("SlipperyAnt-v0", "ant"),
    ("SlipperyHopper-v0", "hopper"),
    ("SlipperyWalker2d-v0", "walker2d"),
    ("SlipperyHalfCheetah-v0", "half_cheetah"),
    ("SlipperyHumanoid-v0", "humanoid"),
):
    if f"Neoteny/{_name}" not in gymnasium.registry:
        _register(_name, _robot)
