"""One process of a measurement: `python -m analysis.throughput.worker '<settings as JSON>'`.

Threads are limited by the environment variables that the parent sets. One JSON object per line
goes to standard output: first `{"ready": ...}`, then, after a line on standard input, the result.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

from analysis.throughput.agents_at_work import measure_sb3, measure_suite
from analysis.throughput.floors import measure_physics, measure_products
from analysis.throughput.rehearsal import measure_rehearsal


def _methods(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, Any]:
    from analysis.throughput.methods import measure_in_worker

    return measure_in_worker(settings, wait)


def _updates(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, Any]:
    from analysis.throughput.updates import measure_in_worker

    return measure_in_worker(settings, wait)


def _scaling(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, Any]:
    from analysis.throughput.scaling import measure_in_worker

    return measure_in_worker(settings, wait)


Measure = Callable[[Mapping[str, Any], Callable[[], None]], dict[str, Any]]
KINDS: dict[str, Measure] = {
    "suite": measure_suite,
    "rehearsal": measure_rehearsal,
    "sb3": measure_sb3,
    "physics": measure_physics,
    "products": measure_products,
    "methods": _methods,
    "updates": _updates,
    "scaling": _scaling,
}


def main(argument: str) -> int:
    """Measure what the settings say and write the result; see the top of the file."""
    settings = json.loads(argument)
    os.sched_setaffinity(0, settings["cores"])
    # Whatever libraries print must not end up between the lines of the protocol.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)

        def wait() -> None:
            answers.write('{"ready": true}\n')
            answers.flush()
            if not sys.stdin.readline():
                raise RuntimeError("the process that started this worker has gone")

        result = KINDS[settings["kind"]](settings, wait)
        result["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if "torch" in sys.modules:
            result["torch_threads"] = sys.modules["torch"].get_num_threads()
        answers.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
