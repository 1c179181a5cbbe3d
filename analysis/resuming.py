"""`python train.py resume RUN_DIR [key=value ...]`: a run goes on from its own directory.

The command that made the run is not needed: its config.yaml says it all. Words after the directory
say how to run (`num_threads=1 progress=false`) or change what may change within a run, as in
`total_steps=2_000_000 accept_change=true`. A run that is finished says so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.run_files import NotARun, read_config
from configs.compose import Composed
from configs.exit_codes import EXIT_CONFIGURATION
from configs.members import refuse_repeated
from configs.presets import GROUPS
from configs.run import load_run
from configs.schema import ConfigurationError, flat, to_plain, unknown_key

_PLACES = ("run_dir", "runs_root")
# Said anew with every command: what was said when the run began does not count any more.
_ONCE = ("fresh", "accept_change")


def resume(arguments: Sequence[str]) -> int:
    """Go on with the run of a directory and return the exit code, as training does."""
    from train import run

    try:
        composed = compose_again(arguments)
    except (ConfigurationError, NotARun) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return run(composed)


def compose_again(arguments: Sequence[str]) -> Composed:
    """The configuration of a run, read from its directory, with some settings changed.

    Args:
        arguments: Run directory, then words of the form `key=value`.

    Raises:
        NotARun: The first word is no run directory.
        ConfigurationError: No directory is named, a word cannot be read or has no meaning here, or
            the configuration is not one of this version.
    """
    if not arguments or "=" in arguments[0] or arguments[0].startswith("-"):
        raise ConfigurationError(
            "resume goes on with the run of a directory; name it first: python train.py resume "
            "RUN_DIR"
        )
    run_dir, words = Path(arguments[0]), list(arguments[1:])
    values = {**read_config(run_dir), **dict.fromkeys(_ONCE, False)}
    refuse_repeated(words)
    known = flat(to_plain(load_run(values), complete=True))
    for word in words:
        _set(values, *_parsed(word, known))
    config = load_run(values)
    plain = to_plain(config)  # places as they were: where a run is now is no setting of it
    place = run_dir if run_dir.name else run_dir.resolve()
    return Composed(replace(config, run_dir=str(place)), plain, place.name, tuple(words))


def _parsed(word: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    """Dotted name and value of a word."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigurationError(
            f"cannot read {word!r}; write key=value, for example total_steps=2_000_000"
        ) from error
    key = override.key_or_group
    if key in GROUPS:
        raise ConfigurationError(
            f"{word} chooses a preset, which would make another run; leave it out, or start a new "
            "run from a checkpoint: init_from=<checkpoint>"
        )
    if key in _PLACES:
        raise ConfigurationError(
            f"{word} names a place, but a run goes on where it is; leave it out"
        )
    if key not in known:
        raise ConfigurationError(_unknown(key, known))
    if override.is_sweep_override() or override.is_delete():
        raise ConfigurationError(f"cannot read {word!r}; one run goes on: write {key}=<one value>")
    value = override.value()
    if key == "fresh" and value is not False:
        raise ConfigurationError(
            f"{word} would start the run anew, and resume goes on with it; give the command that "
            "made it, with fresh=true"
        )
    return key, value


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    """Sentence about a setting that does not exist, with the closest one of its own group."""
    group = key.rpartition(".")[0]
    prefix = f"{group}." if group else ""
    names = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
    return unknown_key(key, names) if names else unknown_key(key, list(known))


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one value in nested values, which may lack what came after the first runs."""
    *groups, name = key.split(".")
    for group in groups:
        inner = values.get(group)
        values[group] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[group]
    values[name] = value
