"""Named random streams: one seed per run, one independent stream per name.

A stream depends on the seed and on its own name only, never on how many other streams were
created or used. Switching a method on or off therefore leaves every other draw untouched, and
equal tensors of equal name start with equal bits in every arm of a comparison.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Streams:
    """Factory of named random generators.

    Attributes:
        seed: Non-negative seed of the run.
        prefix: Path put in front of every name, `""` or `"policy/"`.
    """

    seed: int
    prefix: str = ""

    def child(self, name: str) -> Streams:
        """Return the factory of the streams whose names start with `prefix + name + "/"`."""
        return Streams(self.seed, f"{self.prefix}{name}/")

    def sequence(self, name: str) -> np.random.SeedSequence:
        """Return the seed sequence of one name."""
        key = zlib.crc32(f"{self.prefix}{name}".encode())
        return np.random.SeedSequence(entropy=self.seed, spawn_key=(key,))

    def torch(self, name: str, device: str | torch.device = "cpu") -> torch.Generator:
        """Return a fresh torch generator for one name."""
        generator = torch.Generator(device=device)
        generator.manual_seed(int(self.sequence(name).generate_state(1, np.uint64)[0] >> 1))
        return generator

    def numpy(self, name: str) -> np.random.Generator:
        """Return a fresh NumPy generator for one name."""
        return np.random.Generator(np.random.PCG64(self.sequence(name)))
