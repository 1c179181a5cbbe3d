"""Several runs from one command line: `python train.py -m seed=0,1,2 arm=standard,l2`.

Hydra expands the sweep and its launcher starts one process per core; each run is an ordinary run
in its own directory, so a sweep can be interrupted, continued and grown with the same command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from configs.compose import CONFIG_FOLDER, compose_run
from configs.schema import ConfigurationError

_RESULTS = "NEOTENY_SWEEP_RESULTS"


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for several runs."""
    return any(word in ("-m", "--multirun") for word in arguments)


def sweep(arguments: Sequence[str]) -> int:
    """Run all members and return the largest exit code."""
    results = Path("runs") / ".sweeps" / f"results-{os.getpid()}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text("")
    os.environ[_RESULTS] = str(results.resolve())
    original = sys.argv
    sys.argv = [original[0], *arguments]
    try:
        hydra.main(config_path=str(CONFIG_FOLDER), config_name="train", version_base="1.3")(_job)()
    finally:
        sys.argv = original
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    results.unlink()
    print(f"\n{len(rows)} runs:")
    for row in sorted(rows, key=lambda row: str(row["directory"])):
        print(f"  {row['status']:<14} {row['directory']}")
    return max((int(row["code"]) for row in rows), default=0)


def _job(_: DictConfig) -> None:
    """One member of the sweep, in its own process."""
    from train import EXIT_CONFIGURATION, EXIT_DONE, run

    words = [
        word
        for word in HydraConfig.get().overrides.task
        if not word.startswith(("num_threads=", "hydra"))
    ]
    try:
        composed = compose_run([*words, "num_threads=1"])
        directory, code = composed.relative_directory, run(composed)
    except ConfigurationError as error:
        print(f"configuration: {error}", file=sys.stderr)
        directory, code = " ".join(words), EXIT_CONFIGURATION
    status = "done" if code == EXIT_DONE else f"exit code {code}"
    with open(os.environ[_RESULTS], "a") as file:
        file.write(json.dumps({"directory": directory, "code": code, "status": status}) + "\n")
