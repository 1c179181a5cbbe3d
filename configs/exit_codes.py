"""Exit codes of every command; docs/reliability.md says what each means."""

from __future__ import annotations

from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_NUMERICAL = 3
EXIT_STORAGE = 4
EXIT_SIGNAL = 75  # stopped and resumable (EX_TEMPFAIL of sysexits.h)

# Of several runs: what the same command would continue before what somebody must correct, and that
# before what is final, so that one failed run does not hide that others are not done.
_URGENCY = (EXIT_SIGNAL, EXIT_STORAGE, EXIT_FAILED, EXIT_CONFIGURATION, EXIT_NUMERICAL, EXIT_DONE)


def of_several(codes: Iterable[int]) -> int:
    """The exit code of a command that did several runs: 75, 4, 1, 2, 3, 0, the first that is there.

    Args:
        codes: Of the runs; an unknown one counts as 1, and none at all as done.
    """
    known = {code if code in _URGENCY else EXIT_FAILED for code in codes}
    return next((code for code in _URGENCY if code in known), EXIT_DONE)
