"""Whole runs from the command line: resume, determinism, transplants, refusals and exit codes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from analysis.checkpoint import CheckpointStore, load_checkpoint
from analysis.state_files import state_hash

REPOSITORY = Path(train.__file__).parent
SMOKE = ["experiment=slippery_ant_smoke", "log.figures=false", "progress=false"]
DETERMINISTIC_FILES = ("progress.csv", "events.jsonl", "episodes.csv")


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def run(root, *words):
    return train.main([*SMOKE, f"runs_root={root}", *words])


def run_directory(root):
    found = [path.parent for path in Path(root).glob("*/*/*/seed_*/config.yaml")]
    assert len(found) == 1, found
    return found[0]


def newest(root):
    return CheckpointStore(run_directory(root) / "checkpoints").load_latest()


def final_state(root):
    """State hash of the newest checkpoint and the bytes of every deterministic file."""
    directory = run_directory(root)
    checkpoint = CheckpointStore(directory / "checkpoints").load_latest()
    files = {name: (directory / name).read_bytes() for name in DETERMINISTIC_FILES}
    return checkpoint.env_steps, checkpoint.manifest["state_hash"], files


def start(root, *words):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "train.py", *SMOKE, f"runs_root={root}", *words]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def checkpoint_names(root):
    """Listed by hand: a glob fails when an entry vanishes under it."""
    folders = Path(root).glob("*/*/*/seed_0")
    names = [
        name
        for f in folders
        if (f / "checkpoints").exists()
        for name in os.listdir(f / "checkpoints")
    ]
    return [name for name in names if name.startswith("step-")]


def wait_for_checkpoint(root, env_steps, process, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(int(name[5:17]) >= env_steps for name in checkpoint_names(root)):
            return
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint at {env_steps} within {seconds} s")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root, "num_threads=1") == train.EXIT_DONE
    return root


def test_a_run_leaves_everything_a_user_looks_for(undisturbed):
    directory = run_directory(undisturbed)
    names = {path.name for path in directory.iterdir()}
    assert {"config.yaml", "environment.json", "done.json", "timing.csv", "checkpoints"} <= names
    assert set(DETERMINISTIC_FILES) <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    done = json.loads((directory / "done.json").read_text())
    assert (done["status"], done["summary"]["env_steps"]) == ("finished", 12_288)
    rows = list(csv.DictReader((directory / "progress.csv").open()))
    last = rows[-1]
    for network in ("policy", "value"):
        for sample_set in ("window", "probe"):
            assert 0 <= float(rows[0][f"{sample_set}/{network}/all/dormant_fraction"]) <= 1
            assert 1 <= float(rows[0][f"{sample_set}/{network}/layers.1/stable_rank"]) <= 32
        assert float(last[f"weights/{network}/all/weight_magnitude"]) > 0
    assert float(last["continual_backprop/policy/layers.0/replaced_total"]) > 0
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    switches = [event for event in events if event["event"] == "switch"]
    assert [(event["env_steps"], event["regime"]) for event in switches] == [(4096, 1), (8192, 2)]
    assert switches[0]["friction"] == pytest.approx(0.0858428841)
    assert any(event["event"] == "unit_reset" for event in events)
    assert not any(event["event"] == "metric_failed" for event in events)


def test_probe_metrics_stand_still_while_weights_do(tmp_path):
    """On-policy windows move with the world and the episodes; the fixed samples do not."""
    words = ["arm=standard", "optimizer.learning_rate=1e-30", "total_steps=8192"]
    assert run(tmp_path, *words) == train.EXIT_DONE
    rows = list(csv.DictReader((run_directory(tmp_path) / "progress.csv").open()))
    assert len({row["regime"] for row in rows}) > 1
    seen = {name: {row[name] for row in rows} - {"", "nan"} for name in rows[0]}
    of_samples = [
        name
        for name in rows[0]
        if name.startswith("probe/")
        and name.endswith(("dormant_fraction", "stable_rank", "effective_rank"))
    ]
    assert len(of_samples) >= 12
    assert {
        name: values for name, values in seen.items() if name in of_samples and len(values) != 1
    } == {}
    of_windows = [values for name, values in seen.items() if name.startswith("window/")]
    assert any(len(values) > 1 for values in of_windows)


def test_a_checkpoint_stays_at_every_switch(undisturbed):
    steps = {p.name for p in (run_directory(undisturbed) / "checkpoints").iterdir()}
    assert {"step-000000004096", "step-000000008192", "step-000000012288"} <= steps


def test_checkpoints_stay_after_every_so_many_steps_and_change_nothing(undisturbed, tmp_path):
    words = ["log.checkpoint_steps=3000", "log.keep_checkpoints=1", "log.pin_switches=false"]
    assert run(tmp_path, *words) == train.EXIT_DONE
    steps = {int(name[5:]) for name in checkpoint_names(tmp_path)}
    # Rollouts have 512 steps: the first of their ends after each multiple, and the last one.
    assert steps >= {3072, 6144, 9216, 12_288}
    assert len(steps) <= 5
    assert final_state(tmp_path) == final_state(undisturbed)


def test_step_accounting(undisturbed):
    directory = run_directory(undisturbed)
    episodes = list(csv.DictReader((directory / "episodes.csv").open()))
    state = CheckpointStore(directory / "checkpoints").load_latest().state
    unfinished = np.asarray(state["env"]["elapsed_steps"]).sum()
    assert sum(int(e["episode_length"]) for e in episodes) + unfinished == 12_288
    assert state["agent"]["iteration"] == 12_288 // 512
    gradient_steps = {u["num_steps"] for u in state["agent"]["updates"].values()}
    assert gradient_steps == {24 * 2 * 8}


def test_equal_seeds_give_equal_bits_on_one_thread_and_on_two(undisturbed, tmp_path):
    assert run(tmp_path, "num_threads=2") == train.EXIT_DONE
    assert final_state(tmp_path) == final_state(undisturbed)


def test_another_seed_gives_another_run(undisturbed, tmp_path):
    assert run(tmp_path, "num_threads=1", "seed=1", "env.world_seed=0") == train.EXIT_DONE
    other, same = final_state(tmp_path), final_state(undisturbed)
    assert other[1] != same[1]

    # The worlds belong to the world seed alone.
    def switches(files):
        lines = files["events.jsonl"].decode().splitlines()
        return [line for line in lines if '"switch"' in line]

    assert switches(other[2]) == switches(same[2])


def test_saving_and_measuring_do_not_disturb_training(undisturbed, tmp_path):
    words = ["num_threads=1", "log.checkpoint_minutes=0"]
    assert run(tmp_path / "often", *words) == train.EXIT_DONE
    assert final_state(tmp_path / "often") == final_state(undisturbed)
    silent = ["log.diagnostics=false", "log.tensorboard=false"]
    silent += [f"log.{rows}_every_iterations=24" for rows in ("log", "ranks", "all_ranks")]
    assert run(tmp_path / "blind", "num_threads=1", *silent) == train.EXIT_DONE
    assert trained_state(tmp_path / "blind") == trained_state(undisturbed)


def trained_state(root):
    """Hash of agent, optimizers, methods, generators, environments and loop at the end."""
    state = CheckpointStore(run_directory(root) / "checkpoints").load_latest().state
    assert state.keys() == {"agent", "env", "loop", "recorder"}
    return state_hash(state, exclude=("recorder",))


@pytest.mark.parametrize("kill_after", [2048, 6144])
def test_a_killed_run_ends_in_the_same_bits(undisturbed, tmp_path, kill_after):
    """SIGKILL before and after a friction switch, then the same command again."""
    words = ["num_threads=1", "log.checkpoint_minutes=0"]
    process = start(tmp_path, *words)
    wait_for_checkpoint(tmp_path, kill_after, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run_directory(tmp_path) / "done.json").exists()
    assert run(tmp_path, *words) == train.EXIT_DONE
    assert final_state(tmp_path) == final_state(undisturbed)
    timing = list(csv.DictReader((run_directory(tmp_path) / "timing.csv").open()))
    assert int(timing[-1]["restarts"]) == 1


def test_sigterm_saves_and_says_that_the_run_can_go_on(undisturbed, tmp_path):
    process = start(tmp_path, "num_threads=1", "log.checkpoint_minutes=0")
    wait_for_checkpoint(tmp_path, 1024, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == train.EXIT_SIGNAL
    assert "the same command goes on" in output
    words = ["num_threads=1", "log.checkpoint_minutes=0"]
    assert run(tmp_path, *words) == train.EXIT_DONE
    assert final_state(tmp_path) == final_state(undisturbed)


def test_a_run_goes_on_from_its_directory_in_the_same_bits(undisturbed, tmp_path, capsys):
    """Whatever words made it: `fresh=true` of then must not move the run aside now."""
    process = start(tmp_path, "num_threads=1", "log.checkpoint_minutes=0", "fresh=true")
    wait_for_checkpoint(tmp_path, 2048, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    directory = run_directory(tmp_path)
    stored = (directory / "config.yaml").read_bytes()
    assert train.main(["resume", str(directory), "progress=false"]) == train.EXIT_DONE
    assert final_state(tmp_path) == final_state(undisturbed)
    hashes = [newest(root).manifest["config_hash"] for root in (tmp_path, undisturbed)]
    assert hashes[0] == hashes[1]
    assert (directory / "config.yaml").read_bytes() == stored
    capsys.readouterr()
    assert train.main(["resume", str(directory)]) == train.EXIT_DONE
    assert "finished already; nothing to do" in capsys.readouterr().out


def test_a_run_is_made_longer_from_its_directory(tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "a", "num_threads=1", "total_steps=3072") == train.EXIT_DONE
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    longer = ["total_steps=6144", "accept_change=true"]
    directory = run_directory(tmp_path / "b")
    assert run(tmp_path / "b", "num_threads=1", f"run_dir={directory}", *longer) == train.EXIT_DONE
    directory = run_directory(tmp_path / "a")
    monkeypatch.chdir(directory)
    assert train.main(["resume", ".", longer[0]]) == train.EXIT_CONFIGURATION
    assert "accept_change=true to go on" in capsys.readouterr().err
    assert train.main(["resume", ".", *longer]) == train.EXIT_DONE
    assert final_state(tmp_path / "a") == final_state(tmp_path / "b")
    assert final_state(tmp_path / "a")[0] == 6144


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name it first: python train.py resume RUN_DIR"),
        (["total_steps=5"], "name it first"),
        (["NOWHERE"], "is not a directory"),
        (["RUN", "agent=sac"], "chooses a preset, which would make another run"),
        (["RUN", "run_dir=x"], "names a place"),
        (["RUN", "fresh=true"], "would start the run anew"),
        (["RUN", "agent.discont=0.9"], "did you mean agent.discount?"),
        (["RUN", "agent.discount=0.9", "accept_change=true"], "cannot change within a run"),
        (["RUN", "seed=1,2"], "one run goes on"),
        (["RUN", "total_steps=x"], "must be a whole number"),
        (["RUN", "total_steps=1", "total_steps=2"], "set total_steps twice"),
        (["RUN", "total_steps"], "cannot read 'total_steps'"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(undisturbed, tmp_path, capsys, words, message):
    directory = run_directory(undisturbed)
    before = sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*.*"))
    places = {"RUN": str(directory), "NOWHERE": str(tmp_path / "nowhere")}
    words = [places.get(word, word) for word in words]
    assert train.main(["resume", *words]) == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert error.startswith("configuration: ")
    assert message in error
    assert sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*.*")) == before


def test_a_finished_run_is_left_alone(undisturbed, capsys):
    before = final_state(undisturbed)
    modified = (run_directory(undisturbed) / "done.json").stat().st_mtime_ns
    assert run(undisturbed, "num_threads=1") == train.EXIT_DONE
    assert "finished already; nothing to do" in capsys.readouterr().out
    assert final_state(undisturbed) == before
    assert (run_directory(undisturbed) / "done.json").stat().st_mtime_ns == modified


def test_replacement_rate_zero_equals_the_run_without_the_method(tmp_path):
    common = ["num_threads=1", "total_steps=4096", "env.switch_interval=2048"]
    off = "method.continual_backprop.replacement_rate=0"
    assert run(tmp_path / "zero", *common, off) == train.EXIT_DONE
    assert run(tmp_path / "plain", *common, "method=[]") == train.EXIT_DONE
    zero = CheckpointStore(run_directory(tmp_path / "zero") / "checkpoints").load_latest().state
    plain = CheckpointStore(run_directory(tmp_path / "plain") / "checkpoints").load_latest().state
    for network in ("policy", "value"):
        a, b = (state["agent"]["updates"][network] for state in (zero, plain))
        assert all(torch.equal(a["network"][key], b["network"][key]) for key in b["network"])
        for key, entry in b["optimizer"].items():
            assert all(torch.equal(entry[name], a["optimizer"][key][name]) for name in entry)
    for stream in ("action_noise", "shuffle"):
        assert torch.equal(zero["agent"][stream], plain["agent"][stream])


@pytest.mark.parametrize("fresh", [["policy"], ["value", "optimizer"], ["log_std"], []])
def test_transplant_keeps_the_named_organs_new(undisturbed, tmp_path, fresh):
    donor_path = run_directory(undisturbed) / "checkpoints" / "step-000000008192"
    donor = load_checkpoint(donor_path).state["agent"]["updates"]
    words = [f"init_from={donor_path}", f"fresh_parts=[{','.join(fresh)}]", "seed=7"]
    composed = train.compose_run([*SMOKE, f"runs_root={tmp_path}", *words])
    directory = train.RunDirectory.open(tmp_path, composed.relative_directory, composed.plain)
    training = train.Training(composed, directory)
    policy = training.agent.networks()["policy"].state_dict()
    value = training.agent.networks()["value"].state_dict()
    weight = "torso.layers.0.linear.weight"
    assert torch.equal(policy[weight], donor["policy"]["network"][weight]) != ("policy" in fresh)
    assert torch.equal(value[weight], donor["value"]["network"][weight]) != ("value" in fresh)
    assert (policy["log_std"].abs().max() == 0) == ("log_std" in fresh)
    optimizer = training.agent.updates["policy"].optimizer
    assert bool(optimizer.state) != ("optimizer" in fresh or "policy" in fresh)
    training.close()
    directory.close()


def test_refusals_have_their_exit_codes_and_change_nothing(undisturbed, tmp_path, capsys):
    def refused(code, message, *words, root=tmp_path):
        assert run(root, *words) == code
        error = capsys.readouterr().err
        assert message in error, error

    refused(2, "did you mean agent.discount", "agent.discont=1")
    refused(2, "does not exist", "init_from=/nowhere/step-1")
    checkpoint = run_directory(undisturbed) / "checkpoints" / "step-000000008192"
    refused(2, "fresh_parts has brain", f"init_from={checkpoint}", "fresh_parts=[brain]")
    refused(2, "could never", "method.continual_backprop.maturity_threshold=100000")
    refused(2, "this agent has policy, value", "method.continual_backprop.networks=[actor]")
    # Another configuration in the same directory.
    directory = run_directory(undisturbed)
    before = (directory / "config.yaml").read_bytes()
    words = ["num_threads=1", "agent.discount=0.9", f"run_dir={directory}"]
    refused(2, "agent.discount", *words, root=undisturbed)
    assert (directory / "config.yaml").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_and_all_damaged_is_an_error(
    undisturbed, tmp_path, capsys
):
    shutil.copytree(undisturbed, tmp_path / "copy")
    directory = run_directory(tmp_path / "copy")
    (directory / "done.json").unlink()
    checkpoints = sorted((directory / "checkpoints").glob("step-*"))
    damage(checkpoints[-1])
    assert run(tmp_path / "copy", "num_threads=1") == train.EXIT_DONE
    assert "passed over" in capsys.readouterr().err
    assert final_state(tmp_path / "copy") == final_state(undisturbed)
    (directory / "done.json").unlink()
    for path in (directory / "checkpoints").glob("step-*"):
        damage(path)
    assert run(tmp_path / "copy", "num_threads=1") == train.EXIT_CONFIGURATION
    assert "intact" in capsys.readouterr().err


def damage(checkpoint):
    files = sorted(checkpoint.glob("*.safetensors"))
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] = (data[len(data) // 2] + 1) % 256  # damaging twice does not repair
    files[0].write_bytes(bytes(data))


def test_two_processes_never_share_a_run(tmp_path, capsys):
    process = start(tmp_path, "num_threads=1", "log.checkpoint_minutes=0", "total_steps=200000")
    try:
        wait_for_checkpoint(tmp_path, 512, process)
        words = ["num_threads=1", "log.checkpoint_minutes=0", "total_steps=200000"]
        assert run(tmp_path, *words) == train.EXIT_CONFIGURATION
        assert "another process" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()


def test_a_nan_in_a_weight_fails_the_run_loudly(tmp_path, monkeypatch, capsys):
    original = train.Training._update

    def poison(self, progress, info):
        if self.agent.iteration == 2:
            with torch.no_grad():
                self.agent.networks()["value"].value.weight[0, 0] = float("nan")
        original(self, progress, info)

    monkeypatch.setattr(train.Training, "_update", poison)
    assert run(tmp_path, "num_threads=1") == train.EXIT_NUMERICAL
    error = capsys.readouterr().err
    assert "is not finite; the run stops here" in error
    directory = run_directory(tmp_path)
    assert json.loads((directory / "done.json").read_text())["status"] == "failed"
    assert list((directory / "crash").glob("step-*"))
    assert '"failure"' in (directory / "events.jsonl").read_text()
    assert run(tmp_path, "num_threads=1") == train.EXIT_NUMERICAL  # a failure is final


def test_a_simulator_blow_up_fails_the_run_loudly(tmp_path, monkeypatch, capsys):
    original = train.Training._update

    def explode(self, progress, info):
        original(self, progress, info)
        if self.agent.iteration == 2:
            self.envs.simulations.data[1].qvel[0] = 1e11

    monkeypatch.setattr(train.Training, "_update", explode)
    assert run(tmp_path, "num_threads=1") == train.EXIT_NUMERICAL
    assert "environment 1" in capsys.readouterr().err


def test_accepted_changes_continue_the_run(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy")
    directory = run_directory(tmp_path / "copy")
    words = ["num_threads=1", f"run_dir={directory}", "accept_change=true", "total_steps=14336"]
    assert run(tmp_path / "copy", *words) == train.EXIT_DONE
    done = json.loads((directory / "done.json").read_text())
    assert done["summary"]["env_steps"] == 14_336
    assert "setting_changed" in (directory / "events.jsonl").read_text()


def test_fresh_moves_the_old_run_aside(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy")
    assert run(tmp_path / "copy", "num_threads=1", "fresh=true") == train.EXIT_DONE
    folders = {path.parent.name for path in (tmp_path / "copy").glob("*/*/*/*/config.yaml")}
    assert folders == {"seed_0", "seed_0.old-1"}


def test_units_stay_mature_under_another_threshold(undisturbed, tmp_path):
    """A transplanted method counts again who is old enough by its own threshold."""
    donor = run_directory(undisturbed) / "checkpoints" / "step-000000008192"
    threshold = 150
    words = [f"init_from={donor}", f"method.continual_backprop.maturity_threshold={threshold}"]
    assert run(tmp_path, "num_threads=1", *words) == train.EXIT_DONE
    lines = (run_directory(tmp_path) / "events.jsonl").read_text().splitlines()
    ages = [e["age"] for e in map(json.loads, lines) if e["event"] == "unit_reset"]
    assert len(ages) > 20
    assert min(ages) > threshold


def test_drifting_friction_pins_no_checkpoints(tmp_path):
    words = ["env.schedule=sinusoidal", "env.update_every=512", "env.sinusoid_period=4096"]
    assert run(tmp_path, "num_threads=1", "total_steps=4096", *words) == train.EXIT_DONE
    assert len(checkpoint_names(tmp_path)) == 1
    assert '"drift"' in (run_directory(tmp_path) / "events.jsonl").read_text()


def test_a_refused_run_leaves_no_directory_and_moves_none(undisturbed, tmp_path):
    assert run(tmp_path, "total_steps=100") == train.EXIT_CONFIGURATION
    assert not list(tmp_path.iterdir())
    before = final_state(undisturbed)
    words = ["fresh=true", "agent.minibatch_size=48", f"run_dir={run_directory(undisturbed)}"]
    assert run(undisturbed, *words) == train.EXIT_CONFIGURATION
    assert final_state(undisturbed) == before


def test_only_released_settings_may_change(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "copy")
    directory = run_directory(tmp_path / "copy")
    words = [f"run_dir={directory}", "accept_change=true", "network.hidden_sizes=[16,16]"]
    before = (directory / "config.yaml").read_bytes()
    assert run(tmp_path / "copy", *words) == train.EXIT_CONFIGURATION
    assert "hidden_sizes" in capsys.readouterr().err
    assert (directory / "config.yaml").read_bytes() == before
    assert (directory / "done.json").exists()


def test_a_donor_with_another_optimizer_is_refused(undisturbed, tmp_path, capsys):
    donor = run_directory(undisturbed) / "checkpoints" / "step-000000008192"
    words = [f"init_from={donor}", "method.continual_backprop.optimizer_state=per_unit_step"]
    assert run(tmp_path, "num_threads=1", *words) == train.EXIT_CONFIGURATION
    assert "add optimizer to fresh_parts" in capsys.readouterr().err
