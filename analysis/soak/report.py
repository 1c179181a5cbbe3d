"""The page about a soak: tables, figure and what holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots import COLOURS, FAINT, STYLE, save_figure
from analysis.provenance import describe_environment
from analysis.run_files import read_cells
from analysis.soak.equality import Comparison
from analysis.soak.lives import LIFE_COLUMNS, SAMPLE_COLUMNS
from analysis.soak.memory import Slope, slope
from analysis.storage import atomic_write_text

KILLED, UNDISTURBED = "killed", "undisturbed"
WORDS = {KILLED: COLOURS[1], UNDISTURBED: COLOURS[0]}


@dataclass(frozen=True)
class Findings:
    """Everything the page says.

    Attributes:
        lives: Rows of both runs, see `LIFE_COLUMNS`.
        samples: Rows of both runs, see `SAMPLE_COLUMNS`.
        comparisons: State hashes and files.
        minutes: How long the killed run was meant to last.
        warm_up_seconds: Left out at the start of each process.
        total_steps: Of both runs.
        checkpoint_minutes: Between checkpoints.
        about: The settings of the runs in words.
    """

    lives: list[dict[str, str]]
    samples: list[dict[str, str]]
    comparisons: list[Comparison]
    minutes: float
    warm_up_seconds: float
    total_steps: int
    checkpoint_minutes: float
    about: str

    def lasted(self, run: str) -> float:
        """Minutes that the processes of a run were alive."""
        return sum(float(row["seconds"]) for row in self.lives if row["run"] == run) / 60

    def ended(self, run: str) -> Counter[str]:
        """How the processes of a run ended."""
        return Counter(row["ended"] for row in self.lives if row["run"] == run)

    def column(self, run: str, name: str) -> np.ndarray:
        """(samples,) float64."""
        return np.array([float(row[name]) for row in self.samples if row["run"] == run])

    def growth(self, run: str, name: str) -> Slope:
        """Growth of a column per hour."""
        lives, seconds = self.column(run, "life"), self.column(run, "life_seconds")
        hours = (seconds / 3600).tolist()
        values = self.column(run, name).tolist()
        return slope(lives.astype(int).tolist(), hours, values, self.warm_up_seconds / 3600)


@dataclass(frozen=True)
class Check:
    """One line of the verdict: what was asked, what was found and whether it holds."""

    what: str
    found: str
    holds: bool


def read_rows(paths: Sequence[Path], columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of several tables, one after another; a table that is not there has none."""
    rows = []
    for path in paths:
        header, cells = read_cells(path)
        if header and header != list(columns):
            raise ValueError(f"{path} has the columns {header}, not {list(columns)}")
        rows += [dict(zip(columns, line, strict=True)) for line in cells]
    return rows


def checks(findings: Findings) -> list[Check]:
    """What must hold, in the order of the page."""
    kills = findings.ended(KILLED)[KILLED]
    lasted = findings.lasted(KILLED)
    states = [one for one in findings.comparisons if one.what.startswith("state")]
    files = [one for one in findings.comparisons if one not in states]
    stops = findings.ended(UNDISTURBED)["stopped"]
    result = [
        Check(
            f"the killed run lasted at least {findings.minutes:g} minutes",
            f"{lasted:.1f} minutes, {kills} SIGKILL",
            lasted >= findings.minutes and kills > 0,
        ),
        Check("the other run was left alone", f"stopped and continued {stops} times", stops == 0),
        Check("state at the end and at every switch", _equal(states), _all_equal(states)),
        Check("bytes of " + ", ".join(one.what for one in files), _equal(files), _all_equal(files)),
    ]
    for run in (KILLED, UNDISTURBED):
        for name, label in (("resident_mib", "resident"), ("anonymous_mib", "anonymous")):
            found = findings.growth(run, name)
            text = f"{_slope(found)} MiB per hour{_room(found)}"
            what = f"no growth of {label} memory of the {run} run is seen"
            result.append(Check(what, text, found.shows_none))
    for name in ("descriptors", "threads"):
        found = findings.growth(UNDISTURBED, name)
        text = f"{_slope(found)} per hour{_room(found)}; {_range(findings, name)}"
        result.append(Check(f"no growth of {name} is seen", text, found.shows_none))
    return result


def _equal(comparisons: Sequence[Comparison]) -> str:
    same = sum(one.is_equal for one in comparisons)
    return f"{same} of {len(comparisons)} equal"


def _all_equal(comparisons: Sequence[Comparison]) -> bool:
    return bool(comparisons) and all(one.is_equal for one in comparisons)


def _slope(found: Slope) -> str:
    if math.isnan(found.low):
        return f"{found.per_hour:.3f} (too few samples for an interval)"
    return f"{found.per_hour:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _room(found: Slope) -> str:
    """What an interval that contains 0 does not exclude: a wide one is no proof of standstill."""
    return f", up to {found.high:.3f} not excluded" if found.high > 0.0 else ""


