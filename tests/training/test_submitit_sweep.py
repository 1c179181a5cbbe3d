"""Sweeps as jobs of a queue: the local queue of submitit stands in for SLURM."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import train
from configs.compose import CONFIG_FOLDER

REPOSITORY = Path(train.__file__).parent
WORDS = [
    *("-m", "experiment=compare_smoke", "arm=standard", "seed=0,1", "total_steps=1024"),
    *("env.switch_interval=512", "agent.num_epochs=1", "log.diagnostics=false", "progress=false"),
]
INSTALLED = find_spec("submitit") is not None


@pytest.mark.skipif(INSTALLED, reason="submitit is installed")
@pytest.mark.parametrize("launcher", ["submitit_slurm", "submitit_local"])
def test_without_submitit_the_command_that_installs_it_is_named(capsys, launcher):
    assert train.main([*WORDS, f"hydra/launcher={launcher}"]) == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert f"hydra/launcher={launcher} needs packages" in error
    assert "pip install -e '.[slurm]'" in error


@pytest.mark.skipif(not INSTALLED, reason="pip install -e '.[slurm]'")
@pytest.mark.parametrize("name", ["submitit_slurm", "submitit_local"])
def test_the_presets_know_every_setting_of_the_launcher(name):
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

    preset = yaml.safe_load((CONFIG_FOLDER / "hydra" / "launcher" / f"{name}.yaml").read_text())
    conf = {"submitit_slurm": SlurmQueueConf, "submitit_local": LocalQueueConf}[name]
    assert preset["_target_"] == conf._target_
    assert set(preset) <= set(conf.__dataclass_fields__)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="pip install -e '.[slurm]'")
def test_jobs_of_a_queue_give_the_same_results(tmp_path, monkeypatch):
    queue, calm = tmp_path / "queue", tmp_path / "calm"
    queue.mkdir()
    calm.mkdir()
    found = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *WORDS, "hydra/launcher=submitit_local"],
        cwd=queue,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == train.EXIT_DONE, found.stdout
    assert "2 runs: 2 done, 0 failed, 0 neither" in found.stdout
    monkeypatch.chdir(calm)
    assert train.main([*WORDS, "hydra/launcher=basic"]) == train.EXIT_DONE
    expected = sorted(calm.glob("runs/*/*/*/seed_*/episodes.csv"))
    assert len(expected) == 2
    for file in expected:
        assert (queue / file.relative_to(calm)).read_bytes() == file.read_bytes()
