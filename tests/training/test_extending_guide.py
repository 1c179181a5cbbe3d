"""Every file of docs/extending.md is written where the page says, and every command runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from words import named_once

import train

ROOT = Path(train.__file__).parent
ROOMS = ("agents", "analysis", "configs", "envs", "networks", "plasticity", "tests")
QUICK = "total_steps=4096 env.switch_interval=2048 progress=false log.figures=false"
TEXT = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout in which somebody has followed the page."""
    folder = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    files = re.findall(
        r"^`([\w/]+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)^```", TEXT, re.M | re.S
    )
    assert len(files) == 9
    for name, content in files:
        assert not (folder / name).exists(), f"{name} exists already"
        (folder / name).write_text(content)
    (entry,) = re.findall(r'^    "noise": Entry\(.*\),$', TEXT, re.M)
    table = folder / "tests" / "contracts" / "test_methods.py"
    start = "STRONG = {\n"
    assert start in table.read_text()
    table.write_text(table.read_text().replace(start, f"{start}{entry}\n"))
    return folder


def follow(checkout, words):
    return subprocess.run(
        [sys.executable, *words], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_every_command_trains(checkout):
    commands = re.findall(r"^python (train\.py .*)$", TEXT, re.M)
    assert len(commands) == 5
    for command in commands:
        result = follow(checkout, named_once([*command.split(), *QUICK.split()]))
        assert result.returncode == 0, result.stdout + result.stderr
        assert "finished 4,096 steps" in result.stdout


CONTRACTS = re.findall(r"^python (-m pytest .*)$", TEXT, re.M)


@pytest.mark.parametrize(
    "command", [CONTRACTS[0], *(pytest.param(c, marks=pytest.mark.slow) for c in CONTRACTS[1:])]
)
def test_the_examples_keep_the_contracts(checkout, command):
    result = follow(checkout, [*command.split(), "-q", "-p", "no:cacheprovider"])
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr
    assert " passed" in result.stdout


def test_there_is_a_contract_for_every_kind_of_example():
    assert len(CONTRACTS) == 4


def test_the_edits_of_the_example_do_not_count_as_learning(checkout):
    words = ["train.py", "experiment=slippery_ant_smoke", "boundary=oracle", *QUICK.split()]
    refused = follow(checkout, [*words, "method=[noise,si]"])
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "write method=[si,noise]" in refused.stdout + refused.stderr
    accepted = follow(checkout, [*words, "method=[si,noise]"])
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
