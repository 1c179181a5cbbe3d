"""Finds the runs of supervised streams, and accounts for those that a table leaves out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from analysis.compare.arms import learning_settings
from analysis.run_files import read_config

T = TypeVar("T")
Naming = Callable[[Path, dict[str, Any]], str]
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


def finished_runs(
    root: Path, by_network: bool = True, endings: Collection[str] = (FINISHED,)
) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Run directory, configuration and name of the arm of every finished run below a folder.

    The name is that of the network, with synaptic intelligence and clustered contexts as part of
    it, or what the folder says of the arm. Where runs with equally many tasks and different
    settings would share it, it is both, and at last the whole folder.

    Args:
        root: Folder of run directories.
        by_network: Which of the two is the name.
        endings: Of the runs wanted; with `FAILED` also those that failed.

    Raises:
        ValueError: One folder holds runs with different settings.
    """
    left = [(path, read_config(path)) for path in every_run(root) if ending(path) in endings]
    for naming in (_network if by_network else _arm, _without_hash, _both, _folder):
        shared = _shared_names(left, naming)
        for path, config in left:
            if (name := naming(path, config)) not in shared:
                yield path, config, name
        left = [run for run in left if naming(*run) in shared]
    if left:
        raise ValueError(
            f"{left[0][0].parent} holds runs with different settings; put them into folders apart"
        )


def place_once(found: MutableMapping[int, tuple[T, Path]], path: Path, value: T) -> None:
    """Note the value of a run under its seed.

    Raises:
        ValueError: Another run of this arm has the same seed.
    """
    seed = int(path.name.removeprefix("seed_"))
    if seed in found:
        raise ValueError(
            f"{found[seed][1]} and {path} have the same settings and seed; name a folder with only "
            "one of them"
        )
    found[seed] = value, path


def _shared_names(runs: Iterable[tuple[Path, dict[str, Any]]], naming: Naming) -> set[str]:
    """Names of several arms; the number of tasks, and what follows from it, makes none."""
    arms: dict[tuple[str, Any], set[str]] = {}
    for path, config in runs:
        settings = learning_settings(config)
        settings.pop("total_steps", None)
        key = naming(path, config), settings.get("env.num_tasks")
        arms.setdefault(key, set()).add(json.dumps(settings, sort_keys=True))
    return {name for (name, _), settings in arms.items() if len(settings) > 1}


def _network(path: Path, config: dict[str, Any]) -> str:
    """What folders name first, which arms may share."""
    name = path.parent.name.split("-")[1]
    name += "_clusters" if config["env"].get("context") == "clusters" else ""
    return name + ("_si" if "si" in config["method"] else "")


def _arm(path: Path, config: dict[str, Any]) -> str:
    return path.parent.name.split("-", 2)[-1]


def _both(path: Path, config: dict[str, Any]) -> str:
    return path.parent.name.split("-", 1)[-1]


def _without_hash(path: Path, config: dict[str, Any]) -> str:
    return re.sub(r"-[0-9a-f]{8}$", "", _both(path, config))


def _folder(path: Path, config: dict[str, Any]) -> str:
    return str(path.parent)


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