def _range(findings: Findings, name: str) -> str:
    seconds = findings.column(UNDISTURBED, "life_seconds")
    warm = findings.column(UNDISTURBED, name)[seconds >= findings.warm_up_seconds]
    return f"{warm.min():g} to {warm.max():g}" if len(warm) else "no sample"


def write_report(out: Path, findings: Findings, command: str) -> list[Check]:
    """Write page, tables and figure.

    Args:
        out: Folder, made if needed.
        findings: What to write.
        command: What the user typed.

    Returns:
        The checks.

    Raises:
        StorageError: A file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    verdict = checks(findings)
    _write_table(out / "lives.csv", LIFE_COLUMNS, findings.lives)
    _write_table(out / "memory.csv", SAMPLE_COLUMNS, findings.samples)
    compared = [
        {"what": one.what, "equal": one.is_equal, KILLED: one.killed, UNDISTURBED: one.undisturbed}
        for one in findings.comparisons
    ]
    _write_table(out / "comparison.csv", ("what", "equal", KILLED, UNDISTURBED), compared)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = _figure(findings)
        for kind in ("png", "svg"):
            save_figure(figure, out / f"soak.{kind}")
    atomic_write_text(out / "README.md", _page(findings, verdict, command))
    return verdict


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    lines = [",".join(columns)]
    lines += [",".join(str(row[name]) for name in columns) for row in rows]
    atomic_write_text(path, "\n".join(lines) + "\n")


def _page(findings: Findings, verdict: Sequence[Check], command: str) -> str:
    about = describe_environment()
    cpu, commit = about["cpu"], str(about["commit"])[:12]
    switches = sum(one.what.startswith("state") for one in findings.comparisons) - 1
    rows = [f"| {c.what} | {c.found} | {'yes' if c.holds else '**no**'} |" for c in verdict]
    lives = findings.ended(KILLED)
    return f"""# A run killed at random, beside the same run undisturbed

**Question.** Does a long run that is killed again and again end in the same bits as one that is
left alone, and does its memory stay what it is?

```bash
{command}
```

{findings.about}: {findings.total_steps:,} environment steps, {switches} changes of the world; a
checkpoint every {findings.checkpoint_minutes:g} minutes and one at each change, one thread. Every
process of the killed run gets a SIGKILL after a time drawn from an exponential distribution; the
same command starts the next one. {cpu["usable_cores"]} cores of {cpu["model"]}, commit {commit}.

| what must hold | found | holds |
|---|---|---|
{chr(10).join(rows)}

![steps and memory over time](soak.png)

The killed run took {sum(lives.values())} processes ({_counts(lives)}) and
{findings.lasted(KILLED):.1f} minutes, the undisturbed one {findings.lasted(UNDISTURBED):.1f}
minutes. States are SHA-256 hashes over every array, counter and random stream of a checkpoint,
computed from what is read back. Growth is the slope over the time within each process (its first
{findings.warm_up_seconds:g} seconds left out), with a 95% interval that counts samples of one
process within ten minutes as dependent.

Files: `comparison.csv` (hashes), `lives.csv` (every process and how it ended), `memory.csv`
(samples).

**Threats to validity.** One pair of runs on one machine. Equality is claimed for one machine, one
set of package versions and one thread. A process of the killed run lives minutes, so slow growth
shows in the undisturbed run only. Memory that belongs to files (libraries, page cache) rises and
falls with what else the machine does; anonymous memory does not.
"""


def _counts(lives: Counter[str]) -> str:
    return ", ".join(f"{count} {how}" for how, count in sorted(lives.items()))


def _figure(findings: Findings) -> Figure:
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    steps, memory = figure.subplots(2, 1, sharex=True)
    for run, colour in WORDS.items():
        minutes = findings.column(run, "run_seconds") / 60
        lives = findings.column(run, "life")
        _per_life(steps, lives, minutes, findings.column(run, "env_steps") / 1e6, colour, run)
        _per_life(memory, lives, minutes, findings.column(run, "resident_mib"), colour, run)
    for minute in _kill_minutes(findings.lives):
        for axes in (steps, memory):
            axes.axvline(minute, color=FAINT, linewidth=0.4, zorder=0)
    steps.set_ylabel("environment steps (millions)")
    memory.set_ylabel("resident memory (MiB)")
    memory.set_ylim(bottom=0)
    memory.set_xlabel("minutes that processes of the run were alive; grey: SIGKILL")
    steps.legend(loc="upper left")
    return figure


def _per_life(
    axes: Axes, lives: np.ndarray, x: np.ndarray, y: np.ndarray, colour: str, label: str
) -> None:
    for position, life in enumerate(np.unique(lives)):
        mine = lives == life
        axes.plot(
            x[mine], y[mine], color=colour, marker=".", markersize=2, label=label * (not position)
        )


def _kill_minutes(lives: Sequence[dict[str, str]]) -> list[float]:
    moments, passed = [], 0.0
    for row in (row for row in lives if row["run"] == KILLED):
        passed += float(row["seconds"])
        if row["ended"] == KILLED:
            moments.append(passed / 60)
    return moments
