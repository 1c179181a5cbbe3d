"""How much memory this process can still take, from the kernel's own files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch


def available_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Memory that a new allocation on a device may use.

    Args:
        device: CPU or CUDA device.
        root: Where `proc` and `sys` lie.

    Returns:
        On a GPU its free memory. On the CPU the smaller of what the machine has available and
        what the memory limits of all enclosing control groups leave; None where the system
        publishes neither.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [*_machine(root), *_control_groups(root)]
    return min(known, default=None)


def _machine(root: Path) -> Iterator[int]:
    """`MemAvailable`: free memory and what the kernel can take back from its caches."""
    path = root / "proc/meminfo"
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024


def _control_groups(root: Path) -> Iterator[int]:
    """What every enclosing control group leaves, by either version of the interface."""
    path = root / "proc/self/cgroup"
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = base / group.strip("/")
        while True:
            yield from _one_group(folder, *names)
            if folder == base:
                break
            folder = folder.parent


def _one_group(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Limit less usage; file pages that nobody needs do not count as used."""
    if not (folder / limit).is_file() or not (folder / usage).is_file():
        return
    allowed = (folder / limit).read_text().strip()
    if allowed == "max":
        return
    used = int((folder / usage).read_text())
    statistics = folder / "memory.stat"
    if statistics.is_file():
        for line in statistics.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable:
                used -= int(value)
    yield max(0, int(allowed) - used)
