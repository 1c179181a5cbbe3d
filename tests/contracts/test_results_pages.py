"""Pages of results: what they link to and what their commands read is in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
PAGES = sorted((ROOT / "results").rglob("README.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
READ = re.compile(r"(?<!--out )(?<!--export-data )\bresults/[\w/.-]+")


def in_repository() -> set[str]:
    """Files that a clone has; what git ignores is here and nowhere else."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    return set(listed.stdout.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_and_inputs_of_a_page_are_in_the_repository(page):
    text, files = page.read_text(encoding="utf-8"), in_repository()
    folders = {str(parent) for name in files for parent in Path(name).parents}
    linked = [(page.parent / link).resolve().relative_to(ROOT) for link in LINK.findall(text)]
    read = [Path(path) for path in READ.findall(text)]
    missing = [str(path) for path in (*linked, *read) if str(path) not in files | folders]
    assert not missing


def test_copies_of_runs_are_not_ignored():
    copy = "results/anything/runs/group/env/arm/seed_0/progress.csv"
    asked = subprocess.run(["git", "check-ignore", copy], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode == 128:
        pytest.skip("this is no clone")
    assert asked.returncode == 1
