"""The members of a sweep on Ray: one task each, restarted from its checkpoint if its worker dies.

Ray itself is open to everybody who reaches its sockets, so on one machine every socket is on
loopback and every call carries a token; several machines are used only when an address is given.
A task receives and returns one line of JSON.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import ConfigurationError
from configs.sweep import ended, run_member, sweep_folder
from configs.sweep_folder import SweepFolder

# Earlier releases let web pages run code (CVE-2025-62593) and delete jobs (CVE-2026-27482).
OLDEST_RAY = (2, 54)
_STORE_BYTES = 100 * 2**20  # tasks exchange lines of text
_SAVING_SECONDS = 60.0
_START_ATTEMPTS = 3
_LISTENING = "0A"
T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs.

    Attributes:
        address: `host:port` of a running cluster; None starts Ray on this machine.
        token_path: File with the token of that cluster, readable by its owner only.
        num_workers: Tasks at a time on this machine; None for one per core.

    Raises:
        ConfigurationError: An address without a token, or a number below 1.
    """

    address: str | None = None
    token_path: str | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigurationError(
                f"hydra.launcher.num_workers is {self.num_workers}; give 1 or more, or null"
            )
        if self.address is None:
            return
        if self.token_path is None:
            raise ConfigurationError(
                f"hydra.launcher.address={self.address} needs the token of that cluster: anybody "
                "who reaches a cluster without one can run code on it; start it with "
                "RAY_AUTH_MODE=token and name the file in hydra.launcher.token_path"
            )
        file = Path(self.token_path)
        if not file.is_file() or stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ConfigurationError(
                f"hydra.launcher.token_path={file} must be a file that only you can read; "
                f"chmod 600 {file}"
            )


def run_on_ray(
    cluster: Cluster, members: Sequence[Sequence[str]], command: str, max_retries: int
) -> Iterator[dict[str, Any]]:
    """Run all members.

    Args:
        cluster: Where.
        members: The words of each.
        command: Command line of the sweep.
        max_retries: How often a member whose worker died starts again.

    Yields:
        The row of each member as it ends, see `run_member`.

    Raises:
        ConfigurationError: Ray is too old, or opened a socket to the network.
    """
    with _started(cluster) as ray:
        trial = ray.remote(num_cpus=1, max_retries=max_retries)(_trial)
        start = time.monotonic()
        pending: dict[Any, Sequence[str]] = {}
        for words in members:
            request = {"words": list(words), "command": command, "folder": os.getcwd()}
            request["sweep"] = str(sweep_folder().path)
            pending[trial.remote(json.dumps(request))] = words
        try:
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                words = pending.pop(done)
                try:
                    yield json.loads(ray.get(done))
                except ray.exceptions.RayError as error:
                    # Its worker died more often than max_retries; the other members go on.
                    print(f"lost {' '.join(words)}: {_first_line(error)}", file=sys.stderr)
                    row = {"words": [*words], "directory": " ".join(words), "group": None}
                    yield ended(row, 1, time.monotonic() - start)
        except KeyboardInterrupt:
            for reference in pending:  # their workers get the signal, save and stop
                ray.cancel(reference, force=False)
            ray.wait(list(pending), num_returns=len(pending), timeout=_SAVING_SECONDS)
            raise


def _trial(request: str) -> str:
    """One member, in a worker of Ray."""
    fields = json.loads(request)
    os.chdir(fields["folder"])
    sweep = SweepFolder(fields["sweep"])
    sweep.begin(fields["words"])  # says nothing on another machine
    return json.dumps(run_member(fields["words"], fields["command"], sweep.token))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _started(cluster: Cluster) -> Iterator[Any]:
    """Ray, started here or joined, and left or stopped again."""
    found = tuple(int(part) for part in re.findall(r"\d+", version("ray"))[:2])
    if found < OLDEST_RAY:
        raise ConfigurationError(
            f"Ray {version('ray')} has known holes; install {'.'.join(map(str, OLDEST_RAY))} or "
            "later: pip install -e '.[ray]'"
        )
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        token = cluster.token_path or str(_new_token(Path(folder)))
        # Ray reads these when it is imported. The first, despite its name, decides whether a
        # machine alone listens on loopback or on all interfaces.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": token,
            "RAY_raylet_start_wait_time_s": "60",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        os.environ.pop("RAY_AUTH_TOKEN", None)
        import ray  # pyright: ignore[reportMissingImports]

        try:
            _connect(ray, cluster, folder)
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: Any, cluster: Cluster, folder: str) -> None:
    quiet = {"logging_level": "warning", "log_to_driver": True}
    if cluster.address is not None:
        print(
            f"joining the Ray cluster at {cluster.address}: who holds its token can run code on "
            "it, and on this machine as a part of it",
            file=sys.stderr,
        )
        ray.init(address=cluster.address, **quiet)
        return
    workers = cluster.num_workers or len(os.sched_getaffinity(0))
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _temp_dir=f"{folder}/{attempt}",
                **quiet,
            )
            break
        except Exception as error:  # Ray raises no narrower class
            ray.shutdown()
            print(f"Ray did not start: {_first_line(error)}", file=sys.stderr)
            if attempt == _START_ATTEMPTS:
                raise ConfigurationError(
                    f"Ray did not start in {attempt} attempts; its parts must answer within "
                    "seconds, so try again on a less busy machine, or use hydra/launcher=joblib"
                ) from error
    exposed = [a for a in listening_addresses(descendants(os.getpid())) if not a.is_loopback]
    if exposed:
        raise ConfigurationError(
            f"Ray {ray.__version__} listens on {exposed[0]}, which others may reach, so it was "
            "stopped; install another release, or use hydra/launcher=joblib"
        )


def _new_token(folder: Path) -> Path:
    file = folder / "token"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))
    return file


# Sockets -------------------------------------------------------------------------------------


def descendants(pid: int) -> set[int]:
    """A process and all its children's children; Linux only."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        text = _read(place.read_text)
        if text:
            parents[int(place.parent.name)] = int(text[text.rindex(")") + 2 :].split()[1])
    family, grown = {pid}, True
    while grown:
        children = {child for child, parent in parents.items() if parent in family} - family
        family, grown = family | children, bool(children)
    return family


def listening_addresses(pids: set[int]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses of all TCP sockets on which these processes wait for connections."""
    sockets: set[str] = set()
    for pid in pids:
        for entry in _read(lambda pid=pid: os.listdir(f"/proc/{pid}/fd")) or []:
            link = _read(lambda pid=pid, entry=entry: os.readlink(f"/proc/{pid}/fd/{entry}")) or ""
            if link.startswith("socket:["):
                sockets.add(link[len("socket:[") : -1])
    found = []
    for table in ("tcp", "tcp6"):
        lines = (_read(Path("/proc/net", table).read_text) or "").splitlines()[1:]
        for cells in map(str.split, lines):
            if cells[3] == _LISTENING and cells[9] in sockets:
                found.append(_address(cells[1].partition(":")[0]))
    return found


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of /proc/net/tcp: words of four bytes in the machine's order."""
    words = [bytes.fromhex(digits[i : i + 8]) for i in range(0, len(digits), 8)]
    data = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(data)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def _read(reader: Callable[[], T]) -> T | None:
    """What a process shows of itself; None if it has gone meanwhile, or is another user's."""
    try:
        return reader()
    except OSError:
        return None
