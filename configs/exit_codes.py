"""Exit codes of every command; docs/reliability.md says what each means."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_NUMERICAL = 3
EXIT_STORAGE = 4
EXIT_SIGNAL = 75  # stopped and resumable (EX_TEMPFAIL of sysexits.h)
