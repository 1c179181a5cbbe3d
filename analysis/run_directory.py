"""The directory of one run: who may use it, with which configuration, and whether it is done.

config.yaml  environment.json  progress.csv  events.jsonl  timing.csv
checkpoints/  videos/  restarts.json  done.json
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from analysis.canonical_json import JsonError, canonical_json, parse_json, plain
from analysis.config_diff import Change, compare, describe, is_covered
from analysis.provenance import describe_environment
from analysis.run_lock import RunLock, RunLocked
from analysis.run_paths import (
    count_up,
    make_directories,
    move_away,
    next_free,
    rename,
    run_parts,
    validate_run_name,
)
from analysis.storage import StorageError, atomic_write_text

__all__ = [
    "Change",
    "ConfigurationChanged",
    "RunDirectory",
    "RunLocked",
    "StorageError",
    "atomic_write_text",
    "validate_run_name",
]

STATUSES = ("finished", "failed")
_MAX_CONFIG_BYTES = 2**20
_STARTED_BY = ".started_by"
# Without a config.yaml these say that a run was here whose configuration is lost.
_TRACES_OF_A_RUN = ("checkpoints", "done.json", "progress.csv", "events.jsonl")


class ConfigurationChanged(ValueError):
    """The run was started with another configuration.

    Attributes:
        changes: the settings that differ.
    """

    def __init__(self, message: str, changes: tuple[Change, ...]) -> None:
        super().__init__(message)
        self.changes = changes


class RunDirectory:
    """An open, locked run directory; use `open`, and `close` or `with`."""

    def __init__(self, path: Path, lock: RunLock, config: Mapping[str, Any], is_new: bool) -> None:
        self._path, self._lock, self._config, self._is_new = path, lock, config, is_new
        self._changes: tuple[Change, ...] = ()
        self._restarts = 0
        self._hash_without: frozenset[str] = frozenset()

    @classmethod
    def open(
        cls,
        root: Path | str,
        relative: Path | str,
        config: Mapping[str, Any],
        *,
        fresh: bool = False,
        fresh_token: str | None = None,
        accept_change: bool = False,
        released_keys: Collection[str] | None = None,
        ignored_keys: Collection[str] = (),
        rehearsal: Callable[[], None] | None = None,
    ) -> RunDirectory:
        """Create a run directory or continue in it.

        Args:
            root: folder of all runs; created if missing.
            relative: path below it, of valid names; see `validate_run_name`.
            config: resolved configuration: nested plain values.
            fresh: move an existing directory to `<name>.old-<n>` and start anew.
            fresh_token: name of who wants it; a directory that was started anew under the same name
                is continued. None starts anew each time.
            accept_change: continue under a changed configuration. The old one is kept as
                config-<n>.yaml and, if the run was finished, done.json as done-<n>.json. A failed
                run stays failed.
            released_keys: dotted names of the settings that may change that way; None for all.
            ignored_keys: settings that say how to run, not what: they are never compared.
            rehearsal: called before an accepted change is written. What it raises is raised, and
                leaves configuration and done.json as they were.

        Returns:
            The directory, locked; `changes` says what was accepted.

        Raises:
            ValueError: a bad path, a configuration that is not plain, or a damaged directory.
            ConfigurationChanged: another configuration; the message lists the differences.
            RunLocked: another process uses the directory.
            StorageError: the directory cannot be written.
        """
        text, config = _normalized(config)
        root = Path(root).resolve()
        parts = run_parts(relative)
        path = root.joinpath(*parts)
        fresh = fresh and not _was_started_by(path, fresh_token)
        if fresh:
            move_away(root, parts)
        make_directories(root, parts)
        lock = RunLock(path)
        try:
            is_new = not (path / "config.yaml").exists()
            run = cls(path, lock, config, is_new)
            run._hash_without = frozenset(ignored_keys)
            if fresh and fresh_token is not None:  # before anything that could be continued
                atomic_write_text(path / _STARTED_BY, fresh_token)
            if is_new:
                _refuse_traces(path)
                atomic_write_text(path / "config.yaml", text)
            else:
                changes = compare(_read_config(path / "config.yaml"), config, ignored_keys)
                if changes:
                    run._check(changes, accept_change, released_keys)
                    if rehearsal is not None:
                        rehearsal()
                    run._accept(changes, text)
            run._count_restart()
        except BaseException:
            lock.close()
            raise
        return run

    @property
    def path(self) -> Path:
        """The directory."""
        return self._path

    @property
    def is_new(self) -> bool:
        """Whether this call created the run."""
        return self._is_new

    @property
    def restarts(self) -> int:
        """How often the run was continued, this time included."""
        return self._restarts

    @property
    def changes(self) -> tuple[Change, ...]:
        """The settings whose change was accepted now."""
        return self._changes

    def all_changes(self) -> tuple[Change, ...]:
        """The settings whose change was accepted since the start, oldest first.

        Raises:
            ValueError: a kept configuration is damaged.
            StorageError: one cannot be read.
        """
        kept = count_up(self._path, "config-", ".yaml")
        configs = [*(_read_config(path) for path in kept), self._config]
        changes = (compare(*pair, self._hash_without) for pair in itertools.pairwise(configs))
        return tuple(itertools.chain.from_iterable(changes))

    @property
    def config_hash(self) -> str:
        """SHA-256 of the configuration without the ignored keys."""
        kept = [[key, value] for key, value in _settings(self._config, self._hash_without)]
        return hashlib.sha256(yaml.safe_dump(kept).encode()).hexdigest()

    @property
    def done(self) -> dict[str, Any] | None:
        """done.json: `status`, `summary` and `restarts`; None while the run is not done.

        Raises:
            ValueError: the file is damaged.
        """
        return _read_json(self._path / "done.json")

    @property
    def is_bit_exact(self) -> bool:
        """Whether all processes of the run so far were alike, see `write_environment`."""
        return not any(self._path.glob("environment-*.json"))

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended for good, finished or failed."""
        return (self._path / "done.json").exists()

    def write_environment(self, extra: Mapping[str, Any] | None = None) -> tuple[Change, ...]:
        """Record what the run is computed with.

        environment.json stays that of the start. If anything differs later, the new one is added as
        environment-<n>.json, and results need no longer be equal bit for bit.

        Args:
            extra: further plain values, such as the device and the number of threads.

        Returns:
            What differs from the start.
        """
        current = plain({**describe_environment(), **(extra or {})})
        text = canonical_json(current, indent=2).decode() + "\n"
        path = self._path / "environment.json"
        stored = _read_json(path)
        if stored is None:
            atomic_write_text(path, text)
            return ()
        changes = compare(stored, current)
        if changes:
            atomic_write_text(next_free(self._path, "environment-", ".json"), text)
        return changes

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Write done.json: the run has ended for good.

        Args:
            status: `finished` or `failed`.
            summary: plain values; NumPy scalars become numbers. NaN and infinities become null: a
                failed run must be able to say so.

        Raises:
            ValueError: another status, a value JSON has no form for, or the run is done already.
            StorageError: the file cannot be written.
        """
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}; allowed are {', '.join(STATUSES)}")
        if self.is_finished:
            raise ValueError(f"{self._path} has a done.json already; a run ends once")
        record = {
            "restarts": self._restarts,
            "status": status,
            "summary": plain(summary, "summary", non_finite_as_null=True),
        }
        text = canonical_json(record, indent=2).decode() + "\n"
        atomic_write_text(self._path / "done.json", text)

    def close(self) -> None:
        """Release the lock; a second time does nothing."""
        self._lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(
        self,
        changes: tuple[Change, ...],
        accept_change: bool,
        released_keys: Collection[str] | None,
    ) -> None:
        """Refuse changes that cannot be accepted; writes nothing."""
        fixed = tuple(
            change
            for change in changes
            if released_keys is not None and not is_covered(change.key, released_keys)
        )
        if not accept_change:
            accept = "" if fixed else "accept_change=true to go on with these, "
            raise ConfigurationChanged(
                f"{self._path} was started with another configuration:\n{describe(changes)}\n"
                f"Use the old settings, {accept}or fresh=true to start anew.",
                changes,
            )
        if fixed:
            raise ConfigurationChanged(
                f"{self._path}: these settings cannot change within a run:\n"
                f"{describe(fixed)}\nOnly {', '.join(sorted(released_keys or ()))} can; use "
                "fresh=true to start anew.",
                fixed,
            )
        if self.is_finished and (self.done or {}).get("status") == "failed":
            raise ConfigurationChanged(
                f"{self._path} has failed, and a failure is final: it counts as a result. Use "
                f"fresh=true to start anew with\n{describe(changes)}",
                changes,
            )

    def _accept(self, changes: tuple[Change, ...], text: str) -> None:
        old = (self._path / "config.yaml").read_text(encoding="utf-8")
        atomic_write_text(next_free(self._path, "config-", ".yaml"), old)
        if self.is_finished:
            rename(self._path / "done.json", next_free(self._path, "done-", ".json"))
        atomic_write_text(self._path / "config.yaml", text)
        self._changes = changes

    def _count_restart(self) -> None:
        path = self._path / "restarts.json"
        stored = _read_json(path) or {}
        self._restarts = int(stored.get("restarts", 0))
        if not self._is_new and not self.is_finished:
            self._restarts += 1
            atomic_write_text(path, canonical_json({"restarts": self._restarts}).decode() + "\n")


def _was_started_by(path: Path, token: str | None) -> bool:
    """Whether `fresh` has been heeded already, for an earlier attempt at the same."""
    try:
        return token is not None and (path / _STARTED_BY).read_text(encoding="utf-8") == token
    except (OSError, UnicodeDecodeError):
        return False


def _refuse_traces(path: Path) -> None:
    traces = [name for name in _TRACES_OF_A_RUN if os.path.lexists(path / name)]
    if traces:
        raise ValueError(
            f"{path} has {', '.join(traces)} but no config.yaml: nobody can say what was run; use "
            "fresh=true to start anew"
        )


def _normalized(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text of config.yaml, and the configuration as it will be read back."""
    try:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise ValueError(
            f"the configuration holds something that is no plain value: {error}"
        ) from error
    if len(text.encode()) > _MAX_CONFIG_BYTES:
        raise ValueError(f"the configuration has more than {_MAX_CONFIG_BYTES:,} bytes")
    return text, yaml.safe_load(text)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            data = stream.read(_MAX_CONFIG_BYTES + 1)
        config = yaml.safe_load(data) if len(data) <= _MAX_CONFIG_BYTES else None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}", file) from error
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: it holds no configuration")
    return config


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path) from error
    except JsonError as error:
        raise ValueError(f"{path} {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def _settings(config: Mapping[str, Any], without: Collection[str]) -> list[tuple[str, Any]]:
    return [(change.key, change.new) for change in compare({}, config, without)]
