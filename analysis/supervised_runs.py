"""Finds the runs of supervised streams, and accounts for those that a table leaves out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from analysis.run_files import read_config

FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


def every_run(root: Path) -> list[Path]:
    """Run directories below a folder, `<anything>/seed_<n>`, sorted; moved-away ones are none."""
    return [
        path
        for path in sorted(root.glob("**/seed_*"))
        if path.name.removeprefix("seed_").isdigit() and (path / "config.yaml").is_file()
    ]


def ending(path: Path) -> str:
    """How a run ended: `finished`, `failed` or `unfinished`."""
    if not (path / "done.json").is_file():
        return UNFINISHED
    done = json.loads((path / "done.json").read_text(encoding="utf-8"))
    return FAILED if done.get("status") == FAILED else FINISHED


def finished_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Run directory, configuration and name of the network of every finished run below a folder.

    Synaptic intelligence and clustered contexts are part of the name: folders name the network
    first, which may be the same.
    """
    for path in every_run(root):
        if ending(path) == FINISHED:
            config = read_config(path)
            name = path.parent.name.split("-")[1]
            name += "_clusters" if config["env"].get("context") == "clusters" else ""
            yield path, config, name + ("_si" if "si" in config["method"] else "")


def account(root: Path, used: Collection[Path], otherwise: str) -> str:
    """One sentence that says how many runs a table leaves out, which, and why.

    Args:
        root: Folder of run directories.
        used: Those in the table.
        otherwise: What is the matter with finished runs that are not, for example `of seeds that
            another arm lacks`.
    """
    every, left = every_run(root), {}
    for path in every:
        if path not in used:
            how = ending(path)
            name = f"{path.parent.name}/{path.name}"
            left.setdefault(otherwise if how == FINISHED else how, []).append(name)
    if not left:
        return f"All {len(every)} runs are in the table."
    reasons = (f"{len(names)} {reason} ({', '.join(names)})" for reason, names in left.items())
    total = sum(map(len, left.values()))
    return f"Left out: {total} of {len(every)} runs, {'; '.join(reasons)}."
