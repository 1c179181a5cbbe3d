"""Several runs from one command line: `python train.py -m seed=0,1,2 arm=standard,l2`.

Hydra expands the sweep and its launcher starts one process per core, or `hydra/launcher=ray` and
`submitit_slurm` use many machines. Each run is an ordinary run in its own directory, so a sweep can
be interrupted, continued and grown with the same command.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from configs.compose import Composed, check_overrides, compose_run, without_none
from configs.exit_codes import EXIT_CONFIGURATION, EXIT_FAILED, EXIT_SIGNAL, of_several
from configs.members import member_words, refuse_repeated, swept_by_experiment
from configs.next_steps import facts, next_steps
from configs.output import output_may_fail
from configs.presets import CONFIG_FOLDER, GROUPS, declared, presets, spelled_for_hydra
from configs.schema import ConfigurationError
from configs.sweep_folder import SweepFolder
from configs.sweep_signals import Stopping, leave_without, stop_with
from networks.registry import suggestion

COMMANDS_FILE = "commands.txt"
ARM_GROUPS = frozenset({"network", "value_network", "optimizer", "method", "context"})
_RESULTS, _COMMAND = "NEOTENY_SWEEP_RESULTS", "NEOTENY_SWEEP_COMMAND"
_LAUNCHER = "NEOTENY_SWEEP_PID"
_FLAGS = ("-m", "--multirun")
_DIED, _INTERRUPTED = "one of its processes died, see above", "stopped by a signal"
_RELAUNCHES = 4
# Launchers whose members are processes of ours: they stop together.
_LOCAL = ("joblib", "basic")
# Launcher -> the extra of this package that it needs, and the modules of that extra.
_SUBMITIT = ("slurm", ("submitit", "hydra_plugins.hydra_submitit_launcher"))
LAUNCHERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "joblib": ("", ()),
    "basic": ("", ()),
    "ray": ("ray", ("ray",)),
    "submitit_slurm": _SUBMITIT,
    "submitit_local": _SUBMITIT,
}


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for several runs."""
    return any(word in _FLAGS for word in arguments)


@output_may_fail()
def sweep(arguments: Sequence[str]) -> int:
    """Run all members, print one line for each, and return the exit code.

    Members whose process is lost, with all that ran beside it, are started again a few times.

    Returns:
        What `exit_codes.of_several` makes of the members' codes: a failed one is kept and counted,
        and the others go on. 75 when a signal stopped the sweep, 1 where members are missing, and
        2 only if none has begun.
    """
    arguments = [*map(without_none, arguments)]
    try:
        check_sweep(arguments)
    except ConfigurationError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    launcher = _chosen_launcher(arguments)
    place = tempfile.TemporaryDirectory(
        prefix="sweep-", dir=_shared_folder(arguments), ignore_cleanup_errors=True
    )
    with place as path:
        folder = SweepFolder(path)
        os.environ[_RESULTS] = path
        os.environ[_LAUNCHER] = str(os.getpid())
        os.environ[_COMMAND] = shlex.join(["python", "train.py", *arguments])
        planned = _planned(arguments)
        with Stopping(folder, waits=launcher in _LOCAL):
            broken = _launch_all(arguments, folder, len(planned))
        rows, lost = folder.rows(), [" ".join(words) for words in folder.unfinished()]
        missing = folder.without_mark(planned)
        stopped = folder.stop_signal() is not None or broken == _INTERRUPTED
    if broken == _DIED and not rows and not lost and not stopped:  # Hydra refused before them all
        print("configuration: the sweep cannot start, see above", file=sys.stderr)
        return EXIT_CONFIGURATION
    _summarize(rows, lost, missing)
    codes = [int(row["code"]) for row in rows]
    if broken is not None or lost or missing:
        reason = _INTERRUPTED if stopped else broken or "runs are missing"
        again = "the same command goes on"
        if "fresh=true" in arguments:  # which would begin all of them anew
            again = "the same command without fresh=true goes on"
        print(f"the sweep is not complete: {reason}; {again}", file=sys.stderr)
        codes.append(EXIT_SIGNAL if stopped else EXIT_FAILED)
    return of_several(codes)


def check_sweep(arguments: Sequence[str]) -> None:
    """Refuse in one sentence what no member could do, before the first one starts.

    Raises:
        ConfigurationError: An unknown preset or launcher, an arm that the sweep would undo, one
            directory for several runs, or a word or value that is there twice.
    """
    words = [word for word in arguments if word not in _FLAGS]
    check_overrides(words)
    refuse_repeated(words)
    check_launcher(_chosen_launcher(arguments))
    _check_arms(words)
    _check_directories(words)
    for word in words:
        override = OverridesParser.create().parse_override(word)
        if override.key_or_group in GROUPS and override.is_discrete_sweep():
            key = override.get_key_element()
            try:
                check_overrides([f"{key}={value}" for value in override.sweep_string_iterator()])
            except HydraException as error:
                raise ConfigurationError(f"cannot read {word!r}: {error}") from error


