"""`python evaluate.py` on a real run: numbers, figures, films, and refusals in one sentence."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import evaluate
import train
from analysis.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from analysis.restored import load_agent
from analysis.run_files import NotARun
from analysis.runs import load_runs
from analysis.state_files import state_hash
from analysis.summary import final_return
from analysis.video import (
    INSTALL_LINE,
    RenderingUnavailable,
    annotate,
    choose_backend,
    find_backend,
)
from configs.compose import compose_run

REPOSITORY = Path(train.__file__).parent
WORDS = [
    "experiment=slippery_ant_smoke",
    "num_threads=1",
    "progress=false",
    "total_steps=3072",
    "env.switch_interval=1536",
    "env.max_episode_steps=100",
    "log.log_every_iterations=1",
    "log.ranks_every_iterations=1",
    "log.all_ranks_every_iterations=5",
    "log.checkpoint_minutes=0",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "reserved_bytes", 0)
        assert train.main([*WORDS, f"runs_root={root}"]) == train.EXIT_DONE
    (config,) = root.glob("**/config.yaml")
    return config.parent


@pytest.fixture
def run(trained, tmp_path):
    """A copy that a test may damage."""
    copy = tmp_path / "seed_0"
    shutil.copytree(trained, copy)
    return copy


def quick(run, *words):
    return evaluate.main(["run", str(run), "--episodes", "2", "--frictions", "0.5", *words])


def refused(capsys, code, *words):
    assert code == evaluate.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1, error
    for word in words:
        assert word in error


def test_training_ends_with_figures_and_a_final_return(trained):
    done = json.loads((trained / "done.json").read_text())
    assert done["summary"]["figures"] == ["run.png", "run.svg"]
    # No episode may have ended late in so short a run: then there is no final return, not 0.
    measured, expected = done["summary"]["final_return"], final_return(trained)
    assert measured is None if np.isnan(expected) else measured == pytest.approx(expected)


def test_figures_show_what_the_recorder_wrote(trained):
    with (trained / "progress.csv").open() as stream:
        header = next(csv.reader(stream))
    measured = {(r["env_steps"], r["metric"]): r["value"] for r in load_runs(trained).rows()}
    for name in (
        "window/policy/all/dormant_fraction",
        "probe/value/all/dormant_fraction",
        "window/value/layers.1/stable_rank",
        "weights/policy/mean/weight_magnitude",
    ):
        assert name in header
        assert np.isfinite(measured[512, name])


def test_a_run_is_measured_and_written(run, capsys):
    assert quick(run, "--seed", "3") == evaluate.EXIT_DONE
    record = json.loads((run / "evaluation.json").read_text())
    assert (record["env_steps"], record["checkpoint"]) == (3072, "step-000000003072")
    (world,) = record["worlds"]
    assert world["friction"] == 0.5
    for kind in ("deterministic", "stochastic"):
        assert len(world[kind]["returns"]) == len(world[kind]["lengths"]) == 2
        assert world[kind]["mean"] == pytest.approx(np.mean(world[kind]["returns"]))
        assert world[kind]["low"] <= world[kind]["mean"] <= world[kind]["high"]
    shown = capsys.readouterr().out
    assert f"{world['deterministic']['mean']:.1f}" in shown
    assert quick(run, "--seed", "3", "--out", str(run.parent / "out")) == evaluate.EXIT_DONE
    again = json.loads((run.parent / "out" / "evaluation.json").read_text())
    assert again["worlds"] == record["worlds"]


def test_a_checkpoint_can_be_named(run):
    newest = max((run / "checkpoints").iterdir())
    assert quick(run, "--checkpoint", str(newest)) == evaluate.EXIT_DONE
    assert json.loads((run / "evaluation.json").read_text())["checkpoint"] == newest.name
    assert not (run / "evaluations").exists()


def test_an_older_checkpoint_never_replaces_the_results_of_the_newest(run, tmp_path, capsys):
    assert quick(run) == evaluate.EXIT_DONE
    before = (run / "evaluation.json").read_bytes()
    first = min((run / "checkpoints").iterdir())
    folder = run / "evaluations" / first.name
    alone = ["run", str(first), "--episodes", "1", "--frictions", "0.5"]
    for words in ([*alone], ["run", str(run), "--checkpoint", str(first), *alone[2:]]):
        shutil.rmtree(folder, ignore_errors=True)
        assert evaluate.main(words) == evaluate.EXIT_DONE
        assert (run / "evaluation.json").read_bytes() == before
        assert json.loads((folder / "evaluation.json").read_text())["checkpoint"] == first.name
        assert f"not the newest checkpoint: its results go to {folder}" in capsys.readouterr().out
    assert evaluate.main([*alone, "--out", str(tmp_path / "out")]) == evaluate.EXIT_DONE
    assert "not the newest" not in capsys.readouterr().out


def test_a_checkpoint_can_be_named_without_its_folder(run, capsys):
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert quick(run, "--checkpoint", names[0]) == evaluate.EXIT_DONE
    record = json.loads((run / "evaluations" / names[0] / "evaluation.json").read_text())
    assert record["checkpoint"] == names[0]
    capsys.readouterr()
    code = quick(run, "--checkpoint", "step-000000000001")
    refused(capsys, code, "there is no checkpoint step-000000000001", *names)


def damage(checkpoint):
    data = bytearray((checkpoint / "agent.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint / "agent.safetensors").write_bytes(bytes(data))


def test_a_damaged_checkpoint_is_passed_over_and_said_so(run, capsys):
    newest = max((run / "checkpoints").iterdir())
    damage(newest)
    assert quick(run) == evaluate.EXIT_DONE
    assert f"{newest.name}" in capsys.readouterr().err
    assert json.loads((run / "evaluation.json").read_text())["env_steps"] < 3072


def test_without_a_usable_checkpoint_it_refuses(run, capsys):
    newest = max((run / "checkpoints").iterdir())
    damage(newest)
    refused(capsys, quick(run, "--checkpoint", str(newest)), newest.name)
    refused(capsys, quick(run, "--checkpoint", str(run / "nothing")), "nothing")
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint != newest:
            damage(checkpoint)
    refused(capsys, quick(run), "is intact")
    shutil.rmtree(run / "checkpoints")
    refused(capsys, quick(run), "no checkpoint yet")


def test_a_checkpoint_of_another_agent_is_refused(run, capsys):
    config = (run / "config.yaml").read_text()
    assert "- 32\n" in config
    (run / "config.yaml").write_text(config.replace("- 32\n", "- 33\n"))
    refused(capsys, quick(run), "does not fit the configuration")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run"], "name either a run directory"),
        (["run", "RUN", "--frictions", "0.1,0"], "not a number above 0"),
        (["run", "RUN", "--frictions=-1"], "not a number above 0"),
        (["run", "RUN", "--episodes", "0"], "not a whole number above 0"),
        (["run", "RUN", "--seed", "-1"], "seed"),
        (["run", "RUN", "--epi", "3"], "unrecognized arguments"),
        (["run", "RUN", "--experiment", "x"], "name either a run directory"),
        (["run", "--experiment", "no_such_thing"], "holds no run"),
        (["run", "EMPTY"], "not a run directory"),
        (["figures", "EMPTY"], "not a run directory"),
        (["figures", "EMPTY/missing"], "not a directory"),
        (["inspect", "EMPTY"], "manifest"),
        (["draw", "RUN"], "draw"),
        ([], "COMMAND"),
    ],
)
def test_wrong_command_lines_are_refused_in_one_sentence(
    trained, tmp_path, capsys, words, expected
):
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(trained), "EMPTY": str(tmp_path / "empty")}
    words = [word.replace("EMPTY", places["EMPTY"]).replace("RUN", places["RUN"]) for word in words]
    refused(capsys, evaluate.main(words), expected)
    assert list((tmp_path / "empty").iterdir()) == []


def test_figures_are_redrawn_on_request(run, capsys):
    shutil.rmtree(run / "figures")
    assert evaluate.main(["figures", str(run)]) == evaluate.EXIT_DONE
    assert (run / "figures" / "run.png").stat().st_size > 10_000
    assert "run.svg" in capsys.readouterr().out


def test_figures_of_a_run_that_has_nothing_to_show_are_refused(tmp_path, capsys):
    settings = yaml.safe_dump(compose_run(WORDS).plain)
    (tmp_path / "config.yaml").write_text(settings)
    refused(capsys, evaluate.main(["figures", str(tmp_path)]), "no row yet; train it first")
    (tmp_path / "progress.csv").write_text("env_steps,iteration\n")
    refused(capsys, evaluate.main(["figures", str(tmp_path)]), "no row yet; train it first")
    assert not (tmp_path / "figures").exists()


def test_an_agent_comes_back_from_any_checkpoint_with_its_environments(run):
    last, earlier = load_agent(run), load_agent(str(run), step=1536)
    assert (last.env_steps, earlier.env_steps) == (3072, 1536)
    for found in (last, earlier):
        stored = load_checkpoint(run / "checkpoints" / found.checkpoint)
        state = {"agent": found.agent.state_dict(), "env": found.envs.snapshot()}
        expected = {name: stored.state[name] for name in state}
        assert state_hash(state) == state_hash(expected)
        observation, context = found.envs.last_observation, found.envs.context
        np.testing.assert_array_equal(observation, stored.state["loop"]["observation"])
        found.envs.step(found.agent.act(observation, context, explore=False))
        found.close()
    with pytest.raises(CheckpointError, match=r"no checkpoint at step 17; .* step-000000003072"):
        load_agent(run, step=17)
    with pytest.raises(NotARun, match="not a run directory"):
        load_agent(run / "checkpoints", step=17)


def test_inspect_prints_the_manifest_and_opens_nothing_else(run, capsys):
    checkpoint = max((run / "checkpoints").iterdir())
    for file in checkpoint.iterdir():
        if file.name != "manifest.json":
            file.unlink()
    assert evaluate.main(["inspect", str(checkpoint)]) == evaluate.EXIT_DONE
    manifest = json.loads(capsys.readouterr().out)
    assert manifest == json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["env_steps"] == 3072


def test_all_runs_of_an_experiment_are_evaluated(run, tmp_path, monkeypatch):
    place = tmp_path / "runs" / "study" / "slippery_ant" / "ppo-small-none"
    place.mkdir(parents=True)
    shutil.copytree(run, place / "seed_0")
    shutil.copytree(run, place / "seed_1")
    monkeypatch.chdir(tmp_path)
    words = ["run", "--experiment", "study", "--episodes", "1", "--frictions", "2"]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    assert len(list(place.glob("*/evaluation.json"))) == 2
    assert evaluate.main([*words, "--out", "x"]) == evaluate.EXIT_CONFIGURATION


def test_without_opengl_the_numbers_come_and_the_remedy_is_one_line(run):
    environment = {**os.environ, "MUJOCO_GL": "disable", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "evaluate.py", "run", str(run), "--video"]
    command += ["--episodes", "1", "--frictions", "2"]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert (run / "evaluation.json").exists()
    assert not (run / "videos").exists()
    (line,) = [line for line in result.stderr.splitlines() if "no video" in line]
    assert "apt-get install" in line
    assert INSTALL_LINE in line


@pytest.mark.parametrize("works", [True, False])
def test_an_opengl_that_does_not_exist_is_passed_over(monkeypatch, capsys, works):
    tried = []

    def probe(command, env, **options):
        tried.append(env["MUJOCO_GL"])
        draws = works and tried[-1] == "osmesa"
        return subprocess.CompletedProcess(command, 0 if draws else 1)

    monkeypatch.setattr("analysis.video.subprocess.run", probe)
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert choose_backend() is works
    assert tried == ["nonsense", "egl", "osmesa"] + ["glfw"] * (not works)
    said = capsys.readouterr().err
    if works:
        assert os.environ["MUJOCO_GL"] == "osmesa"
        assert "MUJOCO_GL=nonsense draws nothing here; taking osmesa" in said
    else:
        assert "MUJOCO_GL" not in os.environ  # MuJoCo could not even be imported with it
        assert INSTALL_LINE in said


def test_text_is_written_on_a_copy_of_the_frame():
    frame = np.full((360, 480, 3), 128, dtype=np.uint8)
    written = annotate(frame, 0.02, -1234.5)
    assert (frame == 128).all()
    assert written.shape == frame.shape
    changed = np.argwhere((written != 128).any(axis=2))
    assert len(changed) > 500
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert top > 0
    assert left > 0
    assert bottom < 40
    assert right < 400
    assert not np.array_equal(written, annotate(frame, 0.02, -1234.5 + 100))


@pytest.mark.gl
def test_an_episode_is_filmed(run):
    try:
        find_backend()
    except RenderingUnavailable as error:
        pytest.skip(f"no OpenGL: {error}")
    # A process of its own: MuJoCo chooses its OpenGL when it is first imported.
    code = (
        "import evaluate, sys\n"
        "evaluate.FILM_SECONDS = 0.5\n"
        f"sys.exit(evaluate.main(['run', {str(run)!r}, '--video', '--episodes', '1', "
        "'--frictions', '0.1,2']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    import imageio.v2 as imageio

    names = sorted(path.name for path in (run / "videos").iterdir())
    assert names == ["friction_0.1.mp4", "friction_2.mp4"]
    reader: Any = imageio.get_reader(run / "videos" / names[0])
    frames = list(iter(reader))
    assert len(frames) == 10
    assert frames[0].shape == (360, 480, 3)
    assert frames[0].std() > 20  # a scene, not one colour
    assert not np.array_equal(frames[0], frames[-1])


def test_a_checkpoint_of_another_kind_of_world_is_refused(trained, tmp_path, capsys):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["env"] = {"kind": "meta_world", "benchmark": "mt10"}
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    code = evaluate.main(["run", str(tmp_path / "run")])
    refused(capsys, code, "was trained with environment=ant", "has env.kind=meta_world")
