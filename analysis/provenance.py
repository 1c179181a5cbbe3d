"""What a run was computed with: results repeat bit for bit only with the same."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "gymnasium",
    "hydra-core",
    "metaworld",
    "mujoco",
    "numpy",
    "safetensors",
    "scipy",
    "stable-baselines3",
    "torch",
)


def describe_environment() -> dict[str, Any]:
    """Versions, processor, threads, numerical switches and the commit of this checkout.

    Returns:
        Plain values; None where the machine does not say.
    """
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": _uncommitted_changes(),
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)),
        },
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "threads": torch.get_num_threads(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not every system has the file; `platform` knows less but something
    return platform.processor() or None


def _uncommitted_changes() -> bool | None:
    status = _git("status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


def _git(*arguments: str) -> str | None:
    """Output of a git command in this checkout; None without git or without a repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
