"""What networks for images share: checks of their settings, and images as rows of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def check_counts(numbers: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless every setting has numbers, all of at least 1."""
    for name, values in numbers.items():
        if not values or min(values) < 1:
            raise ValueError(f"network.{name} is {values}; give numbers of at least 1")


def image_shape(input_dim: int, channels: int) -> tuple[int, int, int]:
    """Channels, height and width of the square images that rows of `input_dim` numbers hold.

    Raises:
        ValueError: They hold no such image.
    """
    side = math.isqrt(input_dim // channels)
    if channels * side * side != input_dim:
        raise ValueError(
            f"network.image_channels is {channels}, but {input_dim} inputs are no square image of "
            "so many channels; choose another number"
        )
    return channels, side, side
