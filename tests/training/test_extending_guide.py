"""Every file of docs/extending.md is written where the page says, and every command runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import train

ROOT = Path(train.__file__).parent
ROOMS = ("agents", "analysis", "configs", "envs", "networks", "plasticity")
QUICK = "total_steps=4096 env.switch_interval=2048 progress=false log.figures=false"


def test_the_guide_works_as_written(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)
    files = re.findall(
        r"^`([\w/]+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)^```", text, re.M | re.S
    )
    assert len(files) == 6
    for name, content in files:
        assert not (tmp_path / name).exists(), f"{name} exists already"
        (tmp_path / name).write_text(content)
    commands = re.findall(r"^python (train\.py .*)$", text, re.M)
    assert len(commands) == 3
    for command in commands:
        words = [*command.split(), *QUICK.split()]
        result = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "finished 4,096 steps" in result.stdout
