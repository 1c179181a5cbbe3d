"""Which columns of progress.csv hold which diagnostic of which network and layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.run_files import read_config

SAMPLE_SETS = ("window", "probe")


def regime_label(env: Mapping[str, Any]) -> str:
    """What changes between the regimes of an environment: the (first) quantity, or `value`."""
    if "fixed_friction" not in env:
        return "value"
    named = env.get("modifier", "friction")
    return str(named if isinstance(named, str) else named[0])


@dataclass(frozen=True)
class Columns:
    """Names of diagnostics columns, derived from the header of one run.

    Attributes:
        networks: Networks in the order of the header, the policy or actor first.
        last_layers: Network -> its last hidden layer.
        weights: Network -> its layers with weights, from input to output.
        num_units: Units of the last hidden layer, None where the configuration does not say.
        regime_label: What changes between regimes.
    """

    networks: tuple[str, ...]
    last_layers: dict[str, str]
    weights: dict[str, tuple[str, ...]]
    num_units: int | None
    regime_label: str

    @classmethod
    def of(cls, run_dir: Path, header: Iterable[str]) -> Columns:
        """Read the names of one run; a run without diagnostics has no networks."""
        last_layers: dict[str, str] = {}
        weights: dict[str, list[str]] = {}
        for column in header:
            parts = column.split("/")
            if len(parts) < 4:
                continue
            sample_set, network, metric = parts[0], parts[1], parts[-1]
            layer = "/".join(parts[2:-1])
            if sample_set in SAMPLE_SETS and metric == "stable_rank":
                last_layers[network] = layer
            elif sample_set == "weights" and metric == "weight_magnitude":
                weights.setdefault(network, []).extend([layer] if layer != "all" else [])
        config = read_config(run_dir)
        sizes = config["network"].get("hidden_sizes")
        named = {network: tuple(layers) for network, layers in weights.items()}
        num_units = int(sizes[-1]) if isinstance(sizes, list) and sizes else None
        label = regime_label(config["env"])
        return cls(tuple(named), last_layers, named, num_units, label)

    @property
    def rank_scale(self) -> float:
        """Factor that turns a rank into per cent of the units, 1 where those are unknown."""
        return 100.0 / self.num_units if self.num_units else 1.0

    def dormant(self, sample_set: str, network: str) -> str:
        """Share of dormant units of the whole network, in [0, 1]."""
        return f"{sample_set}/{network}/all/dormant_fraction"

    def stable_rank(self, sample_set: str, network: str) -> str:
        """Stable rank of the last hidden layer."""
        return f"{sample_set}/{network}/{self.last_layers.get(network, '')}/stable_rank"

    def weight_magnitude(self, network: str, layer: str) -> str:
        """Mean absolute weight of one layer."""
        return f"weights/{network}/{layer}/weight_magnitude"

    def hidden_weights(self, network: str) -> str:
        """Mean absolute weight of the last hidden layer."""
        return self.weight_magnitude(network, self.last_layers.get(network, ""))

    def all_weights(self, network: str) -> str:
        """Mean absolute weight of a whole network."""
        return self.weight_magnitude(network, "all")
