"""How a sweep stops: signals to its launcher reach the members, which save before they end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from configs.exit_codes import EXIT_SIGNAL
from configs.sweep_folder import SweepFolder

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_POLL_SECONDS = 0.5


class Stopping:
    """Context manager of the process that launches a sweep: what signals do meanwhile.

    The first one lets the members stop, which `stop_with` watches for, and no further one begin;
    the launcher waits for them. The second one ends the launcher as Ctrl-C does.

    Args:
        folder: Of the sweep.
        waits: False where members are the business of others (a queue, Ray): then the first
            signal ends the launcher already.
    """

    def __init__(self, folder: SweepFolder, waits: bool) -> None:
        self._folder, self._waits = folder, waits
        self._previous: dict[signal.Signals, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._waits or self._folder.stop_signal() is not None:
            raise KeyboardInterrupt
        self._folder.stop(number)

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # others may set no handlers
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def stop_with(launcher: int, folder: SweepFolder | None = None) -> None:
    """Stop the run of this process when its sweep is to stop, or its launcher has died.

    Otherwise an orphan would train on and lock its run while the sweep is started again.

    Args:
        launcher: Process id of the launcher, which may be this process.
        folder: Of the sweep; None watches the launcher only.
    """
    ours = os.getpid() == launcher
    name = f"stop-with-{launcher}-{folder.token if folder else ''}"
    if (ours and folder is None) or any(t.name == name for t in threading.enumerate()):
        return

    def goes_on() -> bool:
        return folder is not None and folder.path.is_dir() if ours else os.getppid() == launcher

    def watch() -> None:
        while goes_on():
            time.sleep(_POLL_SECONDS)
            number = None if folder is None else folder.stop_signal()
            if number is not None:
                _stop_run(number)
        if not ours:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name=name, daemon=True).start()


def _stop_run(number: int) -> None:
    """Give the run of this process the signal, unless none is open or it has had one.

    A second signal would end it at once, and a terminal sends Ctrl-C to all processes by itself.
    While the first one waits to be handled, an equal one changes nothing.
    """
    interruption = getattr(signal.getsignal(number), "__self__", None)
    if getattr(interruption, "requested", 0) is None:
        os.kill(os.getpid(), number)


def leave_without(launcher: int) -> None:
    """End this process if the one that launched it has died; to be called after every member.

    The signal of `stop_with` may have come when a member was just ending, and then it is used up:
    the process would wait for work that nobody sends, or begin what was queued.
    """
    if os.getpid() != launcher and os.getppid() != launcher:
        sys.stdout.flush()
        os._exit(EXIT_SIGNAL)
