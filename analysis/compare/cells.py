"""Tables of text, and numbers as their cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

DASH = "–"


@dataclass(frozen=True)
class Table:
    """Cells of one table.

    Attributes:
        title: Heading.
        header: Names of the columns.
        rows: Cells.
        caption: What the columns mean.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def number_text(value: float, digits: int = 3) -> str:
    """A number with a few significant digits, whole from 1,000 on; a dash for a missing one."""
    if math.isnan(value):
        return DASH
    if value == 0.0 or abs(value) < 1e-12:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, min(places, 6))}f}"


def percent_text(value: float, sign: bool = False) -> str:
    """A share as whole per cent."""
    return DASH if math.isnan(value) else f"{100 * value:{'+' if sign else ''}.0f} %"