def _check_arms(words: Sequence[str]) -> None:
    """Refuse arms of which the sweep of an experiment would silently undo a part.

    What an experiment sweeps over counts as if it stood on the command line, and so wins over the
    arm: with `network: mlp,dendrites` there, every arm would be trained with both networks.
    """
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    experiment = given.get("experiment", "")
    decided = set(ARM_GROUPS)
    for arm in {name.strip() for name in given.get("arm", "").split(",")} & set(presets("arm")):
        decided |= declared("arm", arm)[1].keys()
    undone = [key for key in swept_by_experiment(experiment) if key in decided - given.keys()]
    if "arm" in given and undone:
        raise ConfigurationError(
            f"experiment={experiment} sweeps over {undone[0]}, which would undo a part of "
            f"arm={given['arm']}; add {undone[0]}= to the command line, or name no arm"
        )


def _check_directories(words: Sequence[str]) -> None:
    """Refuse a directory for several runs: the second would find the settings of the first."""
    named = [word for word in words if word.startswith("run_dir=")]
    # What is interpolated may differ between members.
    if not named or named[-1] in ("run_dir=null", "run_dir=") or "${" in named[-1]:
        return
    members = member_words(words)
    places = [word for member in members for word in member if word.startswith("run_dir=")]
    if len(set(places)) < len(places):
        raise ConfigurationError(
            f"{named[-1]} would be the directory of several of the {len(members)} runs; leave it "
            "out, and choose where they go with runs_root= and group="
        )


def _chosen_launcher(arguments: Sequence[str]) -> str:
    chosen = [w.partition("=")[2] for w in arguments if w.startswith("hydra/launcher=")]
    return chosen[-1] if chosen else "joblib"


def check_launcher(name: str) -> None:
    """Refuse a launcher that is unknown, or whose packages are not installed.

    Raises:
        ConfigurationError: With the command that installs what is missing.
    """
    if name not in LAUNCHERS:
        raise ConfigurationError(
            f"there is no hydra/launcher {name!r}{suggestion(name, list(LAUNCHERS))}; choose one "
            f"of {', '.join(LAUNCHERS)}"
        )
    extra, modules = LAUNCHERS[name]
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f"hydra/launcher={name} needs packages that are not installed "
            f"({missing[0].rpartition('.')[2]}); install them with: pip install -e '.[{extra}]'"
        )


def _shared_folder(arguments: Sequence[str]) -> Path | None:
    """Where members leave what they report: jobs of a queue run on other machines."""
    if not _chosen_launcher(arguments).startswith("submitit"):
        return None
    roots = [w.partition("=")[2] for w in arguments if w.startswith("runs_root=")]
    folder = Path(roots[-1] if roots else "runs").resolve() / ".sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _planned(arguments: Sequence[str]) -> list[list[str]]:
    """Words of all members; none where they cannot be foreseen, which Hydra will refuse."""
    words = [word for word in arguments if word not in _FLAGS]
    try:
        return [[*map(_as_hydra_writes, member)] for member in member_words(words)]
    except (ConfigurationError, HydraException):
        return []


def _as_hydra_writes(word: str) -> str:
    """A word as its member will see it: `log.figures=False` for `log.figures=false`."""
    override = OverridesParser.create().parse_override(spelled_for_hydra(word))
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _launch_all(arguments: Sequence[str], folder: SweepFolder, planned: int) -> str | None:
    """Launch the sweep, and again where a process was lost; what stopped it, or None.

    Joblib gives up all its processes when one dies, most often for lack of memory.
    """
    broken = _launch(arguments)
    for _ in range(_RELAUNCHES):
        lost = folder.unfinished()
        joblib = _chosen_launcher(arguments) == "joblib"
        if not (joblib and lost) or broken == _INTERRUPTED or folder.stop_signal() is not None:
            break
        print(
            f"a process of the sweep was lost, and {len(lost)} runs with it; starting those that "
            "are not done again",
            file=sys.stderr,
        )
        folder.wait_for_the_lost()
        # Those that wait come first: what needs too much memory would take them along again.
        folder.hold(lost if len(folder.rows()) + len(lost) < planned else [])
        broken = _launch(arguments)
    return broken


def _launch(arguments: Sequence[str]) -> str | None:
    """Let Hydra run the members; what stopped it before its end, or None."""
    original = sys.argv
    sys.argv = [original[0], *map(spelled_for_hydra, arguments)]
    try:
        hydra.main(config_path=str(CONFIG_FOLDER), config_name="train", version_base="1.3")(_job)()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as stop:  # Hydra has printed why
        return None if stop.code in (0, None) else _DIED
    finally:
        sys.argv = original
    return None


