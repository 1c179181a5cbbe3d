"""Groups of runs written by hand, as a sweep would leave them; returns are known functions."""

import json

import numpy as np
from synthetic_runs import add_episodes, add_progress, add_switches, make_run, write_csv

ENV = {
    "kind": "locomotion",
    "schedule": "abrupt",
    "switch_interval": 1_000,
    "num_envs": 4,
    "max_episode_steps": 20,
}
FRICTIONS = (0.5, 0.08, 1.1, 0.3, 2.0, 0.02, 0.9, 0.6, 0.2, 1.5)
METHODS = {
    "redo": {"redo": {"kind": "redo", "period": 10}},
    "continual_backprop": {
        "continual_backprop": {
            "kind": "continual_backprop",
            "maturity_threshold": 20,
            "replacement_rate": 0.01,
        }
    },
}
ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "cpu": {"cores": 2, "model": "Test processor"},
    "packages": {"torch": "2.13.0"},
    "platform": "Linux",
    "python": "3.11.7",
    "uncommitted_changes": False,
}


def run_place(root, arm, seed, group="study"):
    return root / "runs" / group / "slippery_ant" / f"ppo-mlp-{arm}" / f"seed_{seed}"


def returns_of(arm_level, seed, regime, share):
    """Return of an episode that ends after this share of its regime."""
    return 10.0 * np.sin(7.0 * seed) + arm_level * share - 20.0 * regime


def add_run(
    root,
    arm,
    seed,
    *,
    level=100.0,
    num_regimes=4,
    interval=1_000,
    until=None,
    status="finished",
    points=20,
    episodes_per_regime=25,
    speed=1000.0,
    group="study",
    method=None,
    env=None,
    score=returns_of,
    **settings,
):
    """One run; `until` ends its files early."""
    total = num_regimes * interval
    end = total if until is None else until
    path = make_run(
        run_place(root, arm, seed, group),
        env={**ENV, "switch_interval": interval, "world_seed": seed, **(env or {})},
        method=METHODS.get(arm, {}) if method is None else method,
        agent={"kind": "ppo", "rollout_length": 50, "num_epochs": 2, "minibatch_size": 20},
        optimizer={"kind": "adam", "weight_decay": 0.001 if "l2" in arm else 0.0},
        # Stands for the method that starts everything anew at switches.
        boundary="oracle" if arm.startswith("fresh_") else "none",
        total_steps=total,
        group=group,
        seed=seed,
        **settings,
    )
    add_switches(
        path,
        *(
            (k * interval, k, FRICTIONS[k % 10])
            for k in range(1, num_regimes)
            if k * interval < end
        ),
    )
    step = interval // episodes_per_regime
    rows = []
    for regime in range(num_regimes):
        for place in range(1, episodes_per_regime + 1):
            ends = regime * interval + place * step
            cut = place == episodes_per_regime and regime < num_regimes - 1
            value = float(score(level, seed, regime, place / episodes_per_regime))
            if ends <= end:
                rows.append((ends, value, step // 4, regime, cut))
    add_episodes(path, *rows)
    write_rows(path, end, total, interval, points, seed, level)
    write_csv(
        path / "timing.csv",
        ("env_steps", "active_seconds", "steps_per_second", "restarts"),
        [
            {"env_steps": t, "active_seconds": t / speed, "steps_per_second": speed, "restarts": 0}
            for t in (total // 4, total // 2, total)
        ],
    )
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    if status != "unfinished":
        done = {"restarts": 0, "status": status, "summary": {"env_steps": end}}
        (path / "done.json").write_text(json.dumps(done))
    return path


def write_rows(path, end, total, interval, points, seed, level):
    """Diagnostics that grow with time and differ between seeds."""
    layers = ("layers.0", "layers.1")
    columns = ["action_std"]
    columns += [f"weights/policy/{name}/weight_magnitude" for name in (*layers, "all")]
    columns += ["window/policy/all/dormant_fraction", "window/policy/layers.1/stable_rank"]
    rows = []
    for t in np.linspace(total / points, total, points).astype(int):
        if t > end:
            break
        share = t / total
        rows.append(
            {
                "env_steps": t,
                "iteration": t // 200,
                "regime": (t - 1) // interval,
                "regime_value": FRICTIONS[(t - 1) // interval % 10],
                "action_std": 1.0 - 0.3 * share + 0.02 * seed,
                "weights/policy/all/weight_magnitude": 0.05 + 0.01 * share + 1e-5 * level,
                "weights/policy/layers.1/weight_magnitude": 0.04 + 0.02 * share + 1e-4 * seed,
                "window/policy/all/dormant_fraction": 0.3 * share + 0.01 * seed,
                "window/policy/layers.1/stable_rank": 20.0 - 9.0 * share - 0.1 * seed,
            }
        )
    add_progress(path, rows, columns)


def add_group(root, levels, seeds=range(3), **settings):
    """Arms by name and level, all on the same seeds; returns the folder of the group."""
    for arm, level in levels.items():
        for seed in seeds:
            add_run(root, arm, seed, level=level, **settings)
    return root / "runs" / settings.get("group", "study")
