"""One part of the benchmark: tables, what they were made from, and how to print both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from analysis.throughput.summary import Spread

DOCUMENT, PARTS = "throughput.md", "sections"


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        cores: Cores to use.
        repeats: Interleaved repeats.
        seconds: Shortest window of one measurement.
        quick: Leave out what is not essential.
        minutes: Start no further repeat of whole training runs that would not fit in.
        run_dir: A run whose policy gives a second physics tape, or None.
    """

    cores: Sequence[int]
    repeats: int
    seconds: float
    quick: bool = False
    minutes: float = 6.0
    run_dir: str | None = None


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    title: str
    header: Sequence[str]
    cells: Sequence[Sequence[str]]

    def markdown(self) -> list[str]:
        """Lines of a Markdown table under a heading."""
        lines = [f"### {self.title}", "", _line(self.header), _line(["---"] * len(self.header))]
        return [*lines, *map(_line, self.cells), ""]

    def rich(self) -> RichTable:
        """The same for a terminal."""
        table = RichTable(*self.header, title=self.title, title_justify="left")
        for row in self.cells:
            table.add_row(*row)
        return table


@dataclass(frozen=True)
class Section:
    """One part of the benchmark.

    Attributes:
        name: What `--only` calls it; also the name of its JSON file.
        title: Heading.
        note: How the numbers came about.
        tables: What to read.
        data: What the tables were made from.
        figures: Names of image files beside the document.
        about: Command, machine, versions and load; filled in when it is run.
    """

    name: str
    title: str
    note: str
    tables: Sequence[Table]
    data: Mapping[str, Any]
    figures: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def show(self, console: Console) -> None:
        """Print the tables."""
        for table in self.tables:
            console.print(table.rich())
        console.print(self.note)

    def markdown(self) -> list[str]:
        """Lines of the section in the document."""
        lines = [f"## {self.title}", ""]
        if "command" in self.about:
            cpu = self.about.get("cpu", {}).get("model", "unknown processor")
            before, after = (self.about.get(f"load_{when}", 0.0) for when in ("before", "after"))
            lines += [
                f"Made by `{self.about['command']}` on {cpu}, cores {self.about.get('cores')}, "
                f"load {before:.2f} before and {after:.2f} after (above 0.1 before the start the "
                "numbers are a rough guide).",
                "",
            ]
        lines += [self.note, ""]
        for table in self.tables:
            lines += table.markdown()
        for figure in self.figures:
            lines += [f"![{self.title}]({figure})", ""]
        return lines


def write(folder: Path, sections: Sequence[Section], order: Sequence[str]) -> list[Path]:
    """Write one JSON file per section, and the document from all sections found in the folder.

    Args:
        folder: Where to; sections of earlier runs found there stay.
        sections: What has just been measured.
        order: Names of sections in the order of the document.

    Returns:
        Paths of what was written.
    """
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    written = []
    for section in sections:
        path = folder / PARTS / f"{section.name}.json"
        path.write_text(json.dumps(asdict(section), indent=1, sort_keys=False) + "\n")
        written.append(path)
    lines = [
        "# Speed",
        "",
        "Written by `python -m analysis.throughput`.",
        "",
    ]
    for path in (folder / PARTS / f"{name}.json" for name in order):
        if path.exists():
            lines += read(path).markdown()
    document = folder / DOCUMENT
    document.write_text("\n".join(lines))
    return [*written, document]


def read(path: Path) -> Section:
    """Load one section from its JSON file."""
    content = json.loads(path.read_text())
    tables = [Table(**table) for table in content.pop("tables")]
    return Section(**content, tables=tables)


def percent(value: Spread, digits: int = 1) -> str:
    """A fraction as a percentage: median, and the 95 % interval of the median in brackets."""
    return f"{number(value, digits, 100.0)} %"


def number(value: Spread, digits: int, factor: float = 1.0) -> str:
    """Median, and the 95 % interval of the median (or smallest and largest) in brackets."""
    low, high = value.interval or (value.low, value.high)
    text = f"{factor * value.median:,.{digits}f}"
    if low == high:
        return text
    return f"{text} ({factor * low:,.{digits}f} to {factor * high:,.{digits}f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
