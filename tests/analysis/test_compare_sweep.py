"""Sweeps: every trial is counted, bad words are refused, and a killed sweep ends the same."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evaluate
import train

REPOSITORY = Path(train.__file__).parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture
def members(tmp_path, monkeypatch):
    """Sweep without training: what each member does is decided by its seed."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(composed):
        seed = composed.config.seed
        seen.append((composed.config.seed, composed.config.num_threads))
        folder = Path("runs") / composed.relative_directory
        if seed == 0:
            folder.mkdir(parents=True, exist_ok=True)
            done = {"status": "finished", "summary": {"env_steps": 12_288, "final_return": 5.25}}
            (folder / "done.json").write_text(json.dumps(done))
            return train.EXIT_DONE
        if seed == 1:
            raise RuntimeError("a bug in one member")
        if seed == 2:
            folder.mkdir(parents=True, exist_ok=True)
            done = {"status": "failed", "summary": {"env_steps": 77, "final_return": None}}
            (folder / "done.json").write_text(json.dumps(done))
            return train.EXIT_NUMERICAL
        return train.EXIT_SIGNAL

    monkeypatch.setattr(train, "run", run)
    return seen


def start(*words):
    return train.main(["-m", "experiment=compare_smoke", "hydra/launcher=basic", *words])


def test_every_member_runs_and_is_counted(members, capsys):
    code = start("arm=standard", "seed=0,1,2,3")
    assert sorted(members) == [(seed, 1) for seed in range(4)]  # one thread each
    out = capsys.readouterr().out
    assert code == train.EXIT_SIGNAL
    summary = out[out.index("4 runs: ") :]
    assert summary.startswith("4 runs: 1 done, 1 failed, 2 neither\n")
    lines = [" ".join(line.split()).rpartition(", ")[0] for line in summary.splitlines()[1:]]
    place = "compare_smoke/slippery_ant/ppo-small-standard/seed_"
    assert sorted(lines) == sorted(
        [
            f"done {place}0 12,288 steps, final return 5.2",
            f"exit code 1 {place}1",
            f"failed {place}2 77 steps",
            f"exit code 75 {place}3",
        ]
    )
    assert "next:" not in summary


def test_a_failed_member_is_kept_and_the_next_command_named(members, capsys):
    assert start("arm=standard", "seed=0,2") == train.EXIT_NUMERICAL
    out = capsys.readouterr().out
    assert "2 runs: 1 done, 1 failed, 0 neither" in out
    assert out.strip().endswith(
        "next: python evaluate.py compare runs/compare_smoke --out results/compare_smoke"
    )


