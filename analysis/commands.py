"""Commands of `train.py` that do more, or less, than train one configuration."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from analysis import planning, resuming, tune
from analysis.checkpoint import CheckpointError
from analysis.run_refusals import refuse_start
from analysis.sequences import references
from analysis.tuning_plan import TuneConfig
from configs.compose import compose_run, without_none
from configs.exit_codes import EXIT_CONFIGURATION, EXIT_DONE
from configs.members import check_single, member_words
from configs.schema import ConfigurationError, to_plain
from configs.sweep import check_sweep, is_multirun


@dataclass(frozen=True)
class Command:
    """A first word of the command line.

    Attributes:
        run: Words after it -> exit code.
        summary: A few words for the list of all commands.
        text: What `--help` prints.
        settings: Class of its own settings, `<command>.<name>=<value>`; None without any.
    """

    run: Callable[[Sequence[str]], int]
    summary: str
    text: str
    settings: type | None = None


def show(arguments: Sequence[str]) -> int:
    """`python train.py show ...`: the settings of a command line, without training.

    Prints the directory of the run and all of its settings, also those that config.yaml leaves out
    at their default because they came after the first runs. With `-m` one line per run of the sweep
    instead, its directory and the words that make it. What training would refuse before its first
    step is refused here, too, after the settings: a run that is not there yet is built once. The
    runs of a sweep are not built, only their settings checked.
    """
    words = [word for word in arguments if word not in ("-m", "--multirun")]
    try:
        if is_multirun(arguments):
            check_sweep([*map(without_none, arguments)])
            for member in member_words(words):
                composed = compose_run(member)
                print(composed.place, *member)
        else:
            check_single(words)
            composed = compose_run(words)
            print(f"# {composed.place}")
            settings = to_plain(composed.config, complete=True)
            print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")
            sys.stdout.flush()
            refuse_start(composed.config, Path(composed.place))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nothing may be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigurationError, CheckpointError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return EXIT_DONE


COMMANDS: Mapping[str, Command] = {
    "show": Command(show, "the settings, without training", str(show.__doc__)),
    "resume": Command(
        resuming.resume, "go on with a run, from its directory", str(resuming.__doc__)
    ),
    "plan": Command(
        planning.plan, "how long it will take", str(planning.__doc__), planning.PlanConfig
    ),
    "tune": Command(
        tune.tune, "the same tuning for every arm", str(tune.__doc__), TuneConfig
    ),
    "references": Command(
        references.train_references, "single tasks of a sequence", str(references.__doc__)
    ),
}  # fmt: skip


def help_text(arguments: Sequence[str], about: str) -> str:
    """What `--help` prints: about one command where its name comes first, otherwise about all.

    Args:
        arguments: The command line.
        about: Of training itself.
    """
    if arguments and arguments[0] in COMMANDS:
        command = COMMANDS[arguments[0]]
        text = inspect.cleandoc(command.text)
        return text + (_settings(arguments[0], command.settings) if command.settings else "")
    lines = [
        inspect.cleandoc(about),
        "",
        "Groups and presets are the folders and files of configs/; set any key: group.key=value.",
        "",
        "Words before them (with --help: more about each):",
        *(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()),
    ]
    return "\n".join(lines)


def _settings(name: str, settings: type) -> str:
    """Settings of a command with their defaults, and what its docstring says about them."""
    values = vars(settings())
    described = inspect.cleandoc(str(settings.__doc__)).partition("Attributes:")[2]
    return "\n\nSettings: " + " ".join(
        f"{name}.{key}={'null' if value is None else value}" for key, value in values.items()
    ) + f"\n{described}"  # fmt: skip
