"""Random flips, shifts and rotations of images, as incremental CIFAR-100 is taught with.

Source: Dohare et al., Nature 632:768-774 (2024): horizontal flip with probability 1/2, crop after
padding by reflection with four pixels, rotation by 0 to 15 degrees.
"""

from __future__ import annotations

import numpy as np

PADDING = 4
MAX_DEGREES = 15.0


def augmented(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Transform every image by draws of its own.

    Args:
        images: (n, channels, height, width), at least 5 pixels high and wide.
        generator: Source of the draws.

    Returns:
        The same shape; pixels from outside a rotated image are 0.
    """
    number = len(images)
    is_flipped = generator.random(number) < 0.5
    shifts = generator.integers(0, 2 * PADDING + 1, (number, 2))
    degrees = generator.uniform(0.0, MAX_DEGREES, number)
    flipped = np.where(is_flipped[:, None, None, None], images[..., ::-1], images)
    return rotated(shifted(flipped, shifts), degrees)


def shifted(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Crop padded images at (row, column) from 0 to 8, (n, 2); 4 changes nothing."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)), "reflect")
    rows = shifts[:, :1] + np.arange(height)
    columns = shifts[:, 1:] + np.arange(width)
    number = np.arange(len(images))[:, None, None]
    return padded[number, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)


def rotated(images: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Rotate every image counter-clockwise about its centre, each pixel from its nearest source."""
    height, width = images.shape[2:]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    angle = np.deg2rad(degrees)[:, None, None]
    # Rows count downwards, so that the source of a pixel lies clockwise of it.
    from_x = np.rint(np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2).astype(np.int64)
    from_y = np.rint(np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2).astype(np.int64)
    is_inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    number = np.arange(len(images))[:, None, None]
    found = images[number, :, from_y.clip(0, height - 1), from_x.clip(0, width - 1)]
    return np.where(is_inside[..., None], found, 0.0).transpose(0, 3, 1, 2)