def _summarize(rows: Sequence[dict[str, Any]], lost: Sequence[str], missing: Sequence[str]) -> None:
    failed = sum(row["status"] == "failed" for row in rows)
    done = sum(row["status"] == "done" for row in rows)
    total = max(len(rows) + len(lost) + len(missing), done + failed)
    print(f"\n{total} runs: {done} done, {failed} failed, {total - done - failed} neither")
    for row in sorted(rows, key=lambda row: str(row["directory"])):
        print(f"  {_line(row)}")
    for status, names in (("not finished", lost), ("not begun", missing)):
        for name in sorted(names):
            print(f"  {status:<12} {name}")
    if done + failed < total:
        return
    for group in sorted({row["group"] for row in rows if row["group"]}):
        for command in next_steps(group, [row for row in rows if row["group"] == group]):
            print(f"next: {command}")


def _line(row: Mapping[str, Any]) -> str:
    """One trial: how it ended, where it is, how far it came and what it earned."""
    line = f"{row['status']:<12} {row['directory']}"
    if row["env_steps"] is not None:
        line += f"  {row['env_steps']:,} steps"
    if row["final_return"] is not None:
        line += f", final return {row['final_return']:.1f}"
    return f"{line}, {row['seconds']:,.0f} s"


# One member ----------------------------------------------------------------------------------


def _job(_: DictConfig) -> None:
    """One member of the sweep, in its own process or, one after the other, in the launcher's."""
    launcher, folder = int(os.environ[_LAUNCHER]), sweep_folder()
    words = [*HydraConfig.get().overrides.task]
    target = HydraConfig.get().launcher._target_
    local = "joblib" in target or "BasicLauncher" in target  # others have their own ways
    if folder.has_ended(words):  # before the sweep was launched again
        return
    if local:
        stop_with(launcher, folder)
        if folder.is_held(words) or folder.stop_signal() is not None:
            return
    folder.begin(words)
    row = run_member(words, os.environ[_COMMAND], folder.token)
    record(row)
    if local and row["code"] == EXIT_SIGNAL:  # it alone may have had the signal
        folder.stop(signal.SIGTERM)
    if local:
        leave_without(launcher)


def run_member(overrides: Sequence[str], command: str, token: str | None = None) -> dict[str, Any]:
    """Train one member on one thread; never raises.

    Args:
        overrides: The words of this member; those about threads and Hydra are left out.
        command: Command line of the sweep, kept beside the runs.
        token: Name of this sweep. With `fresh=true`, what an earlier attempt of the same sweep
            has trained is continued.

    Returns:
        How it ended: words, directory, group, facts (of `next_steps`), status, code, env_steps,
        final_return, seconds.
    """
    from train import run

    start = time.monotonic()
    words = [word for word in overrides if not word.startswith(("num_threads=", "hydra"))]
    row: dict[str, Any] = {"words": [*overrides], "directory": " ".join(words), "group": None}
    try:
        composed = replace(compose_run([*words, "num_threads=1"]), sweep=token)
        row["directory"] = composed.relative_directory
        row |= {"group": str(_group_folder(composed)), "facts": facts(composed)}
        _note_command(composed, command)
        code = run(composed)
        row |= _ending(composed, code)
    except ConfigurationError as error:
        print(f"configuration: {error}", file=sys.stderr)
        code = EXIT_CONFIGURATION
    except Exception:
        # One broken member must not take the others with it.
        traceback.print_exc()
        code = EXIT_FAILED
    return ended(row, code, time.monotonic() - start)


def ended(row: Mapping[str, Any], code: int, seconds: float) -> dict[str, Any]:
    """Complete the row of a member with what is known however it ended."""
    row = {"status": f"exit code {code}", "env_steps": None, "final_return": None, **row}
    return row | {"code": code, "seconds": seconds}


@output_may_fail()
def record(row: Mapping[str, Any]) -> None:
    """Leave the row of a finished member for the process that launched the sweep, and print it."""
    sweep_folder().leave(row["words"], row)
    print(_line(row), flush=True)


def sweep_folder() -> SweepFolder:
    """Where the members of the sweep that this process launches leave word."""
    return SweepFolder(os.environ[_RESULTS])


def sweep_command() -> str:
    """Command line of the sweep that this process launches."""
    return os.environ[_COMMAND]


def _ending(composed: Composed, code: int) -> dict[str, Any]:
    """What done.json says about a member; a failed one stays failed however often it is asked."""
    file = Path(composed.config.runs_root) / composed.relative_directory / "done.json"
    if composed.config.run_dir is not None:
        file = Path(composed.config.run_dir) / "done.json"
    if code == EXIT_SIGNAL or not file.is_file():
        return {}
    done = json.loads(file.read_text(encoding="utf-8"))
    status = "done" if done["status"] == "finished" else done["status"]
    known = {key: done["summary"].get(key) for key in ("env_steps", "final_return")}
    return {"status": status, **known}


def _group_folder(composed: Composed) -> Path:
    return Path(composed.config.runs_root) / composed.config.group


def _note_command(composed: Composed, command: str) -> None:
    """Keep the command line beside the runs, once, so that reports can print it."""
    file = _group_folder(composed) / COMMANDS_FILE
    known = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if command not in known:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Members that start together may both append; readers drop repeated lines.
        with file.open("a", encoding="utf-8") as stream:
            stream.write(command + "\n")
