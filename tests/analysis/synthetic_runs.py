"""Run directories written by hand, as a training run would leave them."""

import csv
import json

import yaml

EPISODES = (
    "env_steps",
    "env_index",
    "episode_return",
    "episode_length",
    "regime",
    "regime_value",
    "terminated",
    "switch_truncated",
)


def write_csv(path, columns, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make_run(path, *, env=None, hidden_sizes=(10, 20), **settings):
    """A directory with a configuration and nothing else."""
    path.mkdir(parents=True)
    config = {
        "agent": {"kind": "ppo"},
        "env": {"kind": "locomotion", "fixed_friction": 1.0, "world_seed": 7, **(env or {})},
        "network": {"kind": "mlp", "hidden_sizes": list(hidden_sizes)},
        "method": {},
        "group": "default",
        "seed": 3,
        **settings,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def add_episodes(path, *rows, friction=(0.5, 0.1, 1.5)):
    """Rows are (env_steps, return, length, regime, switch_truncated)."""
    write_csv(
        path / "episodes.csv",
        EPISODES,
        [
            dict(
                zip(
                    EPISODES,
                    (steps, 0, ret, length, regime, friction[regime % 3], True, cut),
                    strict=True,
                )
            )
            for steps, ret, length, regime, cut in rows
        ],
    )


def add_switches(path, *switches, event="switch"):
    """Switches are (env_steps, regime, friction); unit resets lie between them."""
    lines = [json.dumps({"event": "units_reset", "env_steps": 1, "units": [1, 2]})]
    lines += [
        json.dumps({"env_index": None, "env_steps": t, "event": event, "friction": f, "regime": k})
        for t, k, f in switches
    ]
    (path / "events.jsonl").write_text("\n".join(lines) + "\n")


def add_checkpoint(path, env_steps):
    (path / "checkpoints" / f"step-{env_steps:012d}").mkdir(parents=True)


def diagnostics_columns(networks=("policy", "value"), layers=("layers.0", "layers.1")):
    columns = []
    for network in networks:
        columns += [
            f"weights/{network}/{name}/weight_magnitude" for name in (*layers, "mean", "all")
        ]
        for sample_set in ("window", "probe"):
            columns += [f"{sample_set}/{network}/all/dormant_fraction"]
            for layer in layers:
                columns += [
                    f"{sample_set}/{network}/{layer}/{p}stable_rank" for p in ("", "centred_")
                ]
    return columns


def add_progress(path, rows, columns=None):
    """Rows are dictionaries; unnamed cells stay empty."""
    known = ["env_steps", "iteration", "episode_return", "regime", "regime_value"]
    write_csv(path / "progress.csv", known + (columns or diagnostics_columns()), rows)


def long_run(path, num_regimes, interval=1000, first_values=(0.5,), **settings):
    """A run with every file; values grow with time."""
    make_run(path, **settings)
    frictions = [0.02 * 1.5 ** (k % 10) for k in range(num_regimes)]
    add_switches(path, *((k * interval, k, frictions[k]) for k in range(1, num_regimes)))
    total = num_regimes * interval
    steps = range(interval // 10, total + 1, interval // 10)
    add_episodes(
        path,
        *((t, float(t % 700), 50 + t % 90, (t - 1) // interval, t % interval == 0) for t in steps),
    )
    rows = []
    for t in steps:
        row = {"env_steps": t, "regime": (t - 1) // interval, "regime_value": first_values[0]}
        row |= {
            name: (0.05 + 0.5 * t / total) * (12 if "rank" in name else 1)
            for name in diagnostics_columns()
            if name.startswith(("window", "weights")) or t % 500 == 0
        }
        rows.append(row)
    add_progress(path, rows)
    add_checkpoint(path, total)
    return path
