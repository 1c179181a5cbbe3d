"""Where small copies of runs lie, and the files that every copy takes over as they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PLACE_PARTS = 4  # <group>/<env>/<arm>/seed_<n>
_AS_THEY_ARE = ("config.yaml", "environment.json", "done.json")


def copy_places(paths: Iterable[Path], folder: Path) -> dict[Path, str]:
    """Place of the copy of every run, relative to the folder of all copies.

    Args:
        paths: Run directories; a second mention of one is no second run.
        folder: Where the copies will be written.

    Returns:
        Path as given -> `<group>/<env>/<arm>/seed_<n>`, in the order of the paths.

    Raises:
        ValueError: Two runs would share a place, or a copy would replace its run.
    """
    places: dict[Path, str] = {}
    sources: dict[str, Path] = {}
    for path in paths:
        source = path.resolve()
        place = "/".join(source.parts[-PLACE_PARTS:])
        target = folder.resolve() / place
        if target == source:
            raise ValueError(f"--export-data {folder} would overwrite {path} itself")
        other = sources.setdefault(place, source)
        if other != source:
            raise ValueError(
                f"the copies of {other} and {source} would share the place {target}; compare runs "
                "of different groups, environments, arms or seeds"
            )
        places[path] = place
    return places


def files_as_they_are(path: Path, place: str) -> dict[str, bytes]:
    """Settings, environment and end of a run, by their path below the folder of all copies.

    Args:
        path: Of the run.
        place: Of its copy, see `copy_places`.
    """
    return {
        f"{place}/{name}": (path / name).read_bytes()
        for name in _AS_THEY_ARE
        if (path / name).is_file()
    }