def test_the_command_is_kept_beside_the_runs_once(members):
    start("arm=standard", "seed=0")
    start("arm=standard", "seed=0")
    start("arm=standard", "seed=0,2")
    assert Path("runs/compare_smoke/commands.txt").read_text().splitlines() == [
        f"python train.py -m experiment=compare_smoke hydra/launcher=basic arm=standard seed={s}"
        for s in ("0", "0,2")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arm=standard,l3"], "there is no arm 'l3' (did you mean 'l2'?)"),
        (["env=no_such_place"], "there is no env 'no_such_place'"),
        (["seed"], "cannot read 'seed'"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(members, capsys, words, said):
    assert start(*words) == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert members == []


def test_a_setting_that_no_member_has_stops_before_anything_starts(members, capsys):
    assert start("arm=standard", "seed=0,1", "agent.discuont=0.9") == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert "discuont" in error
    assert "the sweep cannot start" in error
    assert members == []


def test_a_wrong_setting_counts_as_one_wrong_member(members, capsys):
    code = start("arm=standard", "seed=0", "env.switch_interval=1,3072")
    assert code == train.EXIT_CONFIGURATION
    captured = capsys.readouterr()
    assert "env.switch_interval=1 is shorter than one rollout" in captured.err
    assert "2 runs: 1 done, 0 failed, 1 neither" in captured.out


def test_the_smoke_comparison_differs_in_nothing_but_the_arm(members, monkeypatch):
    seen = {}

    def run(composed):
        seen[composed.relative_directory] = composed.config
        return train.EXIT_DONE

    monkeypatch.setattr(train, "run", run)
    assert start() == train.EXIT_DONE
    arms = ("standard", "l2", "redo")
    assert sorted(seen) == sorted(
        f"compare_smoke/slippery_ant/ppo-small-{arm}/seed_{seed}" for arm in arms for seed in (0, 1)
    )
    configs = {name.split("-")[-1].split("/")[0]: config for name, config in seen.items()}
    assert {arm: list(configs[arm].method) for arm in arms} == {
        "standard": [],
        "l2": [],
        "redo": ["redo"],
    }
    assert configs["l2"].optimizer.weight_decay == 1e-3
    assert configs["standard"].agent == configs["l2"].agent == configs["redo"].agent


def test_an_arm_decides_over_the_methods_of_an_experiment(members, monkeypatch):
    seen = {}

    def run(composed):
        seen[composed.relative_directory.split("/")[2]] = composed.config
        return train.EXIT_DONE

    monkeypatch.setattr(train, "run", run)
    words = ["-m", "experiment=slippery_ant_smoke", "seed=0", "arm=standard,l2"]
    assert train.main([*words, "hydra/launcher=basic"]) == train.EXIT_DONE
    assert {name: list(config.method) for name, config in seen.items()} == {
        "ppo-small-standard": [],
        "ppo-small-l2": [],
    }
    assert seen["ppo-small-l2"].optimizer.weight_decay == 1e-3


# Real sweeps, killed -------------------------------------------------------------------------

TINY = [
    *("-m", "experiment=compare_smoke", "hydra/launcher=basic", "arm=standard,l2", "seed=0"),
    *("total_steps=3072", "env.switch_interval=1024", "agent.num_epochs=1"),
    *("log.checkpoint_minutes=0", "log.all_ranks_every_iterations=2", "progress=false"),
]
# Long enough for redo to check its units once, at gradient step 100 of 144.
THREE_BY_THREE = [
    *("-m", "experiment=compare_smoke", "seed=0,1,2", "total_steps=3072"),
    *("env.switch_interval=1024", "agent.num_epochs=3", "log.all_ranks_every_iterations=2"),
    *("log.checkpoint_minutes=0", "progress=false"),
]


def launch(folder, words):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(folder, words):
    process = launch(folder, words)
    out, _ = process.communicate(timeout=2400)
    assert process.returncode == 0, out
    return out


def kill_group(process):
    """SIGKILL the launcher and all its workers at once."""
    assert process.poll() is None, process.stdout.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def wait_for(condition, process, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def directories(folder):
    return list(folder.glob("runs/*/*/*/seed_*"))


def checkpoints(folder):
    """How many were saved; listed by hand, since entries vanish under a glob."""
    listed = [
        os.listdir(d / "checkpoints") for d in directories(folder) if (d / "checkpoints").is_dir()
    ]
    return sum(name.startswith("step-") for names in listed for name in names)


def steps_saved(folder):
    """Steps of the newest checkpoints of all runs together."""
    found = 0
    for place in directories(folder):
        names = os.listdir(place / "checkpoints") if (place / "checkpoints").is_dir() else []
        found += max((int(name[5:17]) for name in names if name.startswith("step-")), default=0)
    return found


def num_done(folder):
    return sum((d / "done.json").is_file() for d in directories(folder))


def restarts(folder):
    return sum(json.loads((d / "done.json").read_text())["restarts"] for d in directories(folder))


def timeless_report(folder, monkeypatch):
    """All files of the report without speed, memory and commits meanwhile."""
    monkeypatch.chdir(folder)
    words = ["compare", "runs/compare_smoke", "--out", "results/smoke"]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    files = {p.name: p.read_bytes() for p in Path("results/smoke").rglob("*") if p.is_file()}
    costs = set()
    for row in csv.DictReader(files["results.csv"].decode().splitlines()):
        costs.add((f"{int(float(row['parameters'])):,}", f"{float(row['peak_memory_mib']):,.0f}"))
    for name, columns in (
        ("results.csv", ("overhead", "peak_memory_mib")),
        ("members.csv", ("steps_per_second",)),
    ):
        rows = list(csv.DictReader(files[name].decode().splitlines()))
        assert all(row.pop(column) for row in rows for column in columns)
        files[name] = json.dumps(rows).encode()
    lines = files["runs.csv"].splitlines()
    kept = [line for line in lines if b"cost/peak_memory_mib" not in line]
    assert len(kept) < len(lines)
    files["runs.csv"] = b"\n".join(kept)
    for name in ("report.md", "report.html", "about.json"):
        text = re.sub(rb"[+-]\d+ % ?(?=\||</td></tr>)", b"", files[name])
        for parameters, memory in costs:
            for between in (" | ", "</td><td>"):
                cells = f"{parameters}{between}{memory}".encode()
                text = text.replace(cells, parameters.encode())
        commits = rb'- commit: .*\n|<li>commit: [^<]*</li>|"commits": \[[^]]*\]'
        files[name] = re.sub(commits, b"", text)
    return files


def assert_same_report(calm, rough, monkeypatch):
    expected, found = (timeless_report(folder, monkeypatch) for folder in (calm, rough))
    assert sorted(found) == sorted(expected)
    for name, data in expected.items():
        assert found[name] == data, name


@pytest.fixture
def places(tmp_path):
    folders = tmp_path / "calm", tmp_path / "rough"
    for folder in folders:
        folder.mkdir()
    return folders


def test_a_small_sweep_killed_and_restarted_gives_the_same_report(places, monkeypatch):
    calm, rough = places
    process = launch(rough, TINY)
    wait_for(lambda: checkpoints(rough) >= 2, process)
    kill_group(process)
    assert num_done(rough) < 2
    for folder in (rough, calm):
        monkeypatch.chdir(folder)
        assert train.main(TINY) == train.EXIT_DONE
    assert (restarts(calm), restarts(rough)) == (0, 1)
    for directory in directories(calm):
        about = json.loads((directory / "environment.json").read_text())
        assert (about["torch"]["threads"], about["num_threads"]) == (1, 1)
    assert_same_report(calm, rough, monkeypatch)


def test_a_process_that_trains_computes_on_one_thread_unless_told_otherwise():
    """Its own libraries, and those of the workers of a sweep, which inherit the variables."""
    code = (
        "import json, os, train, torch; names = "
        f"{THREAD_VARIABLES}; found = {{name: os.environ.get(name) for name in names}};"
        "print(json.dumps([torch.get_num_threads(), found]))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    threads, variables = json.loads(done.stdout)
    assert threads == 1
    assert variables == dict.fromkeys(THREAD_VARIABLES, "1")


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_gives_the_same_report(places, monkeypatch):
    """Three methods, three seeds, everything killed twice, and then only the launcher."""
    calm, rough = places
    assert "9 runs: 9 done" in finish(calm, THREE_BY_THREE)
    seed = int.from_bytes(os.urandom(4))
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)
    for low, high in ((0.0, 0.3), (0.3, 0.6)):
        # By progress, because the speed of a machine changes; 0 hits the imports.
        target = moments.uniform(low, high) * steps_saved(calm)
        process = launch(rough, THREE_BY_THREE)
        wait_for(lambda target=target: steps_saved(rough) >= target, process)
        time.sleep(moments.uniform(0.0, 0.2))
        kill_group(process)
    # Only the launcher dies: its workers must notice, save and let go of their runs.
    process, before = launch(rough, THREE_BY_THREE), num_done(rough)
    wait_for(lambda: num_done(rough) > before, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert num_done(rough) < 9
    assert "9 runs: 9 done" in finish(rough, THREE_BY_THREE)
    assert restarts(rough) >= 1
    assert_same_report(calm, rough, monkeypatch)
    again = finish(rough, THREE_BY_THREE)
    assert again.count("nothing to do") == 9
