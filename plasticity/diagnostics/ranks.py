"""How many directions a layer's features use: five ranks from one float64 spectrum.

The names follow the plasticity literature: `stable_rank` is the smallest k holding 99 % of the
singular-value sum, and the textbook ratio ||Phi||_F^2 / ||Phi||_2^2 is `numerical_rank`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plasticity.diagnostics.measuring import check_samples, doubled

EPSILON = 2.2e-16
SHARE = 0.99
SHARE_SLACK = 1e-9
FEATURE_RANK_THRESHOLD = 0.01
CLONE_COSINE = 0.95


class Ranks(NamedTuple):
    """Ranks of a feature matrix; all 0 for a zero matrix.

    Attributes:
        stable_rank: Smallest k with 99 % of the sum of the singular values.
        stable_rank_sq: The same for squared singular values.
        effective_rank: Exponential of the entropy of sigma / sum sigma.
        numerical_rank: sum sigma^2 / sigma_1^2.
        feature_rank: Number of sigma / sqrt(N) above 0.01.
    """

    stable_rank: float
    stable_rank_sq: float
    effective_rank: float
    numerical_rank: float
    feature_rank: float

    @classmethod
    def unknown(cls) -> Ranks:
        """NaN everywhere, for a measurement that failed."""
        return cls(*(math.nan,) * len(cls._fields))

    def as_percent(self, num_units: int) -> Ranks:
        """The ranks in percent of the number of units, to compare layers of unequal width."""
        return Ranks(*(100.0 * rank / num_units for rank in self))


class FeatureRanks(NamedTuple):
    """Ranks of one layer's features, twice, from one Gram matrix.

    Attributes:
        raw: Ranks of the features.
        centred: Ranks after subtracting the mean over samples from every unit. A dominant mean
            direction pushes the raw numerical_rank towards 1 and hides everything else.
    """

    raw: Ranks
    centred: Ranks


def _gram(features: np.ndarray) -> np.ndarray:
    """Gram matrix of the smaller side of float64 features: (H, H), or (N, N) when H > N.

    In float32 every eigenvalue has an error near 6e-8 of the largest, which after the square
    root is 2.4e-4 of the largest singular value in each of H places.
    """
    # NumPy sees the product with its own transpose and computes one triangle only.
    num_samples, num_units = features.shape
    return features @ features.T if num_units > num_samples else features.T @ features


def _centred_gram(gram: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Gram matrix of the features minus their mean over samples, from the raw Gram matrix."""
    num_samples, num_units = features.shape
    if num_units > num_samples:
        rows = gram.mean(0)
        return gram - rows - rows[:, None] + rows.mean()
    mean = features.mean(0)
    return gram - num_samples * np.outer(mean, mean)


def _eigenvalues(gram: np.ndarray, size: int, largest: float | None = None) -> np.ndarray:
    """Eigenvalues in descending order; what rounding next to `largest` alone explains is 0."""
    found = np.linalg.eigvalsh(gram)[::-1]
    scale = found[0] if largest is None else largest
    return np.where((found < scale * size * EPSILON) | (found < 0.0), 0.0, found)


def _centred_eigenvalues(gram: np.ndarray, features: np.ndarray, largest: float) -> np.ndarray:
    # Subtracting the mean cancels digits of the raw Gram matrix, so its noise scales with the
    # raw spectrum: relative to the centred one, constant features would appear to have full rank.
    return _eigenvalues(_centred_gram(gram, features), max(features.shape), largest)


def _on_host(features: Tensor) -> np.ndarray:
    # A device gains nothing here: float64 is slow there and the eigenvalue problem is small.
    return check_samples(features).to("cpu", torch.float64).numpy()


def spectrum(features: Tensor, centred: bool = False) -> Tensor:
    """Singular values in descending order, float64, min(N, H) of them, on the CPU.

    Args:
        features: (N, H); float32 is widened before anything is multiplied.
        centred: Subtract each unit's mean over samples first.

    Raises:
        ValueError: Wrong shape or not finite.
    """
    matrix = _on_host(features)
    gram = _gram(matrix)
    found = _eigenvalues(gram, matrix.shape[1])
    if centred:
        found = _centred_eigenvalues(gram, matrix, float(found[0]))
    return torch.from_numpy(np.sqrt(found))


def _ranks(sigma: np.ndarray, num_samples: int) -> Ranks:
    if sigma[0] <= 0.0:
        return Ranks(0.0, 0.0, 0.0, 0.0, 0.0)
    # Relative values cannot overflow or underflow when squared.
    relative = sigma / sigma[0]
    present = relative[relative > 0.0] / relative.sum()
    return Ranks(
        stable_rank=_smallest_count(relative),
        stable_rank_sq=_smallest_count(relative**2),
        effective_rank=math.exp(-float(np.sum(present * np.log(present)))),
        numerical_rank=float(np.sum(relative**2)),
        feature_rank=float(np.sum(sigma / math.sqrt(num_samples) > FEATURE_RANK_THRESHOLD)),
    )


def _smallest_count(values: np.ndarray) -> float:
    target = (SHARE - SHARE_SLACK) * values.sum()
    return float(np.searchsorted(np.cumsum(values), target) + 1)


def ranks_of_spectrum(singular_values: Tensor, num_samples: int) -> Ranks:
    """Ranks from singular values in descending order.

    Args:
        singular_values: Non-negative, descending, at least one.
        num_samples: N, which scales `feature_rank`.
    """
    return _ranks(doubled(singular_values).cpu().numpy(), num_samples)


def ranks(features: Tensor) -> FeatureRanks:
    """Raw and mean-centred ranks of a feature matrix (N, H), for any N and H.

    Raises:
        ValueError: Wrong shape or not finite.
    """
    matrix = _on_host(features)
    num_samples, num_units = matrix.shape
    gram = _gram(matrix)
    raw = _eigenvalues(gram, num_units)
    centred = _centred_eigenvalues(gram, matrix, float(raw[0]))
    return FeatureRanks(_ranks(np.sqrt(raw), num_samples), _ranks(np.sqrt(centred), num_samples))


def cloned_fraction(features: Tensor, threshold: float = CLONE_COSINE) -> float:
    """Share of pairs of living units with |cosine of their feature columns| above `threshold`.

    Units that are zero on every sample are left out; NaN with fewer than two others.

    Source: arXiv 2510.00304, cloned units.
    """
    features = check_samples(features)
    lengths = torch.linalg.vector_norm(features, dim=0)
    count = int((lengths > 0).sum())
    if count < 2:
        return math.nan
    columns = features / torch.where(lengths > 0, lengths, 1.0)  # dead columns stay 0
    cosines = (columns.T @ columns).abs().fill_diagonal_(0.0)
    return float((cosines > threshold).sum()) / (count * (count - 1))
