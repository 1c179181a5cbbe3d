"""How sweeps end: by signals, by lost processes, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import train
from analysis.interruption import Interruption
from configs import sweep as sweeping
from configs.exit_codes import of_several
from configs.sweep_folder import SweepFolder
from configs.sweep_signals import stop_with

REPOSITORY = Path(train.__file__).parent
WORDS = ["-m", "experiment=compare_smoke", "arm=standard"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory, and the folder in which sweeps make theirs."""
    monkeypatch.chdir(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    return shared


def finished(composed):
    folder = Path("runs") / composed.relative_directory
    folder.mkdir(parents=True, exist_ok=True)
    done = {"status": "finished", "summary": {"env_steps": 8, "final_return": 1.0}}
    (folder / "done.json").write_text(json.dumps(done))
    return train.EXIT_DONE


def test_what_would_go_on_outranks_what_is_refused_and_that_what_is_final():
    assert [of_several(codes) for codes in ([], [0, 0], [0, 3], [3, 2], [2, 3, 1])] == [
        0,
        0,
        3,
        2,
        1,
    ]
    assert of_several([1, 3, 4, 2]) == 4
    assert of_several([0, 4, 75, 1]) == 75
    assert of_several([-9, 3]) == 1


@pytest.mark.parametrize("seen_by", ["run", "launcher"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_a_sweep_in_one_process(seen_by, number, place, monkeypatch, capsys):
    begun = []

    def run(composed):
        begun.append(composed.config.seed)
        if composed.config.seed == 1 and seen_by == "launcher":
            signal.raise_signal(number)  # while nothing is open that could save
        if composed.config.seed == 1 and seen_by == "run":
            with Interruption() as interruption:
                signal.raise_signal(number)
                assert interruption.requested == number
            return train.EXIT_SIGNAL
        return finished(composed)

    monkeypatch.setattr(train, "run", run)
    before = signal.getsignal(number)
    # Hydra writes some of these words in its own way.
    words = [*WORDS, "hydra/launcher=basic", "log.figures=false", "optimizer.learning_rate=1e-4"]
    assert train.main([*words, "seed=0,1,2,3"]) == train.EXIT_SIGNAL
    assert begun == [0, 1]
    captured = capsys.readouterr()
    assert "4 runs: " in captured.out
    not_begun = [line for line in captured.out.splitlines() if "not begun" in line]
    assert [set(line.split()) & {"seed=1", "seed=2", "seed=3"} for line in not_begun] == [
        {"seed=2"},
        {"seed=3"},
    ]
    assert "stopped by a signal; the same command goes on" in captured.err
    assert list(place.iterdir()) == []
    assert signal.getsignal(number) is before


def test_a_signal_between_two_runs_reaches_the_one_that_opens(place, monkeypatch):
    """It came while the run was being built, and so before anything could remember it."""

    def run(composed):
        signal.raise_signal(signal.SIGTERM)
        with Interruption() as interruption:
            deadline = time.monotonic() + 60
            while interruption.requested is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return train.EXIT_SIGNAL

    monkeypatch.setattr(train, "run", run)
    assert train.main([*WORDS, "hydra/launcher=basic", "seed=0,1"]) == train.EXIT_SIGNAL


def test_the_second_signal_ends_the_launcher_at_once(place, monkeypatch, capsys):
    def run(composed):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it goes on")

    monkeypatch.setattr(train, "run", run)
    assert train.main([*WORDS, "hydra/launcher=basic", "seed=0,1"]) == train.EXIT_SIGNAL
    out = capsys.readouterr().out
    assert "not finished" in out
    assert "not begun" in out
    assert list(place.iterdir()) == []


def test_a_run_that_has_the_signal_already_gets_no_second_one(tmp_path):
    """A terminal sends Ctrl-C to members and launcher alike."""
    folder = SweepFolder(tmp_path / "sweep")
    folder.path.mkdir()
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        stop_with(os.getpid(), folder)
        folder.stop(signal.SIGINT)
        time.sleep(1.5)  # a second one would end this process
    assert interruption.requested == signal.SIGINT
    folder.path.joinpath("stopped").unlink()
    folder.path.rmdir()
    deadline = time.monotonic() + 60
    while any(folder.token in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Lost processes ------------------------------------------------------------------------------


def test_runs_that_are_lost_for_good_are_named(place, monkeypatch, capsys):
    """Seed 0 kills its process whenever it runs; whoever runs beside it is lost with it."""
    launches = []

    def launch(arguments):
        folder = sweeping.sweep_folder()
        members = [[*WORDS[1:], f"seed={seed}"] for seed in range(4)]
        waiting = [m for m in members if not (folder.has_ended(m) or folder.is_held(m))]
        launches.append([words[-1] for words in waiting])
        for words in waiting[: 2 if launches[1:] else 1]:
            folder.begin(words)
            if words[-1] == "seed=0":
                return sweeping._DIED
            row = {"directory": f"g/e/a/{words[-1]}", "group": None, "words": words}
            folder.leave(words, sweeping.ended(row | {"status": "done"}, 0, 1.0))
        return None

    monkeypatch.setattr(sweeping, "_launch", launch)
    monkeypatch.setattr(SweepFolder, "wait_for_the_lost", lambda self: None)
    assert train.main([*WORDS, "seed=0,1,2"]) == train.EXIT_FAILED
    captured = capsys.readouterr()
    assert launches[1] == ["seed=1", "seed=2", "seed=3"]  # without the one that was lost
    assert len(launches) == 1 + sweeping._RELAUNCHES
    assert "the sweep cannot start" not in captured.err
    assert "one of its processes died, see above; the same command goes on" in captured.err
    (line,) = [line for line in captured.out.splitlines() if "not finished" in line]
    assert line.endswith("experiment=compare_smoke arm=standard seed=0")


FAKE = """
import json, os, signal, time
from pathlib import Path

def run(composed):
    seed = composed.config.seed
    Path(f"begun_{seed}_{os.getpid()}").touch()
    again = len(list(Path(".").glob(f"begun_{seed}_*"))) > 1
    def wait(condition):
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    if SCENE == "killed" and seed == 0 and not again:
        wait(lambda: list(Path(".").glob("begun_1_*")))
        os.kill(os.getpid(), signal.SIGKILL)
    if SCENE == "killed" and seed == 1 and not again:
        time.sleep(300)
    if SCENE == "signalled":
        from analysis.interruption import Interruption
        with Interruption() as interruption:
            Path(f"open_{seed}").touch()
            wait(lambda: interruption.requested is not None)
        Path(f"saved_{seed}").touch()
        return 75
    folder = Path("runs") / composed.relative_directory
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"env_steps": 8, "final_return": 1.0}
    (folder / "done.json").write_text(json.dumps({"status": "finished", "summary": summary}))
    return 0
"""
LAUNCH = "import sys; from configs.sweep import sweep; sys.exit(sweep(sys.argv[1:]))"


def start(folder, scene, *words):
    """A sweep with two processes, in which `train.run` is the one above."""
    fakes, shared = folder / "fakes", folder / "shared"
    fakes.mkdir()
    shared.mkdir()
    (fakes / "train.py").write_text(f"SCENE = {scene!r}\n{FAKE}")
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *WORDS, "hydra.launcher.n_jobs=2", *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{fakes}{os.pathsep}{REPOSITORY}",
            "TMPDIR": str(shared),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def leftovers(folder):
    return [path for path in (folder / "shared").iterdir() if path.name.startswith("sweep-")]


def test_a_killed_process_costs_no_member(tmp_path):
    process = start(tmp_path, "killed", "seed=0,1,2")
    out, _ = process.communicate(timeout=600)
    assert "a process of the sweep was lost" in out
    assert "cannot start" not in out
    assert "3 runs: 3 done, 0 failed, 0 neither" in out
    assert process.returncode == train.EXIT_DONE, out
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_to_the_launcher_reaches_its_processes(to_all, tmp_path):
    process = start(tmp_path, "signalled", "seed=0,1,2")
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("open_*"))) < 2:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == train.EXIT_SIGNAL, out
    assert len(list(tmp_path.glob("saved_*"))) == 2
    assert len(list(tmp_path.glob("open_*"))) == 2
    assert "exit code 75" in out
    assert "not begun" in out
    assert "stopped by a signal; the same command goes on" in out
    assert leftovers(tmp_path) == []
