"""Finds the runs of supervised streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.run_files import read_config


def finished_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Run directory, configuration and name of the network of every finished run below a folder.

    Synaptic intelligence and clustered contexts are part of the name: folders name the network
    first, which may be the same.
    """
    for path in sorted(root.glob("**/seed_*")):
        if (path / "done.json").is_file():
            config = read_config(path)
            name = path.parent.name.split("-")[1]
            name += "_clusters" if config["env"].get("context") == "clusters" else ""
            yield path, config, name + ("_si" if "si" in config["method"] else "")
